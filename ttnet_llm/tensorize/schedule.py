"""Ranks that fall while a model is trained."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import Layout, Spectrum, TTWeight, spend
from ttnet.numerics.truncation import check_eps
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix
from ttnet_llm.tensorize.adapters import AdapterTrain, find_adapters, ranks_to_adopt
from ttnet_llm.tensorize.rounding import carry_over, round_cores, tails
from ttnet_llm.tensorize.saving import record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rounding:
    """What one rounding has come to.

    Args:
        step: The step after which it was.
        parameters: Number of the trains' parameters before and after.
        error: The largest relative error of a train.
    """

    step: int
    parameters: tuple[int, int]
    error: float


class RankSchedule(TrainerCallback):
    """Rounds the trainable trains of a model to falling ranks while `Trainer` trains it.

    The trains are those of layers (`TTLinear`, `TTEmbedding`) and of adapters of the methods made of trains, which are
    LoRETTA_rep, LoRETTA_adp and TT-LoRA. What the optimiser knows of the cores is carried over, and the model's or
    adapter's config always says the ranks that there are, so that checkpoints load and a run can be resumed, with the
    schedule given again. Source: the DMRG-inspired sweeps of MetaTT (Lopez-Piqueres et al. 2025, arXiv:2506.09105).

    Args:
        steps: The optimiser's steps after which to round, ascending.
        max_ranks: Bound on the ranks at each of them.
        budgets: Bound on the parameters of all trains together at each of them, spent as `ttnet.nn.spend` does.
        eps: Bound on the relative error of every train at each of them, one for all or one each.

    Raises:
        TTTypeError: If a value is of the wrong type.
        TTValueError: If not exactly one of the three is given, or a value is out of range.

    Example:
        >>> schedule = RankSchedule([100, 200], max_ranks=[16, 8])
    """

    def __init__(
        self,
        steps: Sequence[int],
        *,
        max_ranks: Sequence[int] | None = None,
        budgets: Sequence[int] | None = None,
        eps: float | Sequence[float] | None = None,
    ) -> None:
        self.steps = [_check_count(step, "steps") for step in steps]
        if not self.steps or any(a >= b for a, b in pairwise(self.steps)):
            raise TTValueError(f"steps is {list(steps)}; expected at least one step, ascending.")
        given = {"max_ranks": max_ranks, "budgets": budgets, "eps": eps}
        names = [name for name, value in given.items() if value is not None]
        if len(names) != 1:
            have = " and ".join(names) if names else "none of them"
            raise TTValueError(f"{have} given; expected exactly one of max_ranks, budgets and eps.")
        (self.kind,) = names
        values: Any = given[self.kind]
        if isinstance(values, numbers.Real):
            values = [values] * len(self.steps) if self.kind == "eps" else [values]
        if len(values) != len(self.steps):
            raise TTValueError(f"{self.kind} is {values}; expected {len(self.steps)} values, one for each step.")
        for value in values:
            if self.kind == "eps":
                check_eps(value)
            else:
                _check_count(value, self.kind)
        if self.kind != "eps" and any(a < b for a, b in pairwise(values)):
            raise TTValueError(f"{self.kind} is {list(values)}; expected numbers that fall.")
        self.values = list(values)
        self.history: list[Rounding] = []

    # --- what Trainer calls -------------------------------------------------------------------

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Let trains take over the ranks of a checkpoint that is loaded into them."""
        if model is None:
            return
        for weight in _weights(model):
            weight.register_load_state_dict_pre_hook(_adopt_ranks)
        for adapter in find_adapters(model):
            adapter.adopt_ranks_on_loading()
        model.register_load_state_dict_post_hook(lambda module, keys: _note(module))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Make sure that there is something to round, and that it can be."""
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise TTTypeError(
                "RankSchedule replaces parameters, on which processes that train together would not agree; use one."
            )
        _note(model)
        if not _trains(model):
            raise TTValueError("model has no trainable trains, of layers or adapters; leave RankSchedule out.")

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Round, if it is time to."""
        if state.global_step in self.steps:
            value = self.values[self.steps.index(state.global_step)]
            self.history.append(round_trains(model, optimizer, step=state.global_step, **{_SINGULAR[self.kind]: value}))


_SINGULAR = {"max_ranks": "max_rank", "budgets": "budget", "eps": "eps"}


