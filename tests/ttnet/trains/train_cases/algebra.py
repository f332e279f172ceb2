"""What a train is, and the algebra of trains of one shape."""

import math
import operator

import pytest
import torch

from tests.ttnet.strategies import DTYPES, dense, same, wide
from tests.ttnet.trains.train_cases.case import TrainCase, as_train, log_norm_by_definition
from ttnet.errors import TTValueError
from ttnet.trains.fidelity import relative_error


class AlgebraTests(TrainCase):
    """What needs nothing but the algebra of tensors of one shape."""

    def test_it_describes_itself(self):
        x = self.create()
        train = as_train(x)
        assert train.ndim == len(train.shape) == len(train.ranks) - 1
        assert x.ranks[0] == x.ranks[-1] == 1
        assert x.ranks[1:-1] == tuple(core.shape[-1] for core in x.cores[:-1])
        assert isinstance(x.cores, tuple)
        assert all(core.dtype == x.dtype and core.device == x.device for core in x.cores)
        assert x.num_parameters == sum(core.numel() for core in x.cores)
        assert x.numel == math.prod(x.shape)
        assert isinstance(x.numel, int)
        assert type(x.numel()) is int

    def test_repr_is_one_short_line(self):
        x = self.create()
        text = repr(x)
        assert text.startswith(f"{type(x).__name__}(")
        assert "\n" not in text
        assert len(text) <= 120
        assert str(x.dtype).removeprefix("torch.") in text

    def test_full(self):
        x, _, a, _ = self.operands()
        assert x.full().dtype == x.dtype
        self.check(x.full(), a, x)
        self.check(x, a, x)  # the cores mean the same as the other form

    def test_full_of_more_than_memory_holds_is_refused(self):
        if "dense" not in self.lacks:
            pytest.skip("its dense form fits")
        with pytest.raises(TTValueError, match="entries, more than this machine's memory"):
            self.create().full()

    # --- algebra ----------------------------------------------------------------------------------

    def test_sums_and_differences(self):
        x, y, a, b = self.operands()
        size = torch.linalg.vector_norm(a) + torch.linalg.vector_norm(b)
        self.check(x + y, a + b, x, y, size=size)
        self.check(x - y, a - b, x, y, size=size)
        self.check(sum([x, y, x]), 2 * a + b, x, y, size=2 * size)
        assert (x + y).dtype == (x - y).dtype == torch.promote_types(x.dtype, y.dtype)
        assert (x + y).ranks[1:-1] == tuple(r + s for r, s in zip(x.ranks[1:-1], y.ranks[1:-1], strict=True))

    def test_signs(self):
        x = self.create()
        assert same(+x, x)
        assert same(operator.neg(-x), x)
        assert float((x + -x).log_norm()) <= float(x.log_norm()) + math.log(self.tolerance(x))

    def test_what_is_subtracted_from_itself_leaves_only_rounding_errors(self):
        self.needs("nonzero")
        x, y = self.create(), self.partner(self.create())
        left = (x + y) - y - x
        size = max(float(x.log_norm()), float(y.log_norm()))
        assert float(left.log_norm()) <= size + math.log(4 * self.tolerance(x))

    @pytest.mark.parametrize("scalar", [3, -0.5, 2j, True, torch.tensor(2.0), torch.tensor(2.0 - 1j)], ids=str)
    def test_scalars(self, scalar):
        x, _, a, _ = self.operands()
        dtype = torch.result_type(x.cores[0], scalar)
        for actual, expected in [(x * scalar, a * scalar), (scalar * x, a * scalar), (x / scalar, a / scalar)]:
            assert type(actual) is type(x)
            assert actual.dtype == dtype
            self.check(actual, expected, x)
            assert actual.ranks == x.ranks

    def test_products_entry_by_entry(self):
        x, y, a, b = self.operands()
        product = x * y
        assert product.ranks == tuple(r * s for r, s in zip(x.ranks, y.ranks, strict=True))
        size = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
        self.check(product, a * b, x, y, size=size)

    def test_dot_is_linear_in_the_second_argument_and_conjugate_linear_in_the_first(self):
        x, y, a, b = self.operands()
        size = float(torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))
        dot = x.dot(y)
        assert dot.shape == ()
        assert dot.dtype == torch.promote_types(x.dtype, y.dtype)
        expected = complex((a.conj() * b).sum())
        assert abs(complex(dot) - expected) <= self.tolerance(x, y) * size
        factor = 2 - 3j if x.dtype.is_complex else -3.0
        first, second = complex((x * factor).dot(y)), complex(x.dot(y * factor))
        assert abs(first - complex(factor).conjugate() * expected) <= 4 * self.tolerance(x, y) * size
        assert abs(second - factor * expected) <= 4 * self.tolerance(x, y) * size
        assert abs(complex(y.dot(x)) - expected.conjugate()) <= self.tolerance(x, y) * size

    def test_norm(self):
        x, _, a, _ = self.operands()
        expected = float(torch.linalg.vector_norm(a))
        assert x.norm().shape == ()
        assert x.norm().dtype == x.dtype.to_real()
        assert float(x.norm()) == pytest.approx(expected, rel=self.tolerance(x), abs=0)
        assert float(x.dot(x).real) == pytest.approx(expected**2, rel=self.tolerance(x), abs=0)
        assert complex(x.dot(x)).imag == pytest.approx(0, abs=self.tolerance(x) * expected**2)

    def test_log_norm(self):
        x = self.create()
        expected = log_norm_by_definition(x)
        assert x.log_norm().dtype == x.dtype.to_real()
        assert float(x.log_norm()) == pytest.approx(expected, abs=self.tolerance(x) + 1e-7, rel=self.tolerance(x))

    def test_dot_in_scaled_form(self):
        x, y = self.create(0), self.create(1)
        for a, b in [(x, x), (x, -x), (x, y), (x * 2j, x)]:
            sign, size = a.slogdot(b)
            assert sign.shape == size.shape == ()
            assert sign.dtype == torch.promote_types(a.dtype, b.dtype)
            assert size.dtype == sign.dtype.to_real()
            if "dense" not in self.lacks:
                dot = complex((wide(dense(a)).conj() * wide(dense(b))).sum())
                slack = self.tolerance(x) * float((a.log_norm() + b.log_norm()).exp())
                assert abs(complex(sign) * math.exp(float(size)) - dot) <= 4 * slack
        # Of itself it is the squared norm, whether that is a number of the dtype or not.
        sign, size = x.slogdot(x)
        expected = 2 * log_norm_by_definition(x)
        assert complex(sign) == pytest.approx(0 if expected == -math.inf else 1, abs=self.tolerance(x))
        assert float(size) == pytest.approx(expected, abs=4 * self.tolerance(x) + 1e-7, rel=self.tolerance(x))

    def test_conjugate(self):
        x, _, a, _ = self.operands()
        self.check(x.conj(), a.conj(), x)
        assert same(x.conj().conj(), x)

    def test_relative_error(self):
        x, y, a, b = self.operands()
        self.needs("nonzero")
        expected = float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(a))
        assert relative_error(x, y) == pytest.approx(expected, rel=1e-9, abs=self.tolerance(x, y))
        assert relative_error(self.dense(0), y) == pytest.approx(expected, rel=1e-9, abs=self.tolerance(x, y))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_dtypes_promote_as_those_of_tensors(self, dtype):
        x, _, a, _ = self.operands()
        y = self.partner(x, dtype)
        b = dense(y)
        promoted = torch.promote_types(x.dtype, dtype)
        size = torch.linalg.vector_norm(a) + torch.linalg.vector_norm(b)
        for actual, expected in [(x + y, a + b), (y + x, a + b), (x - y, a - b)]:
            assert actual.dtype == promoted
            self.check(actual, expected, x, y, size=size)
        assert (x * y).dtype == x.dot(y).dtype == promoted
        self.check(x * y, a * b, x, y, size=torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))
