"""The layer and tuner of every method whose update is `scaling * L @ R`; what gives L and R is in `networks`."""

from ttnet_llm.linear.config import LinearConfig, SharedConfig
from ttnet_llm.linear.layer import LinearAdapterLayer, hold_factors
from ttnet_llm.linear.model import LinearModel
from ttnet_llm.linear.network import FactorNetwork
from ttnet_llm.linear.parameter import ParameterLayer
from ttnet_llm.linear.sharing import Group, SharedView

__all__ = [
    "FactorNetwork",
    "Group",
    "LinearAdapterLayer",
    "LinearConfig",
    "LinearModel",
    "ParameterLayer",
    "SharedConfig",
    "SharedView",
    "hold_factors",
]
