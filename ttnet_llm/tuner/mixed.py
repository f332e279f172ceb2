"""A batch whose rows have adapters of their own: the rows whose adapters have one shape are computed together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_KEPT = 2**28  # bytes that the matrices of one `generate` may take


@dataclass(frozen=True)
class Matrices:
    """What many adapters multiply by.

    Args:
        tensors: The matrices, with the adapters' scalings; each with the adapters, or a batch's rows, in front.
        kind: How they are used.
    """

    tensors: tuple[Tensor, ...]
    kind: Any = None


@dataclass(frozen=True)
class Part:
    """Rows of a batch that are computed together.

    Args:
        rows: Which; `None` for all of them.
        adapter: The adapter of all of them, or of the first.
        matrices: By row, where there are several adapters.
    """

    rows: list[int] | None
    adapter: str
    matrices: Matrices | None = None

    def take(self, x: Tensor) -> Tensor:  # (n, ...) -> (rows, ...)
        """Give its rows of a batch."""
        return x if self.rows is None else x[self.rows]

    def change(self, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:  # (n, ...)
        """Give a batch in which its rows are changed, and leave the one given as it is."""
        taken = self.take(x)
        values = change(taken)
        if values is taken:
            return x
        if self.rows is None:
            return values.to(x.dtype)
        x = x.clone()
        x[self.rows] = values.to(x.dtype)
        return x


def parts_of(
    names: Sequence[str],
    structure: Callable[[str], Hashable],
    stack: Callable[[list[str]], Matrices],
) -> list[Part]:
    """Sort the rows of a batch into parts.

    Args:
        names: For every row its adapter's name; empty for none.
        structure: Says what adapters agree in that can be stacked; `None` where one cannot.
        stack: Gives the matrices of adapters of one structure.

    Returns:
        The parts; rows without an adapter are in none.

    Example:
        >>> names = ["a", "b", "", "a"]
        >>> parts = parts_of(names, lambda name: "same", lambda names: Matrices((torch.ones(len(names), 2, 1),)))
        >>> [(part.rows, part.matrices.tensors[0].shape) for part in parts]
        [([0, 1, 3], torch.Size([3, 2, 1]))]
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        if name:
            rows.setdefault(name, []).append(row)
    alike: dict[Hashable, list[str]] = {}
    for name in rows:
        same = structure(name) if len(rows) > 1 else None
        alike.setdefault(("alone", name) if same is None else ("alike", same), []).append(name)
    parts = []
    for group in alike.values():
        place = {row: k for k, name in enumerate(group) for row in rows[name]}
        own = sorted(place)
        matrices = _by_row(stack(group), [place[row] for row in own]) if len(group) > 1 else None
        parts.append(Part(None if len(own) == len(names) else own, group[0], matrices))
    return parts


def _by_row(matrices: Matrices, index: list[int]) -> Matrices:
    if index == list(range(len(matrices.tensors[0]))):
        return matrices
    return Matrices(tuple(tensor[index] for tensor in matrices.tensors), matrices.kind)


class Kept:
    """The parts of all layers while one batch goes through the model, whose weights stay the same in the meantime.

    Args:
        room: How many bytes their matrices may take; those of further layers are made anew in every forward pass.
    """

    def __init__(self, room: int = _KEPT) -> None:
        self._room = room
        self._parts: dict[tuple[int, tuple[str, ...]], list[Part]] = {}

    def get(self, layer: object, names: Sequence[str], make: Callable[[], list[Part]]) -> list[Part]:
        """Give the parts of a layer.

        Args:
            layer: The layer.
            names: For every row its adapter's name.
            make: Makes them.

        Returns:
            The parts.
        """
        if torch.is_grad_enabled():  # what is kept would keep a graph
            return make()
        key = id(layer), tuple(names)
        if (kept := self._parts.get(key)) is not None:
            return kept
        parts = make()
        tensors = [tensor for part in parts if part.matrices is not None for tensor in part.matrices.tensors]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if size <= self._room:
            self._room -= size
            self._parts[key] = parts
        return parts
