"""A sum of trains, seen as one train whose bonds are those of the summands side by side, and never assembled.

The core of a sum is block-diagonal (Oseledets 2011, "Tensor-Train Decomposition", eq. 4.1), so the two products that
rounding needs, one from each side, are products with every summand's own core. A single train is the sum of one
summand, and every method of rounding is written for sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ttnet.numerics.products import multiply
from ttnet.numerics.scales import Exponent, split_scale, times_power_of_two
from ttnet.numerics.train_scales import level, share_out, split_each


class NotFiniteError(Exception):
    """A core that holds NaN or infinite entries.

    Example:
        >>> try:
        ...     TrainSum([[torch.full((1, 2, 1), torch.inf)]], None, torch.float64)
        ... except NotFiniteError:
        ...     print("refused")
        refused
    """


class TrainSum:
    """The sum of `coefficients[i] * trains[i]`, with the scales taken out: the train is this one times 2**exponent.

    Args:
        trains: The cores of each summand, all of one shape and of order 1 or more.
        coefficients: A finite tensor of shape (number of summands,), or None for ones.
        dtype: The dtype to compute in.

    Raises:
        NotFiniteError: If an entry is NaN or infinite.

    Example:
        >>> one = [torch.ones(1, 2, 1), torch.ones(1, 3, 1)]
        >>> x = TrainSum([one, one], None, torch.float64)
        >>> x.shape, x.ranks
        ((2, 3), (2, 2, 2))
    """

    def __init__(self, trains: Sequence[Sequence[Tensor]], coefficients: Tensor | None, dtype: torch.dtype) -> None:
        summands: list[list[Tensor]] = []
        exponents: list[Exponent] = []
        for i, cores in enumerate(trains):
            # numpy has no such lazy sign. Summands grow evenly, lest one be lost below another on the way.
            cores = [core.resolve_neg() for core in (cores if len(trains) == 1 else level(cores, dtype))]
            scaled, own = split_each(cores, dtype, _tame)
            exponent = sum(own)
            if coefficients is not None:
                factor, step = split_scale(coefficients[i].to(dtype))
                scaled[0], exponent = scaled[0] * factor, exponent + step
            summands.append(scaled)
            exponents.append(exponent)
        if len(summands) > 1:
            exponents = _share_scale(summands, exponents)
        self.exponent = exponents[0]
        self.cores = [list(blocks) for blocks in zip(*summands, strict=True)]  # cores[k][i]: (r, n, r')
        # A sum begins and ends with a bond of one index per summand.
        self.head = summands[0][0].new_ones(1, len(summands))
        self.tail = self.head.mT

    @property
    def order(self) -> int:
        """The number of modes."""
        return len(self.cores)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype to compute in."""
        return self.head.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The mode sizes."""
        return tuple(blocks[0].shape[1] for blocks in self.cores)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of all bonds, summed over the summands, the outer ones included."""
        left = [sum(block.shape[0] for block in blocks) for blocks in self.cores]
        return (*left, self.head.shape[1])

    def times_right(
        self,
        k: int,
        matrix: Tensor,  # (r', q)
    ) -> Tensor:  # (r, n, q)
        """Multiply core k by a matrix from the right.

        Args:
            k: The number of the core.
            matrix: As many rows as the bond right of it has indices.

        Returns:
            The product.

        Example:
            >>> one = [torch.ones(1, 2, 1)]
            >>> x = TrainSum([one, one], None, torch.float32)
            >>> x.times_right(0, x.tail).shape
            torch.Size([2, 2, 1])
        """
        blocks = self.cores[k]
        parts = matrix.split([block.shape[2] for block in blocks]) if len(blocks) > 1 else (matrix,)
        products = [multiply(block.flatten(0, 1), part) for block, part in zip(blocks, parts, strict=True)]  # (r n, q)
        return _cat(products, 0).unflatten(0, (-1, blocks[0].shape[1]))

    def times_left(
        self,
        k: int,
        matrix: Tensor,  # (s, r)
    ) -> Tensor:  # (s, n, r')
        """Multiply core k by a matrix from the left.

        Args:
            k: The number of the core.
            matrix: As many columns as the bond left of it has indices.

        Returns:
            The product.

        Example:
            >>> one = [torch.ones(1, 2, 1)]
            >>> x = TrainSum([one, one], None, torch.float32)
            >>> x.times_left(0, x.head).shape
            torch.Size([1, 2, 2])
        """
        blocks = self.cores[k]
        parts = matrix.split([block.shape[0] for block in blocks], dim=1) if len(blocks) > 1 else (matrix,)
        products = [multiply(part, block.flatten(1)) for block, part in zip(blocks, parts, strict=True)]  # (s, n r')
        return _cat([product.unflatten(1, (blocks[0].shape[1], -1)) for product in products], 2)


