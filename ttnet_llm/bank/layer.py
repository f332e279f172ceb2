"""A module with a bank's adapters around it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ttnet.nn.offload import read_parameter
from ttnet_llm.bank.forms import Form
from ttnet_llm.bank.mix import Current

_BASE = "base_layer."


class BankLayer(nn.Module):
    """A frozen layer whose rows go through the adapters that the mix in use names for them.

    Its state is that of the layer, so that the model is saved and loaded as without a bank.

    Args:
        name: The module's full name.
        base_layer: The layer.
        form: How its adapters are used.
        current: What says which adapters are in use.
    """

    def __init__(self, name: str, base_layer: nn.Module, form: Form, current: Current) -> None:
        super().__init__()
        self.name, self.base_layer = name, base_layer
        self._form = (form,)  # in a tuple, so that torch does not register the pattern's weights
        self._current = current
        self.training = base_layer.training
        self.register_state_dict_post_hook(_without_prefix)
        self.register_load_state_dict_pre_hook(_with_prefix)

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # (batch, *tokens, out_features)
        """Apply the layer, and what the adapters of the rows change."""
        mix = self._current.get()
        if mix is None:
            return self.base_layer(input, *args, **kwargs)
        (form,) = self._form
        rows = mix.split(input, self.name)
        if mix.takes_cores(form, rows.shape[1]):
            plain: Tensor = self.base_layer(input, *args, **kwargs)
            return (plain + mix.update(form, rows, self.training).reshape(plain.shape)).to(plain.dtype)
        made = mix.made(form)
        changed = form.before(rows, made, self.training).reshape(input.shape)
        result: Tensor = self.base_layer(changed, *args, **kwargs)
        by_rows = result.reshape(*rows.shape[:2], result.shape[-1])
        bias = read_parameter(self.base_layer, "bias")
        return form.after(rows, by_rows, made, self.training, bias).reshape(result.shape)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # such as `weight`, whose dtype models ask for
            return getattr(super().__getattr__("base_layer"), name)


def _without_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{_BASE}")]:
        state[prefix + key.removeprefix(f"{prefix}{_BASE}")] = state.pop(key)


def _with_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for key in [key for key in state if key.startswith(prefix) and not key.startswith(f"{prefix}{_BASE}")]:
        state[f"{prefix}{_BASE}{key.removeprefix(prefix)}"] = state.pop(key)
