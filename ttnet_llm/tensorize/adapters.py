"""The trains of adapters, rounded so that what is saved of them loads again.

An adapter's config has one `tt_rank` for all its trains. Ranks of single trains and bonds go into `rank_pattern`, by
the full name of the module, and the modes, which a user may have left to be chosen, into `recorded_modes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from ttnet.errors import TTTypeError
from ttnet.modes import capped_ranks
from ttnet.nn import Layout
from ttnet_llm.linear.network import Anchored
from ttnet_llm.matrices.config import TrainConfig
from ttnet_llm.matrices.train_matrix import TrainMatrix, load_cores
from ttnet_llm.tuner import AdapterLayer
from ttnet_llm.tuner.names import plain_name

_Ranks = tuple[int, ...]


class AdapterTrain:
    """One train of an adapter, as `RankSchedule` rounds it.

    Args:
        layer: The layer with the adapter.
        network: The adapter's network in that layer.
        part: The name of the train in the network.
    """

    def __init__(self, layer: AdapterLayer, network: nn.Module, part: str) -> None:
        self.layer, self.network, self.part = layer, network, part

    @property
    def matrix(self) -> TrainMatrix:
        """The matrix that there is now; rounding puts another in its place."""
        matrix = getattr(self.network, self.part)
        assert isinstance(matrix, TrainMatrix)
        return matrix

    @property
    def shape(self) -> str:
        """The sizes of the matrix, as a config writes them."""
        return self.matrix.layout.shape

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The cores, as the optimiser has them."""
        return list(self.matrix.cores)

    @property
    def sizes(self) -> list[int]:
        """The sizes of the cores' modes, each all of its core's."""
        return [core[0, ..., 0].numel() for core in self.matrix.cores]

    @property
    def layout(self) -> Layout:
        """The sizes as a train's modes, which is all that spending a budget has to know of them; ranks of 1."""
        return Layout.unranked("interleaved", tuple(self.sizes), (1,) * len(self.sizes))

    @property
    def inner_ranks(self) -> list[int]:
        """The ranks of the inner bonds."""
        return list(self.matrix.layout.ranks[1:-1])

    def resize(self, ranks: Sequence[int]) -> None:
        """Put a matrix of the same modes and of other ranks in the place of this one; its entries are yet to be set.

        Args:
            ranks: Those of the inner bonds.
        """
        old = self.matrix
        core, layout = old.cores[0], cast(Any, old.layout)
        new = type(old)(dataclasses.replace(layout, ranks=(1, *ranks, 1)))
        new = new.to(core.device, core.dtype).requires_grad_(core.requires_grad)
        setattr(self.network, self.part, new)

    def replace(self, cores: Sequence[Tensor], ranks: Sequence[int] | None) -> None:
        """Take over a rounded train.

        Args:
            cores: Its cores `(r, n, r')`.
            ranks: Those that the inner bonds keep, though fewer may be enough; None for those of the cores.
        """
        own = [core.shape[-1] for core in cores[:-1]]
        self.resize(own if ranks is None else [min(a, b) for a, b in zip(ranks, self.inner_ranks, strict=True)])
        new = list(self.matrix.cores)
        load_cores(
            new,
            [core.reshape(core.shape[0], *p.shape[1:-1], -1).to(p.dtype) for core, p in zip(cores, new, strict=True)],
        )
        drop: Any = getattr(self.layer, "drop_factors", None)
        if drop is not None:
            drop()


