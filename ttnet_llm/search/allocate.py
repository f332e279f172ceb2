"""Which modules to adapt, and by which ranks, within a number of parameters: as a trained adapter would have it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import RowCounts, SecondMoment
from ttnet_llm.linear import LinearAdapterLayer, LinearModel
from ttnet_llm.linear.config import SharedConfig
from ttnet_llm.lora.checkpoint import exactly
from ttnet_llm.matrices.thin import thin_svd
from ttnet_llm.search.fill import fill
from ttnet_llm.tensorize.moments import gather_moments
from ttnet_llm.tensorize.targets import Target
from ttnet_llm.tuner import AdapterConfig

_MOST = 255  # candidates, as `fill` counts them in a byte


@dataclass(frozen=True)
class Allocation:
    """A budget, shared out over modules.

    Args:
        config: What to train: the chosen modules by their full names, each with its rank and the scale that the
            trained adapter had. It is an ordinary config, which is saved, loaded and trained like any other.
        ranks: The chosen modules' ranks, by name.
        parameters: How many parameters the adapter has, at most the budget.
        scores: For every module that could be chosen, and every rank, how much of the trained update's square a rank
            of that size holds.
        costs: The same for the numbers of parameters.

    Example:
        >>> from ttnet_llm import MeloraConfig
        >>> scores, costs = {"0": {1: 2.0, 2: 3.0}, "1": {1: 1.0, 2: 1.0}}, {"0": {1: 8, 2: 16}, "1": {1: 8, 2: 16}}
        >>> Allocation(MeloraConfig(r=1, target_modules=["0"]), {"0": 2}, 16, scores, costs).kept
        0.75
    """

    config: AdapterConfig
    ranks: dict[str, int]
    parameters: int
    scores: dict[str, dict[int, float]]
    costs: dict[str, dict[int, int]]

    @property
    def kept(self) -> float:
        """The share of the best possible score that the choice has, in [0, 1]."""
        best = sum(max(options.values()) for options in self.scores.values())
        return sum(self.scores[name][rank] for name, rank in self.ranks.items()) / best


def allocate(
    model: nn.Module,
    budget: int,
    *,
    candidates: Sequence[int] | None = None,
    inputs: Iterable[Any] | None = None,
    adapter: str = "default",
) -> Allocation:
    """Choose modules and ranks for an adapter of a given size, by what an adapter of full size has learnt.

    Train an adapter on all modules that come into question, by the largest rank, and not for long: some 150 steps. What
    a module is worth at rank k is the sum of the k largest squared singular values of its update, or, with `inputs`, of
    `C^{1/2} update`, C being the second moment of what goes into the module: the mean square that the update adds to
    the module's output. The choice that is worth the most within the budget is found exactly; then train it from the
    beginning.

    Args:
        model: A `PeftModel` with a trained adapter of MELoRA, LoRETTA_rep or TT-LoRA.
        budget: How many parameters the adapter may have, at least as many as the cheapest module. A head, norms and
            biases are not counted.
        candidates: The ranks that modules may get, integers of at least 1; what `rank_pattern` sets. `None` takes 1, 2,
            4, ... up to the trained one, and that.
        inputs: Batches, dictionaries of the model's arguments or tensors that are its only one; of some hundred
            examples. `None` takes all inputs as alike. Memory holds `in_features**2` doubles for every module.
        adapter: The trained adapter's name.

    Returns:
        The config, and how it was chosen.

    Raises:
        TTTypeError: If the model has no such adapter, or modules cannot have ranks of their own.
        TTValueError: If the budget is below the cheapest module, the adapter has learnt nothing, or an argument is
            outside its range.

    Source:
        Chang et al., BIPEFT (arXiv:2410.09079), for the question; it answers by gates and sensitivities.

    Example:
        >>> from peft import get_peft_model
        >>> from ttnet_llm import MeloraConfig
        >>> base = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        >>> config = MeloraConfig(r=4, n=1, target_modules=["0", "1"], init_weights=False)
        >>> model = get_peft_model(base, config)
        >>> with torch.no_grad():
        ...     _ = model.base_model.model[0].networks["default"].B.mul_(100)  # as if it had learnt the most
        >>> allocation = allocate(model, budget=70)
        >>> allocation.ranks, allocation.parameters
        ({'0': 4}, 64)
    """
    config, layers, sizes = _options(model, candidates, adapter)
    costs = {name: {rank: size.parameters for rank, size in options.items()} for name, options in sizes.items()}
    _check_budget(budget, costs)
    factors = _weighed_factors(model, layers, inputs, adapter)
    scores: dict[str, dict[int, float]] = {}
    for name, options in sizes.items():
        squares = [0.0, *thin_svd(*factors[name])[1].square().cumsum(0).tolist()]
        scores[name] = {rank: squares[min(size.width, len(squares) - 1)] for rank, size in options.items()}
    if not any(score > 0 for options in scores.values() for score in options.values()):
        raise TTValueError(
            f"The adapter {adapter!r} has learnt nothing: all of its updates are 0. Train it for some steps first, "
            "with a loss that has a gradient."
        )
    ranks = fill(scores, costs, budget)
    fields = {name: sizes[name][rank].fields for name, rank in ranks.items()}
    parameters = sum(costs[name][rank] for name, rank in ranks.items())
    names = [name for name, _ in cast(LinearModel, model.base_model).model.named_modules()]
    return Allocation(_with_ranks(config, fields, names), ranks, parameters, scores, costs)


def check_allocation(
    model: nn.Module, budget: int, *, candidates: Sequence[int] | None = None, adapter: str = "default"
) -> None:
    """Refuse before the training what `allocate` would refuse after it.

    Args:
        model: As `allocate` takes it, not trained yet.
        budget: The same.
        candidates: The same.
        adapter: The same.

    Raises:
        TTTypeError: If the model has no such adapter, or modules cannot have ranks of their own.
        TTValueError: If the budget is below the cheapest module, or an argument is outside its range.
    """
    _, _, sizes = _options(model, candidates, adapter)
    _check_budget(budget, {n: {k: size.parameters for k, size in options.items()} for n, options in sizes.items()})


@dataclass(frozen=True)
class _Size:
    """A module at a rank: the config's fields for it, the largest rank of its update, and its parameters."""

    fields: dict[str, Any]
    width: int
    parameters: int


