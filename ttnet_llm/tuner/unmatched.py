"""What a config asks for and a model does not have, said by name: no target is passed over in silence."""

import re
import warnings
from collections.abc import Iterable
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import SEQ_CLS_HEAD_NAMES
from torch import nn

from ttnet_llm.tuner.config import AdapterConfig

# PEFT names all of these as trained whole, whichever a classifier has.
_HEADS = {*SEQ_CLS_HEAD_NAMES, "qa_outputs"}


def warn_of_unmatched(model: nn.Module, config: AdapterConfig, adapted: Iterable[str]) -> None:
    """Warn of every entry of a config that names nothing in the model, and of experts that it does not reach.

    Args:
        model: The model, with or without the adapter.
        config: The config as the user gave it, before names and defaults are filled in.
        adapted: Full names of the modules that were adapted.
    """
    names = [_plain(name) for name, _ in model.named_modules(remove_duplicate=False)]
    fields = {field: _unmatched(getattr(config, field), names) for field in ("target_modules", "exclude_modules")}
    fields["modules_to_save"] = _unmatched(set(config.modules_to_save or ()) - _HEADS, names)
    said = [
        f"{field} has {', '.join(map(repr, missing))}, which no module of this {type(model).__name__} is called"
        for field, missing in fields.items()
        if missing
    ]
    if missing_layers := _unmatched_layers(config, adapted):
        said.append(
            f"layers_to_transform has {', '.join(map(str, missing_layers))}, where no module that is targeted lies"
        )
    experts = expert_parameters(model)
    if experts and (fields["target_modules"] or any(_asks_for(config.target_modules, name) for name in experts)):
        said.append(f"the model {_experts_of(experts)}")
    if said:
        warnings.warn(
            f"{config.method}: {'; '.join(said)}. Nothing was done for these; correct the names, or leave them out.",
            stacklevel=2,
        )


def warn_of_passed_over(model: nn.Module, config: AdapterConfig) -> None:
    """Warn that experts held as parameters are not adapted by a config that asks for all of the model, or its MLPs.

    Args:
        model: The model.
        config: The config, of which only the method's name is read.
    """
    if sentence := of_experts(model):
        warnings.warn(f"{config.method} passes over a part of the model. {sentence}", stacklevel=2)


def of_experts(model: nn.Module) -> str:
    """Say which experts of a model are held as parameters.

    Args:
        model: The model.

    Returns:
        A sentence, or the empty string where there are none.
    """
    experts = expert_parameters(model)
    return f"The model {_experts_of(experts)}." if experts else ""


def expert_parameters(model: nn.Module) -> list[str]:
    """List the full names of parameters that hold the weights of several experts, one after the other.

    Args:
        model: The model.

    Returns:
        Names of three-dimensional parameters of modules that are called experts, by their class or their place.

    Example:
        >>> class Experts(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.down_proj = nn.Parameter(nn.Linear(3, 4).weight.expand(2, 4, 3))
        >>> expert_parameters(nn.ModuleDict({"experts": Experts(), "gate": nn.Linear(4, 2)}))
        ['experts.down_proj']
    """
    return [
        _plain(f"{module_name}.{name}")
        for module_name, module in model.named_modules()
        if not isinstance(module, BaseTunerLayer)
        and ("experts" in type(module).__name__.lower() or "experts" in _plain(module_name).split("."))
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3
    ]


def _experts_of(names: list[str]) -> str:
    # By their place in a layer, as there are as many of each as layers.
    places = dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in names)
    return (
        f"holds experts as parameters, {' and '.join(places)}, which are no modules, so that they stay as they are; "
        "PEFT's LoRA adapts them, named in target_parameters"
    )


def _asks_for(target_modules: Any, parameter: str) -> bool:
    if isinstance(target_modules, str):
        return re.fullmatch(target_modules, parameter) is not None
    return any(f".{parameter}".endswith(f".{entry}") for entry in target_modules or ())


def _unmatched(entries: Any, names: list[str]) -> list[str]:
    """The entries of a list that are neither a name nor the ending of one; none of an expression or of None."""
    if isinstance(entries, str):
        return []
    parts = [name.split(".") for name in names]
    known = {".".join(name[k:]) for name in parts for k in range(len(name))}
    return sorted(entry for entry in entries or () if entry not in known)


def _unmatched_layers(config: AdapterConfig, adapted: Iterable[str]) -> list[int]:
    layers = config.layers_to_transform
    if layers is None:
        return []
    patterns = config.layers_pattern or [r"[^.]+"]
    alternatives = patterns if isinstance(patterns, str) else "|".join(patterns)
    found = {int(match[1]) for name in adapted if (match := re.match(rf"(?:.*?\.)?(?:{alternatives})\.(\d+)\.", name))}
    return sorted({layers} - found if isinstance(layers, int) else set(layers) - found)


def _plain(name: str) -> str:
    """The name that a module has without adapters."""
    return re.sub(r"\.base_layer(?=\.|$)", "", name)
