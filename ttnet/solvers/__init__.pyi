from .amen import solve
from .bases import Basis, BSpline, Chebyshev, Fourier, Functions, Legendre
from .completion import complete
from .dmrg import EigenResult, eigsh
from .evolution import evolve, expm_apply
from .extrema import Extremum, optimize
from .function_train import FunctionTrain
from .interpolation import gauss, integrate, interpolate
from .inverses import divide, inverse
from .manifold import gradient, project, retract, tangent, transport
from .regression import fit
from .result import SolverProgress, SolverResult, SolverStatus
from .riemannian import RiemannianAdam, RiemannianSGD
from .sampling import Samples, conditionals, log_probabilities, sample
from .tangent_space import TangentSpace, TangentVector

__all__ = [
    "BSpline",
    "Basis",
    "Chebyshev",
    "EigenResult",
    "Extremum",
    "Fourier",
    "FunctionTrain",
    "Functions",
    "Legendre",
    "RiemannianAdam",
    "RiemannianSGD",
    "Samples",
    "SolverProgress",
    "SolverResult",
    "SolverStatus",
    "TangentSpace",
    "TangentVector",
    "complete",
    "conditionals",
    "divide",
    "eigsh",
    "evolve",
    "expm_apply",
    "fit",
    "gauss",
    "gradient",
    "integrate",
    "interpolate",
    "inverse",
    "log_probabilities",
    "optimize",
    "project",
    "retract",
    "sample",
    "solve",
    "tangent",
    "transport",
]
