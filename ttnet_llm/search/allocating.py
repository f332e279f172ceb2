"""Modules and ranks of a fine-tuning: train wide and shortly, share out the budget, and write the settings for it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.files import write_text
from ttnet_llm.folders import mark_folder, output_folder
from ttnet_llm.search.allocate import Allocation, allocate, check_allocation
from ttnet_llm.search.pictures import draw_ranks
from ttnet_llm.training import FinetuneResult, FinetuneSettings, finetune
from ttnet_llm.training.methods import find_method
from ttnet_llm.training.pictures import picture
from ttnet_llm.training.report import markdown_table, source_of
from ttnet_llm.training.run_folder import RESULTS
from ttnet_llm.training.settings_file import SETTINGS, write_settings

KIND = "allocate"  # what marks the folders written here
PICTURE, REPORT, WIDE = "ranks.png", "report.md", "wide"
_EXAMPLES = 256  # that inputs are weighed by


class AllocateAtEnd(TrainerCallback):
    """Shares a budget out once a `Trainer` has trained its adapter.

    What cannot be done is refused when the training begins.

    Args:
        budget: As `allocate` takes it.
        candidates: The same.
        weigh: Whether updates are weighed by the training data that goes into their modules.

    Example:
        >>> from ttnet_llm.training import FinetuneSettings, finetune
        >>> data = {"model": "encoder", "train": "reviews.jsonl", "output": "run"}
        >>> settings = FinetuneSettings(**data, epochs=1, batch_size=4, method="melora")
        >>> sharing = AllocateAtEnd(budget=500)
        >>> result = finetune(settings, callbacks=[sharing])
        >>> sharing.allocation.parameters <= 500
        True
    """

    allocation: Allocation

    def __init__(self, budget: int, *, candidates: Sequence[int] | None = None, weigh: bool = True) -> None:
        self.budget, self.candidates, self.weigh = budget, candidates, weigh

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse what will not do."""
        check_allocation(kwargs["model"], self.budget, candidates=self.candidates)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Share the budget out."""
        batches = -(-_EXAMPLES // args.train_batch_size)
        inputs = itertools.islice(kwargs["train_dataloader"], batches) if self.weigh else None
        self.allocation = allocate(kwargs["model"], self.budget, candidates=self.candidates, inputs=inputs)


@dataclass(frozen=True)
class AllocatedFinetuning:
    """A budget, shared out for a fine-tuning.

    Args:
        settings: The settings that train by it, which `finetune` takes.
        allocation: How it was shared out.
        wide: The training that it goes by.
    """

    settings: FinetuneSettings
    allocation: Allocation
    wide: FinetuneResult


def allocate_finetuning(
    settings: FinetuneSettings,
    budget: int,
    *,
    candidates: Sequence[int] | None = None,
    weigh: bool = True,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> AllocatedFinetuning:
    """Train an adapter by the settings' rank on all of their modules, and share a budget out by what it has learnt.

    The output folder gets `settings.yaml`, for `ttnet-llm finetune --config`, which trains the adapter anew; the wide
    training's run in `wide/`; a report, a picture, and the scores in `results.json`.

    Args:
        settings: What to train shortly, by MELoRA, LoRETTA_rep or TT-LoRA.
        budget: How many parameters the adapter may have.
        candidates: The ranks that modules may get; `None` takes the powers of two up to the settings' rank, and that.
        weigh: Whether updates are weighed by the training data that goes into their modules.
        resume: Go on with an interrupted training from its last checkpoint.
        overwrite: Replace what an earlier call wrote.
        callbacks: For the trainer.

    Returns:
        The settings, and how they came about.

    Raises:
        TTFileError: If something would be lost, or there is nothing to resume.
        TTTypeError: If the method's modules cannot have ranks of their own.
        TTValueError: If the budget is below the cheapest module, or a setting is wrong.

    Example:
        >>> data = {"model": "encoder", "train": "reviews.jsonl", "output": "run"}
        >>> settings = FinetuneSettings(**data, epochs=1, batch_size=4, method="melora")
        >>> found = allocate_finetuning(settings, budget=500)
        >>> found.allocation.parameters <= 500, found.settings.method
        (True, 'melora')
    """
    if settings.seeds:
        raise TTValueError(f"seeds is {settings.seeds}, but this trains once; name one with seed.")
    if settings.kind == "embed" and weigh:
        raise TTValueError(
            "kind is 'embed', whose batches are of several texts; leave the inputs unweighed (--no-weigh)."
        )
    reads = (settings.model, settings.train, settings.validation)
    folder = output_folder(settings.output, kind=KIND, reads=reads)
    partial = folder / f"{WIDE}.partial"
    if resume and overwrite:
        raise TTValueError(
            "resume and overwrite were both given; resume goes on with a training, overwrite starts again."
        )
    if resume and not partial.is_dir():
        how = (
            "its training has ended; say --overwrite to begin anew"
            if (folder / WIDE).is_dir()
            else "leave out --resume"
        )
        raise TTFileError(f"There is no interrupted training in {settings.output!r} to resume; {how}.")
    made = not folder.exists()
    new = made or not any(folder.iterdir())
    if not (new or resume or overwrite):
        how = "--resume to go on, --overwrite" if partial.is_dir() else "--overwrite"
        raise TTFileError(
            f"The output folder {settings.output!r} is not empty; say {how} to replace what is in it, or name another."
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark_folder(folder, KIND, also=(f"{WIDE}/", f"{WIDE}.partial/", PICTURE, REPORT, RESULTS, SETTINGS))
    sharing = AllocateAtEnd(budget, candidates=candidates, weigh=weigh)
    try:
        run = replace(settings, output=str(folder / WIDE))
        wide = finetune(run, resume=resume, overwrite=not resume, callbacks=[sharing, *callbacks])
    except BaseException:
        if made and not any(partial.glob("checkpoints/checkpoint-*")):
            shutil.rmtree(folder)  # nothing is there that one could go on with
        raise
    allocation = sharing.allocation
    found = AllocatedFinetuning(with_allocation(settings, allocation), allocation, wide)
    write_text(folder / SETTINGS, write_settings(found.settings))
    _write(found, budget, folder)
    mark_folder(folder, KIND)
    return found


def with_allocation(settings: FinetuneSettings, allocation: Allocation) -> FinetuneSettings:
    """Give the settings that train by an allocation.

    Args:
        settings: Those of the wide training.
        allocation: What came of it.

    Returns:
        The same with modules and ranks of their own.
    """
    config = allocation.config
    replaced = ("exclude_modules", "layers_to_transform", "layers_pattern", "alpha_pattern")
    options = {name: value for name, value in settings.method_options.items() if name not in replaced}
    modules = config.target_modules
    options["target_modules"] = modules if isinstance(modules, str) else list(allocation.ranks)
    options["rank_pattern"] = config.rank_pattern
    return replace(settings, targets=None, method_options=options)


def _write(found: AllocatedFinetuning, budget: int, folder: Any) -> None:
    allocation, wide = found.allocation, found.wide
    values: Mapping[str, Any] = {
        "ranks": allocation.ranks,
        "parameters": allocation.parameters,
        "budget": budget,
        "kept": allocation.kept,
        "scores": allocation.scores,
        "costs": allocation.costs,
        "wide": dataclasses.asdict(wide.parameters) | wide.after,
    }
    write_text(folder / RESULTS, json.dumps(values, indent=2) + "\n")
    title = f"{find_method(found.settings.method).title} within {budget:,} parameters"
    said = (
        f"{allocation.parameters:,} parameters in {len(allocation.ranks)} of {len(allocation.scores)} modules, with "
        f"{allocation.kept:.1%} of what {wide.parameters.adapter:,} have learnt"
    )
    ranks = {name: allocation.ranks.get(name, 0) for name in allocation.scores}
    draw = partial(draw_ranks, ranks, title=title, subtitle=said)
    rows = [
        [f"`{name}`", str(rank or "-"), f"{allocation.costs[name][rank]:,}" if rank else "-", f"{share:.1%}"]
        for name, rank, share in rows_of(allocation)
    ]
    write_text(
        folder / REPORT,
        f"# {title}\n\nOn {source_of(found.settings)}: {said}. Train it with "
        f"`ttnet-llm finetune --config {SETTINGS} --output NEW_FOLDER`.\n\n"
        f"{markdown_table(['module', 'rank', 'parameters', 'of all that was learnt'], rows)}"
        f"{picture(folder / PICTURE, 'Ranks over modules', draw)}",
    )


def rows_of(allocation: Allocation) -> list[tuple[str, int, float]]:
    """Give every module with its rank, 0 if it was left out, and its share of all that was learnt.

    Args:
        allocation: The allocation.

    Returns:
        Name, rank and share.
    """
    best = {name: max(options.values()) for name, options in allocation.scores.items()}
    whole = sum(best.values())
    return [(name, allocation.ranks.get(name, 0), best[name] / whole) for name in best]
