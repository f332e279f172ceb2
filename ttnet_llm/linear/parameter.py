"""Adapters of parameters that their module reads directly, as those that hold the weights of several experts.

The module is put into a `ParameterOwner`, which holds a `ParameterLayer` for each adapted parameter. While the module
runs, an `UpdatedWeight` stands in for the parameter: the module's own forward pass, whichever it is, takes its
products, and no dense update is formed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate.utils import align_module_device
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.linear.layer import LinearAdapterLayer
from ttnet_llm.linear.network import FactorNetwork
from ttnet_llm.linear.updated import ThinUpdate, UpdatedWeight
from ttnet_llm.tuner import AdapterConfig
from ttnet_llm.tuner.names import CONTAINER, is_adaptable

# Classes of experts that store inputs before outputs without saying so, as others do by `is_transposed`.
_INPUTS_FIRST = ("Llama4TextExperts",)


class ParameterLayer(LinearAdapterLayer):
    """The adapters of one parameter: a matrix `(out, in)`, or those of several experts, `(experts, ., .)`.

    The weights of experts are taken for one matrix `(in, experts * out)`: side by side, with the same inputs. Subclass
    it with a method's linear layer, `class XParameter(ParameterLayer, XLinear)`.

    Args:
        module: The module that the parameter is of.
        parameter_name: The parameter's name in the module.
        adapter_name: Name of the first adapter.
        config: The first adapter's config, as it holds for the parameter.

    Raises:
        TTTypeError: If the parameter is not a matrix, or several, in a floating dtype, or is spread over processes.

    Example:
        >>> from peft import get_peft_model
        >>> from ttnet_llm import TTLoraConfig
        >>> class Experts(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up = nn.Parameter(torch.randn(3, 8, 6))  # (experts, out, in)
        ...
        ...     def forward(self, x):
        ...         return x @ self.up.mT
        >>> config = TTLoraConfig(target_modules=[], target_parameters=["up"])
        >>> model = get_peft_model(nn.Sequential(Experts()), config)
        >>> (layer,) = model.base_model.adapter_layers().values()
        >>> type(layer).__name__, layer.experts, model(torch.ones(3, 2, 6)).shape
        ('TTLoraParameter', 3, torch.Size([3, 2, 8]))
    """

    wraps_module = False

    def __init__(self, module: nn.Module, parameter_name: str, adapter_name: str, config: AdapterConfig) -> None:
        parameter = getattr(module, parameter_name)
        if isinstance(parameter, DTensor) or getattr(module, "_is_expert_parallel", False):
            raise TTTypeError(
                f"target_parameters names {parameter_name} of a {type(module).__name__}, which tensor or expert "
                "parallelism spreads over processes; adapters do not follow it. Load the model without, or use FSDP."
            )
        if not is_adaptable(parameter):
            raise TTTypeError(
                f"target_parameters names {parameter_name} of a {type(module).__name__}, a "
                f"{type(parameter.data).__name__} of shape {tuple(parameter.shape)} and {parameter.dtype}; expected a "
                "matrix, or one for each expert, in a floating dtype of 16 bits at least."
            )
        self.weight_name = parameter_name
        self.experts = len(parameter) if parameter.ndim == 3 else None
        transposed = getattr(module, "is_transposed", type(module).__name__ in _INPUTS_FIRST)
        self.inputs_first = self.experts is not None and transposed
        super().__init__(module, adapter_name, config)

    def _hold_base_layer(self, base_layer: nn.Module) -> None:
        self._module = (base_layer,)  # in a tuple, as it is registered with the owner

    @property
    def base_layer(self) -> nn.Module:  # type: ignore[override]
        """The module that the parameter is of."""
        return self._module[0]

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter."""
        return cast(nn.Parameter, getattr(self.base_layer, self.weight_name))

    def _features(self) -> tuple[int, int]:
        *_, rows, cols = self.parameter.shape
        return (rows, cols) if self.inputs_first else (cols, rows)

    def _new_network(self, config: AdapterConfig) -> FactorNetwork:
        # Only networks that take experts have a subclass of this one.
        options: dict[str, Any] = {} if self.experts is None else {"experts": self.experts}
        return self.network_cls(self.in_features, self.out_features, self.fan_in, config, **options)

    def get_base_weight(self) -> Tensor:
        """Give the parameter's entries."""
        return self.parameter.data

    def set_base_weight(self, weight: Tensor) -> None:
        """Give the parameter other entries."""
        self.parameter.data = weight

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
        device, _ = super()._get_base_layer_device_and_dtype(base_layer)
        return device or self.parameter.device, self.parameter.dtype

    def thin_factors(self, adapter: str) -> tuple[Tensor, Tensor, Tensor]:
        """Ask an adapter's network for its thin factors.

        Args:
            adapter: Name of the adapter.

        Returns:
            `L` of shape `(in_features, t)`, `M` of shape `(t, u)`, or `(experts, t, u)`, and `R` of shape
            `(u, out_features)`, without the scaling.
        """
        if (held := self._held.get(adapter)) is not None:
            return cast(tuple[Tensor, Tensor, Tensor], held)
        network = cast(FactorNetwork, self.networks[adapter])
        if self.experts is not None:
            return network.expert_factors()
        left, right = network.factors()
        return left, torch.eye(len(right), dtype=right.dtype, device=right.device), right

    def factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """Ask an adapter's network for its update of the matrix `(in_features, experts * out_features)`."""
        return cast(FactorNetwork, self.networks[adapter]).factors()

    def _factors_to_hold(self, adapter: str) -> tuple[Tensor, ...]:
        return tuple(factor.detach().clone() for factor in self.thin_factors(adapter))

    def updates(self) -> list[ThinUpdate]:
        """Give the updates of all active adapters, for the parameter as it is stored."""
        updates = []
        for adapter in self.active_adapters:
            if adapter in self.networks:
                left, middle, right = (factor.to(self.parameter.device) for factor in self.thin_factors(adapter))
                update = ThinUpdate(left, middle * self.scalings[adapter], right, self.dropouts[adapter])
                updates.append(update if self.inputs_first else update.mT)
        return updates

    def _update_factors(self, adapter: str, *, to_merged: bool = False) -> tuple[Tensor, ...]:
        left, middle, right = self.thin_factors(adapter)
        return left, middle, right * self.scalings[adapter]

    def _in_layout(self, *factors: Tensor) -> Tensor:
        left, middle, right = factors
        delta = left @ (middle @ right)
        return delta if self.inputs_first else delta.mT

    def why_not_merged(self) -> str | None:
        """Say nothing: what takes no sum was refused when it was to be adapted."""
        return None

    def base_matrix(self) -> Tensor:
        """Give the parameter as a matrix of shape `(in_features, experts * out_features)`."""
        with align_module_device(self.base_layer):  # where it is offloaded
            weight = self.parameter.data if self.inputs_first else self.parameter.data.mT
        return weight if self.experts is None else weight.movedim(0, 1).flatten(1)

    def settled(self) -> bool:
        """Tell whether the parameter is used as it is: its adapters are off, and taken out of it, or merged into it.

        Returns:
            Whether it is.
        """
        if self.disable_adapters and self.merged:
            self.unmerge()
        return self.disable_adapters or self.merged or not any(name in self.networks for name in self.active_adapters)


class ParameterOwner(nn.Module, BaseTunerLayer):
    """A module with adapters of its parameters.

    Args:
        base_layer: The module.
    """

    adapter_layer_names = ()
    base_layer: nn.Module

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        setattr(self, CONTAINER, nn.ModuleDict())  # by the parameter's name
        self._disable_adapters = False

    @property
    def adapted(self) -> nn.ModuleDict:
        """The layers of the adapted parameters, by the parameters' names."""
        return cast(nn.ModuleDict, self._modules[CONTAINER])

    def add(self, layer: ParameterLayer) -> None:
        """Adopt the layer of a parameter; the layers are in the order of their parameters."""
        self.adapted[layer.weight_name] = layer
        for name, _ in self.base_layer.named_parameters(recurse=False):
            if name in self.adapted:
                self.adapted[name] = self.adapted.pop(name)

    @property
    def layers(self) -> list[ParameterLayer]:
        """The layers of the adapted parameters."""
        return cast(list[ParameterLayer], list(self.adapted.values()))

    @property
    def merged_adapters(self) -> list[str]:
        """Names of the adapters that are merged into any of the parameters."""
        return list(dict.fromkeys(name for layer in self.layers for name in layer.merged_adapters))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module, its adapted parameters being stood in for."""
        base = self.base_layer
        layers = [layer for layer in self.layers if not layer.settled()]
        hook = getattr(base, "_hf_hook", None)
        if not layers or hook is None:
            with self._stood_in_for(layers):
                return base(*args, **kwargs)
        # Accelerate's hook puts the weights in place before the forward pass, and takes them away after it.
        args, kwargs = hook.pre_forward(base, *args, **kwargs)
        with self._stood_in_for(layers):
            result = base._old_forward(*args, **kwargs)  # type: ignore[operator]
        return hook.post_forward(base, result)

    @contextmanager
    def _stood_in_for(self, layers: Sequence[ParameterLayer]) -> Iterator[None]:
        attributes = self.base_layer.__dict__  # which Python looks into before torch looks for a parameter
        attributes.update({layer.weight_name: UpdatedWeight(layer.parameter, layer.updates()) for layer in layers})
        try:
            yield
        finally:
            for layer in layers:
                del attributes[layer.weight_name]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Do nothing, as PEFT asks the parameters' layers themselves."""

    def unmerge(self) -> None:
        """Do nothing, as PEFT asks the parameters' layers themselves."""

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Give back the module, its parameters merged with their adapters if that is asked for."""
        if merge:
            for layer in self.layers:
                layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        return self.base_layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            modules = self.__dict__.get("_modules", {})
            if "base_layer" not in modules:
                raise
        base = modules["base_layer"]
        if name in modules.get(CONTAINER, ()):
            raise AttributeError(
                f"{name} is read from outside of the {type(base).__name__} that it is a parameter of, where its "
                "adapters have no effect; leave it out of target_parameters."
            )
        return getattr(base, name)


def owner_of(model: nn.Module, name: str) -> ParameterOwner:
    """Give the owner in a module's place, and put one there if it has none.

    Args:
        model: The model.
        name: The module's full name.

    Returns:
        The owner.

    Raises:
        TTValueError: If the module is the model itself, or a layer that is adapted as a module, or is inside of an
            adapted one, or has one inside.
    """
    module = model.get_submodule(name)
    if isinstance(module, ParameterOwner):
        return module
    if name == "":
        raise TTValueError("target_parameters names a parameter of the model itself; expected one of its modules.")
    if isinstance(module, (BaseTunerLayer, *LinearAdapterLayer.base_types)):
        raise TTValueError(
            f"target_parameters names a parameter of {name}, a {type(module).__name__}; name that in target_modules."
        )
    outside = (model.get_submodule(name[:k]) for k, character in enumerate(name) if character == ".")
    if other := next((m for m in (*outside, *module.modules()) if isinstance(m, BaseTunerLayer)), None):
        raise TTValueError(
            f"target_parameters names a parameter of {name}, and a {type(other).__name__} is around it or inside of "
            "it: PEFT does not unload adapters that are inside of each other; leave out one of them."
        )
    owner = ParameterOwner(module)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, owner)
    return owner
