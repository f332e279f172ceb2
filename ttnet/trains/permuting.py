"""Modes in another order: adjacent cores change places, and what does not fit on the new bond is cut off."""

from __future__ import annotations

import math
from bisect import bisect, insort
from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ttnet.errors import TTValueError
from ttnet.numerics.memory import check_memory
from ttnet.numerics.train_scales import join_scale
from ttnet.numerics.truncation import ErrorBudget, check_eps, check_max_rank, check_readable
from ttnet.trains.chain import shorten
from ttnet.trains.checks import expect_train
from ttnet.trains.dims import check_dims
from ttnet.trains.orthogonal import right_orthogonalise
from ttnet.trains.sweeps import balance, carry_centre, check_finite, usable_eps
from ttnet.trains.tensor_train import TensorTrain


def permute(
    tt: TensorTrain,
    dims: Sequence[int],
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
) -> TensorTrain:
    """Put the modes in another order, `||torch.permute(tt, dims) - result|| <= eps ||tt||`.

    The ranks of a tensor depend on the order of its modes, and a pair of neighbours that change places may multiply the
    rank between them by the size of a mode. As few pairs as possible do, from the train or from its mirror image, which
    is the same tensor with all modes reversed. Each is cut by a truncated SVD at the orthogonality centre, in sweeps to
    and fro, and a rounding ends them. Reversing all modes is exact, and so is any order of a train of ranks 1.

    Args:
        tt: The train. Its cores may be of any scale, and its norm outside the range of its dtype.
        dims: For each mode of the result, which one of `tt` it is: every int from 0 to order - 1 once, or counted from
            the end, from -order to -1.
        eps: Bound on the relative Frobenius error, at least 0. None or 0 cuts only what is rounding noise, as does any
            bound below the precision of the dtype: some ten times its machine epsilon, growing with the number of
            changes and the ranks' square roots.
        max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`. It holds on the way too,
            and so bounds the cost; a train that is of low rank only in its old and its new order suffers from it.

    Returns:
        A train of the same dtype and device, as `ttnet.round` gives it unless the way was exact.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTIndexError: If there is no such mode.
        TTShapeError: If `max_rank` has the wrong number of entries.
        TTValueError: If `dims` is no permutation, another argument is out of range, a core has entries that are NaN or
            infinite, or the ranks on the way are more than this machine's memory holds.

    Example:
        >>> import ttnet
        >>> x = ttnet.random((2, 3, 4), 2, dtype=torch.float64, seed=0)
        >>> y = permute(x, (1, 2, 0), eps=1e-12)
        >>> y.shape, torch.allclose(y.full(), x.full().permute(1, 2, 0))
        ((3, 4, 2), True)
    """
    expect_train(tt, "tt")
    order = check_dims(dims, tt.ndim, "dims")
    if len(order) != tt.ndim:
        raise TTValueError(f"dims is {shorten(order)}; expected every mode of a train of order {tt.ndim} once.")
    bound = check_eps(eps)
    check_max_rank(max_rank, max(0, tt.ndim - 1))
    if order == tuple(range(tt.ndim)):
        exact = tt
    elif order == tuple(reversed(range(tt.ndim))):
        exact = TensorTrain(_mirror(tt.cores))
    elif max(tt.ranks) == 1:
        exact = TensorTrain([tt.cores[k] for k in order])
    else:
        return _swap(tt, order, bound, max_rank)
    return exact if max_rank is None else exact.round(max_rank=max_rank)


# The part of the error bound that goes to the swaps. Bounds of theirs add up, those of the bonds in a rounding only in
# squares: what the swaps leave of noise on the way, the rounding at the end takes away for less.
_SWAPS_SHARE = 0.1


