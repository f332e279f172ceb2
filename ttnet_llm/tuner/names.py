"""Names that modules and parameters have in a model without adapters, and what a config means by them."""

import copy
import re
from collections.abc import Iterable, Iterator
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer, _ExcludedModule, check_target_module_exists
from torch import Tensor, nn

from ttnet_llm.tuner.base_weights import FLOATS
from ttnet_llm.tuner.config import AdapterConfig

CONTAINER = "adapted_parameters"  # of the layers of parameters, in the place of the parameters themselves


def plain_name(name: str) -> str:
    """Give the name that a module or parameter has without adapters.

    Args:
        name: Its full name.

    Returns:
        The name.

    Example:
        >>> plain_name("mlp.experts.base_layer.down_proj"), plain_name("mlp.experts.adapted_parameters.down_proj")
        ('mlp.experts.down_proj', 'mlp.experts.down_proj')
    """
    return re.sub(rf"\.(base_layer|{CONTAINER})(?=\.|$)", "", name)


def place_in_layer(name: str) -> str:
    """Give the part of a name that is the same in all layers.

    Args:
        name: A full name.

    Returns:
        What follows the last number in it.

    Example:
        >>> place_in_layer("model.layers.3.mlp.experts.down_proj")
        'mlp.experts.down_proj'
    """
    return re.sub(r"^.*\.\d+\.", "", name)


def base_modules(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Walk through a model as if it had no adapters.

    Args:
        model: The model.
        name: What its name begins with.

    Yields:
        Names and modules, those of adapted layers being their base layers.

    Example:
        >>> [name for name, _ in base_modules(nn.Sequential(nn.Linear(2, 2)))]
        ['', '0']
    """
    if isinstance(model, BaseTunerLayer):
        model = model.get_base_layer()
    yield name, model
    for child_name, child in model.named_children():
        yield from base_modules(child, f"{name}.{child_name}" if name else child_name)


def expert_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Find the parameters that hold the weights of several experts, one after the other.

    Args:
        model: The model, with or without adapters.

    Returns:
        By their full names, the three-dimensional parameters of modules that are called experts, by their class or
        their place.

    Example:
        >>> class Experts(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.down_proj = nn.Parameter(nn.Linear(3, 4).weight.expand(2, 4, 3))
        >>> list(expert_parameters(nn.ModuleDict({"experts": Experts(), "gate": nn.Linear(4, 2)})))
        ['experts.down_proj']
    """
    return {
        f"{module_name}.{name}": parameter
        for module_name, module in base_modules(model)
        if "experts" in type(module).__name__.lower() or "experts" in module_name.split(".")
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3
    }


def is_adaptable(parameter: Tensor) -> bool:
    """Tell whether a parameter is a matrix, or several, of numbers that updates can be added to.

    Args:
        parameter: The parameter.

    Returns:
        Whether it is.

    Example:
        >>> import torch
        >>> [is_adaptable(torch.ones(shape)) for shape in ((2,), (2, 3), (4, 2, 3))]
        [False, True, True]
    """
    plain = type(parameter.data) is Tensor  # and none of a quantisation's subclasses
    return plain and parameter.ndim in (2, 3) and parameter.dtype in FLOATS


def reaches(config: AdapterConfig, targets: Iterable[str], name: str) -> bool:
    """Tell whether targets name a parameter, in a layer that a config takes and outside of what it leaves out.

    Args:
        config: The config.
        targets: Names or name endings of parameters.
        name: The parameter's full name.

    Returns:
        Whether they do.

    Example:
        >>> from ttnet_llm import TTLoraConfig
        >>> config = TTLoraConfig(exclude_modules=["0.experts"])
        >>> [reaches(config, ["experts.down_proj"], f"layers.{k}.experts.down_proj") for k in (0, 1)]
        [False, True]
    """
    as_modules = copy.copy(config)
    as_modules.target_modules = set(targets)
    module = is_target(as_modules, name.rpartition(".")[0])
    return bool(is_target(as_modules, name)) and not isinstance(module, _ExcludedModule)


def is_target(config: PeftConfig, name: str) -> Any:
    """Tell whether a config's targets name a module, as PEFT does, and in a model that begins with its layers too.

    Without `layers_pattern`, PEFT finds the number of a layer only where something stands before the list of layers.

    Args:
        config: The config.
        name: The module's full name.

    Returns:
        What PEFT answers: something true if they do, `_ExcludedModule` if the module is left out.

    Example:
        >>> from ttnet_llm import TTLoraConfig
        >>> config = TTLoraConfig(target_modules=["q_proj"], layers_to_transform=[1])
        >>> [bool(is_target(config, name)) for name in ("layers.0.q_proj", "layers.1.q_proj", "model.layers.1.q_proj")]
        [False, True, True]
    """
    found = check_target_module_exists(config, name)
    if not found and getattr(config, "layers_to_transform", None) is not None:
        return check_target_module_exists(config, f".{name}")
    return found
