"""Ultra-small tensor-network adapters for Hugging Face models.

Importing this package makes its methods known to PEFT; from then on PEFT's ordinary names work with them.
"""

from ttnet_llm.apply import apply_loretta
from ttnet_llm.compress import compress_lora
from ttnet_llm.export import export_lora
from ttnet_llm.linear import hold_factors
from ttnet_llm.loretta_adp import LorettaAdpConfig, LorettaAdpModel
from ttnet_llm.networks.loretta_rep import LorettaRepConfig, LorettaRepModel
from ttnet_llm.networks.lorta import LortaConfig, LortaModel
from ttnet_llm.networks.lotr import LotrConfig, LotrModel
from ttnet_llm.networks.melora import MeloraConfig, MeloraModel
from ttnet_llm.networks.metatt import MetaTTConfig, MetaTTModel, set_task
from ttnet_llm.networks.tt_lora import TTLoraConfig, TTLoraModel
from ttnet_llm.tensorize import RankSchedule, load_tensorized, save_tensorized

__all__ = [
    "LorettaAdpConfig",
    "LorettaAdpModel",
    "LorettaRepConfig",
    "LorettaRepModel",
    "LortaConfig",
    "LortaModel",
    "LotrConfig",
    "LotrModel",
    "MeloraConfig",
    "MeloraModel",
    "MetaTTConfig",
    "MetaTTModel",
    "RankSchedule",
    "TTLoraConfig",
    "TTLoraModel",
    "apply_loretta",
    "compress_lora",
    "export_lora",
    "hold_factors",
    "load_tensorized",
    "save_tensorized",
    "set_task",
]
