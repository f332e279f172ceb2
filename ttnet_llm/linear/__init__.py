"""The one layer and tuner of every method whose update is `scaling * L @ R`."""

from ttnet_llm.linear.layer import FactorNetwork, LinearAdapterLayer

__all__ = ["FactorNetwork", "LinearAdapterLayer"]
