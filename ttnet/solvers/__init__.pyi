from .amen import solve
from .dmrg import EigenResult, eigsh
from .evolution import evolve, expm_apply
from .extrema import Extremum, optimize
from .inverses import divide, inverse
from .result import SolverProgress, SolverResult, SolverStatus

__all__ = [
    "EigenResult",
    "Extremum",
    "SolverProgress",
    "SolverResult",
    "SolverStatus",
    "divide",
    "eigsh",
    "evolve",
    "expm_apply",
    "inverse",
    "optimize",
    "solve",
]
