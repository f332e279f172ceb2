"""The tests of trains alone."""

import math

import pytest
import torch

import ttnet
from tests.ttnet.strategies import dense, precision, same, wide
from tests.ttnet.trains.train_cases.algebra import AlgebraTests
from tests.ttnet.trains.train_cases.case import is_single, log_error
from tests.ttnet.trains.train_cases.rounding import RoundingTests
from tests.ttnet.trains.train_cases.scales import ScaleTests
from tests.ttnet.trains.train_cases.values import ValueTests
from ttnet import TensorTrain
from ttnet.errors import TTIndexError, TTShapeError, TTTypeError


class TensorTrainTestCase(AlgebraTests, ScaleTests, RoundingTests, ValueTests):
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
        for k, (s, entropy, rank) in enumerate(zip(values, entropies, x.ranks[1:-1], strict=True), 1):
            assert s.dtype == entropy.dtype == x.dtype.to_real()
            assert len(s) <= rank
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