def _options(
    model: nn.Module, candidates: Sequence[int] | None, adapter: str
) -> tuple[AdapterConfig, dict[str, LinearAdapterLayer], dict[str, dict[int, _Size]]]:
    """Give the adapter's config, its layers, and what each may become."""
    config = _config_of(model, adapter)
    ranks = _check_candidates(candidates, getattr(config, config.rank_field), config.rank_field)
    layers = dict(cast(LinearModel, model.base_model).layers_with(adapter))
    sizes = {}
    for name, layer in layers.items():
        own = config.for_module(name)
        sizes[name] = {rank: _size(layer, own, rank) for rank in ranks}
    return config, layers, sizes


def _check_budget(budget: int, costs: dict[str, dict[int, int]]) -> None:
    cheapest = min(cost for options in costs.values() for cost in options.values())
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < cheapest:
        raise TTValueError(
            f"budget is {budget!r}; expected an integer of at least {cheapest}, the parameters of the cheapest module."
        )


def _config_of(model: nn.Module, adapter: str) -> AdapterConfig:
    tuner = getattr(model, "base_model", None)
    configs = getattr(model, "peft_config", {})
    if not isinstance(tuner, LinearModel) or adapter not in configs:
        has = ", ".join(map(repr, configs)) or "none"
        raise TTTypeError(
            f"model is a {type(model).__name__} whose adapters are {has}; expected a PeftModel with an adapter "
            f"{adapter!r} of MELoRA, LoRETTA_rep or TT-LoRA. MELoRA with n=1 is LoRA."
        )
    config = configs[adapter]
    reason = None
    if isinstance(config, SharedConfig):
        reason = "shares one network between its modules, which has one rank"
    elif config.reads_weights:
        reason = "turns inputs and outputs, and its size does not grow with a rank of the update"
    elif config.target_parameters:
        reason = "adapts parameters of experts besides modules here, which cannot be chosen among"
    if reason is not None:
        raise TTTypeError(
            f"{config.method} {reason}; allocate takes adapters of modules by MELoRA, LoRETTA_rep or TT-LoRA."
        )
    return cast(AdapterConfig, config)


