"""The layer of every linear method: `base(x) + scaling * (x @ L) @ R`, and how it merges.

The two thin factors come from the method's network; nothing else about the method matters here. The dense
update is formed only where the user asks for it, to merge.
"""

from typing import Protocol, cast

import torch
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ttnet.errors import TTValueError
from ttnet_llm.tuner import AdapterLayer


class FactorNetwork(Protocol):
    """What a linear method's network answers: the two thin factors of its update."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return `L` of shape `(in_features, r)` and `R` of shape `(r, out_features)`."""


class LinearAdapterLayer(AdapterLayer):
    """A linear layer with the update `delta_W = scaling * L @ R`; subclass it with the method's name."""

    def factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """Ask an adapter's network for its two thin factors.

        Args:
            adapter: Name of the adapter.

        Returns:
            `L` of shape `(in_features, r)` and `R` of shape `(r, out_features)`, without the scaling.
        """
        return cast(FactorNetwork, self.networks[adapter]).factors()

    def adapt_output(self, adapter: str, x: Tensor, result: Tensor) -> Tensor:
        """Add the update's contribution, as two skinny products.

        Args:
            adapter: Name of the adapter.
            x: The layer's input, `(*batch, in_features)`.
            result: Its output so far, `(*batch, out_features)`.

        Returns:
            The new output, of the same shape and dtype as `result`.
        """
        left, right = self.factors(adapter)
        x = self.dropouts[adapter](self._cast_input_dtype(x, left.dtype))
        if x.dtype == left.dtype == result.dtype:
            # One pass over the output instead of three (product, scaling, sum).
            flat = torch.addmm(
                result.reshape(-1, result.shape[-1]),
                torch.mm(x.reshape(-1, x.shape[-1]), left),
                right,
                alpha=self.scalings[adapter],
            )
            return flat.view(result.shape)
        return (result + (x @ left) @ (right * self.scalings[adapter])).to(result.dtype)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Form the dense update of the base layer's weight.

        Args:
            adapter: Name of the adapter.

        Returns:
            `scaling * L @ R` in the layout of the base layer's weight: `(out_features, in_features)` for
            `nn.Linear`, transposed for `Conv1D`; in the adapter's dtype.
        """
        left, right = self.factors(adapter)
        delta = left @ (right * self.scalings[adapter])
        return delta if isinstance(self.get_base_layer(), Conv1D) else delta.T

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of adapters to the base layer's weight.

        Args:
            safe_merge: Whether to refuse a result with NaN or infinite entries, leaving the weight as it was.
            adapter_names: The adapters to merge; `None` takes the active ones.

        Raises:
            TTValueError: If `safe_merge` is set and the merged weight is not finite.
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.networks:
                continue
            weight = self._shifted_weight(adapter, +1)
            if safe_merge and not torch.isfinite(weight).all():
                raise TTValueError(
                    f"NaNs detected in the merged weights. The adapter {adapter} seems to be broken; "
                    "the base weights were left as they were."
                )
            self.set_base_weight(weight)
            self.merged_adapters.append(adapter)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract the updates of all merged adapters from the base layer's weight."""
        while self.merged_adapters:
            adapter = self.merged_adapters.pop()
            if adapter in self.networks:
                self.set_base_weight(self._shifted_weight(adapter, -1))

    def _shifted_weight(self, adapter: str, sign: int) -> Tensor:
        weight = self.get_base_weight()
        delta = self.get_delta_weight(adapter)
        # The sum is rounded to the weight's dtype once, at the end.
        dtype = torch.promote_types(weight.dtype, delta.dtype)
        return (weight.to(dtype) + sign * delta.to(weight.device, dtype)).to(weight.dtype)

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Tell PEFT that the update is additive, so that it can be converted to LoRA."""
        return True
