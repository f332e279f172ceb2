"""What all trainers of ours add to those of transformers, TRL and sentence-transformers, and what they are told."""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from ttnet.errors import TTValueError
from ttnet.near import near
from ttnet_llm.training.metrics import SMALLER_IS_BETTER
from ttnet_llm.training.settings import FinetuneSettings

WHOLE = "whole"  # an empty file in a checkpoint's folder


def judged(trainer_cls: Any) -> Any:
    """Make a trainer class whose evaluation is `judge`, and whose optimiser has a rate for every part of the model.

    Args:
        trainer_cls: transformers' `Trainer`, or a class made of it.

    Returns:
        The class. Its objects need `judge`, which answers with measures by name, and `groups`, which answers with the
        parameter groups of AdamW, before they train.
    """
    return type(f"Judged{trainer_cls.__name__}", (_Judged, trainer_cls), {})


class _Judged:
    """So that a run is judged by one function before, during and after training, and on files that come later."""

    judge: Callable[[], Mapping[str, float]]
    groups: Callable[[], list[dict[str, Any]]]

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Judge the model, log it, and tell the callbacks."""
        measures = {f"eval_{name}": value for name, value in self.judge().items()}
        self.log(dict(measures))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, measures)
        return measures

    def create_optimizer(self: Any, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make AdamW, once the model is where it will be trained."""
        if self.optimizer is None:
            # In one loop over all tensors, of which adapters have many and small ones.
            self.optimizer = torch.optim.AdamW(self.groups(), fused=True)
        return self.optimizer


def parameter_groups(model: nn.Module, settings: FinetuneSettings, learning_rate: float) -> list[dict[str, Any]]:
    """Sort the trainable parameters by their learning rate and weight decay.

    Rates by name go before that of the new head, which starts at random and may learn faster than the adapter. Vectors
    do not decay.

    Args:
        model: A model whose frozen parameters need no gradient.
        settings: The settings.
        learning_rate: Of all parameters that the settings have no other for.

    Returns:
        Groups for an optimiser.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_head = not {"classifier", "score"}.isdisjoint(name.split("."))
            rate = settings.head_rate(learning_rate) if is_head else learning_rate
            for pattern, named in settings.rates_by_name().items():
                rate = named if has_part(plain_name(name), pattern) else rate
            groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "weight_decay": settings.weight_decay if decays else 0.0}
        for (rate, decays), parameters in groups.items()
    ]


def plain_name(name: str) -> str:
    """Give a parameter's name without what PEFT puts into it.

    Example:
        >>> plain_name("base_model.model.classifier.modules_to_save.default.dense.weight")
        'classifier.dense.weight'
    """
    return name.removeprefix("base_model.model.").replace(".modules_to_save", "").replace(".default", "")


def has_part(name: str, pattern: str) -> bool:
    """Tell whether a parameter's name has a part.

    Args:
        name: The name, parts of which are set off by dots.
        pattern: Whole parts of a name; `*` stands for anything.

    Returns:
        Whether it is there.

    Example:
        >>> [has_part("layer.10.value.cores.0", part) for part in ("value", "layer.1", "layer.*.value", "val")]
        [True, False, True, False]
    """
    return fnmatchcase(f".{name}.", f"*.{pattern}.*")


def check_learning_rates(model: nn.Module, names: Iterable[str]) -> None:
    """Refuse names of learning rates that no trainable parameter has.

    Args:
        model: The model that will be trained.
        names: As `learning_rates` has them.

    Raises:
        TTValueError: If a name stands for nothing.
    """
    trained = [plain_name(name) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for pattern in names:
        if not any(has_part(name, pattern) for name in trained):
            # Layers by the dozen are one name.
            kinds = dict.fromkeys(re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in trained)
            parts = set() if "." in pattern else {part for name in trained for part in name.split(".")}
            raise TTValueError(
                f"learning_rates names {pattern!r}, which no trained parameter is called; {near(pattern, parts)}"
                f"there are {', '.join(kinds)}; name one of them, or parts of it."
            )


def training_arguments(
    settings: FinetuneSettings,
    folder: Path,
    *,
    learning_rate: float,
    batch_size: int,
    examples: int,
    measure: str,
    processes: int = 1,
) -> dict[str, Any]:
    """Say to a trainer what the settings say.

    Args:
        settings: The settings.
        folder: Where checkpoints go.
        learning_rate: The peak.
        batch_size: Examples that are put through the model at once.
        examples: Number of training examples.
        processes: How many train together, each on batches of its own.
        measure: The measure that counts first.

    Returns:
        Arguments of `TrainingArguments`.
    """
    steps_per_epoch = math.ceil(examples / (batch_size * processes * settings.gradient_accumulation))
    steps = max(1, round(steps_per_epoch * settings.epochs))
    every = max(1, math.ceil(steps_per_epoch / settings.evaluations))
    stopping = settings.early_stopping is not None
    return {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "learning_rate": learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": 0 if settings.warmup == 0 else max(1, round(settings.warmup * steps)),
        "weight_decay": settings.weight_decay,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 1,
        "logging_steps": max(1, min(10, steps_per_epoch // 10)),
        "load_best_model_at_end": stopping,
        "metric_for_best_model": f"eval_{measure}" if stopping else None,
        "greater_is_better": measure not in SMALLER_IS_BETTER if stopping else None,
        "label_names": ["labels"],  # PEFT's wrapper hides the forward's signature
        "include_num_input_tokens_seen": "non_padding",
        "seed": settings.seed,
        "data_seed": settings.seed,
        "report_to": list(settings.report_to) or "none",
        "disable_tqdm": True,
        "use_cpu": settings.device == "cpu",
        "bf16": False,  # numbers are of the type that the weights are of
        "dataloader_pin_memory": torch.cuda.is_available() and settings.device != "cpu",
        **({"gradient_checkpointing": True} if settings.gradient_checkpointing else {}),
    }


class MarkWhole(TrainerCallback):
    """Marks a checkpoint once all of it is written, as a full disk or a kill may leave half of one."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Mark it."""
        if state.is_world_process_zero:
            Path(args.output_dir or "", f"checkpoint-{state.global_step}", WHOLE).touch()


def last_whole_checkpoint(folder: Path) -> str | None:
    """Remove what is left of unfinished checkpoints, and find the last finished one.

    Args:
        folder: Where a trainer put them.

    Returns:
        Its folder; `None` if the run has to start from its beginning.
    """
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / WHOLE).exists():
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


class Clock(TrainerCallback):
    """Takes the time of every optimiser step, without evaluations and checkpoints, and counts the tokens in it."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.tokens = 0
        self._began = 0.0
        self._seen = 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start."""
        self._seen = int(state.num_input_tokens_seen)
        self._began = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop."""
        self.steps.append(time.perf_counter() - self._began)
        self.tokens += int(state.num_input_tokens_seen) - self._seen

    def tokens_per_second(self) -> float | None:
        """Give the rate over all steps; `None` where nothing was counted."""
        return self.tokens / sum(self.steps) if self.tokens and self.steps else None


def peak_memory() -> int:
    """Tell the most memory that was taken at once: of the accelerator if there is one, or else of the process.

    Returns:
        Bytes; 0 where the system does not tell.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    import sys

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
