"""torchTT: one class, `torchtt.TT`, for trains and TT-matrices, with cores laid out as ours."""

from __future__ import annotations

from typing import Any

from ttnet.errors import TTTypeError, import_extra
from ttnet.interop._arrays import check_has_modes
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


def from_torchtt(tt: Any) -> TensorTrain | TTMatrix:
    """Make a train or TT-matrix of torchTT's, which need not be importable.

    Args:
        tt: A `torchtt.TT`.

    Returns:
        A `TTMatrix` if `tt.is_ttm`, otherwise a `TensorTrain`, with the very cores.

    Raises:
        TTTypeError: If `tt` is of another type.

    Example:
        >>> import torchtt  # doctest: +SKIP
        >>> from_torchtt(torchtt.randn([2, 3], [1, 2, 1]))  # doctest: +SKIP
        TensorTrain([2]-2-[3], float64)
    """
    cores, is_matrix = getattr(tt, "cores", None), getattr(tt, "is_ttm", None)
    if isinstance(tt, TensorTrain | TTMatrix) or not isinstance(cores, list) or not isinstance(is_matrix, bool):
        raise TTTypeError(f"tt is a {type(tt).__name__}; expected a TT of torchTT.")
    return TTMatrix(cores) if is_matrix else TensorTrain(cores)


def to_torchtt(tt: TensorTrain | TTMatrix) -> Any:
    """Give a train or TT-matrix to torchTT.

    Args:
        tt: A train of order 1 or more, or a TT-matrix.

    Returns:
        A `torchtt.TT` with the very cores.

    Raises:
        TTTypeError: If `tt` is of another type, or a train of order 0, which torchTT does not have.
        MissingExtraError: If torchTT is not installed.

    Example:
        >>> import ttnet
        >>> to_torchtt(ttnet.ones((2, 3))).R  # doctest: +SKIP
        [1, 1, 1]
    """
    check_has_modes(tt, "torchTT")
    return import_extra("torchtt", extra="torchtt").TT(list(tt.cores))
