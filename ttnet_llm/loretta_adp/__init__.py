"""LoRETTA_adp: bottleneck adapters whose two matrices are tensor trains."""

from ttnet_llm.loretta_adp.config import LorettaAdpConfig
from ttnet_llm.loretta_adp.model import LorettaAdpModel

__all__ = ["LorettaAdpConfig", "LorettaAdpModel"]
