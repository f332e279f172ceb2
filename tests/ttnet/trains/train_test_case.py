"""What must hold of every train: a test case that a new kind of train inherits.

A kind brings two functions of a few lines, `create(seed)` and `dense(seed)`, and gets all tests:

    class TestMine(TensorTrainTestCase):
        def create(self, seed=0):
            return my_train(seed)

        def dense(self, seed=0):
            return the_same_as_a_tensor(seed)

What a kind cannot take part in, it says in `lacks`, with the reason that its skipped tests show.
"""

import copy
import math
import operator
import pickle
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import DTYPES, dense, draw_tensor, draw_train, precision, same, wide
from ttnet import TensorTrain, TTMatrix
from ttnet.errors import TTIndexError, TTShapeError, TTTypeError, TTValueError
from ttnet.rounding.methods import METHODS
from ttnet.trains.fidelity import relative_error

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


class TrainTestCase:
    """The tests that need nothing but the algebra of tensors of one shape."""

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

    # --- what the tests are written with ----------------------------------------------------------

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

    # --- what a value is --------------------------------------------------------------------------

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
        assert type(x.numel) is int

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

    # --- any scale --------------------------------------------------------------------------------

    def test_results_scale_with_the_operands(self):
        self.needs("nonzero")
        x, y = self.create(), self.partner(self.create())
        slack = 4 * self.tolerance(x)
        for s in self.scales(x):
            big, both = x * s, y * s
            assert float(big.log_norm() - x.log_norm()) == pytest.approx(math.log(s), rel=slack)
            assert log_error((big + both) / s, x + y) <= math.log(slack)
            assert log_error(big * (y / s), x * y) <= math.log(slack)

    def test_dense_results_scale_with_the_operands(self):
        x, y, a, _ = self.operands()
        size = float(torch.linalg.vector_norm(a))
        for s in self.scales(x):
            assert torch.linalg.vector_norm(wide((x * s).full()) / s - a) <= self.tolerance(x) * size
            assert float((x * s).norm()) / s == pytest.approx(size, rel=self.tolerance(x))
            dot, scaled = complex(x.dot(y)), complex((x * s).dot(y / s))
            assert abs(scaled - dot) <= 4 * self.tolerance(x) * float(x.norm() * y.norm())

    def test_cores_may_differ_in_scale_where_the_tensors_do_not(self):
        x = self.partner(self.create())
        big = 1e25 if is_single(x.dtype) else 1e170
        scales = [big if k % 2 else 1 / big for k in range(len(x.cores))]
        if len(x.cores) % 2:
            scales[0] = 1.0
        up, down = (type(x)([core * s**sign for core, s in zip(x.cores, scales, strict=True)]) for sign in (1, -1))
        slack = self.tolerance(x)
        for total in (up + down, down + x, up * 0.5 + 1.5 * down):
            assert float(total.log_norm() - x.log_norm()) == pytest.approx(math.log(2), abs=slack * len(x.cores))
        if "dense" not in self.lacks:
            self.check((up + down).full(), 2 * dense(x), x)
            self.check((up - down + x).full(), dense(x), x)
            for method in METHODS:
                self.check((up + down).round(method=method).full(), 2 * dense(x), x)

    def test_indices_of_a_bond_may_differ_in_scale_where_the_tensors_do_not(self):
        x = self.partner(self.create(), rank=3)
        # Entries as large and as small as the dtype has, so that no square of them is one.
        reach = math.log2(torch.finfo(x.dtype).max) * 0.4 if x.dtype != torch.float16 else 3
        powers = [
            torch.linspace(-1, 1, rank, dtype=torch.float64).mul(reach * (-1) ** k).round()
            for k, rank in enumerate(x.ranks)
        ]
        powers[0] = powers[-1] = torch.zeros(1, dtype=torch.float64)
        cores = []
        for k, core in enumerate(x.cores):
            middle = [1] * (core.ndim - 2)
            gauge = powers[k + 1].reshape(1, *middle, -1) - powers[k].reshape(-1, *middle, 1) if core.ndim > 2 else 0
            cores.append((core.to(torch.promote_types(x.dtype, torch.float64)) * 2.0**gauge).to(x.dtype))
        wild = type(x)(cores)
        slack = self.tolerance(x)
        assert log_error(wild, x) <= math.log(slack)
        assert float(wild.log_norm()) == pytest.approx(float(x.log_norm()), abs=slack * len(cores), rel=slack)
        for actual, expected in [(wild + x, 2 * x), (wild - 3 * wild, -2 * x), (wild * wild, x * x)]:
            assert log_error(actual, expected) <= math.log(4 * slack)
        for method in METHODS:
            assert log_error(wild.round(eps=1e-2, method=method), x) <= math.log(1e-2 + 4 * slack)
        if "dense" not in self.lacks:
            a = dense(x)
            self.check(wild.full(), a, x)
            assert abs(complex(wild.dot(x)) - float(a.abs().square().sum())) <= slack * float(a.abs().square().sum())

    def test_small_differences_do_not_cancel(self):
        self.needs("nonzero")
        x = self.create()
        small = 1e-3 if is_single(x.dtype) else 1e-10
        difference = (x - (1 + small) * x).log_norm() - x.log_norm()
        noise = self.tolerance(x) / 10 / small
        assert math.exp(float(difference)) == pytest.approx(small, rel=noise)

    def test_entries_that_are_no_numbers_are_not_hidden(self):
        for bad in (math.nan, math.inf):
            cores = [core.clone() for core in self.create().cores]
            middle = len(cores) // 2
            cores[middle][(0,) * cores[middle].ndim] = bad
            x = type(self.create())(cores)
            assert not math.isfinite(float(x.norm()))
            assert not math.isfinite(abs(complex(x.dot(x))))
            if "dense" not in self.lacks:
                assert not torch.isfinite(x.full()).all()
            for method in METHODS:
                with pytest.raises(TTValueError, match="NaN or infinite"):
                    x.round(method=method)

    # --- rounding ---------------------------------------------------------------------------------

    @pytest.mark.parametrize("method", METHODS)
    def test_rounding_keeps_its_error_bound(self, method):
        x = self.to_round(method)
        before = snapshot(x)
        for eps in self.error_bounds:
            y = x.round(eps=eps, method=method)
            self.check_rounded(x, y)
            if "dense" in self.lacks:
                assert log_error(y, x) <= math.log(eps)
            else:
                assert float((dense(y) - dense(x)).norm()) <= eps * float(dense(x).norm())
        assert unchanged(x, before)

    @pytest.mark.parametrize("method", METHODS)
    def test_rounding_without_a_bound_loses_only_rounding_errors(self, method):
        x = self.to_round(method)
        twice = x + x
        y, z = x.round(method=method), twice.round(method=method)
        self.check_rounded(x, y)
        assert z.ranks == y.ranks
        if "nonzero" in self.lacks:
            assert float(z.norm()) == float(y.norm()) == 0
        else:
            assert log_error(y, x) <= math.log(self.tolerance(x))
            assert log_error(z, 2 * x) <= math.log(self.tolerance(x))

    @pytest.mark.parametrize("method", METHODS)
    def test_rounding_with_a_bound_of_one_leaves_ranks_of_one(self, method):
        x = self.to_round(method)
        y = x.round(eps=1, method=method)
        self.check_rounded(x, y)
        assert set(y.ranks) == {1}
        if "nonzero" not in self.lacks:
            assert log_error(y, x) <= 1e-6

    @pytest.mark.parametrize("method", METHODS)
    def test_rounding_to_a_rank_is_nearly_the_best_there_is(self, method):
        x = self.to_round(method)
        for rank in (1, 2) if "dense" not in self.lacks else (1,):
            y = x.round(max_rank=rank, method=method)
            self.check_rounded(x, y)
            assert max(y.ranks) <= rank
            if "dense" not in self.lacks:
                tensor = dense(as_train(x))
                tails = [
                    torch.linalg.svdvals(tensor.reshape(math.prod(tensor.shape[:k]), -1))[rank:].square().sum()
                    for k in range(1, tensor.ndim)
                ]
                best = float(sum(tails, torch.zeros(()))) ** 0.5  # an upper bound: Oseledets 2011, Theorem 2.2
                error = float((dense(as_train(y)) - tensor).norm())
                slack = 4 if method == "randomized" else 1 + 1e-6
                assert error <= slack * best + self.tolerance(x) * float(tensor.norm())

    def check_rounded(self, x, y):
        assert type(y) is type(x)
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        assert y.device == x.device
        assert all(torch.isfinite(core).all() for core in y.cores)
        sizes = as_train(x).shape
        for k in range(1, len(sizes)):
            assert y.ranks[k] <= min(x.ranks[k], math.prod(sizes[:k]), math.prod(sizes[k:]))
        storages = {core.untyped_storage().data_ptr() for core in x.cores}
        assert not any(core.untyped_storage().data_ptr() in storages for core in y.cores)
        if "range" not in self.lacks:
            for core in y.cores[:-1]:
                matrix = core.reshape(-1, core.shape[-1])
                unit = torch.eye(core.shape[-1], dtype=core.dtype)
                assert torch.linalg.matrix_norm(matrix.mH @ matrix - unit) <= precision(x.dtype)

    def test_ways_to_write_a_bound(self):
        self.needs("dense")  # and at order 1000 it would take seconds
        x = self.create()
        assert same(x.round(eps=0), x.round())
        assert same(x.round(eps=math.inf), x.round(eps=1))
        bonds = max(0, len(as_train(x).shape) - 1)
        assert same(x.round(max_rank=[2] * bonds), x.round(max_rank=2))
        assert x.round().round().ranks == x.round().ranks

    def test_rounding_a_sum_unassembled(self):
        x, y = as_train(self.create(0)), as_train(self.create(1))
        z = ttnet.round_sum([x, y, x], coefficients=[1, -2, 0.5])
        expected = 1.5 * x - 2 * y
        size = max(float(x.log_norm()), float(y.log_norm()))
        assert float((z - expected).log_norm()) <= size + math.log(4 * self.tolerance(x, y))

    def test_rounding_refuses_what_makes_no_sense(self):
        x = self.create()
        order = len(as_train(x).shape)
        for options, error, message in [
            ({"eps": -1.0}, TTValueError, "eps is -1.0; expected a relative error >= 0"),
            ({"eps": math.nan}, TTValueError, "eps is nan"),
            ({"eps": "1e-3"}, TTTypeError, "eps is a str"),
            ({"max_rank": 0}, TTValueError, "max_rank holds 0"),
            ({"max_rank": 1.5}, TTTypeError, "max_rank is a float"),
            ({"max_rank": [1] * (order + 1)}, TTShapeError, f"max_rank has {order + 1} entries"),
            ({"method": "qr"}, TTValueError, "method is 'qr'"),
        ]:
            with pytest.raises(error, match=message):
                x.round(**options)

    # --- values -----------------------------------------------------------------------------------

    def test_values_are_immutable(self):
        x = self.create()
        for name in ("cores", "shape", "ranks", "dtype", "name"):
            with pytest.raises(AttributeError):
                setattr(x, name, None)

    def test_operations_leave_their_operands_as_they_were(self, tmp_path):
        x, y = self.create(0), self.create(1)
        before = [snapshot(x), snapshot(y)]
        for _, function in self.operations(x):
            function(x, y)
        x.save(tmp_path / "x.safetensors")
        assert unchanged(x, before[0])
        assert unchanged(y, before[1])

    def test_copies(self):
        x = self.create()
        for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x), copy.copy(x), x.clone(), x.detach(), x.to(x.dtype)):
            assert same(x, y)
            assert y.shape == x.shape
        for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x), x.clone()):
            for a, b in zip(x.cores, y.cores, strict=True):
                assert a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr()

    def test_gradients_flow_through_copies_but_not_through_detach(self):
        x = self.create()
        x = type(x)([core.detach().clone().requires_grad_() for core in x.cores])
        assert not any(core.requires_grad for core in x.detach().cores)
        for y in (x.clone(), x.to(torch.complex128), x.conj()):
            assert all(core.requires_grad for core in y.cores)

    def test_conversion(self):
        x = self.create()
        y = x.to(torch.complex128)
        assert y.dtype == torch.complex128
        assert log_norm_by_definition(y) == pytest.approx(log_norm_by_definition(x), abs=1e-9)
        assert x.to("cpu").device.type == "cpu"
        assert x.to("meta").shape == x.shape
        with pytest.raises(TTTypeError, match=r"dtype is torch\.int64; expected a floating or complex torch\.dtype"):
            type(x)([core.real for core in x.cores]).to(torch.int64)

    def test_files(self, tmp_path):
        x = self.create()
        path = tmp_path / "value.safetensors"
        x.save(path)
        assert same(ttnet.load(path), x)
        assert same(type(x).load(path), x)
        assert ttnet.load(path).shape == x.shape

    # --- gradients --------------------------------------------------------------------------------

    def operations(self, x: Value) -> list[tuple[str, Callable[[Value, Value], Value | Tensor]]]:
        """Operations on two values whose results gradients must flow through."""
        return [
            ("clone", lambda x, y: x.clone()),
            ("sum", lambda x, y: x + y),
            ("difference", lambda x, y: x - y),
            ("negative", lambda x, y: -x),
            ("scalar", lambda x, y: x * 0.7),
            ("quotient", lambda x, y: x / 0.7),
            ("product", lambda x, y: x * y),
            ("conj", lambda x, y: x.conj()),
            ("dot", lambda x, y: x.dot(y)),
            ("norm", lambda x, y: x.norm()),
        ]

    def results(self, function, cores, other):
        """Call an operation on a value of given cores, and give tensors that do not depend on the choice of cores."""
        result = function(type(other)(cores), other)
        return result.full() if isinstance(result, Value) else result

    def double(self, seed: int) -> Value:
        x = self.create(seed)
        return x.to(torch.complex128 if x.dtype.is_complex else torch.float64)

    def test_gradients(self):
        self.needs("dense", "gradcheck")
        x, y = self.double(0), self.double(1)
        cores = [core.detach().clone().requires_grad_() for core in x.cores]
        for name, function in self.operations(x):
            check = gradcheck(lambda *cores, f=function: self.results(f, cores, y), cores, fast_mode=True)
            assert check, name

    def test_gradients_of_rounding(self):
        self.needs("dense", "gradcheck", "full rank")
        x, y = self.double(0), self.double(1)
        cores = [core.detach().clone().requires_grad_() for core in x.cores]
        for method in METHODS:
            for options in ({"eps": 1e-12}, {"max_rank": 2}):

                def rounded(x, y, method=method, options=options):
                    return x.round(method=method, **options)

                assert gradcheck(lambda *cores, f=rounded: self.results(f, cores, y), cores, fast_mode=True)

    def test_gradients_are_finite(self):
        x = self.create()
        cores = [core.detach().clone().requires_grad_() for core in x.cores]
        y = type(x)(cores)
        losses = [lambda: y.norm(), lambda: (y - 0.5 * y).round(eps=1e-3).norm()]
        if "range" in self.lacks:
            losses = [lambda: y.log_norm(), lambda: y.round(eps=1e-3).log_norm()]
        for loss in losses:
            grads = torch.autograd.grad(loss(), cores, allow_unused=True, materialize_grads=True)
            assert all(torch.isfinite(grad).all() for grad in grads)

    # --- refusals ---------------------------------------------------------------------------------

    def test_operands_of_other_shapes_are_refused(self):
        x = self.create()
        other = self.partner(x, extra=(2,))
        for operation in (lambda: x + other, lambda: x - other, lambda: x * other, lambda: x.dot(other)):
            with pytest.raises(TTShapeError, match="expected the same"):
                operation()

    def test_operands_on_other_devices_are_refused(self):
        x = self.create()
        other = x.to("meta")
        for operation in (lambda: x + other, lambda: x - other, lambda: x * other, lambda: x.dot(other)):
            with pytest.raises(TTValueError, match="move them to one device"):
                operation()

    def test_operands_of_other_kinds_are_refused(self):
        x = self.create()
        stranger = ttnet.ones((2,)) if isinstance(x, TTMatrix) else ttnet.eye((2,))
        for other in ("1", None, [1], torch.ones(3), stranger):
            for operation in (lambda o: x + o, lambda o: x - o, lambda o: x * o, lambda o: x / o):
                with pytest.raises(TypeError):
                    operation(other)
        for other in (1.0, "1", None, [1], torch.ones(3), stranger):
            with pytest.raises(TypeError):
                x + other
            with pytest.raises(TTTypeError, match=f"other is a {type(other).__name__}; expected a {type(x).__name__}"):
                x.dot(other)
        with pytest.raises(TTValueError, match="cannot be divided by 0"):
            x / 0