@dataclass(frozen=True, eq=False)
class Adapter:
    """All trains of one adapter of a model.

    Args:
        name: The adapter's name.
        config: Its config, which has to say their ranks.
        layers: The layers that have it, by the full names that the config has for them.
    """

    name: str
    config: TrainConfig
    layers: dict[str, AdapterLayer]

    @property
    def trains(self) -> list[AdapterTrain]:
        """All its trains, in the model's order."""
        return [train for layer in self.layers.values() for train in self._of(layer)]

    def _of(self, layer: AdapterLayer) -> list[AdapterTrain]:
        network = layer.networks[self.name]
        parts = [part for part, child in network.named_children() if isinstance(child, TrainMatrix)]
        return [AdapterTrain(layer, network, part) for part in parts]

    def note(self) -> None:
        """Let the config say the ranks that there are."""
        trains = self.trains
        now = max((rank for train in trains for rank in train.inner_ranks), default=1)
        pattern: dict[str, Any] = {}
        for name, layer in self.layers.items():
            changes = self.config.changes_of_ranks(name)
            changes.pop("tt_rank", None)
            own = self._of(layer)
            ranks = [train.inner_ranks for train in own]
            if ranks != [list(capped_ranks(train.sizes, now)[1:-1]) for train in own]:
                changes["tt_rank"] = ranks if len(ranks) > 1 else ranks[0]
            if changes:
                pattern[name] = changes
        for train in trains:
            for key in (str(now), ",".join(map(str, train.inner_ranks))):
                self.config.recorded_modes[f"{train.shape}@{key}"] = train.matrix.layout.split_modes
        self.config.tt_rank, self.config.rank_pattern = now, pattern

    def adopt_ranks_on_loading(self) -> None:
        """Let the networks take over the ranks of a checkpoint that is loaded into them, before `note` is called."""

        def hook(network: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
            for part, matrix in list(network.named_children()):
                if not isinstance(matrix, TrainMatrix):
                    continue
                ranks = ranks_to_adopt(matrix.cores, state_dict, f"{prefix}{part}.")
                if ranks is not None:
                    AdapterTrain(layer, network, part).resize(ranks[1:-1])

        for layer in self.layers.values():
            layer.networks[self.name].register_load_state_dict_pre_hook(hook)


def ranks_to_adopt(cores: Iterable[Tensor], state_dict: dict[str, Any], prefix: str) -> _Ranks | None:
    """Tell the ranks of a train that is about to be loaded, if they differ from those that there are.

    Args:
        cores: The cores that there are, of any number of mode dimensions.
        state_dict: What is loaded.
        prefix: What goes before `cores.0` in its keys.

    Returns:
        The ranks of all bonds; None if they are the same, or the cores are no train of the same modes, of which torch
        will say which shape is wrong.

    Example:
        >>> import torch
        >>> cores = [torch.ones(1, 2, 3), torch.ones(3, 2, 1)]
        >>> ranks_to_adopt(cores, {"cores.0": torch.ones(1, 2, 4), "cores.1": torch.ones(4, 2, 1)}, "")
        (1, 4, 1)
    """
    old = [tuple(core.shape) for core in cores]
    new = [tuple(getattr(state_dict.get(f"{prefix}cores.{k}"), "shape", ())) for k in range(len(old))]
    if new == old or any(len(a) != len(b) or a[1:-1] != b[1:-1] for a, b in zip(new, old, strict=True)):
        return None
    left, right = [shape[0] for shape in new], [shape[-1] for shape in new]
    return (*left, 1) if [*left, 1] == [1, *right] else None


def find_adapters(model: nn.Module) -> list[Adapter]:
    """Find the trainable adapters of a model.

    Args:
        model: The model.

    Returns:
        The adapters.

    Raises:
        TTTypeError: If an adapter's trains could not be loaded again with other ranks.
    """
    found: dict[str, dict[str, AdapterLayer]] = {}
    for place, layer in _adapter_layers(model):
        for name, network in layer.networks.items():
            if any(parameter.requires_grad for parameter in network.parameters()):
                found.setdefault(name, {})[place] = layer
    configs: Any = getattr(model, "peft_config", {})
    return [_checked(name, layers, configs.get(name)) for name, layers in found.items()]


def _adapter_layers(model: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """List the adapted layers with their names in the model without adapters."""
    for place, module in model.named_modules():
        if isinstance(module, AdapterLayer):
            yield plain_name(place).removeprefix("base_model.model."), module


def _checked(name: str, layers: dict[str, AdapterLayer], config: Any) -> Adapter:
    networks = [layer.networks[name] for layer in layers.values()]
    reason = None
    if not isinstance(config, TrainConfig):
        reason = f"is of {getattr(config, 'method', 'an unknown method')}, whose config has no ranks of single trains"
    elif any(isinstance(network, Anchored) for network in networks):
        reason = f"counts from its start (init_weights={config.init_weights!r}), which has the ranks that it had"
    elif config.modes == "paper":
        reason = "has the published modes, whose ranks are fixed (modes='paper')"
    elif config.tt_head:
        reason = "has a head with trains of the same rank (tt_head)"
    elif not _has_modes_by_shape(Adapter(name, config, layers)):
        reason = "has trains of the same shape and of different modes (rank_pattern)"
    if reason is not None:
        raise TTTypeError(
            f"The adapter {name!r} {reason}, so that it could not be loaded after its ranks have changed; train it "
            "without RankSchedule."
        )
    return Adapter(name, config, layers)


def _has_modes_by_shape(adapter: Adapter) -> bool:
    found: dict[str, Any] = {}
    modes = [(train.shape, train.matrix.layout.split_modes) for train in adapter.trains]
    return all(found.setdefault(shape, each) == each for shape, each in modes)
