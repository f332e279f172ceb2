"""Whole models whose dense layers become trains: made, saved, loaded, healed; one layer alone is made in `ttnet.nn`.

`RankSchedule` also lowers the ranks of adapters in training. Importing this room makes saved models known to
transformers, so that `AutoModel...from_pretrained` loads them.
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