def _cat(parts: list[Tensor], dim: int) -> Tensor:
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def _tame(core: Tensor) -> tuple[Tensor, Exponent]:
    """Take the scale out of a core, except where it is small enough to stay, which saves a copy."""
    size = largest_part(core)
    if not math.isfinite(size):
        raise NotFiniteError
    return (core, 0) if 2.0**-16 <= size <= 2.0**16 else split_scale(core)


def largest_part(
    x: Tensor,  # (...)
) -> float:
    """Give the size of the largest real or imaginary part, in one pass and without an array of absolute values.

    Args:
        x: A tensor of at least one entry, of any floating or complex dtype.

    Returns:
        The size; NaN or infinite if an entry is.

    Example:
        >>> largest_part(torch.tensor([1.0, -3.0])), largest_part(torch.tensor([float("nan"), 1.0]))
        (3.0, nan)
    """
    x = x.detach()
    low, high = torch.aminmax(torch.view_as_real(x.resolve_conj()) if x.is_complex() else x)
    return max(-float(low), float(high))


def _share_scale(summands: list[list[Tensor]], exponents: list[Exponent]) -> list[Exponent]:
    """Bring all summands to the largest one's exponent, their cores taking up the difference evenly."""
    # Zeros have no scale, so they must not set that of the sum.
    alive = [all(bool(core.any()) for core in cores) for cores in summands]
    top = max((exponent for exponent, is_alive in zip(exponents, alive, strict=True) if is_alive), default=0)
    for cores, exponent, is_alive in zip(summands, exponents, alive, strict=True):
        if not is_alive or exponent == top:
            continue
        for k, share in enumerate(share_out(exponent - top, len(cores))):
            cores[k] = times_power_of_two(cores[k], share)
    return [top] * len(exponents)


def sweep(
    x: TrainSum,
    find_basis: Callable[[int, Tensor], tuple[Tensor, Tensor]],
) -> tuple[list[Tensor], list[Exponent]]:
    """Project a train, bond by bond from the left, onto orthonormal bases.

    Each step is an orthogonal projection, and the later ones go on inside what the earlier ones kept. So the squared
    error of the result is the sum of what the steps cut off, squared (Oseledets 2011, proof of Theorem 2.2).

    Args:
        x: The train.
        find_basis: Called with the number of a core and the unfolding `c`, of shape (r n, R), that is carried there.
            It gives `u`, of shape (r n, s), with orthonormal columns, and `u.mH @ c`.

    Returns:
        The new cores, all but the last one left-orthogonal, and the exponent that each of them was carried with: the
        train is that of the cores times 2 to the last exponent and that of `x`.

    Example:
        >>> one = [torch.ones(1, 2, 1), torch.ones(1, 3, 1)]
        >>> x = TrainSum([one, one], None, torch.float64)
        >>> cores, exponents = sweep(x, lambda k, c: torch.linalg.qr(c))
        >>> [tuple(core.shape) for core in cores]
        [(1, 2, 2), (2, 3, 1)]
    """
    carried = x.head
    exponent: Exponent = 0
    cores: list[Tensor] = []
    exponents: list[Exponent] = []
    for k in range(x.order):
        carried, step = split_scale(carried)
        exponent = exponent + step
        c = x.times_left(k, carried)  # (r, n, R)
        exponents.append(exponent)
        if k < x.order - 1:
            u, carried = find_basis(k, c.flatten(0, 1))
            cores.append(u.unflatten(0, c.shape[:2]))
        else:
            cores.append(torch.tensordot(c, x.tail, 1))
    return cores, exponents
