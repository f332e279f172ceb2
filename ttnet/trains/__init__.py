"""The values `TensorTrain` and `TTMatrix`, and what one does with them; how they are found is in `ttnet.decomposition`.

What rounding does to their cores is in `ttnet.rounding`. Importing this room makes trains known to torch.
"""

from ttnet.trains import pytree
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

__all__ = ["TTMatrix", "TensorTrain", "pytree"]
