"""The layer of every linear method: `base(x) + scaling * (x @ L) @ R`, and how it merges.

The two thin factors come from the method's network; nothing else about the method matters here. The dense
update is formed only where the user asks for it, to merge.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from accelerate.utils import align_module_device
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ttnet.errors import TTValueError
from ttnet.nn import TTEmbedding, TTLinear
from ttnet_llm.linear.merging import MergeLoss, refusal
from ttnet_llm.linear.network import Anchored, FactorNetwork
from ttnet_llm.matrices.thin import along, times_thin
from ttnet_llm.tuner import AdapterConfig, AdapterLayer
from ttnet_llm.tuner.base_weights import why_no_sum
from ttnet_llm.tuner.names import plain_name


class LinearAdapterLayer(AdapterLayer):
    """A linear layer or embedding with the update `delta_W = scaling * L @ R`.

    Subclass it with the method's name and network, `class X(LinearAdapterLayer, method="x", network=XNetwork)`.
    """

    network_cls: ClassVar[type[FactorNetwork]]
    base_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, Conv1D, nn.Embedding, TTLinear, TTEmbedding)

    def __init_subclass__(
        cls, method: str | None = None, network: type[FactorNetwork] | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(method=method, **kwargs)
        if network is not None:
            cls.network_cls = network

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: AdapterConfig, **quantization: Any) -> None:
        self._held: dict[str, tuple[Tensor, ...]] = {}  # factors while the weights do not change
        # Weights before and after safe merging, by adapter.
        self._safely_merged: dict[str, tuple[Tensor, Tensor]] = {}
        self._tied: tuple[nn.Parameter, ...] = ()  # the weight shared with other layers, while merged into another
        self.merge_loss = MergeLoss()  # of the latest merging
        super().__init__(base_layer, adapter_name, config, **quantization)

    def make_network(self, config: AdapterConfig) -> FactorNetwork:
        """Build the network of one adapter; one that starts from the layer's weight counts from its start."""
        network = self._new_network(config)
        return Anchored(network) if config.init_weights == "tt_svd" else network

    def _new_network(self, config: AdapterConfig) -> FactorNetwork:
        return self.network_cls(self.in_features, self.out_features, self.fan_in, config)

    def factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """Ask an adapter's network for its two thin factors.

        Args:
            adapter: Name of the adapter.

        Returns:
            `L` of shape `(in_features, r)` and `R` of shape `(r, out_features)`, without the scaling.
        """
        if (held := self._held.get(adapter)) is not None:
            return cast(tuple[Tensor, Tensor], held)
        return cast(FactorNetwork, self.networks[adapter]).factors()

    def hold_factors(self) -> None:
        """Contract every adapter's factors once and for all, until the next `train()` or `drop_factors()`."""
        self.drop_factors()
        with torch.no_grad():
            for adapter in self.networks:
                self._held[adapter] = self._factors_to_hold(adapter)

    def _factors_to_hold(self, adapter: str) -> tuple[Tensor, ...]:
        # Copies, as some are the weights themselves; stored as the products want them.
        return tuple(along(factor.detach().clone()) for factor in self.factors(adapter))

    def drop_factors(self) -> None:
        """Contract the factors in every forward pass again."""
        self._held = {}

    def train(self, mode: bool = True) -> Self:
        """Set the mode; in training the factors are those of the current weights."""
        if mode:
            self.drop_factors()
        return super().train(mode)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove one adapter from the layer."""
        self._held.pop(adapter_name, None)
        super().delete_adapter(adapter_name)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.drop_factors()
        super()._load_from_state_dict(*args, **kwargs)

    def update_layer(self, adapter_name: str, config: AdapterConfig) -> None:
        """Add one adapter to the layer, on the base layer's device."""
        self.drop_factors()
        super().update_layer(adapter_name, config)

    @property
    def is_embedding(self) -> bool:
        """Whether the base layer is an embedding, dense or a train."""
        return isinstance(self.get_base_layer(), nn.Embedding | TTEmbedding)

    @property
    def fan_in(self) -> int:
        """How many inputs an output adds up: all of them, but one row only of an embedding."""
        return 1 if self.is_embedding else self.in_features

    def adapt_output(self, adapter: str, x: Tensor, result: Tensor) -> Tensor:
        """Add the update's contribution, as two skinny products; that of few tokens in the network's cheaper way.

        Args:
            adapter: Name of the adapter.
            x: The layer's input, `(*batch, in_features)`; indices `(*batch)` for an embedding.
            result: Its output so far, `(*batch, out_features)`.

        Returns:
            The new output, of the same shape and dtype as `result`.
        """
        scaling, dropout = self.scalings[adapter], self.dropouts[adapter]
        network = cast(FactorNetwork, self.networks[adapter])
        few_tokens = 0 if self.is_embedding or adapter in self._held else network.few_tokens
        if 0 < x.numel() // self.in_features <= few_tokens:
            x = dropout(self._cast_input_dtype(x, next(network.parameters()).dtype))
            update = network.multiply(x.reshape(-1, self.in_features)).view(result.shape)
            return torch.add(result, update, alpha=scaling).to(result.dtype)
        left, right = self.factors(adapter)
        if left.device != x.device:  # a network that modules on several devices share lies on one of them
            left, right = left.to(x.device), right.to(x.device)
        if self.is_embedding:
            update = F.embedding(x, left) @ (right * scaling)
            scale = self._get_embed_scale()
            return (result + (update if scale is None else update * scale)).to(result.dtype)
        x = dropout(self._cast_input_dtype(x, left.dtype)).reshape(-1, self.in_features)
        if x.dtype == left.dtype == result.dtype:
            return times_thin(x, left, right, scaling, to=result.reshape(-1, self.out_features)).view(result.shape)
        return (result + times_thin(x, left, right, scaling).view(result.shape)).to(result.dtype)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Form the dense update of the base layer's weight.

        Args:
            adapter: Name of the adapter.

        Returns:
            `scaling * L @ R` in the layout of the base layer's weight: `(out_features, in_features)` for
            `nn.Linear`, transposed for `Conv1D` and `nn.Embedding`; in the adapter's dtype.
        """
        left, right = self.factors(adapter)
        delta = left @ (right * self.scalings[adapter])
        return delta if isinstance(self.get_base_layer(), Conv1D | nn.Embedding | TTEmbedding) else delta.T

    def base_matrix(self) -> Tensor:
        """Give the base layer's weight as a matrix of shape `(in_features, out_features)`, dequantised."""
        with align_module_device(self.get_base_layer()):  # where it is offloaded
            weight = self.get_base_weight()
        return weight if isinstance(self.get_base_layer(), Conv1D | nn.Embedding | TTEmbedding) else weight.T

    def why_not_merged(self) -> str | None:
        """Say why the base layer's weight cannot take up an update, in a part of a sentence; `None` if it can."""
        base = self.get_base_layer()
        if isinstance(base, TTLinear | TTEmbedding):
            return (
                "a train cannot take up an update without growing or losing digits; put the dense layer that its "
                "to_dense() gives in its place before the adapter is loaded"
            )
        return why_no_sum(base, self.quantization_backend)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates of adapters to the base layer's weight; other layers that share it keep theirs.

        Args:
            safe_merge: Whether to refuse a result with NaN or infinite entries, leaving the weight as it was, and to
                keep a copy of it, so that unmerging gives it back bit for bit (not for quantised layers).
            adapter_names: The adapters to merge; `None` takes the active ones.

        Raises:
            TTTypeError: If the base layer's weight cannot take up an update.
            TTValueError: If `safe_merge` is set and the merged weight is not finite.
        """
        self.merge_loss = MergeLoss()
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.networks:
                continue
            if reason := self.why_not_merged():
                raise refusal(type(self.get_base_layer()).__name__, reason)
            exact, weight, delta = self._shifted_weight(adapter, +1)
            if safe_merge and not torch.isfinite(weight).all():
                raise TTValueError(
                    f"NaNs detected in the merged weights. The adapter {adapter} seems to be broken; "
                    "the base weights were left as they were."
                )
            if self.shares_weight and not self.merged:
                self._untie()
            if safe_merge and self.quantization_backend is None:
                self._safely_merged[adapter] = self.get_base_weight(), weight
            self.set_base_weight(weight)  # a new tensor; the one before stays as it is
            self.merged_adapters.append(adapter)
            self.merge_loss += self._loss(exact, weight, delta)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the updates of all merged adapters out of the base layer's weight."""
        if self.merged_adapters and self._tied:
            self._tie_again()
        while self.merged_adapters:
            adapter = self.merged_adapters.pop()
            safe = self._safely_merged.pop(adapter, None)
            # Not where the weight has become another in the meantime, by a change of dtype.
            if safe is not None and self.get_base_weight().data_ptr() == safe[1].data_ptr():
                self.set_base_weight(safe[0])
            elif adapter in self.networks:
                self.set_base_weight(self._shifted_weight(adapter, -1)[1])

    def _untie(self) -> None:
        """Give the base layer a parameter of its own, which holds the same weight until that is merged."""
        base, name = self.get_base_layer(), self.weight_name
        shared: Any = getattr(base, name)
        self._tied = (shared,)
        setattr(base, name, nn.Parameter(shared.data, requires_grad=shared.requires_grad))

    def _tie_again(self) -> None:
        """Put back the parameter that the base layer shared, which nothing was merged into."""
        base, name = self.get_base_layer(), self.weight_name
        own: Any = getattr(base, name)
        (shared,) = self._tied
        shared.data = shared.data.to(own.device, own.dtype)  # where the model was moved meanwhile
        setattr(base, name, shared)
        self._tied = ()
        self._safely_merged.clear()
        self.merged_adapters.clear()

    def _shifted_weight(self, adapter: str, sign: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give the weight with an update added or taken away: as it should be, in its own dtype, and the update."""
        weight = self.get_base_weight()
        delta = self.get_delta_weight(adapter)
        # The sum is rounded to the weight's dtype once, at the end.
        dtype = torch.promote_types(torch.promote_types(weight.dtype, delta.dtype), torch.float32)
        exact = weight.to(dtype) + sign * delta.to(weight.device, dtype)
        return exact, exact.to(weight.dtype), delta

    def _loss(self, exact: Tensor, weight: Tensor, delta: Tensor) -> MergeLoss:
        """Compare the weight with what it should be."""
        if self.quantization_backend is not None:
            weight = self.get_base_weight()
        elif weight is exact:
            return MergeLoss()
        return MergeLoss(*(float(torch.linalg.vector_norm(part)) ** 2 for part in (exact - weight, delta)))

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Tell PEFT that the update is additive, so that it can be converted to LoRA."""
        return True


def layers_with(model: nn.Module, adapter_name: str) -> Iterator[tuple[str, LinearAdapterLayer]]:
    """List the layers that have an adapter of a linear method, with the full names of their modules.

    Args:
        model: The model that they are in.
        adapter_name: Name of the adapter.

    Yields:
        Names, as the base model has them, and layers.

    Example:
        >>> from peft import get_peft_model
        >>> from ttnet_llm import LorettaRepConfig
        >>> model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), LorettaRepConfig(target_modules=["0"]))
        >>> [name for name, _ in layers_with(model.base_model.model, "default")]
        ['0']
    """
    for name, module in model.named_modules():
        if isinstance(module, LinearAdapterLayer) and adapter_name in module.networks:
            yield plain_name(name), module


def hold_factors(model: nn.Module, hold: bool = True) -> None:
    """Contract the factors of a model's adapters once and for all, for serving.

    A step in decoding then costs what LoRA's costs, or less. The adapters' weights must not be written to in the
    meantime; `model.train()` lets go of the factors.

    Args:
        model: A model with adapters of any linear method, in evaluation mode.
        hold: False contracts the factors in every forward pass again.

    Raises:
        TTValueError: If the model is in training mode, or has no such adapter.

    Example:
        >>> from peft import get_peft_model
        >>> from ttnet_llm import LorettaRepConfig
        >>> model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), LorettaRepConfig(target_modules=["0"])).eval()
        >>> hold_factors(model)
    """
    if model.training and hold:
        raise TTValueError("the model is in training mode, where factors change; call `eval()` first.")
    layers = [module for module in model.modules() if isinstance(module, LinearAdapterLayer)]
    if not layers:
        raise TTValueError(f"the {type(model).__name__} has no adapter of a linear method, so no factors to hold.")
    for layer in layers:
        if hold:
            layer.hold_factors()
        else:
            layer.drop_factors()
