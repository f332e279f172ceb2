"""One call that puts LoRETTA adapters into any Hugging Face model."""

import logging
from typing import Any, Literal

from peft import PeftModel, TaskType
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from ttnet.errors import TTValueError
from ttnet_llm.attach import as_peft_model
from ttnet_llm.loretta_adp import LorettaAdpConfig
from ttnet_llm.networks.loretta_rep import LorettaRepConfig
from ttnet_llm.tuner import AdapterConfig, AdapterLayer

logger = logging.getLogger(__name__)

VARIANTS: dict[str, type[AdapterConfig]] = {"adp": LorettaAdpConfig, "rep": LorettaRepConfig}

_TASKS = {
    "ForSequenceClassification": TaskType.SEQ_CLS,
    "ForTokenClassification": TaskType.TOKEN_CLS,
    "ForQuestionAnswering": TaskType.QUESTION_ANS,
    "ForCausalLM": TaskType.CAUSAL_LM,
    "LMHeadModel": TaskType.CAUSAL_LM,
}


def apply_loretta(
    model: nn.Module, variant: Literal["adp", "rep"] = "adp", *, adapter_name: str = "default", **options: Any
) -> PeftModel:
    """Freeze a model and put LoRETTA adapters into it, ready for training.

    A new head is trained and saved too where the model's class says that it has one (`...ForSequenceClassification`
    and its like); pass `task_type=None` to leave it frozen.

    Args:
        model: A transformers model, or any module if `target_modules` is given.
        variant: `"adp"` for tensorised bottleneck adapters, `"rep"` for a LoRA-like update, which can be merged.
        adapter_name: The adapter's name.
        **options: Fields of `LorettaAdpConfig` or `LorettaRepConfig`, such as `tt_rank`, `target_modules` or
            `train_norms`.

    Returns:
        The `PeftModel`; its output is the model's own until it is trained.

    Raises:
        TTValueError: If the variant is unknown, an option is not a field of its config or has a wrong value.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
        >>> model = apply_loretta(BertForSequenceClassification(config), variant="rep", tt_rank=2)
        >>> sorted(name.split(".")[-2] for name, p in model.named_parameters() if p.requires_grad)[-1]
        'default'
    """
    if variant not in VARIANTS:
        raise TTValueError(f"variant is {variant!r}; expected one of {', '.join(map(repr, VARIANTS))}.")
    config_cls = VARIANTS[variant]
    fields = config_cls.__dataclass_fields__
    unknown = sorted(set(options) - set(fields))
    if unknown:
        raise TTValueError(
            f"{', '.join(unknown)}: no such option of {config_cls.__name__}; it has {', '.join(sorted(fields))}."
        )
    options.setdefault("task_type", _task_type(model))
    peft_model: PeftModel = as_peft_model(model, config_cls(**options), adapter_name)
    logger.info(_summary(peft_model, variant))
    return peft_model


def _task_type(model: nn.Module) -> TaskType | None:
    name = type(model).__name__
    if name.endswith("ForConditionalGeneration"):
        encoder_decoder = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
        return TaskType.SEQ_2_SEQ_LM if encoder_decoder else None
    return next((task for ending, task in _TASKS.items() if name.endswith(ending)), None)


def _summary(model: PeftModel, variant: str) -> str:
    layers = [m for m in model.modules() if isinstance(m, AdapterLayer)]
    whole = [m for m in model.modules() if isinstance(m, AuxiliaryTrainingWrapper)]
    in_layers = sum(p.numel() for layer in layers for p in layer.parameters() if p.requires_grad)
    in_whole = sum(p.numel() for module in whole for p in module.parameters() if p.requires_grad)
    trainable, total = model.get_nb_trainable_parameters()
    return (
        f"LoRETTA_{variant}: {in_layers:,} trainable parameters in {len(layers)} adapted modules, {in_whole:,} in "
        f"{len(whole)} modules trained whole; {trainable / total:.3%} of {total:,}."
    )
