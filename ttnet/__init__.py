"""Tensor trains on PyTorch."""

from ttnet import interop, modes
from ttnet.construct import ones, random, zeros
from ttnet.contraction import ContractionPlan, contract, plan
from ttnet.decomposition import tt_svd
from ttnet.errors import (
    MissingExtraError,
    TTError,
    TTFileError,
    TTIndexError,
    TTShapeError,
    TTTypeError,
    TTValueError,
)
from ttnet.io import load
from ttnet.rounding import round
from ttnet.tensor_train import TensorTrain
from ttnet.tt_matrix import TTMatrix

__all__ = [
    "ContractionPlan",
    "MissingExtraError",
    "TTError",
    "TTFileError",
    "TTIndexError",
    "TTMatrix",
    "TTShapeError",
    "TTTypeError",
    "TTValueError",
    "TensorTrain",
    "contract",
    "interop",
    "load",
    "modes",
    "ones",
    "plan",
    "random",
    "round",
    "tt_svd",
    "zeros",
]
