"""Searching, for any method: hyperparameters by `tune`, and modules with their ranks by `allocate`.

Both give back what exists already, a point of settings and a config, which train without this room.
"""

from ttnet_llm.search.allocate import Allocation, allocate
from ttnet_llm.search.history import Trial
from ttnet_llm.search.space import Choice, Log, Space, Whole
from ttnet_llm.search.tune import Tuned, tune

__all__ = ["Allocation", "Choice", "Log", "Space", "Trial", "Tuned", "Whole", "allocate", "tune"]
