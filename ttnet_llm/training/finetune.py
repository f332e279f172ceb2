"""One call from settings to a fine-tuned model with its report."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.attach import attach
from ttnet_llm.budget import split_parameters
from ttnet_llm.files import naming_a_full_disk, write_text
from ttnet_llm.folders import mark_folder, output_folder, replace_folder
from ttnet_llm.training.data import TextTask, load_files, load_glue
from ttnet_llm.training.methods import find_method, make_config
from ttnet_llm.training.metrics import measure
from ttnet_llm.training.model import Details, load_classifier, predict, save_finetuned, tokenize
from ttnet_llm.training.report import write_report
from ttnet_llm.training.settings import FinetuneResult, FinetuneSettings

LOGITS = "logits.npy"  # the trained model's output on the validation data
WHOLE = "whole"  # an empty file in a checkpoint's folder
KIND = "finetune"  # what marks the folders written here
# What a run that is under way may have written.
UNFINISHED = ("adapter/", "checkpoints/", "curves.png", LOGITS, "model/", "report.md", "results.json", "settings.json")
PACKAGES = ("ttnet", "torch", "transformers", "peft")


def finetune(
    settings: FinetuneSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> FinetuneResult:
    """Fine-tune a classifier, and write the adapter, `report.md`, `results.json` and `curves.png`.

    The work is done in a folder `OUTPUT.partial`, which takes the place of `OUTPUT` once all of it is done: an
    interrupted run leaves what was there as it was, and can be resumed.

    Args:
        settings: What to do.
        resume: Go on with an interrupted run from its last checkpoint.
        overwrite: Replace a finished run, or start an interrupted one again. Nothing but a run is ever replaced.
        callbacks: For the transformers `Trainer`, such as `RichProgress`.

    Returns:
        The result.

    Raises:
        TTFileError: If something in the output folder would be lost, there is nothing to resume, or a file cannot be
            read.
        TTValueError: If a setting, column or label is wrong.
    """
    config = make_config(settings.method, settings.method_options)
    output, partial = _folders(settings, resume=resume, overwrite=overwrite)
    task = _load_task(settings)
    set_seed(settings.seed)
    model, tokenizer = load_classifier(settings.model, task.names)
    # Before anything is written, as targets may not match.
    model = attach(model, config)

    if overwrite and partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    mark_folder(partial, KIND, also=UNFINISHED)
    write_text(partial / "settings.json", _json(settings))
    first = task.measures[0]
    train = task.train.take(settings.limit, settings.seed)
    learning_rate = settings.learning_rate or find_method(settings.method).learning_rate
    clock = _Clock()
    trainer = Trainer(
        model=model,
        args=_arguments(settings, partial, learning_rate, len(train), first),
        train_dataset=tokenize(tokenizer, train, settings.max_length),
        eval_dataset=tokenize(tokenizer, task.validation, settings.max_length),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda output: measure(output.predictions, output.label_ids, task.measures),
        optimizers=(_optimizer(model, settings, learning_rate), None),
        callbacks=[clock, _MarkWhole(), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    if settings.early_stopping:
        trainer.add_callback(EarlyStoppingCallback(settings.early_stopping))

    def validate() -> NDArray[Any]:
        return predict(model, tokenizer, task.validation, max_length=settings.max_length)

    before = measure(validate(), task.validation.labels, task.measures)
    started = time.perf_counter()
    with naming_a_full_disk(partial):
        trainer.train(resume_from_checkpoint=_last_whole_checkpoint(partial / "checkpoints") if resume else None)
    seconds = time.perf_counter() - started
    logits = validate()
    np.save(partial / LOGITS, logits)
    after = measure(logits, task.validation.labels, task.measures)
    details = Details(task.columns, settings.max_length, task.measures)
    adapter, adapter_bytes = save_finetuned(trainer.model, tokenizer, details, partial)
    history = trainer.state.log_history
    result = FinetuneResult(
        settings=settings,
        adapter=str(Path(settings.output, adapter.name)),
        learning_rate=learning_rate,
        parameters=split_parameters(model),
        adapter_bytes=adapter_bytes,
        before=before,
        after=after,
        seconds_per_step=statistics.median(clock.steps) if clock.steps else None,
        seconds=seconds,
        steps=trainer.state.global_step,
        losses=[(row["step"], row["loss"]) for row in history if "loss" in row],
        scores=[(0, before[first])] + [(r["step"], r[f"eval_{first}"]) for r in history if f"eval_{first}" in r],
        examples=(len(train), len(task.validation)),
        labels=task.taken_as,
        threads=torch.get_num_threads(),
        versions={name: version(name) for name in PACKAGES},
    )
    write_text(partial / "results.json", _json(result))
    write_report(result, partial)
    output_folder(output, kind=KIND if resume or overwrite else None)  # as something may have come there meanwhile
    shutil.rmtree(partial / "checkpoints", ignore_errors=True)
    mark_folder(partial, KIND)
    replace_folder(partial, output)
    return result


def _load_task(settings: FinetuneSettings) -> TextTask:
    if settings.task is not None:
        return load_glue(settings.task)
    assert settings.train is not None  # settled by the settings
    assert settings.validation is not None
    return load_files(
        settings.train,
        settings.validation,
        text_columns=settings.text_columns,
        label_column=settings.label_column,
        kind=settings.kind,
        encoding=settings.encoding,
        measures=settings.measures,
    )


def _folders(settings: FinetuneSettings, *, resume: bool, overwrite: bool) -> tuple[Path, Path]:
    """Settle whether the run may start, where it goes, and where it works until it is done."""
    if resume and overwrite:
        raise TTValueError("resume and overwrite were both given; resume goes on with a run, overwrite starts again.")
    reads = (settings.model, settings.train, settings.validation)
    output = output_folder(settings.output, kind=KIND, reads=reads)
    partial = output.with_name(f"{output.name}.partial")
    if partial.is_symlink():
        raise TTFileError(f"The run would work in {str(partial)!r}, which is a link; name another output folder.")
    interrupted = (partial / "settings.json").is_file()
    if resume:
        if not interrupted:
            raise TTFileError(f"There is no interrupted run in {str(partial)!r} to resume; start one without --resume.")
        then, now = json.loads((partial / "settings.json").read_text("utf-8")), json.loads(_json(settings))
        changed = [name for name in now if then.get(name) != now[name]]
        if changed:
            name = changed[0]
            raise TTValueError(
                f"{name} is {now[name]!r} but was {then.get(name)!r} when the run began; resume with the same "
                "settings, or say --overwrite to start again."
            )
    elif interrupted and not overwrite:
        raise TTFileError(
            f"An interrupted run is in {str(partial)!r}; say --resume to go on with it, or --overwrite to start again."
        )
    else:
        output_folder(partial, kind=KIND, reads=reads)
    if not resume and not overwrite and output.exists() and any(output.iterdir()):
        raise TTFileError(
            f"The output folder {settings.output!r} is not empty; say --overwrite to replace the run in it, or name "
            "another."
        )
    return output, partial


def _arguments(
    settings: FinetuneSettings, partial: Path, learning_rate: float, examples: int, first: str
) -> TrainingArguments:
    steps_per_epoch = math.ceil(examples / settings.batch_size)
    every = max(1, math.ceil(steps_per_epoch / settings.evaluations))
    stopping = settings.early_stopping is not None
    return TrainingArguments(
        output_dir=str(partial / "checkpoints"),
        num_train_epochs=settings.epochs,
        learning_rate=learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=max(1, round(0.06 * steps_per_epoch * settings.epochs)),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        train_sampling_strategy="group_by_length",
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,
        logging_steps=max(1, min(10, steps_per_epoch // 10)),
        load_best_model_at_end=stopping,
        metric_for_best_model=f"eval_{first}" if stopping else None,
        greater_is_better=True if stopping else None,
        label_names=["labels"],  # PEFT's wrapper hides the forward's signature
        seed=settings.seed,
        data_seed=settings.seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _optimizer(model: nn.Module, settings: FinetuneSettings, learning_rate: float) -> torch.optim.AdamW:
    """AdamW in which the new head, which starts at random, may learn faster than the adapter."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_head = not {"classifier", "score"}.isdisjoint(name.split("."))
            groups.setdefault((is_head, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": (settings.head_learning_rate if is_head else None) or learning_rate,
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (is_head, decays), parameters in groups.items()
        ]
    )


class _MarkWhole(TrainerCallback):
    """Marks a checkpoint once all of it is written, as a full disk or a kill may leave half of one."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        Path(args.output_dir or "", f"checkpoint-{state.global_step}", WHOLE).touch()


def _last_whole_checkpoint(folder: Path) -> str | None:
    """Remove what is left of unfinished checkpoints; None means that the run starts from its beginning."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / WHOLE).exists():
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


class _Clock(TrainerCallback):
    """Takes the time of every optimiser step, without evaluations and checkpoints."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps.append(time.perf_counter() - self._began)


def _json(value: Any) -> str:
    return json.dumps(asdict(value), indent=2) + "\n"