class TensorTrainTestCase(TrainTestCase):
    """The tests of trains alone: of modes, entries and reductions."""

    def operations(self, x):
        first = (0,) if x.ndim else ()
        more = [
            ("indexing", lambda x, y: x[first]),
            ("slicing", lambda x, y: x[..., None]),
            ("total", lambda x, y: x.sum()),
            ("mean", lambda x, y: x.mean()),
            ("stack", lambda x, y: ttnet.stack([x, y])),
            ("kron", lambda x, y: ttnet.kron(x, y)) if x.ndim < 10 else ("outer", lambda x, y: ttnet.outer(x, y)),
        ]
        if x.ndim:
            more += [
                ("marginal", lambda x, y: x.sum(0)),
                ("cat", lambda x, y: ttnet.cat([x, y], -1)),
                ("pad", lambda x, y: ttnet.pad(x, [(1, 0)] * x.ndim)),
                ("diag", lambda x, y: ttnet.diag(x)),
                ("evaluate", lambda x, y: ttnet.evaluate(x, torch.zeros(2, x.ndim, dtype=torch.int64))),
            ]
        return super().operations(x) + more

    def test_entries(self):
        x, _, a, _ = self.operands()
        if not x.ndim:
            assert x[()].shape == x[...].shape == ()
            return
        size = float(a.abs().max())
        for seed in range(5):
            place = tuple(int(torch.randint(n, (), generator=torch.Generator().manual_seed(seed))) for n in x.shape)
            assert x[place].dtype == x.dtype
            assert abs(complex(x[place]) - complex(a[place])) <= self.tolerance(x) * size
            assert torch.equal(x[place], x[tuple(i - n for i, n in zip(place, x.shape, strict=True))])

    def test_the_first_entry_at_any_order(self):
        x = self.create()
        row, log = torch.ones(1, 1, dtype=torch.complex128), 0.0
        for core in x.cores:
            row = row @ (core[:, 0] if x.ndim else core).to(torch.complex128)
            size = float(row.abs().max()) or 1.0
            row, log = row / size, log + math.log(size)
        entries = [x[(0,) * x.ndim]]
        if x.ndim:
            entries.append(ttnet.evaluate(x, torch.zeros(1, x.ndim, dtype=torch.int64))[0])
        for entry in entries:
            assert entry.dtype == x.dtype
            if log < math.log(torch.finfo(x.dtype).max):
                scale = max(math.exp(log), float(dense(x).abs().max()) if "dense" not in self.lacks else 0.0)
                assert abs(complex(entry) - complex(row) * math.exp(log)) <= self.tolerance(x) * scale
            else:
                assert math.isinf(abs(complex(entry)))

    @pytest.mark.parametrize(
        "key",
        [
            0,
            -1,
            slice(None),
            slice(1, None),
            slice(None, None, -1),
            ...,
            None,
            (None, ...),
            (..., None),
            (..., 0),
            (..., slice(None, None, 2)),
            (0, ..., 0),
            (slice(None, 1), None, ..., -1),
        ],
        ids=str,
    )
    def test_indexing(self, key):
        x, _, a, _ = self.operands()
        keys = key if isinstance(key, tuple) else (key,)
        reversed_key = any(isinstance(k, slice) and (k.step or 1) < 0 for k in keys)
        if sum(k is not None and k is not ... for k in keys) > x.ndim:
            with pytest.raises(TTIndexError, match="too many for a train of order"):
                x[key]
            return
        expected = a.flip(0) if reversed_key else a[key]
        if not expected.numel():
            with pytest.raises(TTIndexError, match="empty"):
                x[key]
            return
        value = x[key]
        assert isinstance(value, TensorTrain) == (expected.ndim > 0)
        self.check(value, expected, x, size=torch.linalg.vector_norm(a))

    def test_indices_beyond_a_mode_are_refused(self):
        x = self.create()
        with pytest.raises(TTIndexError):
            x[(0,) * (x.ndim + 1)]
        for k, n in enumerate(x.shape[:3]):
            for bad in (n, -n - 1):
                with pytest.raises(TTIndexError, match=f"index {bad} is out of range for mode {k} of size {n}"):
                    x[(slice(None),) * k + (bad,)]
        for bad in (1.0, "0", [0], True):
            with pytest.raises(TTTypeError):
                x[bad]

    def test_it_is_a_sequence_of_its_parts(self):
        x, _, a, _ = self.operands()
        if not x.ndim:
            with pytest.raises(TTTypeError, match="order 0 has no length"):
                len(x)
            return
        assert len(x) == x.shape[0]
        for part, expected in zip(x, a, strict=True):
            self.check(part, expected, x, size=torch.linalg.vector_norm(a))

    def test_sums_and_means_over_modes(self):
        x, _, a, _ = self.operands()
        size = torch.linalg.vector_norm(a)
        count = a.numel() ** 0.5
        self.check(x.sum(), a.sum(), x, size=size * count)
        self.check(x.mean(), a.mean(), x, size=size)
        for dim in [
            *range(-x.ndim, x.ndim),
            *([(0, -1)] if x.ndim > 1 else []),
            *([tuple(range(x.ndim))] if x.ndim else []),
        ]:
            for keepdim in (False, True):
                self.check(x.sum(dim, keepdim=keepdim), a.sum(dim, keepdim=keepdim), x, size=size * count)
                self.check(x.mean(dim, keepdim=keepdim), a.mean(dim, keepdim=keepdim), x, size=size)
        for bad in (x.ndim, -x.ndim - 1):
            with pytest.raises(TTIndexError):
                x.sum(bad)

    def test_means_at_any_scale(self):
        x = self.create()
        for s in self.scales(x):
            assert complex((ttnet.ones(x.shape, dtype=x.dtype) * s).mean()) == pytest.approx(s, rel=self.tolerance(x))
            if "dense" not in self.lacks:
                size = float(torch.linalg.vector_norm(wide(self.dense())))
                assert abs(complex((x * s).mean()) / s - complex(x.mean())) <= self.tolerance(x) * size
                assert abs(complex((x * s).sum()) / s - complex(x.sum())) <= self.tolerance(x) * size * x.numel**0.5

    def test_modes_in_another_order(self):
        x, _, a, _ = self.operands()
        size = torch.linalg.vector_norm(a)
        for dims in {tuple(range(x.ndim)), tuple(range(x.ndim))[::-1], (*range(1, x.ndim), 0)[: x.ndim]}:
            self.check(x.permute(dims), a.permute(dims), x, size=size)
        if x.ndim:
            self.check(x.transpose(0, -1), a.transpose(0, -1), x, size=size)

    def test_other_shapes(self):
        x, _, a, _ = self.operands()
        size = torch.linalg.vector_norm(a)
        for shape in [(-1,), (1, *x.shape, 1), (a.numel(), 1), *([(*x.shape[:-2], -1)] if x.ndim > 1 else [])]:
            y = x.reshape(shape)
            self.check(y, a.reshape(shape), x, size=size)
            self.check(y.reshape(x.shape), a, x, size=2 * size)
        with pytest.raises(TTShapeError):
            x.reshape((a.numel() + 1,))

    def test_joins(self):
        x, y, a, b = self.operands()
        size = torch.linalg.vector_norm(a) + torch.linalg.vector_norm(b)
        self.check(ttnet.stack([x, y], -1), torch.stack([a, b], -1), x, y, size=size)
        self.check(ttnet.outer(x, y), torch.tensordot(a, b, 0), x, y, size=size**2)
        self.check(ttnet.kron(x, y), torch.kron(a, b), x, y, size=size**2)
        for dim in range(x.ndim):
            self.check(ttnet.cat([x, y, x], dim), torch.cat([a, b, a], dim), x, y, size=2 * size)
        if x.ndim:
            padded = ttnet.pad(x, [(1, 2)] * x.ndim)
            self.check(padded, torch.nn.functional.pad(a, (1, 2) * x.ndim), x, size=size)
            self.check(ttnet.diag(x), a.flatten().diag(), x, size=size)
            assert same(ttnet.diag(ttnet.diag(x)), x)
            self.check(ttnet.diag(x) @ y, a * b, x, y, size=size**2)

    def test_joins_of_cores_of_different_scales(self):
        x = self.create()
        self.needs("nonzero")
        if x.ndim < 2:
            pytest.skip("one core has no other beside it to differ from")
        big = 1e25 if is_single(x.dtype) else 1e170
        plain = self.partner(x)
        ends = [(plain.cores[0] * s, plain.cores[-1] / s) for s in (big, 1 / big)]
        both = ttnet.cat([TensorTrain([first, *plain.cores[1:-1], last]) for first, last in ends])
        assert float(both.log_norm() - plain.log_norm()) == pytest.approx(math.log(2) / 2, rel=4 * self.tolerance(x))

    def test_evaluation(self):
        x, _, a, _ = self.operands()
        if not x.ndim:
            return
        generator = torch.Generator().manual_seed(0)
        indices = torch.stack([torch.randint(n, (20,), generator=generator) for n in x.shape], 1)
        self.check(ttnet.evaluate(x, indices), a[tuple(indices.T)], x, size=5 * float(a.abs().max()))

    def test_orthogonal_forms(self):
        x = self.create()
        for centre in {0, x.ndim // 2, x.ndim - 1} if x.ndim else ():
            y = x.orthogonalise(centre)
            assert y.shape == x.shape
            if "nonzero" not in self.lacks:
                assert log_error(y, x) <= math.log(self.tolerance(x))
            if "range" not in self.lacks:
                for k, core in enumerate(y.cores):
                    matrix = core.flatten(0, 1).mH if k < centre else core.flatten(1)
                    if k != centre:
                        unit = torch.eye(len(matrix), dtype=core.dtype)
                        assert torch.linalg.matrix_norm(matrix @ matrix.mH - unit) <= precision(x.dtype)
        for bad in (x.ndim, -x.ndim - 1):
            with pytest.raises(TTIndexError):
                x.orthogonalise(bad)

    def test_spectra(self):
        x = self.create()
        values = x.singular_values(normalised=True)
        entropies = x.entropies()
        assert len(values) == len(entropies) == max(0, x.ndim - 1)
        for k, (s, entropy) in enumerate(zip(values, entropies, strict=True), 1):
            assert s.dtype == entropy.dtype == x.dtype.to_real()
            assert len(s) <= x.ranks[k]
            assert torch.equal(s, s.sort(descending=True).values)
            p = wide(s) ** 2
            assert float(entropy) == pytest.approx(float(torch.special.entr(p).sum()), abs=20 * self.tolerance(x))
            if "nonzero" not in self.lacks:
                assert float(p.sum()) == pytest.approx(1, rel=self.tolerance(x))
            if "dense" not in self.lacks:
                a = wide(self.dense()).reshape(math.prod(x.shape[:k]), -1)
                expected = torch.linalg.svdvals(a / (torch.linalg.matrix_norm(a) or 1))
                expected = torch.nn.functional.pad(expected, (0, len(s)))[: len(s)]
                assert torch.allclose(wide(s), expected, rtol=0, atol=self.tolerance(x))

    def test_matrix_products_of_trains_are_refused(self):
        x = self.create()
        for other in (x, torch.ones(2)):
            with pytest.raises(TypeError):
                x @ other


class TTMatrixTestCase(TrainTestCase):
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
