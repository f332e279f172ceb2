"""Exact parameter counts of any PEFT method on any Hugging Face model, without its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftConfig, TaskType
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PretrainedConfig,
)

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.attach import attach
from ttnet_llm.networks.neuron_lora import NeuronLoraConfig
from ttnet_llm.networks.tt_ether import TTEtherConfig

# By PEFT's task types, which compare equal to their names.
_MODELS: dict[Any, Any] = {
    TaskType.SEQ_CLS: AutoModelForSequenceClassification,
    TaskType.CAUSAL_LM: AutoModelForCausalLM,
    TaskType.SEQ_2_SEQ_LM: AutoModelForSeq2SeqLM,
    TaskType.TOKEN_CLS: AutoModelForTokenClassification,
    TaskType.QUESTION_ANS: AutoModelForQuestionAnswering,
}


@dataclass(frozen=True)
class ParameterBudget:
    """Numbers of trainable parameters, by what they belong to, and of those that stay as they are.

    Args:
        adapter: Parameters of the adapters themselves, and of base layers that are trained with them.
        norms: Parameters of the base model's normalisation layers that are trained.
        head: Parameters of other modules that are trained whole, such as a new classification head.
        frozen: Parameters of the base model that are not trained.

    Example:
        >>> budget = ParameterBudget(adapter=790, norms=0, head=10, frozen=9200)
        >>> budget.trainable, budget.share
        (800, 0.08)
    """

    adapter: int
    norms: int
    head: int
    frozen: int

    @property
    def trainable(self) -> int:
        """All parameters that are trained."""
        return self.adapter + self.norms + self.head

    @property
    def share(self) -> float:
        """The trainable share of all parameters, in [0, 1]."""
        return self.trainable / max(self.trainable + self.frozen, 1)


def split_parameters(model: nn.Module, head: tuple[str, ...] = ("classifier", "score")) -> ParameterBudget:
    """Count the parameters of a model that is ready for training.

    Args:
        model: A `PeftModel`, or a model some of whose parameters are frozen.
        head: Names of the modules that make up the head.

    Returns:
        The counts; a parameter that modules share is counted once.

    Example:
        >>> split_parameters(nn.ModuleDict({"layer": nn.Linear(2, 2), "classifier": nn.Linear(2, 3)}))
        ParameterBudget(adapter=6, norms=0, head=9, frozen=0)
    """
    counts = dict.fromkeys(("adapter", "norms", "head", "frozen"), 0)
    owners = {id(p): module for module in model.modules() for p in module.parameters(recurse=False)}
    copies = {id(p) for name, p in model.named_parameters() if ".original_module." in name}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            # Of a module that is trained whole there are two copies, of which one is the model's.
            kind = None if id(parameter) in copies else "frozen"
        elif not set(head).isdisjoint(name.split(".")):
            kind = "head"
        elif type(owners[id(parameter)]).__name__.lower().endswith(("norm", "norm1d", "norm2d")):
            kind = "norms"
        elif ".modules_to_save." in name:
            kind = "head"
        else:
            kind = "adapter"
        if kind:
            counts[kind] += parameter.numel()
    return ParameterBudget(**counts)


def count_parameters(
    config_or_model: PretrainedConfig | nn.Module, peft_config: PeftConfig | None = None
) -> ParameterBudget:
    """Count what a PEFT method would train, exactly, by building it on PyTorch's meta device.

    Nothing is allocated and nothing is changed, so this works for models that do not fit into memory.

    Args:
        config_or_model: A transformers config, or a model. From a config the model that `peft_config.task_type` names
            is built, such as a sequence classifier for `"SEQ_CLS"`; without one the bare model.
        peft_config: Any PEFT config; `None` counts full fine-tuning.

    Returns:
        The counts.

    Raises:
        TTTypeError: If `config_or_model` is neither a config nor a model.
        NoMatchingPeftModuleError: If no module is targeted.

    Example:
        >>> from peft import LoraConfig
        >>> from transformers import BertConfig
        >>> count_parameters(BertConfig(), LoraConfig(r=8)).adapter
        294912
    """
    peft_config = copy.deepcopy(peft_config)  # PEFT fills in the targets
    with torch.device("meta"):
        model = attach(_on_meta(config_or_model, peft_config), peft_config)
    return split_parameters(model)


def fit_to_budget(
    config_or_model: PretrainedConfig | nn.Module, parameters: int, *, task_type: TaskType | str | None = None
) -> NeuronLoraConfig | TTEtherConfig:
    """Choose how a number of parameters is best spent, by what has been measured.

    In a language model that is NeuronLoRA: of the largest rank up to 8 that leaves room for a quarter of the neurons,
    or of rank 1, with as many neurons as fit. In other models, and where not even a 24th of the neurons fits, it is
    TT-ETHER of the largest rank that does, both sides of a turn in one train from rank 11 on, up to vectors of its own
    for every place: at all linear layers of a language
    model, if they have room, and otherwise at those that read the residual stream. The studies behind it are in the
    documentation (`docs/choosing.md`).

    Args:
        config_or_model: As in `count_parameters`.
        parameters: How many the adapter may train, at least 1. A head and norms are not counted.
        task_type: PEFT's, which the config gets; without one, the model's class says whether it is a language model.

    Returns:
        A config whose exact number of parameters is at most the budget.

    Raises:
        TTValueError: If the budget is below that of rank 1.
        TTTypeError: If `config_or_model` is neither a config nor a model.

    Example:
        >>> from transformers import BertConfig
        >>> config = fit_to_budget(BertConfig(), parameters=5_000)
        >>> config.r, count_parameters(BertConfig(), config).adapter
        (3, 4752)
    """

    def count(config: PeftConfig) -> int:
        return count_parameters(config_or_model, config).adapter

    def turning(r: int | None, tied: bool = False) -> TTEtherConfig:
        blocks = 8 if tied else 4
        return TTEtherConfig(r=r, n=blocks, tied=tied, target_modules=targets, task_type=task_type)

    def adding(r: int, neurons: int | None) -> NeuronLoraConfig:
        return NeuronLoraConfig(r=r, alpha=2 * r, neurons=neurons, task_type=task_type)

    targets = None
    if _writes_text(config_or_model, task_type):
        with suppress(TTValueError):  # where no feed-forward block ends in a layer of its own, as with experts
            least = count(adding(1, 1))
            outputs = 2 * least - count(adding(1, 2))
            neurons = count(adding(1, None)) - outputs
            if parameters >= max(least, outputs + neurons // _FEW):
                r = max(1, min(parameters // max(least, outputs + neurons // _ENOUGH), _HIGHEST))
                if parameters >= r * (outputs + neurons):
                    return adding(r, None)
                each = least - outputs  # for a neuron of every block, where all have as many
                guess = max(1, (parameters // r - outputs) // each)
                return adding(r, _largest(lambda picked: count(adding(r, picked)), parameters, guess))
        targets = "all-linear"
        if parameters < count(turning(1)):
            targets = None
    if parameters < (smallest := count(turning(1))):
        raise TTValueError(
            f"parameters is {parameters}, but the smallest adapter of this model, TT-ETHER of rank 1, has {smallest}; "
            "allow as many, or adapt fewer modules with a config of your own."
        )
    if parameters >= count(turning(None)):
        return turning(None)
    if parameters >= count(turning(_TIED, tied=True)):
        return turning(_largest(lambda r: count(turning(r, tied=True)), parameters, _TIED), tied=True)
    return turning(_largest(lambda r: count(turning(r)), parameters))


# Shares of the neurons, one of so many: the smallest that was measured, and from where on rank is worth more.
_FEW, _ENOUGH = 24, 4
_HIGHEST = 8  # rank: of LoRA in the same study; what is left of a budget then is not spent
_TIED = 11  # rank of the smallest train over both sides of a turn that was measured


def _largest(count: Callable[[int], int], most: int, guess: int = 1) -> int:
    """Find the largest number, of at least 1, whose count is at most another; a guess that is right saves counts."""
    fits, ahead = guess if guess > 1 and count(guess) <= most else 1, 1
    while count(fits + ahead) <= most:
        fits, ahead = fits + ahead, 2 * ahead
    too_many = fits + ahead
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if count(middle) <= most else (fits, middle)
    return fits


def _writes_text(config_or_model: PretrainedConfig | nn.Module, task_type: TaskType | str | None) -> bool:
    """Tell whether a model is a language model that goes on with a text."""
    if task_type is not None:
        return task_type == TaskType.CAUSAL_LM
    config = (
        config_or_model if isinstance(config_or_model, PretrainedConfig) else getattr(config_or_model, "config", None)
    )
    names = getattr(config, "architectures", None) or ()
    return any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in [*names, type(config_or_model).__name__])


def _on_meta(config_or_model: PretrainedConfig | nn.Module, peft_config: PeftConfig | None) -> Any:
    if isinstance(config_or_model, PretrainedConfig):
        from ttnet_llm.slim.saving import cut_as_said  # which trains adapters, and counts them so

        return cut_as_said(_MODELS.get(getattr(peft_config, "task_type", None), AutoModel).from_config(config_or_model))
    if not isinstance(config_or_model, nn.Module):
        raise TTTypeError(
            f"config_or_model is a {type(config_or_model).__name__}; expected a transformers config or a torch module."
        )
    # A deep copy that believes to have copied the tensors already, so that none is.
    tensors: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in config_or_model.parameters()
    }
    tensors |= {id(b): b.to("meta") for b in config_or_model.buffers()}
    return copy.deepcopy(config_or_model, tensors)
