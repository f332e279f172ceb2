"""What must hold of every train: a test case that a new kind of train inherits.

A kind brings two functions of a few lines, `create(seed)` and `dense(seed)`, and gets all tests:

    class TestMine(TensorTrainTestCase):
        def create(self, seed=0):
            return my_train(seed)

        def dense(self, seed=0):
            return the_same_as_a_tensor(seed)

What a kind cannot take part in, it says in `lacks`, with the reason that its skipped tests show.
"""

from tests.ttnet.trains.train_cases.tensor_train import TensorTrainTestCase
from tests.ttnet.trains.train_cases.tt_matrix import TTMatrixTestCase

__all__ = ["TTMatrixTestCase", "TensorTrainTestCase"]
