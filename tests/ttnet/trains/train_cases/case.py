"""What the tests of every kind of train are written with."""

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from tests.ttnet.strategies import dense, draw_train, precision, wide
from ttnet import TensorTrain, TTMatrix

Value = TensorTrain | TTMatrix


def is_single(dtype):
    return dtype in (torch.float32, torch.complex64)


def as_train(value: Value) -> TensorTrain:
    return value.to_train() if isinstance(value, TTMatrix) else value


def log_norm_by_definition(value: Value) -> float:
    """The logarithm of the norm from the Gram matrices of the cores, in double precision with the scale apart."""
    gram, log = torch.ones(1, 1, dtype=torch.complex128), 0.0
    for core in as_train(value).cores:
        core = wide(core).to(torch.complex128).reshape(core.shape[0], -1, core.shape[-1])
        size = core.abs().max() or 1
        core = core / size
        gram = torch.einsum("rs,rnp,snq->pq", gram, core.conj(), core)
        log += 2 * math.log(size)
        if not gram.abs().max():
            return -math.inf
        log += math.log(gram.abs().max())
        gram = gram / gram.abs().max()
    return log / 2


def log_error(actual: Value, expected: Value) -> float:
    """The logarithm of the relative error, where nothing dense can be formed, in double precision."""
    double = torch.complex128 if actual.dtype.is_complex or expected.dtype.is_complex else torch.float64
    actual, expected = actual.to(double), expected.to(double)
    return float((actual - expected).log_norm() - expected.log_norm())


def snapshot(value: Value) -> list[tuple[Tensor, int]]:
    return [(core.clone(), core._version) for core in value.cores]


def unchanged(value: Value, before: list[tuple[Tensor, int]]) -> bool:
    """Whether no core was written to, not even the same numbers."""
    pairs = zip(value.cores, before, strict=True)
    return all(torch.equal(core, copied) and core._version == version for core, (copied, version) in pairs)


class TrainCase:
    """A kind of train, and what its tests are written with."""

    # Capabilities that this kind has not got, and why: "dense", a dense form that fits; "nonzero"; "range", a norm that
    # is a number of the dtype; "gradcheck", entries that finite differences of 1e-6 suit; "full rank" of unfoldings;
    # "every method", time to try each way of rounding.
    lacks: ClassVar[dict[str, str]] = {}
    error_bounds: ClassVar[tuple[float, ...]] = (0.5, 0.1, 1e-3, 1e-9)

    def create(self, seed: int = 0) -> Value:
        raise NotImplementedError

    def dense(self, seed: int = 0) -> Tensor:
        """The same tensor, by other means; by default the product of the cores' matrices."""
        return dense(self.create(seed))

    def needs(self, *capabilities: str) -> None:
        for capability in capabilities:
            if capability in self.lacks:
                pytest.skip(self.lacks[capability])

    def operands(self) -> tuple[Value, Value, Tensor, Tensor]:
        self.needs("dense")
        return self.create(0), self.create(1), wide(self.dense(0)), wide(self.dense(1))

    def to_round(self, method: str) -> Value:
        if method != "auto":
            self.needs("every method")
        return self.create()

    def partner(self, x: Value, dtype: torch.dtype | None = None, extra: tuple[int, ...] = (), rank: int = 2) -> Value:
        """A plain random value of the modes of another one, and some more."""
        train = as_train(x)
        shape = (*train.shape, *(size * size if isinstance(x, TTMatrix) else size for size in extra))
        other = draw_train(shape, [rank] * max(0, len(shape) - 1), dtype or x.dtype, 7)
        if isinstance(x, TTMatrix):
            return TTMatrix.from_train(other, (*x.row_shape, *extra), (*x.col_shape, *extra))
        return other

    def tolerance(self, *values: Value) -> float:
        """A bound on the relative rounding error of one operation."""
        order = max(len(value.cores) for value in values)
        return max(precision(value.dtype) for value in values) * max(1.0, order / 5)

    def check(self, actual: Value | Tensor, expected: Tensor, *operands: Value, size: float | None = None) -> None:
        """Compare a result with the dense one; `size` is the norm that the error is relative to."""
        assert tuple(actual.shape) == tuple(expected.shape)
        actual = wide(actual) if isinstance(actual, Tensor) else dense(actual)
        error = float(torch.linalg.vector_norm(actual - wide(expected)))
        size = float(torch.linalg.vector_norm(wide(expected))) if size is None else float(size)
        assert error <= self.tolerance(*operands) * size

    def scales(self, x: Value) -> list[float]:
        return [1e-25, 1e25] if is_single(x.dtype) else [1e-170, 1e170]
