"""Models without the attention heads and feed-forward neurons that a task has no use for (Light-PEFT).

Masks on heads and neurons are learnt during the first steps of a training; what they say is of no use is cut out of the
base model, and adapters are trained on what is left. Importing this room makes saved models known to transformers.
"""

from ttnet_llm.slim.architectures import Axis, axes
from ttnet_llm.slim.cutting import Plan, plan, slim
from ttnet_llm.slim.growing import grow_adapter
from ttnet_llm.slim.masks import LearnMasks, learn_masks, masked
from ttnet_llm.slim.saving import load_slim, save_slim

__all__ = [
    "Axis",
    "LearnMasks",
    "Plan",
    "axes",
    "grow_adapter",
    "learn_masks",
    "load_slim",
    "masked",
    "plan",
    "save_slim",
    "slim",
]
