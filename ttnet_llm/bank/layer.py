"""A module with a bank's adapters around it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ttnet.nn.offload import read_parameter
from ttnet_llm.bank.forms import Form
from ttnet_llm.bank.mix import Current


class BankLayer(nn.Module):
    """A frozen layer whose rows go through the adapters that the thread's mix names for them.

    Args:
        base_layer: The layer.
        form: How its adapters are used.
        current: What says which adapters a thread uses.
    """

    def __init__(self, base_layer: nn.Module, form: Form, current: Current) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._form = (form,)  # in a tuple, so that torch does not register the pattern's weights
        self._current = current

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # (batch, *tokens, out_features)
        """Apply the layer, and what the adapters of the rows change."""
        mix = self._current.mix
        if mix is None:
            return self.base_layer(x, *args, **kwargs)
        (form,) = self._form
        rows, made = mix.split(x), mix.made(form)
        result: Tensor = self.base_layer(form.before(rows, made, self.training).reshape(x.shape), *args, **kwargs)
        bias = read_parameter(self.base_layer, "bias")
        return form.after(rows, mix.split(result), made, self.training, bias).reshape(result.shape)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # such as `weight`, whose dtype models ask for
            return getattr(super().__getattr__("base_layer"), name)
