"""The values `TensorTrain` and `TTMatrix`, and what one does with them on their cores.

How trains are found, from tensors and functions, is in `ttnet.decomposition`; how their ranks are truncated, in
`ttnet.rounding`. Importing this room makes trains known to torch.
"""

from ttnet.trains import pytree
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

__all__ = ["TTMatrix", "TensorTrain", "pytree"]
