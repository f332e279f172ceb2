"""What functions of trains make sure of before any work."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ttnet.errors import TTTypeError
from ttnet.trains.chain import CoreChain
from ttnet.trains.tensor_train import TensorTrain


def expect_train(x: object, name: str) -> TensorTrain:
    """Give a train, or say how what is none becomes one.

    Args:
        x: What a caller gave.
        name: What it calls the argument, for the message.

    Returns:
        The train.

    Raises:
        TTTypeError: If it is something else.

    Example:
        >>> import ttnet
        >>> expect_train(ttnet.ones((2, 3)), "tt")
        TensorTrain([2]-1-[3], float32)
    """
    if isinstance(x, TensorTrain):
        return x
    advice = ""
    if isinstance(x, CoreChain):
        advice = ", as its to_train() gives"
    elif isinstance(x, (Tensor, np.ndarray)):
        advice = ", as ttnet.tt_svd gives of dense ones"
    raise TTTypeError(f"{name} is a {type(x).__name__}; expected a TensorTrain{advice}.")
