"""How to factor the two sides of a map into the modes of a tensor train.

A train over the modes `n_1, ..., n_d` with ranks `r_0, ..., r_d` has `sum_k r_{k-1} n_k r_k` parameters, and
a bond can never use a rank above the size of what lies left or right of it. So once the rank is given, the
count depends only on the prefix products of the modes: a prefix is a node, a core is an edge between two
prefixes, and the cheapest train is a shortest path over the divisors, found here exactly.

The cut between the input and the output modes is a node that every path visits. The two sides are therefore
independent given their numbers of cores, and mirror images of each other: each is solved from its outer end
(where the rank is 1) to the cut.

In a TT-matrix every core has a mode of the rows and one of the columns, and only their product counts. Whatever
the products, the prime factors of either side can be dealt out to them. So the products come first, as the modes
of a train with nothing on the far side of the cut, and are then split into the two, which costs nothing.
"""

import math
import operator
from collections.abc import Sequence
from functools import cache

from ttnet.errors import TTTypeError, TTValueError

# A way to build one side: parameters, then modes from the outer end of the train to the cut.
_Side = tuple[int, tuple[int, ...]]
# A way to split the cores of a TT-matrix: the product of their `min(m_k, n_k)`, then the row modes.
_Split = tuple[int, tuple[int, ...]]


