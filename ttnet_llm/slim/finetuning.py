"""A slim model for a fine-tuning: masks learnt in a short one, and a record of what they leave."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ttnet.errors import TTValueError
from ttnet_llm.slim.architectures import Axis, axes
from ttnet_llm.slim.cutting import Plan, check_shares, plan
from ttnet_llm.slim.masks import L1, RATE, LearnMasks
from ttnet_llm.slim.pictures import draw_kept
from ttnet_llm.slim.saving import PICTURE, slim_folder, write_slim
from ttnet_llm.training import FinetuneSettings, finetune
from ttnet_llm.training.details import carry_details
from ttnet_llm.training.model import find_tokenizer
from ttnet_llm.training.pictures import picture

_LEARNING = "learning"  # the folder of the short training, which does not stay


class SlimAtEnd(LearnMasks):
    """Learns masks while a `Trainer` trains, and plans by them at the end; what cannot be cut is refused at the start.

    Args:
        heads: As `plan` takes it.
        neurons: The same.
        l1: As `LearnMasks` takes it.
        learning_rate: The same.

    Example:
        >>> from ttnet_llm.training import FinetuneSettings, finetune
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1)
        >>> learning = SlimAtEnd(heads=0.5, neurons=0.5)
        >>> result = finetune(settings, callbacks=[learning])
        >>> [len(kept) for name, kept in learning.plan.kept.items() if "attention" in name]
        [1, 1]
    """

    plan: Plan
    axes: list[Axis]

    def __init__(self, heads: float, neurons: float, *, l1: float = L1, learning_rate: float = RATE) -> None:
        check_shares(heads, neurons)
        super().__init__(l1=l1, learning_rate=learning_rate)
        self.heads, self.neurons = heads, neurons

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose what goes."""
        super().on_train_end(args, state, control, **kwargs)
        self.axes = axes(kwargs["model"])
        self.plan = plan(kwargs["model"], self.masks, heads=self.heads, neurons=self.neurons)


@dataclass(frozen=True)
class Slimmed:
    """What became of a model.

    Args:
        plan: What stays.
        axes: What there was.
        steps: In how many steps the masks were learnt.
        parameters: The base model's number of parameters, before and after.

    Example:
        >>> Slimmed(Plan({}, {}, {}, removed=300), axes=[], steps=10, parameters=(1000, 700)).parameters
        (1000, 700)
    """

    plan: Plan
    axes: list[Axis]
    steps: int
    parameters: tuple[int, int]


def slim_finetuning(
    settings: FinetuneSettings,
    *,
    heads: float = 1 / 3,
    neurons: float = 1 / 3,
    l1: float = L1,
    mask_learning_rate: float = RATE,
    callbacks: Sequence[TrainerCallback] = (),
) -> Slimmed:
    """Learn masks in a training by the settings, and write a record of the model without what they leave out.

    The output folder is a model that `finetune` takes, `allocate` and everything else that takes one; the adapter that
    was trained with the masks does not stay, as one trained on the slim model fits that better.

    Args:
        settings: How to train; its output is where the record goes, and an earlier record is replaced.
        heads: The share of every layer's heads that goes, in [0, 1).
        neurons: The share of all neurons that goes, in [0, 1).
        l1: Weight of the masks' penalty, at least 0.
        mask_learning_rate: Above 0.
        callbacks: For the trainer.

    Returns:
        What was kept.

    Raises:
        TTFileError: If something would be lost.
        TTTypeError: If the model cannot be cut.
        TTValueError: If a setting is wrong.

    Example:
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="slim", epochs=1)
        >>> slimmed = slim_finetuning(settings)
        >>> before, after = slimmed.parameters
        >>> before > after
        True
    """
    if settings.seeds:
        raise TTValueError(f"seeds is {settings.seeds}, but this trains once; name one with seed.")
    learning = SlimAtEnd(heads, neurons, l1=l1, learning_rate=mask_learning_rate)
    tokenizer = find_tokenizer(settings.model)
    with slim_folder(settings.output, reads=(settings.model, settings.train, settings.validation)) as folder:
        run = replace(settings, output=str(folder / _LEARNING))
        result = finetune(run, callbacks=[learning, *callbacks])
        shutil.rmtree(folder / _LEARNING)
        told = {"learnt": {"steps": result.steps, "heads": heads, "neurons": neurons, "l1": l1}}
        sizes = write_slim(learning.plan, folder, settings.output, base=settings.model, tokenizer=tokenizer, told=told)
        carry_details(settings.model, folder)
        kept = {name: len(each) for name, each in learning.plan.kept.items()}
        title, said = f"What is left of {Path(settings.model).name}", "{1:,} parameters of {0:,}".format(*sizes)
        picture(folder / PICTURE, said, partial(draw_kept, learning.axes, kept, title=title, subtitle=said))
    return Slimmed(learning.plan, learning.axes, result.steps, sizes)
