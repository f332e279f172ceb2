"""Trains put together, exactly: side by side, on top of each other, as factors of a product or on a diagonal."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from functools import reduce
from typing import overload

import torch
from torch import Tensor
from torch.nn import functional

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.memory import check_memory, check_product
from ttnet.numerics.scales import compute_dtype
from ttnet.numerics.train_scales import join_scale, level, split_scales
from ttnet.trains.chain import CoreChain, shorten
from ttnet.trains.checks import expect_train
from ttnet.trains.dims import check_dim
from ttnet.trains.habits import in_other_words
from ttnet.trains.indexing import index
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


@in_other_words()
def cat(trains: Sequence[TensorTrain], dim: int = 0) -> TensorTrain:
    """Put trains side by side along a mode, as `torch.cat` does with tensors; ranks add up.

    Args:
        trains: Trains of order 1 or more, on one device, whose shapes agree but for mode `dim`. Dtypes promote.
        dim: The mode, from -order to order - 1.

    Returns:
        The train; `round` brings its ranks down.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If there are no trains, they have order 0, or their shapes do not fit.
        TTIndexError: If there is no such mode.
        TTValueError: If the devices differ, or a core would be more than this machine's memory holds.

    Example:
        >>> import ttnet
        >>> ttnet.cat([ttnet.ones((2, 2)), ttnet.zeros((2, 1))], dim=1).full()
        tensor([[1., 1., 0.],
                [1., 1., 0.]])
    """
    trains = _check_trains(trains)
    shape, order = trains[0].shape, trains[0].ndim
    if not order:
        raise TTShapeError("trains[0] has order 0; expected order 1 or more, or use ttnet.stack.")
    dim = check_dim(dim, order)
    for k, train in enumerate(trains):
        if (train.shape[:dim], train.shape[dim + 1 :]) != (shape[:dim], shape[dim + 1 :]):
            raise TTShapeError(
                f"trains[{k}] has shape {shorten(train.shape)} but trains[0] has {shorten(shape)}; expected the same "
                f"sizes but for mode {dim}."
            )
    sizes = (*shape[:dim], sum(train.shape[dim] for train in trains), *shape[dim + 1 :])
    ranks = [1, *(sum(bond) for bond in zip(*(train.ranks[1:-1] for train in trains), strict=True)), 1]
    largest = max(left * size * right for left, size, right in zip(ranks, sizes, ranks[1:], strict=False))
    dtype = reduce(torch.promote_types, [train.dtype for train in trains])
    advice = "join fewer trains at a time, and round in between."
    check_memory(largest, dtype, trains[0].device, what="the largest core of the result", advice=advice)
    chains = enumerate(zip(*(level(train.cores, dtype) for train in trains), strict=True))
    return TensorTrain([_join(cores, sizes[k], k == dim, k == 0, k == order - 1) for k, cores in chains])


def _join(
    cores: Sequence[Tensor],  # each (r, n, r')
    size: int,
    along_mode: bool,
    first: bool,
    last: bool,
) -> Tensor:  # (sum r, size, sum r')
    """Put cores on a diagonal of their ranks, and of their modes too if asked; but outer ranks stay 1."""
    if first and last:
        return torch.cat(list(cores), 1)
    right = sum(core.shape[2] for core in cores)
    blocks, mode, rank = [], 0, 0
    for core in cores:
        _, n, r = core.shape
        columns = (0, 0) if first or last else (rank, right - rank - r)
        blocks.append(functional.pad(core, (*columns, mode, size - mode - n)))
        mode, rank = mode + n * along_mode, rank + r
    return torch.cat(blocks, 2 if first else 0)


@in_other_words()
def stack(trains: Sequence[TensorTrain], dim: int = 0) -> TensorTrain:
    """Put trains on top of each other along a new mode, as `torch.stack` does with tensors; ranks add up.

    Args:
        trains: Trains of one shape, on one device. Dtypes promote.
        dim: Where the new mode stands in the result, from -(order + 1) to order.

    Returns:
        The train, of one order more; `round` brings its ranks down.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If there are no trains, or their shapes differ.
        TTIndexError: If `dim` is out of range.
        TTValueError: If the devices differ, or a core would be more than this machine's memory holds.

    Example:
        >>> import ttnet
        >>> ttnet.stack([ttnet.ones((2,)), ttnet.zeros((2,))]).full()
        tensor([[1., 1.],
                [0., 0.]])
    """
    trains = _check_trains(trains)
    for k, train in enumerate(trains):
        if train.shape != trains[0].shape:
            raise TTShapeError(
                f"trains[{k}] has shape {shorten(train.shape)} but trains[0] has {shorten(trains[0].shape)}; expected "
                f"the same shape."
            )
    dim = check_dim(dim, trains[0].ndim + 1)
    new_mode = (slice(None),) * dim + (None,)
    return cat([TensorTrain(index(train.cores, new_mode)) for train in trains], dim)


def pad(tt: TensorTrain, padding: Sequence[tuple[int, int]]) -> TensorTrain:
    """Put zeros before and after the entries of each mode, as `numpy.pad` does; the ranks stay.

    Args:
        tt: The train.
        padding: For each mode, how many zeros come before and after, each at least 0.

    Returns:
        The train, mode k of size `before_k + n_k + after_k`.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If `padding` has not one pair per mode.
        TTValueError: If a count is below 0.

    Example:
        >>> import ttnet
        >>> pad(ttnet.ones((1, 2)), [(0, 1), (2, 0)]).full()
        tensor([[0., 0., 1., 1.],
                [0., 0., 0., 0.]])
    """
    expect_train(tt, "tt")
    if isinstance(padding, str) or not isinstance(padding, Sequence):
        raise TTTypeError(f"padding is {padding!r}; expected one pair (before, after) per mode.")
    if len(padding) != tt.ndim or any(not isinstance(pair, Sequence) or len(pair) != 2 for pair in padding):
        raise TTShapeError(f"padding is {padding!r}; expected {tt.ndim} pairs (before, after), one per mode.")
    for count in (count for pair in padding for count in pair):
        if isinstance(count, bool) or not isinstance(count, numbers.Integral):
            raise TTTypeError(f"padding holds {count!r}; expected ints >= 0.")
        if count < 0:
            raise TTValueError(f"padding holds {count}; expected ints >= 0: take entries away by indexing.")
    if not tt.ndim:
        return tt
    padded = [
        functional.pad(core, (0, 0, int(before), int(after)))
        for core, (before, after) in zip(tt.cores, padding, strict=True)
    ]
    return TensorTrain(padded)


@overload
def kron(a: TensorTrain, b: TensorTrain) -> TensorTrain: ...
@overload
def kron(a: TTMatrix, b: TTMatrix) -> TTMatrix: ...
def kron(a: TensorTrain | TTMatrix, b: TensorTrain | TTMatrix) -> TensorTrain | TTMatrix:
    """Take the Kronecker product, so that `kron(a, b).full()` is `torch.kron(a.full(), b.full())`.

    Of trains, mode k of size `n_k` and mode k of size `m_k` become one of size `n_k m_k`, and ranks multiply; a train
    of lower order gets modes of size 1 in front. Of TT-matrices, whose modes are what their rows and columns are taken
    apart into, the modes of `b` follow those of `a`, and the ranks stay.

    Args:
        a: A train or a TT-matrix.
        b: Another one of the same kind, on the same device. Dtypes promote.

    Returns:
        A train or a TT-matrix.

    Raises:
        TTTypeError: If an argument is of another type, or the two are of different kinds.
        TTValueError: If the devices differ.

    Example:
        >>> import ttnet
        >>> kron(ttnet.arange((2,)), ttnet.ones((3,))).full()
        tensor([0., 0., 0., 1., 1., 1.])
        >>> kron(ttnet.eye((2, 3)), ttnet.eye((4,))).row_shape
        (2, 3, 4)
    """
    matrices = isinstance(a, TTMatrix) and isinstance(b, TTMatrix)
    if not matrices and not (isinstance(a, TensorTrain) and isinstance(b, TensorTrain)):
        raise TTTypeError(
            f"a is a {type(a).__name__} and b is a {type(b).__name__}; expected two TensorTrains or two TTMatrices."
        )
    _check_devices([a, b])
    dtype = torch.promote_types(a.dtype, b.dtype)
    if matrices:
        return TTMatrix([*a.to(dtype).cores, *b.to(dtype).cores])
    order = max(len(a.shape), len(b.shape))
    (left, exponent_a), (right, exponent_b) = (
        split_scales(index(train.cores, (None,) * (order - len(train.shape))), compute_dtype(dtype)) for train in (a, b)
    )
    check_product(max(x.numel() * y.numel() for x, y in zip(left, right, strict=True)), dtype, a.device)
    products = [_kron(x, y) for x, y in zip(left, right, strict=True)]  # (r s, n m, r' s')
    return TensorTrain(join_scale(products, exponent_a + exponent_b, dtype))


def _kron(x: Tensor, y: Tensor) -> Tensor:
    """Do as `torch.kron`, which fails for some strides."""
    beside = [axis for k in range(x.ndim) for axis in (k, x.ndim + k)]
    sizes = [m * n for m, n in zip(x.shape, y.shape, strict=True)]
    return torch.tensordot(x, y, 0).permute(beside).reshape(sizes)


def outer(a: TensorTrain, b: TensorTrain) -> TensorTrain:
    """Take the tensor product, whose entry at `(*i, *j)` is `a[i] * b[j]`: the modes of `b` follow those of `a`.

    Args:
        a: A train of any order.
        b: A train of any order, on the same device. Dtypes promote.

    Returns:
        A train whose rank between the two is 1.

    Raises:
        TTTypeError: If an argument is not a train.
        TTValueError: If the devices differ.

    Example:
        >>> import ttnet
        >>> outer(ttnet.arange((3,)), ttnet.ones((2,))).full()
        tensor([[0., 0.],
                [1., 1.],
                [2., 2.]])
    """
    expect_train(a, "a")
    expect_train(b, "b")
    _check_devices([a, b])
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.to(dtype), b.to(dtype)
    if not a.ndim:
        return b * a.full()
    return TensorTrain([*a.cores, *b.cores]) if b.ndim else a * b.full()


@overload
def diag(x: TensorTrain) -> TTMatrix: ...
@overload
def diag(x: TTMatrix) -> TensorTrain: ...
def diag(x: TensorTrain | TTMatrix) -> TTMatrix | TensorTrain:
    """Put a train on the diagonal of a TT-matrix, or take the diagonal of a TT-matrix; the ranks stay.

    Args:
        x: A train of order 1 or more, or a TT-matrix with as many rows as columns in each of its modes.

    Returns:
        The TT-matrix whose product with a train `y` is `x * y`, or the train of the diagonal.

    Raises:
        TTTypeError: If `x` is of another type.
        TTShapeError: If it is a train of order 0, or a TT-matrix with a mode that is not square.

    Example:
        >>> import ttnet
        >>> w = diag(ttnet.arange((2, 2)))
        >>> w.full().diag()
        tensor([0., 1., 2., 3.])
        >>> diag(w).full()
        tensor([[0., 1.],
                [2., 3.]])
    """
    if isinstance(x, TTMatrix):
        if x.row_shape != x.col_shape:
            raise TTShapeError(
                f"the TT-matrix has row_shape {shorten(x.row_shape)} and col_shape {shorten(x.col_shape)}; expected "
                f"the same sizes, since a diagonal is taken core by core."
            )
        return TensorTrain([core.diagonal(dim1=1, dim2=2).mT for core in x.cores])
    if not isinstance(x, TensorTrain):
        raise TTTypeError(f"x is a {type(x).__name__}; expected a TensorTrain or a TTMatrix.")
    if not x.ndim:
        raise TTShapeError("x is a train of order 0, which has no diagonal matrix; expected order 1 or more.")
    return TTMatrix([torch.diag_embed(core.mT, dim1=1, dim2=2) for core in x.cores])


def _check_trains(trains: object) -> list[TensorTrain]:
    if not isinstance(trains, Sequence) or isinstance(trains, str):
        raise TTTypeError(f"trains is a {type(trains).__name__}; expected a list of TensorTrains.")
    if not trains:
        raise TTShapeError("trains is empty; expected at least one train.")
    for k, train in enumerate(trains):
        expect_train(train, f"trains[{k}]")
    _check_devices(trains)
    return list(trains)


def _check_devices(values: Sequence[CoreChain]) -> None:
    for value in values:
        if value.device != values[0].device:
            raise TTValueError(f"the operands are on {values[0].device} and {value.device}; move them to one device.")
