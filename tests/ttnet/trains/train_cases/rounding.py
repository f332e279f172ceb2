"""What rounding promises."""

import math

import pytest
import torch

import ttnet
from tests.ttnet.strategies import dense, precision, same
from tests.ttnet.trains.train_cases.case import TrainCase, as_train, log_error, snapshot, unchanged
from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.rounding.methods import METHODS


class RoundingTests(TrainCase):
    """Every way of rounding, its bounds and its refusals."""

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
        y = x.round(eps=1.0, method=method)
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
        sizes, before, after = as_train(x).shape, x.ranks, y.ranks
        for k in range(1, len(sizes)):
            assert after[k] <= min(before[k], math.prod(sizes[:k]), math.prod(sizes[k:]))
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
        assert same(x.round(eps=math.inf), x.round(eps=1.0))
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
