from .amen import solve
from .dmrg import EigenResult, eigsh
from .result import SolverProgress, SolverResult, SolverStatus

__all__ = ["EigenResult", "SolverProgress", "SolverResult", "SolverStatus", "eigsh", "solve"]
