"""That a train is a value: immutable, copied, saved and differentiated, and refused beside what it does not fit."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import ttnet
from tests.ttnet.strategies import same
from tests.ttnet.trains.train_cases.case import TrainCase, Value, log_norm_by_definition, snapshot, unchanged
from ttnet import TTMatrix
from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.rounding.methods import METHODS


class ValueTests(TrainCase):
    """Copies, files, gradients and refusals."""

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
        if isinstance(x, TTMatrix):
            with pytest.raises(TypeError):
                x + 1.0
        for other in (1.0, "1", None, [1], torch.ones(3), stranger):
            with pytest.raises(TTTypeError, match=f"other is a {type(other).__name__}; expected a {type(x).__name__}"):
                x.dot(other)
        with pytest.raises(TTValueError, match="cannot be divided by 0"):
            x / 0
