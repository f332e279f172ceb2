"""The scales of trains: taken out of the cores and out of the bonds between them, and put back.

See `ttnet.numerics.scales` for numbers as entries near one and a power of two, and for what an exponent is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ttnet.numerics.scales import (
    Exponent,
    compute_dtype,
    max_exponent,
    read,
    read_all,
    split_scale,
    times_power_of_two,
)


def split_scales(
    cores: Sequence[Tensor],  # each (r, ..., r')
    dtype: torch.dtype,
) -> tuple[list[Tensor], Exponent]:
    """Cast cores to a dtype and take all their scales out: the train is that of the new cores times 2**exponent.

    Args:
        cores: The cores of a train, or of several one after the other, of any floating or complex dtype.
        dtype: The dtype of the new cores: float32, float64, complex64 or complex128.

    Returns:
        The new cores, with entries of size at most one and even bonds (see `split_each`), and the exponent.

    Example:
        >>> cores, exponent = split_scales([torch.full((1, 2, 1), 1e30)] * 10, torch.float64)
        >>> exponent, float(cores[0].max())
        (1000, 0.788...)
    """
    scaled, exponents = split_each(cores, dtype)
    return scaled, sum(exponents)


def split_each(
    cores: Sequence[Tensor],  # each (r, ..., r')
    dtype: torch.dtype,
    split: Callable[[Tensor], tuple[Tensor, Exponent]] = split_scale,
) -> tuple[list[Tensor], list[Exponent]]:
    """Cast cores to a dtype and take the scale out of every one, and out of the bonds where they are uneven.

    Args:
        cores: The cores of a train, or of several one after the other, of any floating or complex dtype.
        dtype: The dtype of the new cores: float32, float64, complex64 or complex128.
        split: Takes the scale out of one core, as `split_scale` does, or nearly.

    Returns:
        The new cores, as `split` leaves them, with even bonds (see `even_bonds`), and as many exponents: the train is
        that of the cores times 2 to the sum of the exponents.

    Example:
        >>> a, b = torch.tensor([[[1e30, 1e-30]]]), torch.tensor([[[1e-30]], [[1e30]]])
        >>> cores, _ = split_each([a, b], torch.float32)
        >>> [core.flatten().tolist() for core in cores]
        [[0.394..., 0.633...], [0.633..., 0.394...]]
    """
    cores = [core.to(dtype) for core in cores]
    pairs = [split(core) for core in cores]
    even, left_over = _even(cores, pairs)
    if even is not cores:
        pairs = [split(core) for core in even]
    return [core for core, _ in pairs], [left_over + pairs[0][1], *(own for _, own in pairs[1:])]


def even_bonds(
    cores: Sequence[Tensor],  # each (r, ..., r')
) -> tuple[list[Tensor], Exponent]:
    """Move powers of two across the bonds until no index of one is large on the left and small on the right.

    One index of a bond may stand for a column of 1e30 and a row of 1e-30, its neighbour for the opposite; or, as in
    long sums, for a summand that grows in the first half, and one that grows in the second. That train is as good as
    any, but the large would drown the small in all that is computed from one end. So where squares might leave the
    range of the dtype, what lies left of an index and what lies right of it are brought to one size.

    Args:
        cores: The cores of a train, or of several one after the other, of float32, float64, complex64 or complex128.

    Returns:
        The new cores, which are the given ones where those are even, and an exponent: the train is that of the new
        cores times 2**exponent.

    Example:
        >>> a, b = torch.tensor([[[1e30, 1e-30]]]), torch.tensor([[[1e-30]], [[1e30]]])
        >>> cores, exponent = even_bonds([a, b])
        >>> [float(core.max()) for core in cores], exponent
        ([1.267..., 1.267...], 0)
    """
    cores = list(cores)
    return _even(cores, [split_scale(core) for core in cores])


def _even(cores: list[Tensor], pairs: Sequence[tuple[Tensor, Exponent]]) -> tuple[list[Tensor], Exponent]:
    """Do as `even_bonds`, given the cores with their scales split off."""
    if len(cores) < 2:
        return cores, 0
    scaled = [core.detach() for core, _ in pairs]
    squares = [_fibre_squares(core) for core in scaled]
    limit = round(math.log2(torch.finfo(cores[0].dtype).max)) // 8
    if not _may_be_uneven(squares, limit) or not _sums_may_be_uneven(cores, scaled, squares, limit):
        return cores, 0
    sizes = [_fibre_sizes(core, own, square) for core, (_, own), square in zip(cores, pairs, squares, strict=True)]
    powers, left_over = _evening_powers(sizes, limit)
    return [_times_bonds(core, power) for core, power in zip(cores, powers, strict=True)], left_over


def _fibre_squares(
    core: Tensor,  # (r, ..., r')
) -> Tensor:  # (r, r'), of float64
    """Sum the squares over all modes; those of what is far below the largest entry may be zero."""
    x = core.detach()
    x = torch.view_as_real(x.resolve_conj()).movedim(-1, 1) if x.is_complex() else x
    return x.reshape(x.shape[0], -1, x.shape[-1]).square().sum(1).double()


def _may_be_uneven(squares: Sequence[Tensor], limit: int) -> bool:
    """Say whether a bond can be uneven by over 2**limit: not where no core's fibres differ by as much."""
    extremes = read_all([extreme for square in squares for extreme in torch.aminmax(square)])
    if extremes is None:
        return True
    return not all(least > most * 4.0**-limit for least, most in zip(extremes[::2], extremes[1::2], strict=True))


