import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import tensorly
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.strategies import DTYPES, dense, relative_error, same, trains, tt_matrices
from ttnet import MissingExtraError, TTMatrix, TTShapeError, TTTypeError, TTValueError, interop

MASKED = np.ma.masked_array(np.ones((1, 3, 1)), [[[True], [False], [False]]])
VALUES = [
    ttnet.random((2, 3, 4), [2, 3], dtype=torch.complex128, seed=0),
    ttnet.random((5,), 1, seed=1),
    TTMatrix.from_dense(torch.arange(24.0).sin().reshape(6, 4), (2, 3), (1, 4)),
    TTMatrix.from_dense(torch.arange(6.0).reshape(2, 3), (2,), (3,)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_tensorly_both_ways(dtype, backend):
    x = ttnet.random((2, 3, 4), 2, dtype=dtype, seed=0)
    w = TTMatrix.from_dense(x.full().reshape(4, 6), (2, 2), (3, 2))
    with tensorly.backend_context(backend):
        for value in [x, w]:
            other = interop.to_tensorly(value)
            their_dense = torch.as_tensor(other.to_tensor()).reshape(-1)
            assert torch.allclose(their_dense, value.full().reshape(-1), rtol=1e-4, atol=1e-5)
            assert same(interop.from_tensorly(other), value)


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_numpy_both_ways():
    x = ttnet.random((2, 3), 2, dtype=torch.complex128, seed=0)
    w = TTMatrix.from_dense(torch.eye(6), (2, 3), (2, 3))
    for value in [x, x.conj(), w]:
        assert same(interop.from_numpy(interop.to_numpy(value)), value)
    assert interop.to_numpy(ttnet.ones((2,), dtype=torch.bfloat16))[0].dtype == np.float32
    assert interop.to_numpy(ttnet.ones((2,)).to(torch.complex32))[0].dtype == np.complex64
    flipped = [core[:, ::-1].astype(core.dtype.newbyteorder(">")) for core in interop.to_numpy(x)]
    assert torch.equal(interop.from_numpy(flipped).full(), x[::-1, ::-1].full())


# What `interop` knows of quimb and torchTT, in the smallest classes that show it. The tests at the end of this file put
# the libraries themselves in their place, where these are installed.


class Network:
    """A matrix product state or operator: one tensor a site, of named axes."""

    def __init__(self, tensors, names, cyclic=False, exponent=0.0):
        self._tensors, self.cyclic, self.exponent = tensors, cyclic, exponent
        self.sites = range(len(tensors))
        for name, letter in names.items():
            setattr(self, name, lambda site, letter=letter: f"{letter}{site}")

    def __getitem__(self, site):
        return self._tensors[site]


def site(array, *names):
    return SimpleNamespace(data=array, inds=names)


VECTOR = {"site_ind": "k"}
OPERATOR = {"upper_ind": "k", "lower_ind": "b"}


def as_network(arrays, names, **more):
    """Name the axes (left bond, right bond, *modes), the outer bonds missing, as quimb's classes do."""
    last = len(arrays) - 1
    tensors = []
    for k, array in enumerate(arrays):
        bonds = ([f"bond{k - 1}"] if k else []) + ([f"bond{k}"] if k < last else [])
        tensors.append(site(array, *bonds, *(f"{letter}{k}" for letter in names.values())))
        assert array.ndim == len(tensors[-1].inds)
    return Network(tensors, names, **more)


def shuffled(network, names, draw):
    """The same network, the axes of every tensor in another order."""
    tensors = []
    for k in network.sites:
        tensor = network[k]
        order = draw(st.permutations(range(len(tensor.inds))))
        tensors.append(site(tensor.data.transpose(order), *(tensor.inds[i] for i in order)))
    return Network(tensors, names)


@pytest.fixture
def stand_ins(monkeypatch):
    quimb, torchtt = ModuleType("quimb.tensor"), ModuleType("torchtt")
    quimb.MatrixProductState = lambda arrays: as_network(arrays, VECTOR)
    quimb.MatrixProductOperator = lambda arrays: as_network(arrays, OPERATOR)
    torchtt.TT = lambda cores: SimpleNamespace(cores=cores, is_ttm=cores[0].ndim == 4)
    monkeypatch.setitem(sys.modules, "quimb.tensor", quimb)
    monkeypatch.setitem(sys.modules, "torchtt", torchtt)


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_quimb_both_ways(stand_ins, value):
    assert same(interop.from_quimb(interop.to_quimb(value)), value)


@given(data=st.data())
def test_quimb_axes_come_in_any_order(data):
    value = data.draw(trains().filter(lambda x: x.ndim) | tt_matrices())
    names = OPERATOR if isinstance(value, TTMatrix) else VECTOR
    arrays = [np.moveaxis(core, -1, 1) for core in interop.to_numpy(value)]
    arrays[0] = arrays[0][0]
    arrays[-1] = arrays[-1].squeeze(1) if len(arrays) > 1 else arrays[-1][0]
    network = shuffled(as_network(arrays, names), names, data.draw)
    assert same(interop.from_quimb(network), value)


def test_quimb_bonds_that_are_missing_or_double():
    left, right = np.arange(6.0).reshape(2, 3), np.arange(8.0).reshape(2, 4)
    separate = Network(
        [SimpleNamespace(data=left[0], inds=("k0",)), SimpleNamespace(data=right[0], inds=("k1",))], VECTOR
    )
    assert torch.equal(interop.from_quimb(separate).full(), torch.tensor(np.outer(left[0], right[0])))
    a, b = np.random.default_rng(0).normal(size=(2, 2, 3, 4))
    double = Network([site(a, "x", "y", "k0"), site(b.T, "k1", "y", "x")], VECTOR)
    x = interop.from_quimb(double)
    assert x.ranks == (1, 6, 1)
    assert np.allclose(x.full(), np.einsum("xyi,xyj->ij", a, b))


def test_quimb_exponents_of_any_size():
    cores = [np.ones((2, 3)), np.ones((2, 2, 3)), np.ones((2, 3))]
    for exponent in [3.0, -3.5, 900.0, -900.0]:
        x = interop.from_quimb(as_network(cores, VECTOR, exponent=exponent))
        expected = exponent * np.log(10) + np.log(4 * 27**0.5)
        assert abs(float(x.log_norm()) - expected) <= 1e-12 * abs(expected)
    single = as_network([np.full(2, 1e-10)], VECTOR, exponent=310.0)
    assert np.allclose(interop.from_quimb(single).full(), 1e300)
    with pytest.raises(TTValueError, match=r"exponent 400.0; its numbers leave the range of torch.float64"):
        interop.from_quimb(as_network([np.ones(2)], VECTOR, exponent=400.0))


def test_quimb_dtypes_and_gradients():
    core = torch.ones(3, 2, requires_grad=True)
    x = interop.from_quimb(as_network([core, np.ones((3, 2), dtype=np.complex64)], VECTOR))
    assert x.dtype == torch.complex64
    x.norm().backward()
    assert torch.isfinite(core.grad).all()


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_torchtt_both_ways(stand_ins, value):
    other = interop.to_torchtt(value)
    assert all(theirs is ours for theirs, ours in zip(other.cores, value.cores, strict=True))
    assert same(interop.from_torchtt(other), value)


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (lambda: interop.from_numpy([torch.ones(1, 2, 1)]), TTTypeError, "cores\\[0\\] is a Tensor; expected a numpy"),
        (lambda: interop.from_numpy([np.ones((1, 2, 1), dtype=int)]), TTTypeError, "expected a floating or complex"),
        (lambda: interop.from_numpy([np.ones((1, 2, 1), dtype=np.longdouble)]), TTTypeError, "has dtype float128"),
        (lambda: interop.from_numpy([np.array([[["a"]]])]), TTTypeError, "has dtype <U1"),
        (lambda: interop.from_numpy([MASKED]), TTTypeError, r"cores\[0\] has masked entries, 1 of 3; expected none"),
        (
            lambda: interop.from_tensorly(tensorly.tt_tensor.TTTensor([MASKED])),
            TTTypeError,
            r"cores\[0\] has masked entries, 1 of 3",
        ),
        (
            lambda: interop.from_quimb(as_network([MASKED[0, :, 0]], VECTOR)),
            TTTypeError,
            "the array at site 0 has masked entries, 1 of 3; expected none",
        ),
        (lambda: interop.to_numpy(1), TTTypeError, "tt is a int; expected a TensorTrain or a TTMatrix"),
        (lambda: interop.to_tensorly(1), TTTypeError, "tt is a int"),
        (lambda: interop.to_tensorly(ttnet.ones(())), TTTypeError, "train of order 0, which tensorly does not have"),
        (lambda: interop.from_tensorly(1), TTTypeError, "expected a TTTensor or a TTMatrix of tensorly"),
        (lambda: interop.to_quimb(1), TTTypeError, "tt is a int"),
        (lambda: interop.to_quimb(ttnet.ones(())), TTTypeError, "train of order 0, which quimb does not have"),
        (lambda: interop.from_quimb(1), TTTypeError, "network is a int; expected a MatrixProductState or"),
        (lambda: interop.from_quimb(as_network([np.ones(2)], VECTOR, cyclic=True)), TTValueError, "network is cyclic"),
        (
            lambda: interop.from_quimb(as_network([np.ones(2, int)], VECTOR)),
            TTTypeError,
            "site 0 has dtype torch.int",
        ),
        (lambda: interop.from_quimb(Network([()], VECTOR)), TTShapeError, "several tensors at site 0"),
        (
            lambda: interop.from_quimb(Network([site(np.ones((2, 2)), "k0", "a")], VECTOR)),
            TTShapeError,
            "site 0 has the indices k0, a; expected the site's own, k0, and bonds",
        ),
        (lambda: interop.to_torchtt(1), TTTypeError, "tt is a int"),
        (lambda: interop.to_torchtt(ttnet.ones(())), TTTypeError, "train of order 0, which torchTT does not have"),
        (lambda: interop.from_torchtt(1), TTTypeError, "tt is a int; expected a TT of torchTT"),
        (lambda: interop.from_torchtt(ttnet.ones((2,))), TTTypeError, "tt is a TensorTrain; expected a TT of torchTT"),
    ],
)
def test_errors(operation, error, message):
    with pytest.raises(error, match=message):
        operation()


