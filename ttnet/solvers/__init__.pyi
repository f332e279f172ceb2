from .amen import solve
from .completion import complete
from .dmrg import EigenResult, eigsh
from .evolution import evolve, expm_apply
from .extrema import Extremum, optimize
from .inverses import divide, inverse
from .manifold import TangentSpace, TangentVector, gradient, project, retract, tangent, transport
from .result import SolverProgress, SolverResult, SolverStatus
from .riemannian import RiemannianAdam, RiemannianSGD
from .sampling import Samples, conditionals, log_probabilities, sample

__all__ = [
    "EigenResult",
    "Extremum",
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
    "gradient",
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
