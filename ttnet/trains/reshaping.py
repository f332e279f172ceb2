"""Neighbouring modes merged and split: a train in the shape that `torch.Tensor.reshape` would give its tensor."""

from __future__ import annotations

import math
import numbers
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import mul

import torch
from torch import Tensor

from ttnet.errors import TTShapeError, spell_count
from ttnet.numerics.memory import check_memory
from ttnet.numerics.scales import Exponent, compute_dtype, split_scale
from ttnet.numerics.train_scales import join_scale, split_scales
from ttnet.numerics.truncation import ErrorBudget, check_eps, check_max_rank, check_readable
from ttnet.trains.chain import check_shape, shorten
from ttnet.trains.checks import expect_train
from ttnet.trains.dims import one_by_one
from ttnet.trains.indexing import index
from ttnet.trains.orthogonal import right_orthogonalise
from ttnet.trains.sweeps import balance, carry_centre, check_finite, usable_eps
from ttnet.trains.tensor_train import TensorTrain


def reshape(
    tt: TensorTrain,
    shape: int | Sequence[int],
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
) -> TensorTrain:
    """Merge and split neighbouring modes, `||torch.reshape(tt, shape) - result|| <= eps ||tt||`.

    Merging modes multiplies their cores and is exact, as is dropping or adding modes of size 1. Splitting a mode takes
    a truncated SVD of its core at the orthogonality centre, with the guarantee of `ttnet.round`. Where neither does, as
    from (4, 9) to (6, 6), the modes up to the next common boundary are merged first and split then: this takes the
    memory of the merged core, and is refused if the machine has less.

    Args:
        tt: The train. Its cores may be of any scale, and its norm outside the range of its dtype.
        shape: The new mode sizes, each at least 1, whose product is `tt.numel`; one may be -1, which is then inferred.
            An int is the size of the only mode.
        eps: Bound on the relative Frobenius error of all splits together, at least 0. None or 0 cuts only what is
            rounding noise; see `ttnet.round`.
        max_rank: Bound on the ranks, an int or one int per inner bond of the result; it goes before `eps`.

    Returns:
        A train of the same dtype and device. Gradients are as those of `ttnet.round`.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If the numbers of entries differ, or `max_rank` has the wrong number of entries.
        TTValueError: If an argument is out of range, a merged core would be more than this machine's memory holds, or,
            where a mode is split, a core has entries that are NaN or infinite.

    Example:
        >>> import ttnet
        >>> x = ttnet.arange((4, 9))
        >>> reshape(x, (6, 6)), reshape(x, (2, 2, 3, -1))
        (TensorTrain([6]-2-[6], float32), TensorTrain([2]-2-[2]-2-[3]-2-[3], float32))
    """
    expect_train(tt, "tt")
    shape = _check_target(one_by_one(shape, (), "shape"), tt)
    bound = check_eps(eps)
    check_max_rank(max_rank, max(0, len(shape) - 1))
    if shape == tt.shape:
        result = tt
    else:
        cores = balance(tt.cores, compute_dtype(tt.dtype))
        cores = index(cores, tuple([0 if size == 1 else slice(None) for size in tt.shape]))
        cores = _regroup(cores, [size for size in shape if size > 1], usable_eps(bound, len(shape), tt.dtype), tt.dtype)
        result = TensorTrain(index(cores, tuple([None if size == 1 else slice(None) for size in shape])))
    return result if max_rank is None else result.round(max_rank=max_rank)