def _check_candidates(candidates: Sequence[int] | None, trained: Any, field: str) -> tuple[int, ...]:
    if candidates is None:
        if isinstance(trained, bool) or not isinstance(trained, int):
            raise TTValueError(f"{field} is {trained!r}, no one rank; say which ranks to choose among with candidates.")
        return tuple(sorted({2**k for k in range(trained.bit_length()) if 2**k < trained} | {trained}))
    given = tuple(candidates)
    if not given or len(set(given)) < len(given) or any(isinstance(k, bool) or not isinstance(k, int) for k in given):
        raise TTValueError(f"candidates is {candidates!r}; expected integers, each once.")
    if min(given) < 1 or len(given) > _MOST:
        raise TTValueError(f"candidates is {candidates!r}; expected ranks of at least 1, and at most {_MOST} of them.")
    return tuple(sorted(given))


@torch.no_grad()
def _weighed_factors(
    model: nn.Module, layers: dict[str, LinearAdapterLayer], inputs: Iterable[Any] | None, adapter: str
) -> dict[str, tuple[Tensor, Tensor]]:
    """Give factors of every update whose product has the singular values that count."""
    found = {}
    for name, layer in layers.items():
        left, right = (factor.detach().double().cpu() for factor in layer.update(adapter))
        if not bool(torch.isfinite(left).all() and torch.isfinite(right).all()):
            raise TTValueError(f"The adapter's weights in {name!r} are NaN or infinite; train it by a lower rate.")
        found[name] = (left, right)
    if inputs is None:
        return found
    targets = [Target(name, layer.get_base_layer()) for name, layer in layers.items()]
    moments = gather_moments(model, targets, inputs, lambda: None)
    return {name: (_root(left, moments.get(name)), right) for name, (left, right) in found.items()}


def _root(left: Tensor, moment: SecondMoment | RowCounts | None) -> Tensor:
    """Give a small matrix whose Gram matrix is `L^T C L`, which is all that singular values of `C^{1/2} L R` go by."""
    if moment is None:  # a table of which no row was read
        return torch.zeros_like(left)
    if isinstance(moment, SecondMoment):
        gram = left.mT @ moment.matrix().cpu() @ left
    else:
        gram = left.mT @ (moment.scaled()[:, None] * left)
    values, vectors = torch.linalg.eigh(gram)
    return values.clamp_min(0).sqrt()[:, None] * vectors.mT


def _size(layer: LinearAdapterLayer, config: AdapterConfig, rank: int) -> _Size:
    """Measure a module's network at a rank, with the scale of its update as it is."""
    changed = config._changed({config.rank_field: rank})
    scale = getattr(config, config.scale_field) * config.update_scale / changed.update_scale
    fields = {config.rank_field: rank, config.scale_field: scale}
    with torch.device("meta"):
        network = layer._new_network(config._changed(fields))
    return _Size(fields, network.factors()[0].shape[1], sum(parameter.numel() for parameter in network.parameters()))


def _with_ranks(config: AdapterConfig, chosen: dict[str, dict[str, Any]], names: list[str]) -> AdapterConfig:
    """Give the config that adapts the chosen modules and no others."""
    final = copy.deepcopy(config)
    # A full name may be the end of another.
    others = [name for name in names if name not in chosen and any(name.endswith(f".{end}") for end in chosen)]
    final.target_modules = "|".join(map(re.escape, chosen)) if others else set(chosen)
    final.exclude_modules = final.layers_to_transform = final.layers_pattern = None
    final.rank_pattern = {exactly(name): dict(entry) for name, entry in chosen.items()}
    final.alpha_pattern = {}
    final.inference_mode = False
    return final
