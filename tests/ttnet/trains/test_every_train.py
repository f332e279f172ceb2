"""Every kind of train, through all the tests of its kind: each brings how it is made and what it stands for."""

from typing import ClassVar

import pytest
import torch

import ttnet
from tests.ttnet.strategies import dense, draw_tensor, draw_train
from tests.ttnet.trains.train_cases import TensorTrainTestCase, TTMatrixTestCase
from ttnet import TensorTrain, TTMatrix

DOUBLE = torch.float64


class TestPlain(TensorTrainTestCase):
    def create(self, seed=0):
        return draw_train((3, 2, 4), [2, 3], DOUBLE, seed)


class TestComplex(TensorTrainTestCase):
    def create(self, seed=0):
        return draw_train((3, 2, 4), [2, 3], torch.complex128, seed)


class TestFloat32(TensorTrainTestCase):
    error_bounds = (0.5, 0.1, 1e-3)

    def create(self, seed=0):
        return draw_train((3, 2, 4), [2, 3], torch.float32, seed)


class TestComplex64(TensorTrainTestCase):
    error_bounds = (0.5, 0.1, 1e-3)

    def create(self, seed=0):
        return draw_train((3, 2, 4), [2, 3], torch.complex64, seed)


class TestScalar(TensorTrainTestCase):
    def create(self, seed=0):
        return TensorTrain([draw_tensor((1, 1), DOUBLE, seed)])

    def dense(self, seed=0):
        return draw_tensor((1, 1), DOUBLE, seed)[0, 0]


class TestVector(TensorTrainTestCase):
    def create(self, seed=0):
        return TensorTrain([draw_tensor((1, 5, 1), DOUBLE, seed)])

    def dense(self, seed=0):
        return draw_tensor((1, 5, 1), DOUBLE, seed).flatten()


class TestModesOfSizeOne(TensorTrainTestCase):
    def create(self, seed=0):
        return draw_train((1, 3, 1, 1, 4, 1), [1, 2, 2, 3, 1], DOUBLE, seed)


class TestModesAllOfSizeOne(TensorTrainTestCase):
    lacks: ClassVar = {"full rank": "unfoldings of one entry have rank 1, not 2"}

    def create(self, seed=0):
        return draw_train((1, 1, 1), [2, 2], DOUBLE, seed)


class TestMoreRankThanEntries(TensorTrainTestCase):
    lacks: ClassVar = {"full rank": "the ranks are above those of the unfoldings"}

    def create(self, seed=0):
        return draw_train((2, 3, 2), [7, 9], DOUBLE, seed)


class TestRankDeficient(TensorTrainTestCase):
    lacks: ClassVar = {"full rank": "the sum of a train with itself has twice the ranks of its unfoldings"}

    def create(self, seed=0):
        x = draw_train((3, 2, 4), [2, 2], DOUBLE, seed)
        return x + x

    def dense(self, seed=0):
        return 2 * dense(draw_train((3, 2, 4), [2, 2], DOUBLE, seed))


class TestZero(TensorTrainTestCase):
    lacks: ClassVar = {"nonzero": "no error is relative to a norm of 0", "full rank": "its unfoldings have rank 0"}

    def create(self, seed=0):
        return TensorTrain([torch.zeros(1, 3, 2), torch.zeros(2, 2, 2), torch.zeros(2, 4, 1)]).to(DOUBLE)

    def dense(self, seed=0):
        return torch.zeros(3, 2, 4, dtype=DOUBLE)


class TestOrderThreeHundred(TensorTrainTestCase):
    error_bounds = (0.1,)
    lacks: ClassVar = {
        "dense": "it has 2**300 entries",
        "range": "its norm is no number of float32",
        "gradcheck": "it has no dense form to differentiate",
        "every method": "each takes a while at such an order; the slow twin of order 1000 in float64 tries them all",
    }

    def create(self, seed=0):
        return draw_train((2,) * 300, [2] * 299, torch.float32, seed)


@pytest.mark.slow
class TestOrderThousandFloat64(TensorTrainTestCase):
    error_bounds = (0.1, 1e-3, 1e-9)
    lacks: ClassVar = {
        "dense": "it has 2**1000 entries",
        "range": "its norm is no number of float64",
        "gradcheck": "it has no dense form to differentiate",
    }

    def create(self, seed=0):
        return draw_train((3,) * 1000, [3] * 999, torch.float64, seed)


