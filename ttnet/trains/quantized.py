"""Quantised trains (QTT): long modes split into many of size 2 or of other small factors, and back.

A function on a fine grid, such as an exponential, a sine or a polynomial, often has small ranks then, and its number of
parameters grows with the logarithm of the grid's size. Source: Khoromskij 2011, "O(d log N)-quantics approximation of
N-d tensors in high-dimensional numerical modeling"; Oseledets 2010, "Approximation of 2^d x 2^d matrices using tensor
decomposition".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.trains.chain import check_shape, shorten
from ttnet.trains.reshaping import reshape
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

Factors = Sequence[Sequence[int]]


@overload
def quantize(
    tt: TensorTrain,
    base: int = 2,
    *,
    factors: Factors | None = None,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
) -> TensorTrain: ...
@overload
def quantize(
    tt: TTMatrix,
    base: int = 2,
    *,
    factors: tuple[Factors, Factors] | None = None,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
) -> TTMatrix: ...
def quantize(
    tt: TensorTrain | TTMatrix,
    base: int = 2,
    *,
    factors: Any = None,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
) -> TensorTrain | TTMatrix:
    """Split every mode into modes of size `base`, or into given factors, `||tt - result|| <= eps ||tt||`.

    The index of a mode becomes its digits, the last one fastest, so that the result has the entries of `tt` in their
    order. A mode of size 1 stays. In a TT-matrix, the digits of a row mode and of its column mode go into the same
    cores; the one with fewer digits gets modes of size 1 in front.

    Args:
        tt: A train or a TT-matrix.
        base: What every mode's size is a power of, at least 2.
        factors: Instead of `base`, the factors of every mode's size, one sequence per mode; of a TT-matrix a pair, the
            factors of the row modes and those of the column modes.
        eps: Bound on the relative Frobenius error; see `ttnet.reshape`.
        max_rank: Bound on the ranks, an int or one int per inner bond of the result; it goes before `eps`.

    Returns:
        A value of the same kind, dtype and device, with more and smaller modes. `dequantize` is the way back.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If a mode's size is not a power of `base`, or not the product of its factors.
        TTValueError: If an argument is out of range, or a core has entries that are NaN or infinite.

    Example:
        >>> import torch, ttnet
        >>> x = ttnet.tt_svd(torch.linspace(0, 1, 1024, dtype=torch.float64).exp())
        >>> max(quantize(x, eps=1e-10).ranks)  # exp(a + b) = exp(a) exp(b)
        1
        >>> quantize(ttnet.eye((6,)), factors=([(2, 3)], [(2, 3)]))
        TTMatrix([2x2]-1-[3x3], float32)
    """
    if isinstance(base, bool) or not isinstance(base, int):
        raise TTTypeError(f"base is {base!r}; expected an int >= 2.")
    if base < 2:
        raise TTValueError(f"base is {base}; expected an int >= 2.")
    if isinstance(tt, TensorTrain):
        digits = _take_apart(tt.shape, base, factors, "mode")
        return reshape(tt, [size for mode in digits for size in mode], eps=eps, max_rank=max_rank)
    if not isinstance(tt, TTMatrix):
        raise TTTypeError(f"tt is a {type(tt).__name__}; expected a TensorTrain or a TTMatrix.")
    if factors is not None and (not isinstance(factors, Sequence) or len(factors) != 2):
        raise TTTypeError(
            f"factors is {factors!r}; expected a pair for a TT-matrix: the factors of its row modes and of its column "
            f"modes."
        )
    rows = _take_apart(tt.row_shape, base, None if factors is None else factors[0], "row mode")
    cols = _take_apart(tt.col_shape, base, None if factors is None else factors[1], "column mode")
    cores = []
    pairs: list[tuple[int, int]] = []
    for core, row, col in zip(tt.cores, rows, cols, strict=True):
        count = max(len(row), len(col))
        row, col = (1,) * (count - len(row)) + row, (1,) * (count - len(col)) + col
        apart = core.reshape(core.shape[0], *row, *col, core.shape[3])  # (r, m_1, m_2, ..., n_1, n_2, ..., r')
        beside = [axis for k in range(1, count + 1) for axis in (k, count + k)]
        cores.append(apart.permute(0, *beside, -1).reshape(core.shape[0], -1, core.shape[3]))
        pairs += zip(row, col, strict=True)
    train = reshape(TensorTrain(cores), [m * n for m, n in pairs], eps=eps, max_rank=max_rank)
    return TTMatrix.from_train(train, [m for m, _ in pairs], [n for _, n in pairs])


def _take_apart(shape: Sequence[int], base: int, factors: Any, name: str) -> list[tuple[int, ...]]:
    """Give the factors of every mode."""
    if factors is None:
        return [_digits(size, base, f"{name} {k}") for k, size in enumerate(shape)]
    if isinstance(factors, str) or not isinstance(factors, Sequence):
        raise TTTypeError(f"factors is {factors!r}; expected one sequence of ints per {name}.")
    if len(factors) != len(shape):
        raise TTShapeError(f"factors has {len(factors)} entries; expected {len(shape)}, one per {name}.")
    taken = [check_shape(mode, f"factors[{k}]") for k, mode in enumerate(factors)]
    for k, (mode, size) in enumerate(zip(taken, shape, strict=True)):
        if math.prod(mode) != size:
            raise TTShapeError(f"factors[{k}] is {mode}, but {name} {k} has size {size}; expected it as their product.")
    return [mode or (1,) for mode in taken]


def _digits(size: int, base: int, name: str) -> tuple[int, ...]:
    count, power = 0, 1
    while power < size:
        count, power = count + 1, power * base
    if power != size:
        raise TTShapeError(
            f"{name} has size {size}, which is no power of {base}; give its factors, or make it {power} entries long "
            f"with ttnet.pad, or {power // base} by indexing."
        )
    return (base,) * count if count else (1,)


@overload
def dequantize(qtt: TensorTrain, shape: Sequence[int]) -> TensorTrain: ...
@overload
def dequantize(qtt: TTMatrix, shape: tuple[Sequence[int], Sequence[int]]) -> TTMatrix: ...
def dequantize(qtt: TensorTrain | TTMatrix, shape: Any) -> TensorTrain | TTMatrix:
    """Merge neighbouring modes to longer ones: exact, and the inverse of `quantize`.

    Args:
        qtt: A train or a TT-matrix.
        shape: The mode sizes of the result, each the product of those of neighbours in `qtt`; of a TT-matrix a pair,
            the row modes and the column modes.

    Returns:
        A value of the same kind, dtype and device, with fewer and longer modes.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If modes of `qtt` do not multiply to `shape`.
        TTValueError: If a merged core would be more than this machine's memory holds.

    Example:
        >>> import ttnet
        >>> dequantize(ttnet.arange((2,) * 5), (8, 4))
        TensorTrain([8]-2-[4], float32)
    """
    if isinstance(qtt, TensorTrain):
        sizes = check_shape(shape, "shape")
        _group([(size,) for size in qtt.shape], [(size,) for size in sizes])
        return reshape(qtt, sizes)
    if not isinstance(qtt, TTMatrix):
        raise TTTypeError(f"qtt is a {type(qtt).__name__}; expected a TensorTrain or a TTMatrix.")
    if not isinstance(shape, Sequence) or len(shape) != 2:
        raise TTTypeError(f"shape is {shape!r}; expected a pair for a TT-matrix, (row_shape, col_shape).")
    rows, cols = check_shape(shape[0], "shape[0]"), check_shape(shape[1], "shape[1]")
    if len(rows) != len(cols):
        raise TTShapeError(f"shape has {len(rows)} row modes and {len(cols)} column modes; expected as many.")
    pairs = list(zip(rows, cols, strict=True))
    groups = _group(list(zip(qtt.row_shape, qtt.col_shape, strict=True)), pairs)
    train = reshape(qtt.to_train(), [m * n for m, n in pairs])
    cores = []
    for core, group, (m, n) in zip(train.cores, groups, pairs, strict=True):
        digits = core.reshape(core.shape[0], *(size for pair in group for size in pair), core.shape[2])
        apart = [*range(1, 2 * len(group), 2), *range(2, 2 * len(group) + 1, 2)]  # m_1, m_2, ..., n_1, n_2, ...
        cores.append(digits.permute(0, *apart, -1).reshape(core.shape[0], m, n, core.shape[2]))
    return TTMatrix(cores)


def _group(sizes: Sequence[tuple[int, ...]], wanted: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Take as many neighbours as multiply up to each wanted mode."""
    groups: list[list[tuple[int, ...]]] = []
    at = 0
    for target in wanted:
        group: list[tuple[int, ...]] = []
        while at < len(sizes) and (not group or _product(group) != target):
            group.append(sizes[at])
            at += 1
        groups.append(group)
    rest = sizes[at:]
    if groups and all(math.prod(size) == 1 for size in rest):
        groups[-1] += rest
        rest = []
    if rest or any(not group or _product(group) != target for group, target in zip(groups, wanted, strict=True)):
        raise TTShapeError(
            f"the modes {_spell(sizes)} do not merge to {_spell(wanted)}; expected products of neighbours, or use "
            f"ttnet.reshape."
        )
    return groups


def _product(group: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(math.prod(sizes) for sizes in zip(*group, strict=True))


def _spell(modes: Sequence[tuple[int, ...]]) -> str:
    return shorten(["x".join(map(str, mode)) for mode in modes]).replace("'", "")
