from .amen import solve
from .dmrg import EigenResult, eigsh
from .evolution import evolve, expm_apply
from .inverses import divide, inverse
from .result import SolverProgress, SolverResult, SolverStatus

__all__ = [
    "EigenResult",
    "SolverProgress",
    "SolverResult",
    "SolverStatus",
    "divide",
    "eigsh",
    "evolve",
    "expm_apply",
    "inverse",
    "solve",
]