def _sums_may_be_uneven(
    cores: Sequence[Tensor], scaled: Sequence[Tensor], squares: Sequence[Tensor], limit: int
) -> bool:
    """Say the same where fibres are zero: not where the differences of the others are no more in all cores together.

    Such are the block-diagonal cores of a sum, in whose bonds the indices of one summand are on no path with those of
    another, so that what their cores differ by adds up.
    """
    least = read_all([torch.where(square > 0, square, torch.inf).amin() for square in squares])
    most = read_all([square.amax() for square in squares])
    if least is None or most is None:
        return True
    # Nothing differs in a core of zeros.
    spread = sum(math.log2(b) - math.log2(a) for a, b in zip(least, most, strict=True) if b != 0) / 2
    if not spread <= limit:
        return True
    pairs = zip(cores, scaled, strict=True)
    vanished = read_all([core.count_nonzero() - own.square().count_nonzero() for core, own in pairs])
    return vanished is None or any(vanished)  # but are no zeros


def _fibre_sizes(
    core: Tensor,  # (r, ..., r')
    exponent: Exponent,
    squares: Tensor,  # (r, r'), of the core times 2**-exponent
) -> Tensor:  # (r, r'), of float64
    """Give the logarithms of the norms over all modes, to base 2."""
    # The squares of what is far below the largest entry are zero.
    largest = core.detach().abs().reshape(len(core), -1, core.shape[-1]).amax(1).double()
    return torch.maximum(squares.log2() / 2 + exponent, largest.log2())


def _evening_powers(
    sizes: Sequence[Tensor],  # each (r, r'), of float64
    limit: int,
) -> tuple[list[Tensor], Exponent]:  # (r, r'), of integers
    """Give the powers of two for every core that make the bonds even, or zeros, and what is left over.

    Let `left` be, at every index of a bond, the logarithm of the largest product of norms, one of every core, along a
    path from the left end to it, and `right` from the right end. With 2**((right - left) / 2) for the column and its
    inverse for the row, both become their mean, and no norm exceeds one: they are potentials of longest paths.
    """
    lefts, rights = [sizes[0].new_zeros(len(sizes[0]))], [sizes[0].new_zeros(sizes[-1].shape[1])]
    for size in sizes:
        lefts.append((lefts[-1][:, None] + size).amax(0))
    for size in reversed(sizes):
        rights.append((size + rights[-1]).amax(1))
    potentials, spreads = [], []
    for left, right in zip(lefts, reversed(rights), strict=True):
        raw = (right - left) / 2
        counts = raw.isfinite()  # and is on some path at all
        middle = torch.where(counts, raw, 0).sum() / counts.sum().clamp(min=1)
        potentials.append(torch.where(counts, raw, middle))
        spreads.append((potentials[-1] - middle).abs().amax())
    for outer in (0, -1):  # belongs to the tensor, or has one index
        potentials[outer] = potentials[outer].mean().expand_as(potentials[outer])
    is_uneven = torch.stack(spreads[1:-1]).amax() > limit
    moved = [(potential.round() * is_uneven).long() for potential in potentials]
    left_over = moved[0][0] - moved[-1][0]
    known = read(left_over) if left_over.device.type == "cpu" else None
    powers = [after - before[:, None] for before, after in itertools.pairwise(moved)]
    return powers, left_over if known is None else int(known)


def _times_bonds(
    core: Tensor,  # (r, ..., r')
    powers: Tensor,  # (r, r')
) -> Tensor:
    return times_power_of_two(core, powers.reshape(len(powers), *[1] * (core.ndim - 2), -1))


