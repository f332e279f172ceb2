"""Tensor trains on PyTorch."""

from ttnet import interop, modes, nn, pytree
from ttnet.construct import arange, eye, meshgrid, ones, random, zeros
from ttnet.contraction import ContractionPlan, contract, plan
from ttnet.decomposition import CrossProgress, CrossResult, CrossStatus, PassProgress, apply, tt_cross, tt_svd
from ttnet.errors import (
    MissingExtraError,
    TTConvergenceError,
    TTError,
    TTFileError,
    TTIndexError,
    TTShapeError,
    TTTypeError,
    TTValueError,
)
from ttnet.evaluation import evaluate
from ttnet.io import load
from ttnet.joining import cat, diag, kron, outer, pad, stack
from ttnet.orthogonal import entropies, orthogonalise, singular_values
from ttnet.permuting import permute
from ttnet.plotting import plot_compression, plot_ranks, plot_singular_values
from ttnet.quantized import dequantize, quantize
from ttnet.reshaping import reshape
from ttnet.rounding import round, round_sum
from ttnet.tensor_train import TensorTrain
from ttnet.tt_matrix import TTMatrix

__all__ = [
    "ContractionPlan",
    "CrossProgress",
    "CrossResult",
    "CrossStatus",
    "MissingExtraError",
    "PassProgress",
    "TTConvergenceError",
    "TTError",
    "TTFileError",
    "TTIndexError",
    "TTMatrix",
    "TTShapeError",
    "TTTypeError",
    "TTValueError",
    "TensorTrain",
    "apply",
    "arange",
    "cat",
    "contract",
    "dequantize",
    "diag",
    "entropies",
    "evaluate",
    "eye",
    "interop",
    "kron",
    "load",
    "meshgrid",
    "modes",
    "nn",
    "ones",
    "orthogonalise",
    "outer",
    "pad",
    "permute",
    "plan",
    "plot_compression",
    "plot_ranks",
    "plot_singular_values",
    "pytree",
    "quantize",
    "random",
    "reshape",
    "round",
    "round_sum",
    "singular_values",
    "stack",
    "tt_cross",
    "tt_svd",
    "zeros",
]
