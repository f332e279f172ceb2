"""One training: what it needs, loaded and checked, and then carried out in a folder, with its reports."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, set_seed

from ttnet.distribution import NAME
from ttnet.errors import TTValueError
from ttnet_llm.budget import split_parameters
from ttnet_llm.files import naming_a_full_disk, write_text
from ttnet_llm.folders import mark_folder
from ttnet_llm.prompts import longest_text, placeholders
from ttnet_llm.training.card import finetuned_card
from ttnet_llm.training.details import find_saved
from ttnet_llm.training.gain import nothing_gained
from ttnet_llm.training.kinds import KINDS
from ttnet_llm.training.kinds.kind import Judgement, Kind, Task
from ttnet_llm.training.methods import find_method, make_config
from ttnet_llm.training.open_task import open_task
from ttnet_llm.training.page import write_page
from ttnet_llm.training.page.adapter import spectra_of
from ttnet_llm.training.processes import count, is_first, make_whole, wait
from ttnet_llm.training.quantised import make_trainable, quantised_options
from ttnet_llm.training.report import write_report
from ttnet_llm.training.run_folder import KIND, RESULTS, to_json
from ttnet_llm.training.saved import save_finetuned
from ttnet_llm.training.settings import FinetuneResult, FinetuneSettings
from ttnet_llm.training.settings_file import SETTINGS, write_settings
from ttnet_llm.training.trainer import (
    Clock,
    MarkWhole,
    check_learning_rates,
    last_whole_checkpoint,
    parameter_groups,
    peak_memory,
    training_arguments,
)

# What a run that is under way may have written.
UNFINISHED = (
    *("adapter/", "checkpoints/", "model/"),
    *sorted({kind.outputs_file for kind in KINDS.values()}),
    *("curves.png", "report.html", "report.md", RESULTS, SETTINGS),
)
PACKAGES = (NAME, "torch", "transformers", "peft")


@dataclass(frozen=True)
class Training:
    """What is ready to be trained.

    Args:
        settings: The settings.
        kind: The kind of training.
        task: What there is to learn, and to judge by.
        model: With its adapter.
        tokenizer: The model's.
        batch_size: Examples at once.
        learning_rate: The peak.
    """

    settings: FinetuneSettings
    kind: Kind
    task: Task
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    batch_size: int
    learning_rate: float


def prepare(settings: FinetuneSettings) -> Training:
    """Read the data, load the model and put the adapter into it; nothing is written.

    Args:
        settings: What to do.

    Returns:
        What is ready to be trained.

    Raises:
        TTFileError: If a file cannot be read.
        TTValueError: If a setting, column or label is wrong.
    """
    check_device(settings.device)
    quantised = quantised_options(settings)
    kind, task = open_task(settings)
    set_seed(settings.seed)
    dtype = {} if settings.dtype is None else {"dtype": getattr(torch, settings.dtype)}
    base, tokenizer = kind.load(settings.model, kind.configure(settings.model, task), **dtype, **quantised)
    if quantised:
        make_trainable(kind.core(base))
    task_type = kind.task_type_for(kind.core(base).config)
    model = kind.attach(base, make_config(settings.method, method_options(settings), task_type))
    tokenizer = kind.prompted(model, tokenizer)
    task = with_room(task, kind.core(model), tokenizer, settings.max_length)
    check_learning_rates(model, settings.learning_rates)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TTValueError(
            f"method is {settings.method!r}, which leaves nothing to train, as models of the kind {kind.name} have no "
            "head; take another method."
        )
    return Training(
        settings,
        kind,
        replace(task, train=kind.draw(task.train, settings)),
        model,
        tokenizer,
        settings.batch_size or kind.batch_size,
        settings.learning_rate or find_method(settings.method).rate_for(task_type),
    )


def carry_out(
    training: Training, folder: Path, *, resume: bool = False, callbacks: Sequence[TrainerCallback] = ()
) -> FinetuneResult:
    """Train, and write the adapter, its reports, `results.json` and `settings.yaml`.

    Args:
        training: What is ready.
        folder: Where to work and write; marked as what a later run may replace.
        resume: Whether to go on from the last checkpoint in the folder.
        callbacks: For the trainer.

    Returns:
        The result.

    Raises:
        TTValueError: If the trainer finds nothing to learn.
    """
    settings, kind, task = training.settings, training.kind, training.task
    model, tokenizer = training.model, training.tokenizer
    first = task.details.measures[0]
    arguments = training_arguments(
        settings,
        folder / "checkpoints",
        learning_rate=training.learning_rate,
        batch_size=training.batch_size,
        examples=len(task.train),
        measure=first,
        processes=count(),
    )
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        mark_folder(folder, KIND, also=UNFINISHED)
        write_text(folder / SETTINGS, write_settings(settings))
    checkpoint = last_whole_checkpoint(folder / "checkpoints") if resume and is_first() else None
    wait()
    if resume and not is_first():
        checkpoint = last_whole_checkpoint(folder / "checkpoints")
    try:
        trainer = kind.trainer(model, tokenizer, task, settings, arguments)
    except Exception:
        if not resume and is_first():  # nothing has been done yet that one could go on with
            shutil.rmtree(folder)
        raise
    clock = Clock()
    for callback in (clock, MarkWhole(), *callbacks):
        trainer.add_callback(callback)
    trainer.remove_callback(PrinterCallback)
    if settings.early_stopping:
        trainer.add_callback(EarlyStoppingCallback(settings.early_stopping))

    def judge() -> Judgement:
        return kind.judge(trainer.model, tokenizer, task.validation, task.details, batch_size=kind.batch_size)

    trainer.judge = lambda: judge().measures
    trainer.groups = lambda: parameter_groups(trainer.model, settings, training.learning_rate)
    untouched = judge()
    before = untouched.measures
    started = time.perf_counter()
    with naming_a_full_disk(folder):
        trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    judgement, core = judge(), kind.core(trainer.model)
    make_whole(trainer.model)
    if is_first():
        np.save(folder / kind.outputs_file, judgement.outputs)
        save_finetuned(trainer.model, tokenizer, task.details, folder)
    wait()
    adapter = find_saved(folder)
    adapter_bytes = sum(file.stat().st_size for file in adapter.glob("*.safetensors"))
    history = trainer.state.log_history
    result = FinetuneResult(
        settings=settings,
        adapter=str(Path(settings.output, adapter.name)),
        learning_rate=training.learning_rate,
        parameters=split_parameters(model),
        adapter_bytes=adapter_bytes,
        before=before,
        after=judgement.measures,
        seconds_per_step=statistics.median(clock.steps) if clock.steps else None,
        seconds=seconds,
        steps=trainer.state.global_step,
        losses=[(row["step"], float(row["loss"])) for row in history if "loss" in row],
        scores=[(0, before[first])] + [(r["step"], r[f"eval_{first}"]) for r in history if f"eval_{first}" in r],
        examples=(len(task.train), len(task.validation)),
        labels=task.taken_as,
        names=task.names,
        kind=kind.name,
        batch_size=training.batch_size,
        max_length=task.details.max_length,
        tokens_per_second=clock.tokens_per_second(),
        peak_memory=peak_memory(),
        device=str(trainer.args.device),
        processes=count(),
        threads=torch.get_num_threads(),
        versions={name: version(name) for name in (*PACKAGES, *kind.packages)},
        warning=nothing_gained(
            before,
            judgement.measures,
            without_reading=kind.without_reading(task.validation, task.details, core.config),
            learning_rate=training.learning_rate,
        ),
    )
    if is_first():
        write_text(folder / RESULTS, to_json(result))
        write_report(result, folder)
        shown = kind.show(task.validation, untouched.outputs, judgement.outputs, core.config)
        write_page(result, folder, shown=shown, spectra=spectra_of(core, adapter))
        finetuned_card(result, task.details).write(adapter)
    return result


def clear(folder: Path) -> None:
    """Remove what only an unfinished run needs, and mark the folder as a finished one.

    Args:
        folder: Where `carry_out` has worked.
    """
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    mark_folder(folder, KIND)


def method_options(settings: FinetuneSettings) -> dict[str, Any]:
    """Give the fields of the method's config that the settings set."""
    if settings.targets is None:
        return dict(settings.method_options)
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    return {**settings.method_options, "target_modules": targets}