def _check_target(shape: Sequence[int], tt: TensorTrain) -> tuple[int, ...]:
    """Give the wanted shape, with -1 filled in."""
    if not isinstance(shape, str) and isinstance(shape, Sequence):
        unknown = [k for k, size in enumerate(shape) if isinstance(size, numbers.Integral) and size == -1]
        if len(unknown) > 1:
            raise TTShapeError(f"shape is {tuple(shape)}; expected at most one -1.")
        if unknown:
            k = unknown[0]
            others = (*check_shape(shape[:k], "shape"), *check_shape(shape[k + 1 :], "shape"))
            # A remainder leaves a product that does not fit, which is refused below.
            shape = (*shape[:k], max(1, tt.numel // math.prod(others)), *shape[k + 1 :])
    target = check_shape(shape, "shape")
    if math.prod(target) != tt.numel:
        raise TTShapeError(
            f"shape {shorten(target)} has {spell_count(math.prod(target))} entries, but the train's shape "
            f"{shorten(tt.shape)} has {spell_count(tt.numel)}; expected as many."
        )
    return target


def _regroup(
    cores: Sequence[Tensor],  # each (r, n, r') with n >= 2, or one (1, 1); of a dtype that LAPACK knows
    sizes: Sequence[int],  # each at least 2, of the same product
    eps: float,
    dtype: torch.dtype,
) -> list[Tensor]:
    """Merge, split and merge again, at the boundaries between modes: the products of the sizes in front of them."""
    if not sizes:
        return [core.to(dtype) for core in cores]
    wanted = list(accumulate(sizes, mul))
    kept = [boundary for boundary in accumulate([core.shape[1] for core in cores], mul) if _nests(boundary, wanted)]
    coarse, fine = _sizes_between(kept), _sizes_between(sorted({*kept, *wanted}))
    for size in sizes:
        _check_core(size, cores[0])
    if fine != coarse:
        check_readable(cores[0], "cores[0]")
        check_finite(cores)
    cores, exponent = split_scales(cores, cores[0].dtype)
    cores, power = _merge(cores, coarse)
    exponent = exponent + power
    if fine != coarse:
        cores, power = right_orthogonalise(cores)
        exponent = exponent + power
        norm = float(torch.linalg.vector_norm(cores[0].detach()))
        caps = [None] * (len(fine) - len(coarse))
        cores = _split(cores, fine, ErrorBudget(norm=norm, eps=eps, max_ranks=caps, dtype=cores[0].dtype))
    cores, power = _merge(cores, sizes)
    return join_scale(cores, exponent + power, dtype)


def _nests(boundary: int, wanted: Sequence[int]) -> bool:
    """Say whether a boundary of the given modes can stay while the wanted ones come in."""
    at = bisect_right(wanted, boundary)
    return (at == 0 or boundary % wanted[at - 1] == 0) and (at == len(wanted) or wanted[at] % boundary == 0)


def _sizes_between(boundaries: Sequence[int]) -> list[int]:
    return [after // before for before, after in pairwise([1, *boundaries])]


def _check_core(count: int, like: Tensor) -> None:
    check_memory(
        count,
        like.dtype,
        like.device,
        what="a core of merged modes",
        advice="choose a shape with smaller modes, or with more boundaries in common with the train's.",
    )


def _merge(
    cores: Sequence[Tensor],  # each (r, n, r')
    sizes: Sequence[int],
) -> tuple[list[Tensor], Exponent]:
    """Multiply neighbouring cores up to modes of the given sizes, and keep their scale apart."""
    groups: list[list[Tensor]] = []
    rest = iter(cores)
    for size in sizes:
        group = [next(rest)]
        merged = group[0].shape[1]
        while merged < size:
            group.append(next(rest))
            merged *= group[-1].shape[1]
            _check_core(group[0].shape[0] * merged * group[-1].shape[2], group[0])
        groups.append(group)
    result: list[Tensor] = []
    exponent: Exponent = 0
    for merged_core, *others in groups:
        for core in others:
            merged_core, power = split_scale(torch.tensordot(merged_core, core, 1).flatten(1, 2))
            exponent = exponent + power
        result.append(merged_core)
    return result, exponent


def _split(
    cores: Sequence[Tensor],  # each (r, n, r'), right-orthonormal but for the first
    sizes: Sequence[int],
    budget: ErrorBudget,
) -> list[Tensor]:
    """Cut each core's mode into the given sizes, which multiply up to it."""
    result = []
    rest_of_sizes = iter(sizes)
    cores = list(cores)
    for k in range(len(cores)):
        core = cores[k]  # where the centre is
        while (size := next(rest_of_sizes)) < core.shape[1]:
            left, n, right = core.shape
            u, w = budget.cut(core.reshape(left * size, -1))  # (r n_1, s), (s, n_2 r')
            result.append(u.reshape(left, size, -1))
            core = w.reshape(-1, n // size, right)
        cores[k] = core
        if k + 1 < len(cores):
            carry_centre(cores, k)
        result.append(cores[k])
    return result
