"""Pretrained models whose dense layers become tensor trains: made, saved, loaded, healed and thinned out.

Importing it makes saved models known to transformers, so that `AutoModel...from_pretrained` loads them.
"""

from ttnet_llm.tensorize.healing import train_trains_only
from ttnet_llm.tensorize.replace import tensorize
from ttnet_llm.tensorize.report import LayerReport, TensorizeReport
from ttnet_llm.tensorize.saving import load_tensorized, record, save_tensorized
from ttnet_llm.tensorize.schedule import RankSchedule

__all__ = [
    "LayerReport",
    "RankSchedule",
    "TensorizeReport",
    "load_tensorized",
    "record",
    "save_tensorized",
    "tensorize",
    "train_trains_only",
]
