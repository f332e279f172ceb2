"""That no result depends on the scale of the numbers."""

import math

import pytest
import torch

from tests.ttnet.strategies import dense, wide
from tests.ttnet.trains.train_cases.case import TrainCase, is_single, log_error
from ttnet.errors import TTValueError
from ttnet.rounding.methods import METHODS


class ScaleTests(TrainCase):
    """Operands whose sizes, cores or indices are far from 1."""

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
