"""What a config asks for and a model does not have, said by name: no target is passed over in silence."""

import re
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from peft.utils.constants import SEQ_CLS_HEAD_NAMES
from torch import nn

from ttnet_llm.tuner.config import AdapterConfig
from ttnet_llm.tuner.names import base_modules, expert_parameters, is_adaptable, place_in_layer, reaches

# PEFT names all of these as trained whole, whichever a classifier has.
_HEADS = {*SEQ_CLS_HEAD_NAMES, "qa_outputs"}


def warn_of_unmatched(model: nn.Module, config: AdapterConfig, adapted: Collection[str]) -> None:
    """Warn of every entry of a config that names nothing in the model, and of experts that it does not reach.

    Args:
        model: The model, with or without the adapter.
        config: The config as the user gave it, before names and defaults are filled in.
        adapted: Full names of the modules and parameters that were adapted.
    """
    modules = dict(base_modules(model))
    parameters = [
        f"{name}.{own}" for name, module in modules.items() for own, _ in module.named_parameters(recurse=False)
    ]
    unmatched: dict[str, list[Any]] = {
        "target_modules": _unmatched(config.target_modules, modules),
        "target_parameters": _unmatched(config.target_parameters, parameters),
        "exclude_modules": _unmatched(config.exclude_modules, [*modules, *parameters]),
        "modules_to_save": _unmatched(set(config.modules_to_save or ()) - _HEADS, modules),
        "layers_to_transform": _unmatched_layers(config, adapted),
        "rank_pattern": _unmatched_patterns(config.rank_pattern, adapted),
        "alpha_pattern": _unmatched_patterns(config.alpha_pattern, adapted),
    }
    said = [f"{field} has {', '.join(map(repr, missing))}" for field, missing in unmatched.items() if missing]
    if said:
        warnings.warn(
            f"{config.method}: {' and '.join(said)}, which match nothing in this {type(model).__name__}; correct them, "
            "or leave them out.",
            stacklevel=2,
        )
    experts = _passed_over(model, config, adapted)
    if unmatched["target_modules"] or any(_asks_for(config.target_modules, name) for name in experts):
        _warn_of_experts(config, experts)


def warn_of_passed_over(model: nn.Module, config: AdapterConfig, adapted: Collection[str]) -> None:
    """Warn of experts that a config which asks for all of the model, or its feed-forward layers, does not adapt.

    Args:
        model: The model.
        config: The config.
        adapted: Full names of the modules and parameters that were adapted.
    """
    _warn_of_experts(config, _passed_over(model, config, adapted))


def of_experts(experts: Mapping[str, nn.Parameter], config: AdapterConfig) -> str:
    """Say that experts are parameters, and how they are adapted.

    Args:
        experts: By their full names.
        config: A config that does not reach them.

    Returns:
        A sentence, or the empty string where there are none.
    """
    places = sorted(set(map(place_in_layer, experts)))  # there are as many of each as layers
    if not places:
        return ""
    if not all(map(is_adaptable, experts.values())):
        remedy = "they are quantised, so that no update can be added to them"
    elif config.why_no_parameters is None:
        remedy = f"target_parameters={places} adapts them"
    else:
        remedy = f"{config.why_no_parameters}; LoRETTA_rep and TT-LoRA, or PEFT's LoRA, take target_parameters={places}"
    return f"The experts of this model are parameters, {' and '.join(places)}, which are no modules: {remedy}."


def _passed_over(model: nn.Module, config: AdapterConfig, adapted: Collection[str]) -> dict[str, nn.Parameter]:
    """The experts that are not adapted, although the config neither excludes them nor leaves their layer out."""
    return {
        name: parameter
        for name, parameter in expert_parameters(model).items()
        if name not in adapted and reaches(config, [place_in_layer(name)], name)
    }


def _warn_of_experts(config: AdapterConfig, experts: Mapping[str, nn.Parameter]) -> None:
    if sentence := of_experts(experts, config):
        warnings.warn(f"{config.method} passes over a part of the model. {sentence}", stacklevel=3)


def _asks_for(target_modules: Any, parameter: str) -> bool:
    if isinstance(target_modules, str):
        return re.fullmatch(target_modules, parameter) is not None
    return any(f".{parameter}".endswith(f".{entry}") for entry in target_modules or ())


def _unmatched(entries: Any, names: Iterable[str]) -> list[str]:
    """The entries of a list that are neither a name nor the ending of one; an expression, if it matches none."""
    if isinstance(entries, str):
        found = entries.lower() == "all-linear" or any(re.fullmatch(entries, name) for name in names)
        return [] if found else [entries]
    parts = [name.split(".") for name in names]
    known = {".".join(name[k:]) for name in parts for k in range(len(name))}
    return sorted(entry for entry in entries or () if entry not in known)


def _unmatched_patterns(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    return sorted(p for p in patterns if not any(re.match(rf"(.*\.)?({p})$", name) for name in names))


def _unmatched_layers(config: AdapterConfig, adapted: Iterable[str]) -> list[int]:
    layers = config.layers_to_transform
    if layers is None:
        return []
    patterns = config.layers_pattern or [r"[^.]+"]
    alternatives = patterns if isinstance(patterns, str) else "|".join(patterns)
    found = {int(match[1]) for name in adapted if (match := re.match(rf"(?:.*?\.)?(?:{alternatives})\.(\d+)\.", name))}
    return sorted({layers} - found if isinstance(layers, int) else set(layers) - found)
