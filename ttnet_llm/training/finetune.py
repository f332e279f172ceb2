"""One call from settings to a fine-tuned model with its report."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, set_seed

from ttnet.errors import TTValueError
from ttnet_llm.attach import attach
from ttnet_llm.budget import split_parameters
from ttnet_llm.files import naming_a_full_disk, write_text
from ttnet_llm.folders import mark_folder, output_folder, replace_folder
from ttnet_llm.training.card import finetuned_card
from ttnet_llm.training.kinds import KINDS
from ttnet_llm.training.kinds.kind import Judgement, draw
from ttnet_llm.training.methods import find_method, make_config
from ttnet_llm.training.open_task import open_task
from ttnet_llm.training.page import write_page
from ttnet_llm.training.page.adapter import spectra_of
from ttnet_llm.training.report import write_report
from ttnet_llm.training.run_folder import KIND, open_folders, to_json
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
    *(
        "curves.png",
        *sorted({kind.outputs_file for kind in KINDS.values()}),
        "report.html",
        "report.md",
        "results.json",
        SETTINGS,
    ),
)
PACKAGES = ("ttnet", "torch", "transformers", "peft")


def finetune(
    settings: FinetuneSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> FinetuneResult:
    """Fine-tune a model, and write the adapter, its reports, `results.json` and `settings.yaml`.

    The work is done in a folder `OUTPUT.partial`, which takes the place of `OUTPUT` once all of it is done: an
    interrupted run leaves what was there as it was, and can be resumed.

    Args:
        settings: What to do.
        resume: Go on with an interrupted run from its last checkpoint.
        overwrite: Replace a finished run, or start an interrupted one again. Nothing but a run is ever replaced.
        callbacks: For the trainer, such as `RichProgress`.

    Returns:
        The result.

    Raises:
        TTFileError: If something in the output folder would be lost, there is nothing to resume, or a file cannot be
            read.
        TTValueError: If a setting, column or label is wrong.
    """
    make_config(settings.method, method_options(settings))  # before anything else, as it is quick
    output, partial = open_folders(settings, resume=resume, overwrite=overwrite)
    check_device(settings.device)
    kind, task = open_task(settings)
    set_seed(settings.seed)
    dtype = {} if settings.dtype is None else {"dtype": getattr(torch, settings.dtype)}
    base, tokenizer = kind.load(settings.model, kind.configure(settings.model, task), **dtype)
    # Before anything is written, as targets may not match.
    model = attach(base, make_config(settings.method, method_options(settings), kind.task_type))
    check_learning_rates(model, settings.learning_rates)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TTValueError(
            f"method is {settings.method!r}, which leaves nothing to train, as models of the kind {kind.name} have no "
            "head; take another method."
        )
    batch_size = settings.batch_size or kind.batch_size
    learning_rate = settings.learning_rate or find_method(settings.method).learning_rate
    first = task.details.measures[0]
    train = draw(task.train, settings.limit, settings.seed)
    arguments = training_arguments(
        settings,
        partial / "checkpoints",
        learning_rate=learning_rate,
        batch_size=batch_size,
        examples=len(train),
        measure=first,
    )

    if overwrite and partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    mark_folder(partial, KIND, also=UNFINISHED)
    write_text(partial / SETTINGS, write_settings(settings))
    try:
        trainer = kind.trainer(model, tokenizer, replace(task, train=train), settings, arguments)
    except Exception:
        if not resume:  # nothing has been done yet that one could go on with
            shutil.rmtree(partial)
        raise
    clock = Clock()
    for callback in (clock, MarkWhole(), *callbacks):
        trainer.add_callback(callback)
    trainer.remove_callback(PrinterCallback)
    if settings.early_stopping:
        trainer.add_callback(EarlyStoppingCallback(settings.early_stopping))

    def judge() -> Judgement:
        return kind.judge(trainer.model, tokenizer, task.validation, task.details)

    trainer.judge = lambda: judge().measures
    trainer.groups = lambda: parameter_groups(trainer.model, settings, learning_rate)
    untouched = judge()
    before = untouched.measures
    started = time.perf_counter()
    with naming_a_full_disk(partial):
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(partial / "checkpoints") if resume else None)
    seconds = time.perf_counter() - started
    judgement = judge()
    np.save(partial / kind.outputs_file, judgement.outputs)
    adapter, adapter_bytes = save_finetuned(trainer.model, tokenizer, task.details, partial)
    history = trainer.state.log_history
    result = FinetuneResult(
        settings=settings,
        adapter=str(Path(settings.output, adapter.name)),
        learning_rate=learning_rate,
        parameters=split_parameters(model),
        adapter_bytes=adapter_bytes,
        before=before,
        after=judgement.measures,
        seconds_per_step=statistics.median(clock.steps) if clock.steps else None,
        seconds=seconds,
        steps=trainer.state.global_step,
        losses=[(row["step"], float(row["loss"])) for row in history if "loss" in row],
        scores=[(0, before[first])] + [(r["step"], r[f"eval_{first}"]) for r in history if f"eval_{first}" in r],
        examples=(len(train), len(task.validation)),
        labels=task.taken_as,
        kind=kind.name,
        batch_size=batch_size,
        max_length=task.details.max_length,
        tokens_per_second=clock.tokens_per_second(),
        peak_memory=peak_memory(),
        device=str(trainer.args.device),
        threads=torch.get_num_threads(),
        versions={name: version(name) for name in (*PACKAGES, *kind.packages)},
    )
    write_text(partial / "results.json", to_json(result))
    write_report(result, partial)
    shown = kind.show(task.validation, untouched.outputs, judgement.outputs, trainer.model.config)
    write_page(result, partial, shown=shown, spectra=spectra_of(trainer.model, adapter))
    finetuned_card(result, task.details, task.names).write(adapter)
    output_folder(output, kind=KIND if resume or overwrite else None)  # as something may have come there meanwhile
    shutil.rmtree(partial / "checkpoints", ignore_errors=True)
    mark_folder(partial, KIND)
    replace_folder(partial, output)
    return result


def method_options(settings: FinetuneSettings) -> dict[str, Any]:
    """Give the fields of the method's config that the settings set."""
    if settings.targets is None:
        return dict(settings.method_options)
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    return {**settings.method_options, "target_modules": targets}


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