def _swap(tt: TensorTrain, order: Sequence[int], eps: float, max_rank: int | Sequence[int] | None) -> TensorTrain:
    check_readable(tt.cores[0], "cores[0]")
    check_finite(tt.cores)
    places = [0] * tt.ndim  # places[k]: where mode k has to go
    for place, k in enumerate(order):
        places[k] = place
    given: Sequence[Tensor] = tt.cores
    if count_swaps(places) > count_swaps(places[::-1]):
        given, places = _mirror(given), places[::-1]
    plan = plan_swaps(places)
    cores, exponent = right_orthogonalise(given)
    wide = cores[0].dtype
    norm = float(torch.linalg.vector_norm(cores[0].detach()))
    eps = usable_eps(eps, tt.ndim, tt.dtype)
    # Squares add up within a sweep, and errors among the sweeps: so every swap may make the same error.
    whole = sum(math.sqrt(len(swaps)) for swaps in plan)
    max_ranks = check_max_rank(max_rank, tt.ndim - 1)
    for swaps in plan:
        share = _SWAPS_SHARE * eps * math.sqrt(len(swaps)) / whole
        caps = [max_ranks[k] for k in swaps]
        _sweep(cores, set(swaps), ErrorBudget(norm=norm, eps=share, max_ranks=caps, dtype=wide))
        cores, max_ranks = _mirror(cores), max_ranks[::-1]
    cores = _mirror(cores) if len(plan) % 2 else cores
    result = TensorTrain(join_scale(cores, exponent, wide)).round(eps=(1 - _SWAPS_SHARE) * eps, max_rank=max_rank)
    return result if tt.dtype == wide else TensorTrain(balance(result.cores, tt.dtype))


def count_swaps(places: Sequence[int]) -> int:
    """Count the pairs that are in the wrong order: no fewer swaps of neighbours sort them.

    Args:
        places: A permutation of 0 to order - 1.

    Returns:
        The number of pairs.

    Example:
        >>> count_swaps([0, 1, 2]), count_swaps([2, 1, 0])
        (0, 3)
    """
    seen: list[int] = []
    count = 0
    for place in places:
        count += len(seen) - bisect(seen, place)
        insort(seen, place)
    return count


def plan_swaps(places: Sequence[int]) -> list[list[int]]:
    """Sort modes by as few swaps of neighbours as can be, in sweeps to and fro (a cocktail shaker sort).

    Args:
        places: For each mode, where it has to go: a permutation of 0 to order - 1.

    Returns:
        For each sweep, the bonds at which neighbours are swapped, in order. Every sweep runs from left to right, and
        the train is mirrored after each.

    Example:
        >>> plan_swaps([0, 1, 2]), plan_swaps([2, 0, 1]), plan_swaps([1, 2, 0])
        ([], [[0, 1]], [[1], [1]])
    """
    places = list(places)
    plan = []
    while any(a > b for a, b in pairwise(places)):
        swaps = []
        for k in range(len(places) - 1):
            if places[k] > places[k + 1]:
                places[k], places[k + 1] = places[k + 1], places[k]
                swaps.append(k)
        plan.append(swaps)
        places = [len(places) - 1 - place for place in reversed(places)]
    return plan


def _mirror(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> list[Tensor]:
    return [core.transpose(0, 2) for core in reversed(cores)]


def _sweep(cores: list[Tensor], swaps: Collection[int], budget: ErrorBudget) -> None:
    """Carry the centre from the first core to the last one, in place, and swap modes on the way."""
    for k in range(len(cores) - 1):
        if k not in swaps:
            carry_centre(cores, k)
            continue
        (left, n, _), (_, m, right) = cores[k].shape, cores[k + 1].shape
        check_memory(
            left * n * m * right,
            cores[k].dtype,
            cores[k].device,
            what="the pair of cores that changes places",
            advice="allow a larger eps, or set max_rank.",
        )
        pair = torch.tensordot(cores[k], cores[k + 1], 1).transpose(1, 2)  # (r, m, n, r')
        u, w = budget.cut(pair.reshape(left * m, n * right))
        cores[k], cores[k + 1] = u.reshape(left, m, -1), w.reshape(-1, n, right)