def choose_modes(
    in_size: int, out_size: int, *, rank: int, num_cores: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Factor the two sides of an `in_size x out_size` map into the modes with the fewest parameters.

    The train has the input modes first and the output modes after them, and a bond between the two, where it
    can be cut into the factors `(in_size, r)` and `(r, out_size)`. Among equally small trains the one with
    fewer cores wins, then the one with the larger modes at its two ends. A mode is 1 only where its
    whole side is.

    Args:
        in_size: Size of the input side, at least 1.
        out_size: Size of the output side, at least 1.
        rank: Largest rank of a bond, at least 1; `capped_ranks` says which rank each bond then has.
        num_cores: Number of modes of both sides together; None leaves it free.

    Returns:
        The input modes, with product `in_size`, and the output modes, with product `out_size`.

    Raises:
        TTTypeError: If an argument is not an integer.
        TTValueError: If a size or the rank is below 1, or the sides cannot be split into `num_cores` modes.

    Example:
        >>> choose_modes(768, 64, rank=5)
        ((16, 4, 4, 3), (4, 16))
        >>> choose_modes(768, 64, rank=5, num_cores=5)
        ((32, 6, 4), (4, 16))
    """
    in_size = _positive("in_size", in_size)
    out_size = _positive("out_size", out_size)
    rank = _positive("rank", rank)
    if num_cores is not None:
        num_cores = _positive("num_cores", num_cores)
    return _choose_modes(in_size, out_size, rank, num_cores)


def choose_paired_modes(
    rows: int, cols: int, *, rank: int, num_cores: int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Factor a `rows x cols` matrix into the pairs of modes `m_k x n_k` of the TT-matrix with the fewest parameters.

    Among equally small ones that with fewer cores wins, then the one with the larger products `m_k n_k` first, from
    the left. The pairs of given products all have the same number of parameters. Taken are those with the largest
    bound on the rank of the matrix, its smallest cut between rows and columns; then those with the largest product
    of the `min(m_k, n_k)`, the rank that generic cores have even at TT rank 1; then those with the larger row modes
    first. A mode of a pair may be 1; both are only where `rows` and `cols` are.

    Args:
        rows: Number of rows, at least 1.
        cols: Number of columns, at least 1.
        rank: Largest rank of a bond, at least 1; `capped_ranks` of the products says which rank each bond has.
        num_cores: Number of cores; None leaves it free. A single core is the dense matrix.

    Returns:
        The row modes, with product `rows`, and as many column modes, with product `cols`.

    Raises:
        TTTypeError: If an argument is not an integer.
        TTValueError: If a size or the rank is below 1, or the matrix cannot be split into `num_cores` pairs.

    Example:
        >>> choose_paired_modes(768, 64, rank=5)
        ((8, 2, 2, 2, 3, 4), (2, 2, 2, 2, 1, 4))
        >>> choose_paired_modes(768, 64, rank=5, num_cores=3)
        ((16, 6, 8), (4, 2, 8))
    """
    rows = _positive("rows", rows)
    cols = _positive("cols", cols)
    rank = _positive("rank", rank)
    if num_cores is not None:
        num_cores = _positive("num_cores", num_cores)
    return _choose_paired_modes(rows, cols, rank, num_cores)


def capped_ranks(modes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Give each bond of a train the rank `r_k = min(rank, n_1 ... n_k, n_{k+1} ... n_d)`.

    Args:
        modes: The d mode sizes of the train, each at least 1.
        rank: Largest rank of a bond, at least 1.

    Returns:
        The d + 1 ranks, of which the first and the last are 1.

    Raises:
        TTTypeError: If a mode or the rank is not an integer.
        TTValueError: If there are no modes, or a mode or the rank is below 1.

    Example:
        >>> capped_ranks((4, 4, 3, 2), rank=5)
        (1, 4, 5, 2, 1)
    """
    modes = _checked_modes(modes)
    rank = _positive("rank", rank)
    left, right = 1, math.prod(modes)
    ranks = [1]
    for mode in modes:
        left, right = left * mode, right // mode
        ranks.append(min(rank, left, right))
    return tuple(ranks)


def num_parameters(modes: Sequence[int], ranks: Sequence[int]) -> int:
    """Count the parameters of a train, `sum_k r_{k-1} n_k r_k`.

    Args:
        modes: The d mode sizes of the train, each at least 1.
        ranks: The d + 1 ranks of its bonds, the two outer ones included.

    Returns:
        The number of entries of all cores together.

    Raises:
        TTTypeError: If a mode or a rank is not an integer.
        TTValueError: If there are no modes, a mode or a rank is below 1, or there are not d + 1 ranks.

    Example:
        >>> num_parameters((32, 6, 4, 4, 16), (1, 5, 5, 5, 5, 1))
        590
    """
    modes = _checked_modes(modes)
    ranks = tuple(_positive(f"ranks[{k}]", rank) for k, rank in enumerate(ranks))
    if len(ranks) != len(modes) + 1:
        raise TTValueError(
            f"ranks is {ranks}, of length {len(ranks)}; expected length {len(modes) + 1} for {len(modes)} "
            "modes, one rank for every bond, the two outer ones included."
        )
    return sum(ranks[k] * mode * ranks[k + 1] for k, mode in enumerate(modes))


@cache
def _choose_modes(
    in_size: int, out_size: int, rank: int, num_cores: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    in_sides = _cheapest_sides(in_size, out_size, rank)
    out_sides = _cheapest_sides(out_size, in_size, rank)
    most = len(in_sides) + len(out_sides)
    if num_cores is not None and not 2 <= num_cores <= most:
        raise TTValueError(
            f"num_cores is {num_cores}; expected 2 to {most} for a {in_size} x {out_size} map, as each side "
            "takes at least one core and at most one for each of its prime factors."
        )
    _, in_modes, out_modes = min(
        (
            (in_cost + out_cost, in_modes, out_modes)
            for in_cost, in_modes in in_sides
            for out_cost, out_modes in out_sides
            if num_cores in (None, len(in_modes) + len(out_modes))
        ),
        key=lambda choice: (
            choice[0],
            len(choice[1]) + len(choice[2]),
            tuple(-mode for mode in choice[1]),
            tuple(-mode for mode in choice[2]),
        ),
    )
    return in_modes, out_modes[::-1]


@cache
def _choose_paired_modes(
    rows: int, cols: int, rank: int, num_cores: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    trains = _cheapest_sides(rows * cols, 1, rank)
    if num_cores is not None and num_cores > len(trains):
        raise TTValueError(
            f"num_cores is {num_cores}; expected 1 to {len(trains)} for a {rows} x {cols} matrix, at most one core for "
            "each prime factor of its two sides."
        )
    _, products = min(trains if num_cores is None else [trains[num_cores - 1]], key=lambda train: train[0])
    row_modes = _split_pairs(products, rows, cols, rank)
    return row_modes, tuple(product // m for product, m in zip(products, row_modes, strict=True))


def _split_pairs(products: tuple[int, ...], rows: int, cols: int, rank: int) -> tuple[int, ...]:
    """Take the row modes out of the products, so that generic cores give a matrix of a high rank.

    A cut puts every core on the side of the rows or on that of the columns. It goes through the column modes of the
    former, the row modes of the latter and the bonds between the two, and the product of their sizes bounds the
    rank of the matrix.
    """
    most = min(rows, cols)
    # Level k maps the product of the first k row modes and the smallest cuts of these cores, that with core k on the
    # side of the rows and that with it on the side of the columns, to the best choice of them. A cut of `most` or
    # more bounds nothing, and may count as `most`.
    level: dict[tuple[int, int, int], _Split] = {(1, 1, 1): (1, ())}
    for product, bond in zip(products, capped_ranks(products, rank), strict=False):
        longer: dict[tuple[int, int, int], _Split] = {}
        for (before, with_rows, with_cols), (least, modes) in level.items():
            for m in _divisors(product):
                if rows % (before * m) == 0:
                    n = product // m
                    key = (
                        before * m,
                        min(most, n * min(with_rows, bond * with_cols)),
                        min(most, m * min(with_cols, bond * with_rows)),
                    )
                    split = (least * min(m, n), (*modes, m))
                    longer[key] = max(split, longer.get(key, split))
        level = longer
    *_, row_modes = max((min(cuts), *split) for (size, *cuts), split in level.items() if size == rows)
    return row_modes


def _cheapest_sides(size: int, other_size: int, rank: int) -> list[_Side]:
    """List the cheapest way to build one side from 1, 2, 3, ... cores, up to one for each prime factor."""
    divisors = _divisors(size)
    bond = {p: min(rank, p, size // p * other_size) for p in divisors}
    # Level c maps a prefix p to the cheapest c cores that lead from p to the cut. Working backwards makes the
    # lexicographic tie-break (largest outer mode first) part of the same recursion.
    starts = divisors[:-1] or [1]
    level: dict[int, _Side] = {p: (bond[p] * (size // p) * bond[size], (size // p,)) for p in starts}
    sides = []
    while 1 in level:
        sides.append(level[1])
        level = {
            p: min(
                ((bond[p] * (q // p) * bond[q] + cost, (q // p, *modes)) for q, (cost, modes) in onwards),
                key=lambda side: (side[0], tuple(-mode for mode in side[1])),
            )
            for p in divisors
            if (onwards := [(q, level[q]) for q in level if q > p and q % p == 0])
        }
    return sides


def _divisors(n: int) -> list[int]:
    divisors = [1]
    for prime in _prime_factors(n):
        divisors = list(dict.fromkeys(divisors + [d * prime for d in divisors]))
    return sorted(divisors)


def _prime_factors(n: int) -> list[int]:
    primes, p = [], 2
    while p * p <= n:
        while n % p == 0:
            primes.append(p)
            n //= p
        p += 1
    return [*primes, n] if n > 1 else primes


def _checked_modes(modes: Sequence[int]) -> tuple[int, ...]:
    modes = tuple(_positive(f"modes[{k}]", mode) for k, mode in enumerate(modes))
    if not modes:
        raise TTValueError("modes is empty; expected at least one mode size.")
    return modes


def _positive(name: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TTTypeError(f"{name} is {value!r}; expected an integer of at least 1.") from None
    if number < 1:
        raise TTValueError(f"{name} is {number}; expected an integer of at least 1.")
    return number
