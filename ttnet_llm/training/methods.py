"""The methods that can be trained, and what each brings along."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peft import HiraConfig, LoraConfig, PeftConfig, TaskType
from peft.utils.constants import DUMMY_TARGET_MODULES

from ttnet.errors import TTValueError
from ttnet.near import near
from ttnet_llm import (
    DeptConfig,
    EtherConfig,
    LorettaAdpConfig,
    LorettaRepConfig,
    LortaConfig,
    LotrConfig,
    MeloraConfig,
    MetaTTConfig,
    NeuronLoraConfig,
    TTEtherConfig,
    TTLoraConfig,
    TTTurnConfig,
)
from ttnet_llm.tuner import AdapterConfig


@dataclass(frozen=True)
class Method:
    """A way to fine-tune.

    Args:
        title: What reports call it.
        learning_rate: Where to start tuning from, for batches of some 32 examples and AdamW.
        config: Its PEFT config class; `None` trains the whole model.
        options: Config fields that differ from the class's defaults.
        head_learning_rate: The same for a new head; `None` takes the adapter's.
        writing_rate: The learning rate for models that write texts, where it is another.
        learning_rates: Those of single parameters, by parts of their names.
    """

    title: str
    learning_rate: float
    config: type[PeftConfig] | None
    options: Mapping[str, Any] = field(default_factory=dict)
    head_learning_rate: float | None = None
    writing_rate: float | None = None
    learning_rates: Mapping[str, float] = field(default_factory=dict)

    def rate_for(self, task_type: TaskType | None) -> float:
        """Give the learning rate to start from.

        Args:
            task_type: What PEFT calls the task.

        Returns:
            The rate.

        Example:
            >>> METHODS["neuron-lora"].rate_for(TaskType.SEQ_CLS), METHODS["neuron-lora"].rate_for(TaskType.CAUSAL_LM)
            (0.01, 0.03)
        """
        writes = task_type in (TaskType.CAUSAL_LM, TaskType.SEQ_2_SEQ_LM)
        return self.writing_rate if writes and self.writing_rate is not None else self.learning_rate


METHODS: dict[str, Method] = {
    "loretta-adp": Method("LoRETTA_adp", 3e-3, LorettaAdpConfig),
    "loretta-rep": Method("LoRETTA_rep", 3e-3, LorettaRepConfig),
    "tt-lora": Method("TT-LoRA", 1e-2, TTLoraConfig),
    "lorta": Method("LoRTA", 1e-2, LortaConfig),
    "lotr": Method("LoTR", 5e-3, LotrConfig),
    "metatt": Method("MetaTT", 3e-3, MetaTTConfig),
    "melora": Method("MELoRA", 2e-3, MeloraConfig),
    "ether": Method("ETHER+", 1e-2, EtherConfig),
    "tt-ether": Method(
        "TT-ETHER", 8e-2, TTEtherConfig, {"r": 11, "n": 8, "tied": True}, head_learning_rate=5e-3, writing_rate=2e-2
    ),
    "tt-turn": Method(
        "TT-Turn",
        4e-2,
        TTTurnConfig,
        {"n": 24, "target_modules": "all-linear"},
        head_learning_rate=5e-3,
        writing_rate=8e-2,
    ),
    "neuron-lora": Method("NeuronLoRA", 1e-2, NeuronLoraConfig, head_learning_rate=5e-3, writing_rate=3e-2),
    # The rate of the prompt; its offset's factors are far smaller. T5's embeddings are some forty times as large as
    # BERT's, which the rate in the paper is for.
    "dept": Method(
        "DePT", 1e-2, DeptConfig, head_learning_rate=5e-3, writing_rate=0.3, learning_rates={"A": 1e-3, "B": 1e-3}
    ),
    "lora": Method("LoRA", 1e-3, LoraConfig, {"r": 8, "lora_alpha": 16}),
    "hira": Method("HiRA", 1e-2, HiraConfig, {"r": 8}, head_learning_rate=5e-3, writing_rate=3e-2),
    # No module of that name exists, which PEFT allows: only the head is trained, saved and loaded.
    "head": Method("Head only", 1e-2, LoraConfig, {"target_modules": DUMMY_TARGET_MODULES}),
    "full": Method("Full fine-tuning", 5e-5, None),
}


def find_method(name: str) -> Method:
    """Look up a method.

    Args:
        name: A key of `METHODS`.

    Returns:
        The method.

    Raises:
        TTValueError: If there is none of that name.

    Example:
        >>> find_method("lora").learning_rate
        0.001
    """
    if name not in METHODS:
        raise TTValueError(f"method is {name!r}; {near(name, METHODS)}expected one of {', '.join(METHODS)}.")
    return METHODS[name]


def make_config(
    name: str, options: Mapping[str, Any] | None = None, task_type: TaskType | str | None = TaskType.SEQ_CLS
) -> PeftConfig | None:
    """Make a method's PEFT config.

    Args:
        name: A key of `METHODS`.
        options: Fields of the method's config class to set, such as `{"tt_rank": 5}`.
        task_type: What PEFT takes; for sequence classification it trains and saves the head.

    Returns:
        The config; `None` for full fine-tuning.

    Raises:
        TTValueError: If the method is unknown, or has no such option, or an option has a wrong value.

    Example:
        >>> make_config("loretta-rep", {"r": 4}).r
        4
    """
    method = find_method(name)
    options = dict(options or {})
    if method.config is None:
        if options:
            raise TTValueError(f"method 'full' has no options, but {', '.join(options)} was given; leave it out.")
        return None
    fields = {entry.name: entry for entry in dataclasses.fields(method.config) if entry.init}
    if unknown := sorted(set(options) - set(fields)):
        shared = {entry.name for entry in dataclasses.fields(PeftConfig)} | {
            entry.name for entry in dataclasses.fields(AdapterConfig)
        }
        own = sorted(set(fields) - shared)
        raise TTValueError(
            f"{', '.join(unknown)}: no such option of {name!r}; {near(unknown[0], fields)}it has {', '.join(own)}, and "
            "what all methods have, such as target_modules."
        )
    try:
        return method.config(**{**method.options, **options}, task_type=task_type)
    except (TypeError, ValueError) as error:
        if isinstance(error, TTValueError):
            raise
        raise TTValueError(f"The options of {name!r} do not go together: {error}") from error