def with_room(task: Task, model: nn.Module, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Task:
    """Let inputs be longer by the soft prompt before them, so that every method sees as much of a text.

    Args:
        task: What there is to learn.
        model: With its adapter.
        tokenizer: The one that writes the prompt.
        max_length: What the user wants texts cut to; `None` cuts them to what the adapter takes, too.

    Returns:
        The task; the same one where there is no prompt.

    Raises:
        TTValueError: If the user wants more than the adapter takes.
    """
    most, prompt = longest_text(model), len(placeholders(model))
    if most is None:
        return task
    if (max_length or 0) > most:
        raise TTValueError(
            f"max_length is {max_length}, but the adapter takes {most} tokens of a text after its prompt; give at most "
            f"{most} (--max-length), or the method a larger one (--method-option max_length={max_length})."
        )
    config: Any = model.config
    positions = getattr(config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length
    length = min(min(task.details.max_length, most) + prompt, tokenizer.model_max_length, positions)
    return replace(task, details=replace(task.details, max_length=length))


def check_device(device: str | None) -> None:
    """Refuse a device that this machine does not have.

    Args:
        device: One of `DEVICES`, or `None`.

    Raises:
        TTValueError: If it is not there.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device is not None and not here.get(device, True):
        raise TTValueError(f"device is {device!r}, which this machine does not have, or torch not know; take 'cpu'.")