@pytest.mark.parametrize(
    ("name", "module"), [("quimb", "quimb.tensor"), ("tensorly", "tensorly"), ("torchtt", "torchtt")]
)
def test_missing_libraries_are_named(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'ttnet-torch\[{name}\]'"):
        getattr(interop, f"to_{name}")(ttnet.ones((2,)))


# The libraries themselves, where they are installed: `make peers`, then run this file with .venv-peers/bin/python.


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_quimb_itself(value):
    pytest.importorskip("quimb.tensor", reason="needs quimb, which `make peers` installs")
    theirs = interop.to_quimb(value)
    expected = dense(value) if isinstance(value, TTMatrix) else dense(value).reshape(-1, 1)
    assert relative_error(torch.tensor(theirs.to_dense()), expected) < 1e-5
    assert same(interop.from_quimb(theirs), value)
    theirs.permute_arrays("rlud" if isinstance(value, TTMatrix) else "prl")
    assert same(interop.from_quimb(theirs), value)
    theirs.exponent = 2.0
    assert relative_error(interop.from_quimb(theirs).full().reshape(expected.shape), 100 * expected) < 1e-5


def test_quimb_networks_of_its_own():
    qtn = pytest.importorskip("quimb.tensor", reason="needs quimb, which `make peers` installs")
    operator = qtn.MPO_ham_heis(5)
    solver = qtn.DMRG2(operator, bond_dims=[8])
    solver.solve(tol=1e-8, verbosity=0)
    state, h = interop.from_quimb(solver.state), interop.from_quimb(operator)
    assert abs(float(state.dot(h @ state) / state.norm() ** 2) - solver.energy) < 1e-8
    for network, error in [
        (qtn.MPS_rand_state(4, 3, cyclic=True), TTValueError),
        (qtn.PEPS.rand(2, 2, 3), TTShapeError),
        (qtn.MPS_rand_state(4, 3).gate_(np.eye(4), (1, 2), contract=False), TTShapeError),
    ]:
        with pytest.raises(error):
            interop.from_quimb(network)


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_torchtt_itself(value):
    pytest.importorskip("torchtt", reason="needs torchTT, which `make peers` installs")
    theirs = interop.to_torchtt(value)
    their_dense = theirs.full().reshape(value.shape)  # a matrix's axes stand as (*rows, *cols)
    assert relative_error(their_dense, dense(value)) < 1e-5
    assert same(interop.from_torchtt(theirs), value)
    ours = interop.from_torchtt(theirs.round(1e-12) if not value.dtype.is_complex else theirs)
    assert relative_error(ours.full(), dense(value)) < 1e-5
