from .amen import solve
from .result import SolverProgress, SolverResult, SolverStatus

__all__ = ["SolverProgress", "SolverResult", "SolverStatus", "solve"]
