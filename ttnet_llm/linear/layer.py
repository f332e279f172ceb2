"""The layer of every linear method: `base(x @ H) @ H' + scaling * (x @ L) @ R`, and how it merges.

The thin factors, and those of the turns H and H', come from the method's network; most have no turns, some nothing but
turns, and nothing else about the method matters here. The frozen weight is not read, and the dense update is formed
only where the user asks for it, to merge.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from accelerate.utils import align_module_device
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import TTEmbedding, TTLinear
from ttnet.nn.offload import read_parameter
from ttnet_llm.linear.by_row import ByRowLayer
from ttnet_llm.linear.merging import MergeLoss, refusal
from ttnet_llm.linear.network import Anchored, FactorNetwork
from ttnet_llm.linear.turns import Turn, update_of_turns
from ttnet_llm.matrices.thin import along, times_thin
from ttnet_llm.tuner import AdapterConfig
from ttnet_llm.tuner.base_weights import why_no_sum, why_not_read
from ttnet_llm.tuner.names import plain_name


class LinearAdapterLayer(ByRowLayer):
    """A linear layer or embedding with the update `delta_W = scaling * L @ R`, or with turns of its input and output.

    Subclass it with the method's name and network, `class X(LinearAdapterLayer, method="x", network=XNetwork)`.

    Example:
        >>> from peft import get_peft_model
        >>> from ttnet_llm import MeloraConfig
        >>> config = MeloraConfig(r=2, n=1, target_modules=["0"], init_weights=False)
        >>> model = get_peft_model(nn.Sequential(nn.Linear(6, 4)), config)
        >>> layer = model.base_model.model[0]
        >>> isinstance(layer, LinearAdapterLayer)
        True
        >>> [tuple(factor.shape) for factor in layer.factors("default")], layer.get_delta_weight("default").shape
        ([(6, 2), (2, 4)], torch.Size([4, 6]))
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
        self._held_turns: dict[str, tuple[Turn | None, Turn | None]] = {}
        self._added: dict[str, tuple[Tensor, ...]] = {}  # factors of the updates that are merged
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

    def turns(self, adapter: str) -> tuple[Turn | None, Turn | None]:
        """Ask an adapter's network for the turns of the layer's input and output.

        Args:
            adapter: Name of the adapter.

        Returns:
            Both turns, without the scaling; `None` for the identity.
        """
        if (held := self._held_turns.get(adapter)) is not None:
            return held
        network = cast(FactorNetwork, self.networks[adapter])
        return network.before(), network.after()

    def update(self, adapter: str, *, to_merged: bool = False) -> tuple[Tensor, Tensor]:
        """Give what an adapter adds to the base layer's weight.

        Args:
            adapter: Name of the adapter.
            to_merged: Whether to the weight as it is now, rather than without the adapters that are merged into it;
                that is the same but for adapters that turn.

        Returns:
            `L` of shape `(in_features, t)` and `R` of shape `(t, out_features)`, with the scaling, in the adapter's
            dtype.

        Raises:
            TTTypeError: If the adapter turns, and the weight cannot be read as the base layer uses it.
        """
        scaling = self.scalings[adapter]
        left, right = self.factors(adapter)
        right = right * scaling
        before, after = self.turns(adapter)
        if before is None and after is None:
            return left, right
        if reason := why_not_read(self.get_base_layer(), self.quantization_backend):
            raise TTTypeError(
                f"The {type(self.get_base_layer()).__name__} that the adapter {adapter!r} turns the input or output of "
                f"has a weight that cannot be read as it is used: {reason}. Keep the adapter beside it, or put it on "
                "the dense model."
            )
        weight = self.base_matrix()
        for factors in () if to_merged else self._added.values():
            weight = weight - self._matrix(*factors).to(weight)
        turned = update_of_turns(weight, before, after, scaling)
        return torch.cat([left, turned[0].to(left.dtype)], dim=1), torch.cat([right, turned[1].to(left.dtype)])

    def hold_factors(self) -> None:
        """Contract every adapter's factors once and for all, until the next `train()` or `drop_factors()`."""
        self.drop_factors()
        with torch.no_grad():
            for adapter in self.networks:
                self._held[adapter] = self._factors_to_hold(adapter)
                before, after = self.turns(adapter)
                self._held_turns[adapter] = before and before.held(), after and after.held()

    def _factors_to_hold(self, adapter: str) -> tuple[Tensor, ...]:
        # Copies, as some are the weights themselves; stored as the products want them.
        return tuple(along(factor.detach().clone()) for factor in self.factors(adapter))

    def drop_factors(self) -> None:
        """Contract the factors in every forward pass again."""
        self._held, self._held_turns = {}, {}

    def train(self, mode: bool = True) -> Self:
        """Set the mode; in training the factors are those of the current weights."""
        if mode:
            self.drop_factors()
        return super().train(mode)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove one adapter from the layer."""
        self._held.pop(adapter_name, None)
        self._held_turns.pop(adapter_name, None)
        super().delete_adapter(adapter_name)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.drop_factors()
        super()._load_from_state_dict(*args, **kwargs)

    def update_layer(self, adapter_name: str, config: AdapterConfig) -> None:
        """Add one adapter to the layer, on the base layer's device."""
        self.drop_factors()
        super().update_layer(adapter_name, config)

    @property
    def fan_in(self) -> int:
        """How many inputs an output adds up: all of them, but one row only of an embedding."""
        return 1 if self.is_embedding else self.in_features

    def adapt_input(self, adapter: str, x: Tensor) -> Tensor:  # x: (*batch, in_features)
        """Turn the layer's input, where the network does."""
        before, _ = self.turns(adapter)
        return x if before is None else self._turned(adapter, x, before)

    def _turned(self, adapter: str, x: Tensor, turn: Turn, shift: Tensor | None = None) -> Tensor:
        dtype = turn.dtype
        to = self._cast_input_dtype(x, dtype).reshape(-1, x.shape[-1])
        shift = None if shift is None else shift.to(to)
        return turn.change(self.dropouts[adapter](to), self.scalings[adapter], to, shift).to(x.dtype).view(x.shape)

    def adapt_output(self, adapter: str, x: Tensor, result: Tensor) -> Tensor:
        """Turn the output, where the network does, and add the update's contribution, as two skinny products.

        Args:
            adapter: Name of the adapter.
            x: The layer's input, `(*batch, in_features)`; indices `(*batch)` for an embedding.
            result: Its output so far, `(*batch, out_features)`.

        Returns:
            The new output, of the same shape and dtype as `result`.
        """
        scaling, dropout = self.scalings[adapter], self.dropouts[adapter]
        network = cast(FactorNetwork, self.networks[adapter])
        if self.training:
            network.see(x)
        if (after := self.turns(adapter)[1]) is not None:
            result = self._turned(adapter, result, after, read_parameter(self.get_base_layer(), "bias"))
        few_tokens = 0 if self.is_embedding or adapter in self._held else network.few_tokens
        if 0 < x.numel() // self.in_features <= few_tokens:
            x = dropout(self._cast_input_dtype(x, next(network.parameters()).dtype))
            update = network.multiply(x.reshape(-1, self.in_features)).view(result.shape)
            return torch.add(result, update, alpha=scaling).to(result.dtype)
        left, right = self.factors(adapter)
        if not left.shape[1]:
            return result
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
            What the adapter adds to the weight without merged adapters, `scaling * L @ R` for most: in the layout of
            the base layer's weight, `(out_features, in_features)` for `nn.Linear`, transposed for `Conv1D` and
            `nn.Embedding`; in the adapter's dtype.
        """
        return self._in_layout(*self._update_factors(adapter))

    def _update_factors(self, adapter: str, *, to_merged: bool = False) -> tuple[Tensor, ...]:
        return self.update(adapter, to_merged=to_merged)

    def _in_layout(self, *factors: Tensor) -> Tensor:
        delta = self._matrix(*factors)
        return delta if isinstance(self.get_base_layer(), Conv1D | nn.Embedding | TTEmbedding) else delta.T

    def _matrix(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right

    def base_matrix(self) -> Tensor:
        """Give the base layer's weight as a matrix of shape `(in_features, out_features)`, dequantised."""
        base = self.get_base_layer()
        is_away = any(parameter.is_meta for parameter in base.parameters())
        with align_module_device(base) if is_away else nullcontext():  # not twice, as it is taken away again after it
            weight = self.get_base_weight()
        return weight if isinstance(base, Conv1D | nn.Embedding | TTEmbedding) else weight.T

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
            factors = tuple(factor.detach().clone() for factor in self._update_factors(adapter, to_merged=True))
            exact, weight, delta = self._shifted_weight(factors, +1)
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
            self._added[adapter] = factors
            self.merge_loss += self._loss(exact, weight, delta)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the updates of all merged adapters out of the base layer's weight."""
        if self.merged_adapters and self._tied:
            self._tie_again()
        while self.merged_adapters:
            adapter = self.merged_adapters.pop()
            safe, factors = self._safely_merged.pop(adapter, None), self._added.pop(adapter)
            # Not where the weight has become another in the meantime, by a change of dtype.
            if safe is not None and self.get_base_weight().data_ptr() == safe[1].data_ptr():
                self.set_base_weight(safe[0])
            else:
                self.set_base_weight(self._shifted_weight(factors, -1)[1])

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
        self._added.clear()
        self.merged_adapters.clear()

    def _shifted_weight(self, factors: tuple[Tensor, ...], sign: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give the weight with an update added or taken away: as it should be, in its own dtype, and the update."""
        weight = self.get_base_weight()
        delta = self._in_layout(*factors)
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
