"""The trains of LoRETTA_rep adapters, rounded so that what is saved of them loads again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet.modes import capped_ranks, num_parameters
from ttnet.tensor_train import TensorTrain
from ttnet_llm.linear.network import Anchored
from ttnet_llm.networks.loretta_rep import LorettaRepConfig, LorettaRepNetwork
from ttnet_llm.tensorize.rounding import carry_over, round_cores, tails
from ttnet_llm.train_matrix import TrainMatrix, load_cores
from ttnet_llm.tuner import AdapterLayer

_PARTS = ("A", "B")


@dataclass(frozen=True, eq=False)
class AdapterTrains:
    """All trains of one adapter of a model.

    Args:
        config: The adapter's config, which says their one rank and their modes.
        layers: The layers that have it.
        name: The adapter's name.
    """

    config: LorettaRepConfig
    layers: tuple[AdapterLayer, ...]
    name: str

    @property
    def _places(self) -> list[tuple[AdapterLayer, LorettaRepNetwork, str, TrainMatrix]]:
        found = []
        for layer in self.layers:
            network: Any = layer.networks[self.name]
            found += [(layer, network, part, getattr(network, part)) for part in _PARTS]
        return found

    @property
    def num_parameters(self) -> int:
        """Number of entries of all cores."""
        return sum(matrix.layout.num_parameters for *_, matrix in self._places)

    def round(self, optimizer: Any, *, max_rank: int | None, budget: int | None, eps: float | None) -> float:
        """Round all trains to one rank, that given or the one that an error or a number of parameters allows.

        Args:
            optimizer: The optimiser, whose state is carried over; None for none.
            max_rank: Bound on the ranks.
            budget: Bound on the number of parameters.
            eps: Bound on the relative error of every train.

        Returns:
            The largest relative error.

        Raises:
            TTValueError: If the budget does not suffice for a rank of 1.
        """
        places = self._places
        now = max(max(matrix.layout.ranks) for *_, matrix in places)
        if max_rank is None:
            max_rank = self._rank_for_size(budget) if budget is not None else self._rank_for_error(eps or 0.0)
        if max_rank >= now:
            return 0.0
        for *_, matrix in places:
            self._record(matrix, max_rank)
        self.config.tt_rank = max_rank
        return max(self._round_one(*place, optimizer, max_rank) for place in places)

    def _round_one(
        self, layer: AdapterLayer, network: nn.Module, part: str, matrix: TrainMatrix, optimizer: Any, rank: int
    ) -> float:
        cores = list(matrix.cores)
        rounded = round_cores(cores, ranks=[rank] * (len(cores) - 1))
        exact = TensorTrain([core.detach().double() for core in cores])
        norm = float(exact.norm())
        error = float((exact - TensorTrain(rounded.cores)).norm()) / norm if norm > 0 else 0.0
        new = self._resize(network, part, matrix)
        load_cores(list(new.cores), [core.to(new.cores[0].dtype) for core in rounded.cores])
        for k, core in enumerate(cores):
            carry_over(optimizer, core, new.cores[k], rounded, k, core.shape)
        _forget(layer)
        return error

    def _resize(self, network: nn.Module, part: str, matrix: TrainMatrix) -> TrainMatrix:
        """Put an empty matrix of the config's rank in the place of another."""
        core = matrix.cores[0]
        new: Any = self.config.matrix(matrix.layout.rows, matrix.layout.cols)
        new = new.to(core.device, core.dtype).requires_grad_(core.requires_grad)
        setattr(network, part, new)
        return new

    def _record(self, matrix: TrainMatrix, rank: int) -> None:
        """Let the config choose the modes that there are also at another rank."""
        key = f"{matrix.layout.rows}x{matrix.layout.cols}@{rank}"
        self.config.recorded_modes[key] = matrix.layout.split_modes

    def _rank_for_size(self, budget: int) -> int:
        layouts = [matrix.layout for *_, matrix in self._places]
        rank = max(max(layout.ranks) for layout in layouts)

        def size(k: int) -> int:
            return sum(num_parameters(layout.modes, capped_ranks(layout.modes, k)) for layout in layouts)

        while rank > 1 and size(rank) > budget:
            rank -= 1
        if size(rank) > budget:
            raise TTValueError(f"budget is {budget}; expected at least {size(1)}, which ranks of 1 take.")
        return rank

    def _rank_for_error(self, eps: float) -> int:
        worst = 1
        for *_, matrix in self._places:
            found = tails(list(matrix.cores))
            rank = 1
            while sum(tail[min(rank, len(tail) - 1)] for tail in found) > eps**2 and rank < max(matrix.layout.ranks):
                rank += 1
            worst = max(worst, rank)
        return worst

    def note(self) -> None:
        """Let the config say the rank that there is, which may have come with a checkpoint."""
        rank = max(max(matrix.layout.ranks) for *_, matrix in self._places)
        if rank < self.config.tt_rank:
            for *_, matrix in self._places:
                largest = capped_ranks(matrix.layout.modes, self.config.tt_rank)
                if max(largest) > rank:
                    for *_, other in self._places:
                        self._record(other, rank)
                    self.config.tt_rank = rank
                    return

    def adopt_ranks_on_loading(self) -> None:
        """Let the networks take over the ranks of a checkpoint that is loaded into them."""

        def hook(network: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
            for part in _PARTS:
                matrix: Any = getattr(network, part)
                given: list[Any] = [state_dict.get(f"{prefix}{part}.cores.{k}") for k in range(len(matrix.cores))]
                if any(core is None or core.ndim != 3 for core in given):
                    continue
                rank = max(core.shape[-1] for core in given)
                modes = tuple(core.shape[1] for core in given)
                if modes == matrix.layout.modes and rank < max(matrix.layout.ranks):
                    self._record(matrix, rank)
                    before, self.config.tt_rank = self.config.tt_rank, rank
                    self._resize(network, part, matrix)
                    self.config.tt_rank = before  # `note` sets it, once all are loaded

        for layer in self.layers:
            layer.networks[self.name].register_load_state_dict_pre_hook(hook)


def find_adapters(model: nn.Module) -> list[AdapterTrains]:
    """Find the trainable adapters of a model.

    Args:
        model: The model.

    Returns:
        Their trains.

    Raises:
        TTTypeError: If an adapter's trains could not be loaded again with other ranks.
    """
    found: dict[str, list[AdapterLayer]] = {}
    for module in model.modules():
        if isinstance(module, AdapterLayer):
            for name, network in module.networks.items():
                if any(parameter.requires_grad for parameter in network.parameters()):
                    found.setdefault(name, []).append(module)
    configs: Any = getattr(model, "peft_config", {})
    return [_checked(name, layers, configs.get(name)) for name, layers in found.items()]


def _checked(name: str, layers: list[AdapterLayer], config: Any) -> AdapterTrains:
    networks = [layer.networks[name] for layer in layers]
    reason = None
    if not isinstance(config, LorettaRepConfig):
        reason = (
            f"is of {getattr(config, 'method', 'an unknown method')}, and only LoRETTA_rep's config can say its ranks"
        )
    elif any(isinstance(network, Anchored) for network in networks):
        reason = f"counts from its start (init_weights={config.init_weights!r}), which has the ranks that it had"
    elif config.layout != "aligned" or config.modes == "paper":
        reason = (
            f"has layout {config.layout!r} and modes {config.modes!r}; aligned trains of other modes can be rounded"
        )
    elif config.tt_head:
        reason = "has a head with trains of the same rank (tt_head)"
    elif config.rank_pattern or not isinstance(config.tt_rank, int):
        reason = "has ranks of its own for some modules or bonds"
    if reason is not None:
        raise TTTypeError(
            f"The adapter {name!r} {reason}, so that it could not be loaded after its ranks have changed; train it "
            "without RankSchedule."
        )
    return AdapterTrains(config, tuple(layers), name)


def _forget(layer: AdapterLayer) -> None:
    drop: Any = getattr(layer, "drop_factors", None)
    if drop is not None:
        drop()
