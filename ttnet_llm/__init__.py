"""Ultra-small tensor-train adapters for Hugging Face models.

Importing this package makes its methods known to PEFT; from then on PEFT's ordinary names work with them.
"""

from ttnet_llm.apply import apply_loretta
from ttnet_llm.loretta_adp import LorettaAdpConfig, LorettaAdpModel
from ttnet_llm.networks.loretta_rep import LorettaRepConfig, LorettaRepModel

__all__ = ["LorettaAdpConfig", "LorettaAdpModel", "LorettaRepConfig", "LorettaRepModel", "apply_loretta"]
