"""The adapter layer: a frozen linear layer with a small trainable network around it, for any method.

A method says what its network does before the base layer (`adapt_input`) or after it (`adapt_output`); which
adapters act on which rows of a batch, dtypes, and the bookkeeping that PEFT asks for are settled here, once.
"""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features
from peft.utils import quantization_extra_repr
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import TTEmbedding, TTLinear
from ttnet.nn.offload import bring_back
from ttnet_llm.tuner.base_weights import FLOATS, quantization_backend
from ttnet_llm.tuner.by_adapter import ByAdapter, adding, being_added
from ttnet_llm.tuner.config import AdapterConfig
from ttnet_llm.tuner.mixed import Kept, Matrices, Part, parts_of
from ttnet_llm.tuner.stacking import ask_together, look_at

BASE = "__base__"  # PEFT's name, in a mixed batch, for a row without an adapter


class AdapterLayer(nn.Module, BaseTunerLayer):
    """Base of every method's layer; subclass it with the method's name, `class X(AdapterLayer, method="x")`.

    The networks of all adapters live in a `ModuleDict` named `<method>_network`, the name that PEFT and
    transformers derive checkpoint keys from.

    Args:
        base_layer: The frozen layer: `nn.Linear`, transformers' `Conv1D`, a `TTLinear`, or a quantised linear layer.
        adapter_name: Name of the first adapter.
        config: The first adapter's config.
        **quantization: What PEFT's `get_quantization_kwargs` returned for the model.

    Raises:
        TTTypeError: If the base layer is of a kind that no adapter is defined for.

    Example:
        >>> from peft import get_peft_model
        >>> from ttnet_llm import MeloraConfig
        >>> config = MeloraConfig(r=2, n=1, target_modules=["0"], init_weights=False)
        >>> model = get_peft_model(nn.Sequential(nn.Linear(6, 4)), config)
        >>> layer = model.base_model.model[0]
        >>> isinstance(layer, AdapterLayer)
        True
        >>> list(layer.networks), layer.scalings, layer.active_adapters
        (['default'], {'default': 8.0}, ['default'])
    """

    method: ClassVar[str]
    base_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, Conv1D, TTLinear)
    wraps_module: ClassVar[bool] = True  # rather than one parameter of a module, of which no forward pass is its own
    weight_name: str = "weight"  # what the base layer calls what is updated
    kept: Kept | None = None  # what is kept of a mixed batch while it goes through the model
    why_no_lora: ClassVar[str] = "is not linear in its input"  # of methods that cannot be exported as LoRA

    # What PEFT's untyped mixin brings.
    base_layer: nn.Module
    quantization_backend: Any
    merged_adapters: list[str]
    active_adapters: list[str]
    merged: bool
    disable_adapters: bool
    get_base_layer: Callable[[], nn.Module]
    get_base_weight: Callable[[], Tensor]
    set_base_weight: Callable[[Tensor], None]
    _get_embed_scale: Callable[[], Tensor | None]
    _cast_input_dtype: Callable[[Tensor, torch.dtype], Tensor]

    def __init_subclass__(cls, method: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if method is not None:
            cls.method = method
            cls.adapter_layer_names = (f"{method}_network",)
            cls.other_param_names = (f"{method}_dropout", f"{method}_scaling")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: AdapterConfig, **quantization: Any) -> None:
        super().__init__()
        self._hold_base_layer(base_layer)
        self.quantization_backend = quantization_backend(self.get_base_layer(), **quantization)
        self.in_features, self.out_features = self._features()
        setattr(self, f"{self.method}_network", ByAdapter())
        setattr(self, f"{self.method}_dropout", ByAdapter())
        setattr(self, f"{self.method}_scaling", {})
        self._disable_adapters = False
        self._frozen: set[str] = set()  # active adapters that were frozen when switched off
        self.merged_adapters = []
        self.cast_input_dtype_enabled = True
        self._active_adapter: str | list[str] = adapter_name
        self.shares_weight = False  # whether another layer holds the base layer's weight too
        self.update_layer(adapter_name, config)

    def _hold_base_layer(self, base_layer: nn.Module) -> None:
        self.base_layer = base_layer

    def _features(self) -> tuple[int, int]:
        layer = self.get_base_layer()
        if isinstance(layer, TTLinear):
            return layer.in_features, layer.out_features
        if isinstance(layer, TTEmbedding):
            return layer.num_embeddings, layer.embedding_dim
        features: tuple[int, int] = _get_in_out_features(layer)
        return features

    @property
    def networks(self) -> nn.ModuleDict:
        """The trainable network of each adapter, by adapter name."""
        return getattr(self, f"{self.method}_network")

    @property
    def dropouts(self) -> nn.ModuleDict:
        """The dropout of each adapter, by adapter name."""
        return getattr(self, f"{self.method}_dropout")

    @property
    def scalings(self) -> dict[str, float]:
        """The factor on each adapter's contribution, by adapter name."""
        return getattr(self, f"{self.method}_scaling")

    def make_network(self, config: AdapterConfig) -> nn.Module:
        """Build the trainable network of one adapter, initialised as `config.init_weights` says.

        Args:
            config: The adapter's config, as it holds for the layer.

        Returns:
            The network, whose parameters are all that is trained.
        """
        raise NotImplementedError

    def adapt_input(self, adapter: str, x: Tensor) -> Tensor:  # x: (*batch, in_features)
        """Return the base layer's input as changed by one adapter; by default unchanged.

        Args:
            adapter: Name of the adapter.
            x: What goes into the layer, `(*batch, in_features)`.

        Returns:
            The same, changed or not.
        """
        return x

    def adapt_output(self, adapter: str, x: Tensor, result: Tensor) -> Tensor:
        """Return the base layer's output as changed by one adapter; by default unchanged.

        Args:
            adapter: Name of the adapter.
            x: What `adapt_input` of this adapter was given, `(*batch, in_features)`.
            result: What the base layer gives, `(*batch, out_features)`.

        Returns:
            The same, changed or not.
        """
        return result

    @property
    def stacks(self) -> bool:
        """Whether adapters of one structure are computed together where a batch mixes them; by default they are not."""
        return False

    def network_parts(self, adapter: str) -> dict[str, nn.Module]:
        """Give the network of one adapter, and what else it asks, by names.

        Args:
            adapter: Its name.

        Returns:
            Modules by names of the method's choice.
        """
        return {"network": self.networks[adapter]}

    def structure(self, adapter: str) -> Hashable:
        """Say what adapters agree in that can be stacked; `None` where one cannot.

        Args:
            adapter: Its name.

        Returns:
            Something to compare with that of others.
        """
        return look_at(self.network_parts(adapter)).structure

    def stack(self, adapters: list[str]) -> Matrices:
        """Give what adapters of one structure multiply by, in evaluation.

        Args:
            adapters: Their names.

        Returns:
            The matrices, each with the adapters in front.
        """
        raise NotImplementedError

    def ask_together(self, adapters: list[str], ask: Callable[[Any], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Ask the networks of adapters of one structure for their matrices, all at once.

        Args:
            adapters: Their names.
            ask: Takes the parts of one network, and gives its matrices.

        Returns:
            The matrices, each with the adapters in front.
        """
        return ask_together([self.network_parts(adapter) for adapter in adapters], ask)

    def scales(self, adapters: list[str], like: Tensor) -> Tensor:  # (adapters, 1, 1)
        """Give the factors on adapters' contributions.

        Args:
            adapters: Their names.
            like: A tensor of the dtype and on the device that is wanted.

        Returns:
            The factors, `(adapters, 1, 1)`.
        """
        return like.new_tensor([self.scalings[adapter] for adapter in adapters])[:, None, None]

    def adapt_input_by_row(self, matrices: Matrices, x: Tensor) -> Tensor:  # x: (n, *tokens, in_features)
        """Return the base layer's input as changed by an adapter for each row; by default unchanged.

        Args:
            matrices: What `stack` gave for the rows' adapters.
            x: What goes into the layer, `(n, *tokens, in_features)`.

        Returns:
            The same, changed or not.
        """
        return x

    def adapt_output_by_row(self, matrices: Matrices, x: Tensor, result: Tensor) -> Tensor:
        """Return the base layer's output as changed by an adapter for each row; by default unchanged.

        Args:
            matrices: What `stack` gave for the rows' adapters.
            x: What `adapt_input_by_row` was given, `(n, *tokens, in_features)`.
            result: What the base layer gives, `(n, *tokens, out_features)`.

        Returns:
            The same, changed or not.
        """
        return result

    def update_layer(self, adapter_name: str, config: AdapterConfig) -> None:
        """Add one adapter to the layer, on the base layer's device.

        Its weights are float32 where the base layer computes in less, and in the base layer's dtype otherwise.

        Args:
            adapter_name: Name of the adapter.
            config: Its config.
        """
        if hasattr(nn.ModuleDict, adapter_name):
            raise TTValueError(
                f"adapter_name is {adapter_name!r}, which torch's modules have as an attribute of their own; choose "
                "another name."
            )
        self.networks[adapter_name] = self.make_network(config)
        self.check_adapter_name(adapter_name)
        self.dropouts[adapter_name] = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.scalings[adapter_name] = config.update_scale
        self._move_adapter_to_device_of_base_layer(adapter_name)
        with adding(adapter_name):
            self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Set the active adapters, and let them learn and no others.

        While an adapter is added, all others go on as they are.

        Args:
            adapter_names: Their names, or one.
            inference_mode: Whether they are not to learn either.
        """
        name = being_added()
        if name is None:
            super().set_adapter(adapter_names, inference_mode=inference_mode)
            return
        active = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if name in self.networks:
            self.networks[name].requires_grad_(name in active and not inference_mode)
        self._active_adapter = active

    def check_adapter_name(self, adapter_name: str) -> None:
        """Refuse a name under which an adapter would not be saved whole.

        PEFT tells adapters apart by their names in checkpoint keys, and leaves out every key with the name of another.

        Args:
            adapter_name: Name of an adapter of the layer.

        Raises:
            TTValueError: If a part of the network is called like that.
        """
        parts = {part for key in self.networks[adapter_name].state_dict() for part in key.split(".")}
        if adapter_name in parts:
            del self.networks[adapter_name]
            raise TTValueError(
                f"adapter_name is {adapter_name!r}, which is also the name of a part of a {self.method} network, so "
                "that checkpoints could not tell them apart; choose another name."
            )

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
        if isinstance(base_layer, TTLinear | TTEmbedding):
            bring_back(base_layer.tt)
            return base_layer.cores[0].device, base_layer.cores[0].dtype  # its `weight` would be formed
        device, dtype = super()._get_base_layer_device_and_dtype(base_layer)
        # Where an offloaded layer is computed, as its weight is nowhere in the meantime.
        device = getattr(base_layer.__dict__.get("_hf_hook"), "execution_device", None) or device
        if device is None:  # of a layer that calls its weight something else, such as HQQ's
            device = next((tensor.device for tensor in (*base_layer.parameters(), *base_layer.buffers())), None)
        return device, dtype

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        if adapter_name not in self.networks:  # PEFT asks every layer, also those that the adapter leaves alone
            return
        network = self.networks[adapter_name]
        if any(parameter.is_meta for parameter in network.parameters()):
            return
        base_device, base_dtype = self._get_base_layer_device_and_dtype(self.get_base_layer())
        # PEFT's own version rounds the fresh weights to half precision first, and only `get_peft_model` casts back.
        dtype = base_dtype if base_dtype in (torch.float64, torch.float32) else torch.float32
        network.to(device or base_device, dtype)

    def enable_adapters(self, enabled: bool) -> None:
        """Switch the adapters on or off; an adapter that was frozen when they were switched off stays so.

        Args:
            enabled: Whether they are to be on.
        """
        if enabled:
            super().enable_adapters(True)
            for adapter in self._frozen & set(self.networks):
                self.networks[adapter].requires_grad_(False)
            self._frozen = set()
            return
        if not self.disable_adapters:
            self._frozen = {
                adapter
                for adapter in self.active_adapters
                if adapter in self.networks
                and not any(parameter.requires_grad for parameter in self.networks[adapter].parameters())
            }
        super().enable_adapters(False)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        bring_back(self.networks)  # what is offloaded would be saved without its entries
        super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        bring_back(self.networks)
        super()._load_from_state_dict(*args, **kwargs)

    def cast_to_base_dtype(self, adapter_name: str) -> None:
        """Give an adapter's weights the dtype of the base layer.

        Args:
            adapter_name: Name of the adapter; nothing is done where the layer does not have it.
        """
        dtype = self._get_base_layer_device_and_dtype(self.get_base_layer())[1]
        if adapter_name in self.networks and dtype in FLOATS:
            self.networks[adapter_name].to(dtype)

    def forward(
        self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> Tensor:  # (*batch, out_features)
        """Apply the base layer with its active adapters, or with one adapter for each row of the batch."""
        if adapter_names is not None:
            self._check_mixed_batch(x, adapter_names)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(x, *args, **kwargs)
        if adapter_names is not None:
            return self._forward_mixed(x, *args, adapter_names=adapter_names, **kwargs)
        if self.merged:
            return self.base_layer(x, *args, **kwargs)
        adapters = [name for name in self.active_adapters if name in self.networks]
        # Each lies around the layer with the adapters before it, as it does when they are merged one after the other.
        inputs = {}
        for adapter in reversed(adapters):
            inputs[adapter] = x
            x = self.adapt_input(adapter, x)
        result = self._base_result(x, *args, **kwargs)
        for adapter in adapters:
            result = self.adapt_output(adapter, inputs[adapter], result)
        return result

    def _forward_mixed(self, x: Tensor, *args: Any, adapter_names: list[str], **kwargs: Any) -> Tensor:
        parts, base_input = self._parts(adapter_names), x
        for part in parts:
            base_input = part.change(base_input, partial(self._adapt_input_of, part))
        result = self._base_result(base_input, *args, **kwargs)
        for part in parts:
            result = part.change(result, partial(self._adapt_output_of, part, part.take(x)))
        return result

    def _parts(self, adapter_names: list[str]) -> list[Part]:
        def make() -> list[Part]:
            networks, stacks = self.networks, self.stacks  # asked once, as there may be many rows
            names = [name if name in networks else "" for name in adapter_names]
            return parts_of(names, self.structure if stacks else lambda name: None, self.stack)

        return make() if self.kept is None else self.kept.get(self, adapter_names, make)

    def _adapt_input_of(self, part: Part, x: Tensor) -> Tensor:
        if part.matrices is None:
            return self.adapt_input(part.adapter, x)
        return self.adapt_input_by_row(part.matrices, x)

    def _adapt_output_of(self, part: Part, x: Tensor, result: Tensor) -> Tensor:
        if part.matrices is None:
            return self.adapt_output(part.adapter, x, result)
        return self.adapt_output_by_row(part.matrices, x, result)

    def _base_result(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.quantization_backend is not None:
            result = self.quantization_backend.maybe_clone_base_result(result)
        return result

    def _check_mixed_batch(self, x: Tensor, adapter_names: list[str]) -> None:
        if len(x) != len(adapter_names):
            raise TTValueError(
                f"Length of `adapter_names` should be the same as the number of inputs, but got "
                f"{len(adapter_names)} and {len(x)} respectively; give one name for each row."
            )
        if self.merged:
            raise TTValueError(
                "Cannot pass `adapter_names` when there are merged adapters, please call `unmerge_adapter` first."
            )

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse to merge; methods whose update is linear override this."""
        raise TTTypeError(
            f"{type(self).__name__} cannot be merged: it is not linear in its input. Keep it as an adapter, "
            "or call `unload()` to get the base model back."
        )

    def unmerge(self) -> None:
        """Do nothing, as nothing can be merged; methods whose update is linear override this."""

    def extra_repr(self) -> str:
        """Name the quantisation of the base layer, if there is one."""
        return quantization_extra_repr(self)
