from . import interop, modes, nn, operators, solvers
from .contraction import ContractionPlan, contract, plan
from .decomposition import CrossProgress, CrossResult, CrossStatus, PassProgress, apply, tt_cross, tt_svd, tt_svd_batch
from .errors import (
    MissingExtraError,
    TTConvergenceError,
    TTError,
    TTFileError,
    TTIndexError,
    TTShapeError,
    TTTypeError,
    TTValueError,
)
from .io import load
from .plotting import draw_network, plot_compression, plot_ranks, plot_singular_values
from .trains import pytree
from .trains.construct import arange, eye, meshgrid, ones, random, zeros
from .trains.evaluation import evaluate
from .trains.fidelity import allclose
from .trains.joining import cat, diag, kron, outer, pad, stack
from .trains.orthogonal import entropies, orthogonalise, singular_values
from .trains.permuting import permute
from .trains.quantized import dequantize, quantize
from .trains.reshaping import reshape
from .trains.rounding import round, round_sum
from .trains.tensor_train import TensorTrain
from .trains.tt_matrix import TTMatrix

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
    "allclose",
    "apply",
    "arange",
    "cat",
    "contract",
    "dequantize",
    "diag",
    "draw_network",
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
    "operators",
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
    "solvers",
    "stack",
    "tt_cross",
    "tt_svd",
    "tt_svd_batch",
    "zeros",
]
