"""Fine-tuning, from settings to a report, and using it; its adapters are made in the other rooms."""

from ttnet_llm.training.data import TextTask, load_files, load_glue
from ttnet_llm.training.evaluation import Evaluation, evaluate
from ttnet_llm.training.finetune import finetune
from ttnet_llm.training.methods import METHODS, make_config
from ttnet_llm.training.model import predict
from ttnet_llm.training.saved import load_finetuned
from ttnet_llm.training.seeds import SeedsResult, finetune_seeds
from ttnet_llm.training.settings import FinetuneResult, FinetuneSettings

__all__ = [
    "METHODS",
    "Evaluation",
    "FinetuneResult",
    "FinetuneSettings",
    "SeedsResult",
    "TextTask",
    "evaluate",
    "finetune",
    "finetune_seeds",
    "load_files",
    "load_finetuned",
    "load_glue",
    "make_config",
    "predict",
]