@torch.no_grad()
def round_trains(
    model: nn.Module,
    optimizer: Any = None,
    *,
    max_rank: int | None = None,
    budget: int | None = None,
    eps: float | None = None,
    step: int = 0,
) -> Rounding:
    """Round all trainable trains of a model, and carry the optimiser's state over; see `RankSchedule`.

    Args:
        model: The model.
        optimizer: Its optimiser; None for none.
        max_rank: Bound on the ranks.
        budget: Bound on the number of parameters.
        eps: Bound on the relative error of every train.
        step: What the result is to say of the time.

    Returns:
        What it has come to.

    Raises:
        TTValueError: If the budget does not suffice for ranks of 1.
    """
    trains = _trains(model)
    before = _count(trains)
    flat = [[core.flatten(1, -2) for core in train.parameters] for train in trains]
    ranks: list[list[int] | None] = [None] * len(trains)
    if max_rank is not None:
        ranks = [[max_rank] * (len(cores) - 1) for cores in flat]
    elif budget is not None:
        spectra = [Spectrum(train.layout, tails(cores)) for train, cores in zip(trains, flat, strict=True)]
        ranks = [list(layout.ranks[1:-1]) for layout in spend(spectra, budget)]
    lost: set[str] = set()
    errors = [
        _round_one(train, cores, bound, eps, optimizer, lost)
        for train, cores, bound in zip(trains, flat, ranks, strict=True)
    ]
    if lost:
        names = ", ".join(map(repr, sorted(lost)))
        logger.warning("The optimiser's state %s of a core cannot be carried over; it starts anew.", names)
    _note(model)
    found = Rounding(step, (before, _count(trains)), max(errors, default=0.0))
    logger.info("Rounded after step %d: %d of %d parameters, error %.2e.", step, *found.parameters[::-1], found.error)
    return found


def _round_one(
    train: LayerTrain | AdapterTrain,
    cores: list[torch.Tensor],
    ranks: list[int] | None,
    eps: float | None,
    optimizer: Any,
    lost: set[str],  # takes the names of what the optimiser cannot keep
) -> float:
    if ranks is not None and all(core.shape[-1] <= rank for core, rank in zip(cores, ranks, strict=False)):
        return 0.0  # nor change the basis for nothing
    rounded = round_cores(cores, eps=eps, ranks=ranks)
    old = train.parameters
    exact = TensorTrain([core.detach().double() for core in cores])
    norm = float(exact.norm())
    error = float((exact - TensorTrain(rounded.cores)).norm()) / norm if norm > 0 else 0.0
    train.replace(rounded.cores, ranks)
    for k, (core, before, after) in enumerate(zip(cores, old, train.parameters, strict=True)):
        name = carry_over(optimizer, before, after, rounded, k, core.shape)
        if name is not None:
            lost.add(name)
    return error


class LayerTrain:
    """The train of a layer, as `RankSchedule` rounds it.

    Args:
        weight: The layer's weight.
    """

    def __init__(self, weight: TTWeight) -> None:
        self.weight = weight

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The cores, as the optimiser has them."""
        return list(self.weight.cores)

    @property
    def layout(self) -> Layout:
        """The modes, with ranks of 1."""
        layout = self.weight.layout
        return layout.with_ranks((1,) * len(layout.ranks))

    def replace(self, cores: Sequence[torch.Tensor], ranks: Sequence[int] | None) -> None:
        """Take over a rounded train.

        Args:
            cores: Its cores `(r, n, r')`.
            ranks: What its ranks were bounded by, which does not matter here.
        """
        kind = TensorTrain if self.weight.layout.kind == "aligned" else TTMatrix
        shaped = [
            core.reshape(core.shape[0], *old.shape[1:-1], -1).to(old.dtype)
            for core, old in zip(cores, self.parameters, strict=True)
        ]
        self.weight.set_value(kind(shaped))


def _weights(model: nn.Module) -> list[TTWeight]:
    """List the trainable trains of layers, each once."""
    return [m for m in model.modules() if isinstance(m, TTWeight) and all(core.requires_grad for core in m.cores)]


def _trains(model: nn.Module) -> list[LayerTrain | AdapterTrain]:
    """List all trainable trains."""
    adapters = (train for adapter in find_adapters(model) for train in adapter.trains)
    return [*map(LayerTrain, _weights(model)), *adapters]


def _count(trains: Sequence[LayerTrain | AdapterTrain]) -> int:
    return sum(core.numel() for train in trains for core in train.parameters)


def _note(model: nn.Module) -> None:
    """Let all configs say the ranks that there are."""
    record(model)
    for adapter in find_adapters(model):
        adapter.note()


def _adopt_ranks(weight: TTWeight, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take over the ranks of cores that are about to be loaded, if they are those of a train of the same modes."""
    ranks = ranks_to_adopt(weight.cores, state_dict, prefix)
    if ranks is not None:
        kind = TensorTrain if weight.layout.kind == "aligned" else TTMatrix
        shapes = [(a, *core.shape[1:-1], b) for a, core, b in zip(ranks, weight.cores, ranks[1:], strict=False)]
        weight.set_value(kind([weight.cores[0].new_zeros(shape) for shape in shapes]))


def _check_count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TTTypeError(f"{name} holds {value!r}; expected integers of at least 1.")
    if value < 1:
        raise TTValueError(f"{name} holds {value}; expected integers of at least 1.")
    return int(value)
