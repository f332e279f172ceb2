"""The largest entry of a train: candidates carried from bond to bond, and a bound on whatever is left out.

With the cores right of a bond orthonormal in their rows, a head i, the first k indices of an entry, is a vector v, and
the entries that begin with it are `v . t` over all tails t, the columns of what lies right of the bond. All tails lie
in an ellipsoid of centre c and axes F, found core by core from the right: so no entry that begins with the head exceeds
`v . c + |F.T v|`, and in a sum of functions of one index each, one does reach it. Heads whose bound is below an entry
that is known are dropped for good; of the others the most promising go on, and the bounds of the rest are remembered.
The promise is that of random numbers: the mean of the entries below a head, and as many of their standard deviations as
the largest of so many is likely to be above it.

Source: Chertkov et al. 2022, "Optimization of functions given in the tensor train format" (candidates by their norm);
the ellipsoids make
it branch and bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttnet.numerics.scales import split_scale, times_power_of_two
from ttnet.trains.orthogonal import right_orthogonalise

BALL_STEPS = 100  # towards the centre of the smallest ball
ROUNDING = 1e-12  # what bounds are raised by, relative to the largest that an entry could be


@dataclass(frozen=True)
class Scaled:
    """A real number of any size: `mantissa * 2**exponent`.

    Attributes:
        mantissa: A float.
        exponent: An int.

    Example:
        >>> Scaled(0.5, 2000).over(Scaled(1.0, 1999)), Scaled(-3.0, 1).to_float()
        (1.0, -6.0)
    """

    mantissa: float
    exponent: int

    def in_units(self, exponent: int) -> float:
        """Give the number divided by 2**exponent, infinite where that is beyond a float.

        Args:
            exponent: An int.

        Returns:
            The quotient.

        Example:
            >>> Scaled(1.0, 3).in_units(1), Scaled(-1.0, 5000).in_units(0)
            (4.0, -inf)
        """
        try:
            return math.ldexp(self.mantissa, self.exponent - exponent)
        except OverflowError:
            return math.copysign(math.inf, self.mantissa)

    def to_float(self) -> float:
        """Give the number as a float, infinite where it is beyond one.

        Returns:
            The float.

        Example:
            >>> Scaled(0.5, 3).to_float()
            4.0
        """
        return self.in_units(0)

    def over(self, other: Scaled) -> float:
        """Divide by a number other than zero.

        Args:
            other: The divisor.

        Returns:
            The quotient.

        Example:
            >>> Scaled(1.0, -4000).over(Scaled(2.0, -4000))
            0.5
        """
        mantissa, step = math.frexp(other.mantissa)
        return self.in_units(other.exponent + step) / mantissa

    def larger(self, other: Scaled) -> Scaled:
        """Give the larger of two numbers.

        Args:
            other: Another one.

        Returns:
            One of them.

        Example:
            >>> Scaled(1.0, -5000).larger(Scaled(-1.0, 5000))
            Scaled(mantissa=1.0, exponent=-5000)
        """
        if self.mantissa * other.mantissa <= 0:
            return self if self.mantissa >= other.mantissa else other
        return (
            self if self.over(other) * math.copysign(1, other.mantissa) >= math.copysign(1, other.mantissa) else other
        )


@dataclass(frozen=True)
class _Tails:
    """What is known of all that lies right of a bond, in units of 2**exponent."""

    centre: Tensor  # (r,): of an ellipsoid that holds all tails
    axes: Tensor  # (r, q): the ellipsoid is the centre plus these times a ball of radius 1
    largest: float  # no tail is longer
    exponent: int
    mean: Tensor  # (r,): of the tails, times the root of their number
    deviations: float  # of how many the largest of so many random numbers is above their mean


class BeamSearch:
    """The search for the largest entry of a train from its left end to its right.

    Args:
        cores: Of order 1 or more, real and finite.

    Attributes:
        exponent: Entries are those of the cores that are kept times 2 to this power.

    Example:
        >>> search = BeamSearch([torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[2.0], [-5.0]]])])
        >>> index, value, bound, _ = search.run(10, None)
        >>> index, round(value.to_float(), 9), round(bound.to_float(), 9)
        ((1, 0), 6.0, 6.0)
    """

    def __init__(
        self,
        cores: Sequence[Tensor],  # each (r, n, r')
    ) -> None:
        self._cores, exponent = right_orthogonalise([core.double() for core in cores])
        self.exponent = int(exponent)
        self._tails = _enclose(self._cores)

    def run(
        self,
        beam: int,
        best: Scaled | None,
    ) -> tuple[tuple[int, ...], Scaled, Scaled, tuple[int, ...]]:
        """Go over all bonds once.

        Args:
            beam: How many heads are kept at each.
            best: An entry that is known; heads that cannot lead beyond it are left out.

        Returns:
            The index of the largest entry that was met, the entry, a bound on all entries, and how many heads were kept
            at each bond. Where nothing can be larger than `best`, the index is that of some entry.

        Example:
            >>> search = BeamSearch([torch.ones(1, 2, 1)])
            >>> search.run(1, Scaled(1.0, 0))[2].to_float()
            1.0
        """
        device = self._cores[0].device
        vectors = torch.ones(1, 1, dtype=torch.float64, device=device)
        heads = torch.empty(1, 0, dtype=torch.int64, device=device)
        exponent, counts = self.exponent, [1]
        bound: Scaled | None = None
        for core, tails in zip(self._cores, self._tails, strict=True):
            _, size, rank = core.shape
            grown = torch.tensordot(vectors, core, 1).reshape(-1, rank)  # (b n, r')
            grown, step = split_scale(grown)
            exponent += int(step)
            unit = exponent + tails.exponent
            limits = _limits(grown, tails)
            kept = self._choose(grown, limits, tails, beam, None if best is None else best.in_units(unit))
            left = torch.ones(len(grown), dtype=torch.bool, device=device)
            left[kept] = False
            if left.any():
                worst = Scaled(float(limits[left].max()), unit)
                bound = worst if bound is None else bound.larger(worst)
            vectors = grown[kept]
            heads = torch.cat([heads[kept // size], (kept % size)[:, None]], dim=1)
            counts.append(len(kept))
        at = int(vectors[:, 0].argmax())
        value = Scaled(float(vectors[at, 0]), exponent)
        return tuple(heads[at].tolist()), value, value if bound is None else bound.larger(value), tuple(counts)

    @staticmethod
    def _choose(
        vectors: Tensor,  # (b, r)
        limits: Tensor,  # (b,)
        tails: _Tails,
        beam: int,
        best: float | None,
    ) -> Tensor:  # (b',)
        """Give the heads that go on: half of them by their promise, half by their bound; one at least."""
        along = vectors @ tails.mean
        rest = ((vectors * vectors).sum(1) - along * along).clamp(min=0).sqrt()
        promise = along + tails.deviations * rest
        may = torch.ones_like(limits, dtype=torch.bool) if best is None else limits > best
        may[promise.argmax()] = True
        places = may.nonzero()[:, 0]
        if len(places) <= beam:
            return places
        first = promise[places].topk((beam + 1) // 2).indices
        others = limits[places].index_fill(0, first, -math.inf).topk(beam // 2).indices
        return places[torch.cat([first, others])]


def _limits(
    vectors: Tensor,  # (b, r)
    tails: _Tails,
) -> Tensor:  # (b,)
    """Bound the entries below each head."""
    limits = vectors @ tails.centre
    if not tails.axes.shape[1]:
        return limits
    most = torch.linalg.vector_norm(vectors, dim=1) * tails.largest
    return torch.minimum(limits + torch.linalg.vector_norm(vectors @ tails.axes, dim=1), most) + ROUNDING * most


def _enclose(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> list[_Tails]:
    """Give, for the bond after each core, an ellipsoid of all tails."""
    one = torch.ones(1, dtype=torch.float64, device=cores[0].device)
    tails = [_Tails(centre=one, axes=one[:, None][:, :0], largest=1.0, exponent=0, mean=one, deviations=0.0)]
    count = 0.0  # the logarithm of the number of tails
    for core in reversed(cores[1:]):
        after = tails[-1]
        points = core @ after.centre  # (r, n): each the centre of an ellipsoid
        centre, axes = _around(points, core @ after.axes)
        spread = float(torch.linalg.matrix_norm(core.transpose(0, 1), ord=2).max())
        reach = float(torch.linalg.vector_norm(centre) + torch.linalg.matrix_norm(axes, ord=2)) if axes.numel() else 0.0
        largest = min(spread * after.largest, reach or math.inf)
        count += math.log(core.shape[1])
        step = math.frexp(largest)[1] if largest else 0
        tails.append(
            _Tails(
                centre=times_power_of_two(centre, -step),
                axes=times_power_of_two(axes, -step),
                largest=math.ldexp(largest, -step),
                exponent=after.exponent + step,
                mean=(core @ after.mean).sum(1) / math.sqrt(core.shape[1]),
                deviations=math.sqrt(2 * count),
            )
        )
    return tails[::-1]


def _around(
    points: Tensor,  # (r, n)
    axes: Tensor,  # (r, n, q)
) -> tuple[Tensor, Tensor]:  # (r,), (r, p)
    """Give the centre and the axes of an ellipsoid that holds ellipsoids about some points.

    Its shape is that of their mean square; where that is a ball, it is nearly the smallest one.
    """
    mean = points.mean(1)
    directions, sizes, _ = torch.linalg.svd(
        torch.cat([points - mean[:, None], axes.flatten(1)], 1) / math.sqrt(points.shape[1]), full_matrices=False
    )
    kept = sizes > ROUNDING / 10 * torch.linalg.vector_norm(points, dim=0).max()
    directions, sizes = directions[:, kept], sizes[kept]
    if not len(sizes):
        return mean, directions
    to_ball = (directions / sizes).mT  # (p, r)
    places = (to_ball @ (points - mean[:, None])).mT  # (n, p)
    reach = places.new_zeros(len(places))
    if axes.shape[2]:
        reach = torch.linalg.matrix_norm(
            (to_ball @ axes.flatten(1)).reshape(-1, *axes.shape[1:]).transpose(0, 1), ord=2
        )
    centre = _centre(places, reach)
    radius = (torch.linalg.vector_norm(places - centre, dim=1) + reach).max()
    return mean + directions @ (sizes * centre), directions * sizes * radius


def _centre(
    points: Tensor,  # (n, p)
    reach: Tensor,  # (n,)
) -> Tensor:  # (p,)
    """Give nearly the centre of the smallest ball that holds balls about some points.

    Source: Badoiu & Clarkson 2003, "Smaller core-sets for balls".
    """
    if points.shape[1] == 1:
        return ((points[:, 0] + reach).max() + (points[:, 0] - reach).min())[None] / 2
    centre = points.mean(0)
    for step in range(1, BALL_STEPS + 1):
        distances = torch.linalg.vector_norm(points - centre, dim=1) + reach
        centre = centre + (points[distances.argmax()] - centre) / (step + 1)
    return centre
