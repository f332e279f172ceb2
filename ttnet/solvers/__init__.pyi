from .amen import solve
from .dmrg import EigenResult, eigsh
from .evolution import evolve, expm_apply
from .extrema import Extremum, optimize
from .inverses import divide, inverse
from .manifold import TangentSpace, TangentVector, gradient, project, retract, tangent, transport
from .result import SolverProgress, SolverResult, SolverStatus
from .riemannian import RiemannianAdam, RiemannianSGD

__all__ = [
    "EigenResult",
    "Extremum",
    "RiemannianAdam",
    "RiemannianSGD",
    "SolverProgress",
    "SolverResult",
    "SolverStatus",
    "TangentSpace",
    "TangentVector",
    "divide",
    "eigsh",
    "evolve",
    "expm_apply",
    "gradient",
    "inverse",
    "optimize",
    "project",
    "retract",
    "solve",
    "tangent",
    "transport",
]
