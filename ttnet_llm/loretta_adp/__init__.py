"""LoRETTA_adp: bottleneck adapters of two trains; methods that add to a weight are in `linear` and `networks`."""

from ttnet_llm.loretta_adp.config import LorettaAdpConfig
from ttnet_llm.loretta_adp.model import LorettaAdpModel

__all__ = ["LorettaAdpConfig", "LorettaAdpModel"]
