"""Random trains and tensors for property-based tests, and the dense oracle they are compared with."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from ttnet import TensorTrain, TTMatrix

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]

dtypes = st.sampled_from(DTYPES)
shapes = st.lists(st.integers(1, 4), min_size=0, max_size=6).map(tuple)
seeds = st.integers(0, 2**31 - 1)


def wide(x: Tensor) -> Tensor:
    """The same numbers, in double precision."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def dense(value: TensorTrain | TTMatrix) -> Tensor:
    """The dense tensor by definition: a chain of matrix products in double precision."""
    if isinstance(value, TTMatrix):
        train = TensorTrain([core.flatten(1, 2) for core in value.cores])
        pairs = [size for core in value.cores for size in core.shape[1:3]]
        order = len(value.cores)
        return (
            dense(train).reshape(pairs).permute([*range(0, 2 * order, 2), *range(1, 2 * order, 2)]).reshape(value.shape)
        )
    result = torch.ones(1, 1, dtype=wide(value.cores[0]).dtype)
    for core in value.cores:
        result = (result @ wide(core).flatten(1)).reshape(-1, core.shape[-1])
    return result.reshape(value.shape)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Frobenius norm of the difference, relative to that of `expected` (absolute if that is zero)."""
    actual, expected = wide(actual), wide(expected)
    assert actual.shape == expected.shape
    return float((actual - expected).norm() / (expected.norm() or 1))


def same(a: TensorTrain | TTMatrix, b: TensorTrain | TTMatrix) -> bool:
    """Whether two values agree bit for bit."""
    return (
        type(a) is type(b)
        and a.dtype == b.dtype
        and all(torch.equal(x, y) for x, y in zip(a.cores, b.cores, strict=True))
    )


def precision(dtype: torch.dtype) -> float:
    """A bound on the relative rounding error of any one operation on the small trains of these tests."""
    return 200 * torch.finfo(dtype).eps


def draw_tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def draw_train(shape: tuple[int, ...], ranks: list[int], dtype: torch.dtype, seed: int) -> TensorTrain:
    generator = torch.Generator().manual_seed(seed)
    outer = [1, *ranks, 1]
    sizes = [(outer[k], size, outer[k + 1]) for k, size in enumerate(shape)] or [(1, 1)]
    return TensorTrain(torch.randn(size, dtype=dtype, generator=generator) for size in sizes)


def draw_indices(shape: tuple[int, ...], count: int, seed: int = 123) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (count,), generator=generator) for size in shape], dim=1)


@st.composite
def trains(draw, shape=None, dtype=None):
    shape = draw(shapes) if shape is None else shape
    ranks = [draw(st.integers(1, 4)) for _ in shape[1:]]
    return draw_train(shape, ranks, draw(dtypes) if dtype is None else dtype, draw(seeds))


@st.composite
def train_pairs(draw):
    first = draw(trains())
    return first, draw(trains(shape=first.shape))


@st.composite
def tt_matrices(draw, rows=None, cols=None, dtype=None):
    modes = st.integers(1, 3)
    rows = tuple(draw(st.lists(modes, min_size=1, max_size=4))) if rows is None else rows
    cols = tuple(draw(modes) for _ in rows) if cols is None else cols
    train = draw(trains(shape=tuple(m * n for m, n in zip(rows, cols, strict=True)), dtype=dtype))
    return TTMatrix(core.unflatten(1, (m, n)) for core, m, n in zip(train.cores, rows, cols, strict=True))
