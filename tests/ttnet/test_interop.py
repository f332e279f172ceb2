import numpy as np
import pytest
import tensorly
import torch

import ttnet
from tests.ttnet.strategies import DTYPES, same
from ttnet import TTMatrix, TTTypeError, interop


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


def test_numpy_both_ways():
    x = ttnet.random((2, 3), 2, dtype=torch.complex128, seed=0)
    w = TTMatrix.from_dense(torch.eye(6), (2, 3), (2, 3))
    for value in [x, x.conj(), w]:
        assert same(interop.from_numpy(interop.to_numpy(value)), value)
    assert interop.to_numpy(ttnet.ones((2,), dtype=torch.bfloat16))[0].dtype == np.float32
    flipped = [core[:, ::-1].astype(core.dtype.newbyteorder(">")) for core in interop.to_numpy(x)]
    assert torch.equal(interop.from_numpy(flipped).full(), x[::-1, ::-1].full())


def test_interop_errors():
    for operation, message in [
        (lambda: interop.from_numpy([torch.ones(1, 2, 1)]), "cores\\[0\\] is a Tensor; expected a numpy.ndarray"),
        (lambda: interop.from_numpy([np.ones((1, 2, 1), dtype=int)]), "expected a floating or complex dtype"),
        (lambda: interop.to_numpy(1), "tt is a int; expected a TensorTrain or a TTMatrix"),
        (lambda: interop.to_tensorly(1), "tt is a int"),
        (lambda: interop.to_tensorly(ttnet.ones(())), "train of order 0"),
        (lambda: interop.from_tensorly(1), "expected a TTTensor or a TTMatrix of tensorly"),
    ]:
        with pytest.raises(TTTypeError, match=message):
            operation()
