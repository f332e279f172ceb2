"""The tensor networks of the linear methods, one file each; the layer that they all share is in `ttnet_llm.linear`.

Importing this room makes the methods known to PEFT.
"""

from ttnet_llm import first_exp  # noqa: F401
from ttnet_llm.networks.ether import EtherConfig, EtherModel
from ttnet_llm.networks.loretta_rep import LorettaRepConfig, LorettaRepModel
from ttnet_llm.networks.lorta import LortaConfig, LortaModel
from ttnet_llm.networks.lotr import LotrConfig, LotrModel
from ttnet_llm.networks.melora import MeloraConfig, MeloraModel
from ttnet_llm.networks.metatt import MetaTTConfig, MetaTTModel
from ttnet_llm.networks.neuron_lora import NeuronLoraConfig, NeuronLoraModel
from ttnet_llm.networks.tt_ether import TTEtherConfig, TTEtherModel
from ttnet_llm.networks.tt_lora import TTLoraConfig, TTLoraModel
from ttnet_llm.networks.tt_turn import TTTurnConfig, TTTurnModel

__all__ = [
    "EtherConfig",
    "EtherModel",
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
    "TTEtherConfig",
    "TTEtherModel",
    "TTLoraConfig",
    "TTLoraModel",
    "TTTurnConfig",
    "TTTurnModel",
]
