from .apply import apply_loretta
from .bank import AdapterBank
from .budget import fit_to_budget
from .linear import hold_factors
from .loading import load
from .lora.compress import compress_lora
from .lora.export import export_lora
from .loretta_adp import LorettaAdpConfig, LorettaAdpModel
from .networks.ether import EtherConfig, EtherModel
from .networks.loretta_rep import LorettaRepConfig, LorettaRepModel
from .networks.lorta import LortaConfig, LortaModel
from .networks.lotr import LotrConfig, LotrModel
from .networks.melora import MeloraConfig, MeloraModel
from .networks.metatt import MetaTTConfig, MetaTTModel, set_task
from .networks.neuron_lora import NeuronLoraConfig, NeuronLoraModel
from .networks.tt_ether import TTEtherConfig, TTEtherModel
from .networks.tt_lora import TTLoraConfig, TTLoraModel
from .networks.tt_turn import TTTurnConfig, TTTurnModel
from .prompts import DeptConfig, DeptModel, prepend_prompt, prompted
from .tensorize import RankSchedule, load_tensorized, save_tensorized
from .tuner import rescale_adapter_scale

__all__ = [
    "AdapterBank",
    "DeptConfig",
    "DeptModel",
    "EtherConfig",
    "EtherModel",
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
    "NeuronLoraConfig",
    "NeuronLoraModel",
    "RankSchedule",
    "TTEtherConfig",
    "TTEtherModel",
    "TTLoraConfig",
    "TTLoraModel",
    "TTTurnConfig",
    "TTTurnModel",
    "apply_loretta",
    "compress_lora",
    "export_lora",
    "fit_to_budget",
    "hold_factors",
    "load",
    "load_tensorized",
    "prepend_prompt",
    "prompted",
    "rescale_adapter_scale",
    "save_tensorized",
    "set_task",
]