class TestCoresOfWildScales(TensorTrainTestCase):
    lacks: ClassVar = {"gradcheck": "a finite difference of 1e-6 is nothing beside entries of 1e120"}

    def create(self, seed=0):
        plain = draw_train((3, 2, 4, 2), [2, 3, 2], DOUBLE, seed)
        return TensorTrain([core * 1e120 ** (-1) ** k for k, core in enumerate(plain.cores)])

    def dense(self, seed=0):
        return dense(draw_train((3, 2, 4, 2), [2, 3, 2], DOUBLE, seed))


class TestCoresOfScalesThatAlternateByOperand(TestCoresOfWildScales):
    def create(self, seed=0):
        plain = draw_train((3, 2, 4, 2), [2, 3, 2], DOUBLE, seed)
        return TensorTrain([core * 1e120 ** (-1) ** (k + seed) for k, core in enumerate(plain.cores)])


class TestNonContiguousCores(TensorTrainTestCase):
    def create(self, seed=0):
        return TensorTrain(draw_tensor((2, *size), DOUBLE, seed).permute(3, 2, 1, 0)[..., 0] for size in SIZES)

    def dense(self, seed=0):
        return dense(TensorTrain(core.contiguous() for core in self.create(seed).cores))


SIZES = [(2, 3, 1), (3, 2, 2), (1, 4, 3)]  # of cores, the axes in reverse


class TestLeftOrthogonal(TensorTrainTestCase):
    def create(self, seed=0):
        return draw_train((3, 2, 4), [2, 3], DOUBLE, seed).orthogonalise(-1)

    def dense(self, seed=0):
        return dense(draw_train((3, 2, 4), [2, 3], DOUBLE, seed))


class TestDecomposed(TensorTrainTestCase):
    def create(self, seed=0):
        return ttnet.tt_svd(self.dense(seed))

    def dense(self, seed=0):
        return draw_tensor((3, 2, 4), DOUBLE, seed)

    def test_it_shares_no_memory_with_the_tensor(self):
        for shape in [(3, 2, 4), (5,), ()]:
            x = draw_tensor(shape, DOUBLE, 0)
            cores = ttnet.tt_svd(x).cores
            assert not any(core.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for core in cores)


class TestQuantised(TensorTrainTestCase):
    def create(self, seed=0):
        return ttnet.quantize(ttnet.tt_svd(self.dense(seed).reshape(4, 8)))

    def dense(self, seed=0):
        return draw_tensor((2,) * 5, DOUBLE, seed)


class TestSquareMatrix(TTMatrixTestCase):
    def create(self, seed=0):
        return TTMatrix.from_train(draw_train((4, 9, 4), [2, 3], DOUBLE, seed), (2, 3, 2), (2, 3, 2))


class TestRectangularMatrix(TTMatrixTestCase):
    def create(self, seed=0):
        return TTMatrix.from_train(draw_train((6, 3, 4), [2, 3], DOUBLE, seed), (2, 3, 1), (3, 1, 4))


class TestComplexMatrix(TTMatrixTestCase):
    def create(self, seed=0):
        return TTMatrix.from_train(draw_train((6, 4), [3], torch.complex128, seed), (3, 2), (2, 2))


class TestFloat32Matrix(TTMatrixTestCase):
    error_bounds = (0.5, 0.1, 1e-3)

    def create(self, seed=0):
        return TTMatrix.from_train(draw_train((4, 6, 4), [2, 3], torch.float32, seed), (2, 3, 2), (2, 2, 2))


class TestDecomposedMatrix(TTMatrixTestCase):
    def create(self, seed=0):
        return TTMatrix.from_dense(self.dense(seed), (2, 3), (3, 2))

    def dense(self, seed=0):
        return draw_tensor((6, 6), DOUBLE, seed)


class TestQuantisedMatrix(TTMatrixTestCase):
    def create(self, seed=0):
        return ttnet.quantize(TTMatrix.from_dense(self.dense(seed), (8,), (4,)))

    def dense(self, seed=0):
        return draw_tensor((8, 4), DOUBLE, seed)


class TestIdentity(TTMatrixTestCase):
    def create(self, seed=0):
        return ttnet.eye((2, 3, 2), dtype=DOUBLE)

    def dense(self, seed=0):
        return torch.eye(12, dtype=DOUBLE)
