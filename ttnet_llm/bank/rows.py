"""An adapter as one row of numbers: where each of its tensors stands in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError


@dataclass(frozen=True)
class RowLayout:
    """The tensors of an adapter, one after the other.

    Args:
        shapes: Their shapes, by their keys in a checkpoint.

    Example:
        >>> layout = RowLayout({"a": (2, 2), "b": (3,)})
        >>> row = layout.flatten({"a": torch.eye(2), "b": torch.ones(3)})
        >>> row
        tensor([1., 0., 0., 1., 1., 1., 1.])
        >>> layout.take(row[None], "b")
        tensor([[1., 1., 1.]])
    """

    shapes: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        places, start = {}, 0
        for key, shape in self.shapes.items():
            places[key] = (start, start + math.prod(shape))
            start = places[key][1]
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "size", start)

    _places: Any = None
    size: int = 0  # of a row

    def take(
        self,
        rows: Tensor,  # (n, size)
        key: str,
    ) -> Tensor:  # (n, *shape)
        """View one tensor of several adapters.

        Args:
            rows: The adapters, `(n, size)`.
            key: The tensor's.

        Returns:
            Shape `(n, *shape)`.
        """
        start, stop = self._places[key]
        return rows[:, start:stop].unflatten(1, self.shapes[key]) if self.shapes[key] else rows[:, start]

    def flatten(self, tensors: Mapping[str, Tensor], what: str = "the adapter") -> Tensor:  # (size,)
        """Put an adapter's tensors into a row.

        Args:
            tensors: By their keys.
            what: Whose they are, for messages.

        Returns:
            The row, of the dtype that the tensors have together.

        Raises:
            TTShapeError: If a tensor has another shape.
            TTTypeError: If there are other tensors besides.
            TTValueError: If some are missing, or hold NaN or infinite numbers.
        """
        if missing := [key for key in self.shapes if key not in tensors]:
            raise TTValueError(
                f"{what} lacks {missing[0]!r}{_more(missing)}; expected an adapter of the bank's configuration, on the "
                "same modules."
            )
        if further := [key for key in tensors if key not in self.shapes]:
            raise TTTypeError(
                f"{what} holds {further[0]!r}{_more(further)}, which the bank's adapters do not have; a bank keeps "
                "adapters of one configuration, without heads, norms or biases of their own."
            )
        for key, shape in self.shapes.items():
            if tuple(tensors[key].shape) != shape:
                raise TTShapeError(
                    f"{key!r} of {what} has shape {tuple(tensors[key].shape)}; expected {shape}, as the bank's "
                    "configuration has it."
                )
        row = torch.cat([tensors[key].detach().reshape(-1).cpu() for key in self.shapes])
        if not bool(torch.isfinite(row).all()):
            raise TTValueError(f"{what} holds NaN or infinite numbers; train it by a lower rate.")
        return row

    def split(
        self,
        row: Tensor,  # (size,)
    ) -> dict[str, Tensor]:
        """Give the tensors of one adapter.

        Args:
            row: Shape `(size,)`.

        Returns:
            They by their keys, as views.
        """
        return {key: self.take(row[None], key)[0] for key in self.shapes}


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
