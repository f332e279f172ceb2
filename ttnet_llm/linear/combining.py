"""Adapters of one method added up to one: exactly, with ranks that add up, or rounded to smaller ones."""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ttnet.errors import TTTypeError, TTValueError
from ttnet.numerics.truncation import check_eps
from ttnet_llm.linear.config import LinearConfig
from ttnet_llm.linear.layer import LinearAdapterLayer, layers_with
from ttnet_llm.linear.network import FactorNetwork
from ttnet_llm.linear.sharing import SharedView
from ttnet_llm.lora.checkpoint import exactly
from ttnet_llm.matrices.config import FittedConfig
from ttnet_llm.matrices.thin import product_error
from ttnet_llm.tuner import AdapterConfig, AdapterModel

logger = logging.getLogger(__name__)

COMBINATIONS = ("cat", "tt_svd")

_KEPT = (
    *("task_type", "auto_mapping", "base_model_name_or_path", "revision", "dropout"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
)
_STRUCTURE = ("n", "num_tasks", "task")  # fields of single methods, in which adapters must agree

_Layers = dict[str, LinearAdapterLayer]  # by the full names of their modules


@dataclass(frozen=True)
class CombineReport:
    """What adding adapters up has come to.

    Args:
        adapter_name: The new adapter.
        errors: The relative Frobenius error of every module's update, by the module's name.
        parameters: Number of parameters of the new adapter.
    """

    adapter_name: str
    errors: dict[str, float]
    parameters: int

    @property
    def error(self) -> float:
        """The largest of the errors."""
        return max(self.errors.values())


@torch.no_grad()
def combine(
    model: AdapterModel,
    adapters: Sequence[str],
    weights: Sequence[float],
    adapter_name: str,
    combination_type: str,
    eps: float | None,
    max_rank: int | None,
) -> CombineReport:
    """Add adapters up to a new one; `LinearModel.add_weighted_adapter` says what the arguments are."""
    _check(model, adapters, weights, adapter_name, combination_type, eps, max_rank)
    parts = [dict(layers_with(model.model, adapter)) for adapter in adapters]
    names = list(dict.fromkeys(name for part in parts for name in part))
    target = {name: _weighted_sum(name, parts, adapters, weights) for name in names}
    try:
        _add(model, adapters, weights, adapter_name, combination_type == "tt_svd", eps, max_rank, parts, target)
    except BaseException:
        if adapter_name in model.peft_config:
            model.delete_adapter(adapter_name)
        raise
    errors: dict[str, float] = {}
    parameters: dict[int, int] = {}  # by tensor, as modules may share them
    for name, layer in layers_with(model.model, adapter_name):
        errors[name] = product_error(*target[name], *layer.update(adapter_name))
        parameters |= {id(p): p.numel() for p in layer.networks[adapter_name].parameters()}
    report = CombineReport(adapter_name, errors, sum(parameters.values()))
    logger.info(
        "Adapter %r has %d parameters, and updates with a relative error of %.1e at most.",
        adapter_name,
        report.parameters,
        report.error,
    )
    return report


def _add(
    model: AdapterModel,
    adapters: Sequence[str],
    weights: Sequence[float],
    adapter_name: str,
    rounds: bool,
    eps: float | None,
    max_rank: int | None,
    parts: Sequence[_Layers],
    target: dict[str, tuple[Tensor, Tensor]],
) -> None:
    """Make the new adapter: from the sum itself where trains can be fitted to it, otherwise from the networks."""
    configs = [model.peft_config[adapter] for adapter in adapters]
    fields = _kept_fields(configs[0], parts)
    if isinstance(configs[0], FittedConfig):
        if rounds and eps is None and max_rank is None:
            max_rank = configs[0].largest_rank
        _add_trains(model, adapter_name, fields, target, eps, max_rank)
        return
    if issubclass(cast(type[LinearAdapterLayer], model.tuner_layer_cls).network_cls, SharedView):
        _check_shared(adapters, parts)
    ranks = {name: _ranks_of(name, configs, parts) for name in target}
    new_ranks = {name: (max_rank or own[0]) if rounds else sum(own) for name, own in ranks.items()}
    if isinstance(configs[0], LinearConfig):
        fields |= configs[0].fields_of_a_sum(cast(Sequence[LinearConfig], configs), rounds)
    _add_sums(model, adapter_name, _with_ranks(configs[0], fields, new_ranks), adapters, weights, parts)


def _ranks_of(name: str, configs: Sequence[AdapterConfig], parts: Sequence[_Layers]) -> list[int]:
    having = (config for config, part in zip(configs, parts, strict=True) if name in part)
    return [cast(LinearConfig, config.for_module(name)).r for config in having]


def _weighted_sum(
    name: str, parts: Sequence[_Layers], adapters: Sequence[str], weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Give the sum of a module's updates as a product of two thin factors, in float64."""
    lefts, rights = [], []
    for part, adapter, weight in zip(parts, adapters, weights, strict=True):
        if (layer := part.get(name)) is not None:
            left, right = layer.update(adapter)
            lefts.append(left.double())
            rights.append(right.double() * weight)
    return torch.cat(lefts, dim=1), torch.cat(rights)


def _kept_fields(config: AdapterConfig, parts: Sequence[_Layers]) -> dict[str, Any]:
    """What the new config has in common with the first one."""
    fields = {name: copy.copy(getattr(config, name)) for name in _KEPT}
    if any(part.keys() != parts[0].keys() for part in parts):
        everywhere = sorted(set().union(*parts))
        fields |= {"target_modules": everywhere, "exclude_modules": None}
        fields |= {"layers_to_transform": None, "layers_pattern": None}
    return fields


def _add_trains(
    model: AdapterModel,
    adapter_name: str,
    fields: dict[str, Any],
    target: dict[str, tuple[Tensor, Tensor]],
    eps: float | None,
    max_rank: int | None,
) -> None:
    """Add an adapter of trains, whose ranks are those that the sum turns out to have."""
    from ttnet_llm.lora.compress import as_trains  # here, since that module makes networks of this room

    config, networks = as_trains(target, model.method_name, eps=eps, max_rank=max_rank, **fields)
    _inject(model, adapter_name, config)
    for name, layer in layers_with(model.model, adapter_name):
        layer.networks[adapter_name].load_state_dict(networks[name].state_dict())


def _with_ranks(config: AdapterConfig, fields: dict[str, Any], ranks: dict[str, int]) -> AdapterConfig:
    """Make a config of other ranks, whose updates are scaled by 1."""
    r = Counter(ranks.values()).most_common(1)[0][0]
    others = {exactly(name): rank for name, rank in ranks.items() if rank != r}
    own = {name: getattr(config, name) for name in _STRUCTURE if hasattr(config, name)}
    return type(config)(r=r, alpha=r, rank_pattern=others, alpha_pattern=dict(others), **own, **fields)


def _add_sums(
    model: AdapterModel,
    adapter_name: str,
    config: AdapterConfig,
    adapters: Sequence[str],
    weights: Sequence[float],
    parts: Sequence[_Layers],
) -> None:
    """Add an adapter whose networks add up those of the others by themselves."""
    _inject(model, adapter_name, config)
    together: dict[int, list[str]] = {}
    for name, layer in layers_with(model.model, adapter_name):
        network = layer.networks[adapter_name]
        together.setdefault(id(network.shared if isinstance(network, SharedView) else network), []).append(name)
    layers = dict(layers_with(model.model, adapter_name))
    for names in together.values():
        given, scales = [], []
        for part, adapter, weight in zip(parts, adapters, weights, strict=True):
            if names[0] in part:
                given.append([cast(FactorNetwork, part[name].networks[adapter]) for name in names])
                scales.append(weight * part[names[0]].scalings[adapter])
        new = [cast(FactorNetwork, layers[name].networks[adapter_name]) for name in names]
        type(new[0]).add_up(new, given, scales)


def _inject(model: AdapterModel, adapter_name: str, config: AdapterConfig) -> None:
    model.peft_config[adapter_name] = config
    model.inject_adapter(model.model, adapter_name)


def _check_shared(adapters: Sequence[str], parts: Sequence[_Layers]) -> None:
    for adapter, part in zip(adapters, parts, strict=True):
        if part.keys() != parts[0].keys():
            raise TTValueError(
                f"adapters {adapters[0]!r} and {adapter!r} adapt different modules, and the networks that these share "
                "cannot be added up; export both with export_lora and combine them there."
            )
        scales = {layer.scalings[adapter] for layer in part.values()}
        if len(scales) > 1:
            raise TTValueError(
                f"adapter {adapter!r} scales single modules by {sorted(scales)} (alpha_pattern), and the network that "
                "they share has one scale; export the adapters with export_lora and combine them there."
            )


def _check(
    model: AdapterModel,
    adapters: Sequence[str],
    weights: Sequence[float],
    adapter_name: str,
    combination_type: str,
    eps: float | None,
    max_rank: int | None,
) -> None:
    if combination_type not in COMBINATIONS:
        raise TTValueError(
            f"combination_type is {combination_type!r}; expected one of {', '.join(map(repr, COMBINATIONS))}."
        )
    if not adapters or len(adapters) != len(weights):
        raise TTValueError(
            f"adapters has {len(adapters)} names and weights has {len(weights)} numbers; expected at least one name, "
            "and a weight for each."
        )
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise TTValueError(f"weights has the entry {weight!r}; expected finite numbers.")
    if adapter_name in model.peft_config:
        raise TTValueError(f"adapter_name is {adapter_name!r}, which the model has already; choose another name.")
    first: Any = model.peft_config.get(adapters[0])
    if first is not None and first.reads_weights:
        raise TTTypeError(
            f"{model.method_name} adapters have no sum: each turns what a layer reads or gives out, and turns that are "
            "added up are no turn. Use one for each row of a batch (adapter_names), or export them with export_lora "
            "and add the LoRAs up."
        )
    for adapter in adapters:
        config = model.peft_config.get(adapter)
        if config is None:
            raise TTValueError(f"adapters names {adapter!r}; the model has {', '.join(map(repr, model.peft_config))}.")
        if config.target_parameters:
            raise TTTypeError(
                f"adapter {adapter!r} adapts parameters, {', '.join(map(repr, sorted(config.target_parameters)))}, and "
                "trains over experts are not added up; merge the adapters one after the other instead."
            )
        whole = next((f for f in ("train_norms", "tt_head", "modules_to_save") if getattr(config, f, None)), None)
        if whole is not None or config.bias != "none":
            name = whole or "bias"
            raise TTTypeError(
                f"adapter {adapter!r} has {name}={getattr(config, name)!r}: what is trained whole has no weighted "
                "sum here; combine adapters that were made without."
            )
        differing = [f for f in _STRUCTURE if getattr(config, f, None) != getattr(first, f, None)]
        if differing:
            raise TTValueError(
                f"adapters {adapters[0]!r} and {adapter!r} differ in {differing[0]}, so that no network of "
                "their kind is their sum; export both with export_lora and combine them there."
            )
    check_eps(eps)
    if max_rank is not None and (isinstance(max_rank, bool) or not isinstance(max_rank, int) or max_rank < 1):
        raise TTValueError(f"max_rank is {max_rank!r}; expected an integer of at least 1.")
    if combination_type == "cat" and (eps is not None or max_rank is not None):
        raise TTValueError(
            f"combination_type is 'cat', which is exact, with eps={eps} and max_rank={max_rank}; say 'tt_svd' to round."
        )
    if eps is not None and not isinstance(model.peft_config[adapters[0]], FittedConfig):
        raise TTTypeError(
            f"eps is {eps}, and the ranks of {model.method_name} are one for all modules, not what an error asks for; "
            "give max_rank."
        )
