"""Networks of one structure asked for their matrices at once: one contraction for many adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

_DENSE = (Tensor, nn.Parameter)
_PLAIN = (int, float, str, tuple, type(None))


@dataclass(frozen=True)
class Look:
    """What a network is besides its numbers, and where these are.

    Args:
        kind: A number that networks have in common which compute alike.
        places: For every tensor its name, the table that holds it, and its key there.
    """

    kind: int
    places: list[tuple[str, dict[str, Any], str]]

    @property
    def structure(self) -> int | None:
        """The kind; `None` where the tensors are not to be stacked now, as they are sharded or offloaded."""
        return self.kind if all(type(each) in _DENSE and not each.is_meta for each in self.tensors()) else None

    def tensors(self) -> list[Tensor]:
        """Give the tensors, as they are now."""
        return [table[key] for _, table, key in self.places]

    def holds(self) -> bool:
        """Tell whether the tensors are where they were."""
        return all(table.get(key) is not None for _, table, key in self.places)


_LOOKS: WeakKeyDictionary[nn.Module, Look] = WeakKeyDictionary()  # as looking costs more than what is found
_NUMBERS: dict[Hashable, int] = {}  # of the structures


def look_at(parts: Mapping[str, nn.Module]) -> Look:
    """Take a look at a network, or remember the last one.

    Args:
        parts: The network by the name "network", and what else it asks.

    Returns:
        What there is to see.

    Example:
        >>> one, other = (look_at({"network": nn.Linear(2, 3)}) for _ in range(2))
        >>> one.structure == other.structure, [name for name, *_ in one.places]
        (True, ['network.weight', 'network.bias'])
    """
    network = parts["network"]
    known = _LOOKS.get(network)
    if known is None or not known.holds():
        known = _LOOKS[network] = _look(parts)
    return known


def forget(network: nn.Module) -> None:
    """Look at a network anew when it is asked next, since it has changed otherwise than in its numbers.

    Args:
        network: The network.
    """
    _LOOKS.pop(network, None)


def _look(parts: Mapping[str, nn.Module]) -> Look:
    structure: list[Hashable] = []
    places: list[tuple[str, dict[str, Any], str]] = []
    for part, module in parts.items():
        for name, inner in module.named_modules(prefix=part):
            own = [each for each in vars(inner).items() if each[0][0] != "_" and isinstance(each[1], _PLAIN)]
            structure.append((name, type(inner), getattr(inner, "layout", None)))
            structure += [each for each in own if each[0] != "training"]
            for table in (inner._parameters, inner._buffers):
                places += [(f"{name}.{key}", table, key) for key, tensor in table.items() if tensor is not None]
    tensors = [(name, table[key]) for name, table, key in places]
    structure += [(name, tensor.shape, tensor.dtype, tensor.device) for name, tensor in tensors]
    return Look(_NUMBERS.setdefault(tuple(structure), len(_NUMBERS)), places)


def ask_together(
    parts: Sequence[Mapping[str, nn.Module]], ask: Callable[[Any], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Ask networks of one structure for their matrices.

    Args:
        parts: Each network, as `look_at` takes it.
        ask: What a network is asked.

    Returns:
        The matrices, each with the networks in front.

    Example:
        >>> networks = [nn.Linear(2, 3) for _ in range(5)]
        >>> parts = [{"network": network} for network in networks]
        >>> (made,) = ask_together(parts, lambda network: (2 * network.weight,))
        >>> torch.equal(made[4], 2 * networks[4].weight)
        True
    """
    looks = [look_at(each) for each in parts]
    tensors = [look.tensors() for look in looks]
    # A copy, as its tensors are others while it is asked; its own need no copying.
    pattern = _Asked(copy.deepcopy(dict(parts[0]), {id(tensor): tensor for tensor in tensors[0]}), ask)
    columns = zip(*tensors, strict=True)
    stacked = {name: torch.stack(column) for (name, *_), column in zip(looks[0].places, columns, strict=True)}
    made: tuple[Tensor, ...] = torch.vmap(lambda given: functional_call(pattern, given, ()))(stacked)
    return made


class _Asked(nn.ModuleDict):
    """A network as `functional_call` calls it."""

    def __init__(self, parts: Mapping[str, nn.Module], ask: Callable[[Any], tuple[Tensor, ...]]) -> None:
        super().__init__(parts)
        self._ask = ask

    def forward(self) -> tuple[Tensor, ...]:
        """Ask it."""
        return self._ask(self["network"])
