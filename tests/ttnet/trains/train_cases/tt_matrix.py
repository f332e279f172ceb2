"""The tests of TT-matrices alone."""

import math

import pytest
import torch
from torch import Tensor

import ttnet
from tests.ttnet.strategies import DTYPES, dense, draw_tensor, draw_train, same, wide
from tests.ttnet.trains.train_cases.algebra import AlgebraTests
from tests.ttnet.trains.train_cases.rounding import RoundingTests
from tests.ttnet.trains.train_cases.scales import ScaleTests
from tests.ttnet.trains.train_cases.values import ValueTests
from ttnet import TensorTrain, TTMatrix
from ttnet.errors import TTShapeError, TTValueError


class TTMatrixTestCase(AlgebraTests, ScaleTests, RoundingTests, ValueTests):
    """The tests of TT-matrices alone: what a linear operator does."""

    def operations(self, x):
        more = [
            ("transpose", lambda x, y: x.T),
            ("vector", lambda x, y: x @ torch.linspace(0, 1, x.shape[1], dtype=x.dtype)),
            ("operator", lambda x, y: x @ y.H),
            ("train", lambda x, y: x @ ttnet.ones(x.col_shape, dtype=x.dtype)),
            ("kron", lambda x, y: ttnet.kron(x, y)),
            ("to_train", lambda x, y: x.to_train()),
        ]
        if x.row_shape == x.col_shape:
            more += [("trace", lambda x, y: x.trace()), ("diag", lambda x, y: ttnet.diag(x))]
        return super().operations(x) + more

    def test_shapes(self):
        x = self.create()
        assert x.shape == (math.prod(x.row_shape), math.prod(x.col_shape))
        assert x.T.shape == x.shape[::-1]
        assert (x.T.row_shape, x.T.col_shape) == (x.col_shape, x.row_shape)

    def test_transposes(self):
        x, _, a, _ = self.operands()
        self.check(x.T, a.mT, x)
        self.check(x.H, a.mH, x)
        assert same(x.T.T, x)

    def test_products_with_tensors(self):
        x, _, a, _ = self.operands()
        rows, cols = x.shape
        for shape in [(cols,), (cols, 1), (cols, 3), (2, cols, 3), (2, 1, cols, 2)]:
            v = draw_tensor(shape, x.dtype, 3)
            size = torch.linalg.matrix_norm(a) * torch.linalg.vector_norm(v)
            assert (x @ v).dtype == x.dtype
            self.check(x @ v, a @ wide(v), x, size=size)
        for shape in [(rows,), (1, rows), (3, rows), (2, 3, rows)]:
            v = draw_tensor(shape, x.dtype, 3)
            self.check(v @ x, wide(v) @ a, x, size=torch.linalg.matrix_norm(a) * torch.linalg.vector_norm(v))

    def test_products_with_trains_and_operators(self):
        x, y, a, b = self.operands()
        v = draw_train(x.col_shape, [2] * (len(x.col_shape) - 1), x.dtype, 3)
        u = draw_train(x.row_shape, [2] * (len(x.row_shape) - 1), x.dtype, 4)
        size = torch.linalg.matrix_norm(a)
        self.check(as_vector(x @ v), a @ dense(v).flatten(), x, size=size * dense(v).norm())
        self.check(as_vector(u @ x), dense(u).flatten() @ a, x, size=size * dense(u).norm())
        self.check(x @ y.T, a @ b.mT, x, size=size * torch.linalg.matrix_norm(b))
        self.check(x.H @ y, a.mH @ b, x, size=size * torch.linalg.matrix_norm(b))
        assert (x @ v).ranks == tuple(r * s for r, s in zip(x.ranks, v.ranks, strict=True))
        first, second = complex(u.dot(x @ v)), complex((x.H @ u).dot(v))
        assert abs(first - second) <= 4 * self.tolerance(x) * float(u.norm() * x.norm() * v.norm())

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_dtypes_promote_in_products(self, dtype):
        x, _, a, _ = self.operands()
        v = draw_train(x.col_shape, [2] * (len(x.col_shape) - 1), dtype, 3)
        promoted = torch.promote_types(x.dtype, dtype)
        size = torch.linalg.matrix_norm(a) * dense(v).norm()
        a, b = a.to(torch.complex128), dense(v).flatten().to(torch.complex128)
        vector = v.full().flatten()
        assert (x @ v).dtype == (x @ vector).dtype == (x @ self.partner(x, dtype).T).dtype == promoted
        self.check(x @ vector, a @ b, x, v, size=size)
        self.check((x @ v).full().flatten(), a @ b, x, v, size=size)

    def test_products_scale_with_the_operands(self):
        x, _, a, _ = self.operands()
        v = draw_train(x.col_shape, [2] * (len(x.col_shape) - 1), x.dtype, 3)
        for s in self.scales(x):
            size = torch.linalg.matrix_norm(a) * dense(v).norm()
            self.check((x * s) @ v.full().flatten() / s, a @ dense(v).flatten(), x, size=size)
            self.check((x * s) @ (v.full().flatten() / s), a @ dense(v).flatten(), x, size=size)
            self.check(as_vector((x * s) @ (v / s)), a @ dense(v).flatten(), x, size=size)

    def test_diagonal_and_trace(self):
        x, _, a, _ = self.operands()
        if x.row_shape != x.col_shape:
            with pytest.raises(TTShapeError, match="expected the same sizes"):
                ttnet.diag(x)
            with pytest.raises(TTShapeError, match="expected the same sizes"):
                x.trace()
            return
        size = torch.linalg.matrix_norm(a)
        self.check(as_vector(ttnet.diag(x)), a.diagonal(), x, size=size)
        self.check(x.trace(), a.trace(), x, size=size * x.shape[0] ** 0.5)

    def test_kronecker_products(self):
        x, y, a, b = self.operands()
        self.check(
            ttnet.kron(x, y), torch.kron(a, b), x, y, size=torch.linalg.matrix_norm(a) * torch.linalg.matrix_norm(b)
        )

    def test_way_to_a_train_and_back(self):
        x = self.create()
        assert same(TTMatrix.from_train(x.to_train(), x.row_shape, x.col_shape), x)

    def test_decomposition_of_its_dense_form(self):
        x, _, a, _ = self.operands()
        y = TTMatrix.from_dense(self.dense().to(x.dtype), x.row_shape, x.col_shape, eps=1e-3)
        assert (y.row_shape, y.col_shape) == (x.row_shape, x.col_shape)
        assert float((dense(y) - a).norm()) <= (1e-3 + self.tolerance(x)) * float(a.norm())

    def test_operands_that_do_not_fit_are_refused(self):
        x = self.create()
        cols = x.shape[1]
        for shape in [(), (cols + 1,), (cols + 1, 2), (2, cols + 1, 2)]:
            with pytest.raises(TTShapeError, match="cannot multiply a tensor of shape"):
                x @ torch.ones(shape, dtype=x.dtype)
        with pytest.raises(TTShapeError, match="they must be equal"):
            x @ self.partner(x, extra=(2,))
        with pytest.raises(TTShapeError, match="they must be equal"):
            x @ ttnet.ones((*x.col_shape, 2))
        with pytest.raises(TTValueError, match="move them to one device"):
            x @ torch.ones(cols, device="meta")
        with pytest.raises(TypeError):
            x @ 2


def as_vector(train: TensorTrain) -> Tensor:
    """The dense form of a train, its modes merged as those of a TT-matrix's rows."""
    return dense(train).flatten()
