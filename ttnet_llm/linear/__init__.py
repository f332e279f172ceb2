"""The layer and tuner of every method that is linear in a layer's input; the networks behind it are in `networks`."""

from ttnet_llm.linear.config import LinearConfig, SharedConfig
from ttnet_llm.linear.layer import LinearAdapterLayer, hold_factors
from ttnet_llm.linear.model import LinearModel
from ttnet_llm.linear.network import FactorNetwork
from ttnet_llm.linear.parameter import ParameterLayer
from ttnet_llm.linear.sharing import Group, SharedView
from ttnet_llm.linear.turns import BlockTurn, Turn

__all__ = [
    "BlockTurn",
    "FactorNetwork",
    "Group",
    "LinearAdapterLayer",
    "LinearConfig",
    "LinearModel",
    "ParameterLayer",
    "SharedConfig",
    "SharedView",
    "Turn",
    "hold_factors",
]