def join_scale(
    cores: Sequence[Tensor],  # each (r, ..., r')
    exponent: Exponent,
    dtype: torch.dtype,
) -> list[Tensor]:
    """Put a scale back into cores: into the last one if its dtype can hold it, otherwise so that all are of one size.

    So a train stays left-orthogonal whenever its norm is a number of its dtype, and a train whose norm is not
    (1e600, say) is still held to full precision.

    Args:
        cores: Cores whose train is to be multiplied, of float32, float64, complex64 or complex128.
        exponent: The train is multiplied by 2**exponent.
        dtype: The dtype of the result.

    Returns:
        The new cores.

    Example:
        >>> cores = [torch.ones(1, 1, 1, dtype=torch.float64)] * 4
        >>> [float(core) for core in join_scale(cores, 3, torch.float64)]
        [1.0, 1.0, 1.0, 8.0]
        >>> [float(core) for core in join_scale(cores, 4004, torch.float64)] == [2.0**1001] * 4
        True
    """
    info = torch.finfo(dtype)
    # From below: leave room for entries somewhat smaller than the largest before they lose digits.
    lowest = math.floor(math.log2(info.tiny) - math.log2(info.eps) / 2)
    highest = math.ceil(math.log2(info.max))
    order = len(cores)
    top = max_exponent(cores[-1]) + exponent
    fits = (lowest < top) & (top < highest)  # 0, 1 or a tensor
    powers: list[Exponent] = [*[0] * (order - 1), exponent]
    if fits is not True:
        exponents = [max_exponent(core) for core in cores]
        parts = share_out(exponent + sum(exponents), order)
        evenly = [part - own for part, own in zip(parts, exponents, strict=True)]
        powers = [even + fits * (power - even) for even, power in zip(evenly, powers, strict=True)]
    return [times_power_of_two(core, power).to(dtype) for core, power in zip(cores, powers, strict=True)]


def share_out(exponent: Exponent, count: int) -> list[Exponent]:
    """Split an integer into parts that differ by one at most, and are mixed: no run of them strays from the mean.

    Args:
        exponent: The integer.
        count: How many parts.

    Returns:
        The parts.

    Example:
        >>> share_out(6, 4), share_out(-2, 4)
        ([1, 2, 1, 2], [-1, 0, -1, 0])
    """
    return [exponent * (k + 1) // count - exponent * k // count for k in range(count)]


def level(
    cores: Sequence[Tensor],  # each (r, ..., r')
    dtype: torch.dtype,
) -> list[Tensor]:
    """Move powers of two between cores so that the products of the first k grow evenly with k, on the average.

    The train stays the same. Beside the cores of another train that went through this, as in a block-diagonal sum,
    neither one's part is lost below the other's on the way from the first core to the last.

    Args:
        cores: The cores of a train.
        dtype: The dtype of the new cores.

    Returns:
        The new cores.

    Example:
        >>> [float(core) for core in level([torch.tensor([[[1e30]]]), torch.tensor([[[1e-30]]])], torch.float32)]
        [0.788..., 1.267...]
    """
    scaled, exponents = split_each(cores, compute_dtype(dtype))
    norms = [torch.linalg.vector_norm(core.detach()) for core in scaled]
    known = [exponent for exponent in exponents if isinstance(exponent, int)]
    numbers = read_all(norms) if len(known) == len(exponents) else None
    if numbers is not None:
        powers: Sequence[Exponent] = _levelling_powers(known, numbers)
    else:
        own = torch.stack([torch.as_tensor(exponent, device=norms[0].device) for exponent in exponents])
        sizes = own + torch.stack(norms).double().log2().nan_to_num(0.0, 0.0, 0.0)  # of zero, too
        steps = torch.arange(1, len(cores) + 1, device=own.device)
        # How far the line is above the product of the first k cores: 0 at the end.
        lifts = (steps * (sizes.sum() / len(cores)) - sizes.cumsum(0)).round().long()
        powers = (own + lifts.diff(prepend=lifts.new_zeros(1))).unbind()
    return [times_power_of_two(core, power).to(dtype) for core, power in zip(scaled, powers, strict=True)]


def _levelling_powers(exponents: Sequence[int], norms: Sequence[float]) -> list[int]:
    """Do for exponents and norms that are known what `level` does otherwise in tensors."""
    sizes = [
        own + (math.log2(norm) if 0 < norm < math.inf else 0.0) for own, norm in zip(exponents, norms, strict=True)
    ]
    mean = sum(sizes) / len(sizes)
    heights = itertools.accumulate(sizes)
    lifts = [0, *(round(k * mean - height) for k, height in enumerate(heights, start=1))]
    return [own + after - before for own, (before, after) in zip(exponents, itertools.pairwise(lifts), strict=True)]
