"""The same training by several seeds, with the mean and the spread of what comes of it."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from transformers import TrainerCallback

from ttnet.errors import TTValueError
from ttnet_llm.files import write_text
from ttnet_llm.folders import mark_folder, output_folder, replace_folder
from ttnet_llm.training.card import finetuned_card
from ttnet_llm.training.details import read_details
from ttnet_llm.training.methods import find_method, make_config
from ttnet_llm.training.pictures import draw_curves, picture
from ttnet_llm.training.processes import count, join
from ttnet_llm.training.report import CURVES, curve_of, markdown_table, seconds, size, source_of
from ttnet_llm.training.run import UNFINISHED, carry_out, clear, method_options, prepare
from ttnet_llm.training.run_folder import KIND, RESULTS, open_folders, read_result
from ttnet_llm.training.settings import FinetuneResult, FinetuneSettings
from ttnet_llm.training.settings_file import SETTINGS, write_settings


@dataclass(frozen=True)
class SeedsResult:
    """What came of runs by several seeds.

    Args:
        settings: The settings of all of them.
        runs: Their results, in the order of the seeds.

    Example:
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1, seeds=(0, 1))
        >>> result = finetune_seeds(settings)
        >>> list(result.mean), list(result.spread)
        (['accuracy'], ['accuracy'])
    """

    settings: FinetuneSettings
    runs: tuple[FinetuneResult, ...]

    @property
    def mean(self) -> dict[str, float]:
        """The mean of every measure after training."""
        return {name: statistics.fmean(run.after[name] for run in self.runs) for name in self.runs[0].after}

    @property
    def spread(self) -> dict[str, float]:
        """The sample standard deviation of every measure, with one less than the number of runs below."""
        return {name: statistics.stdev(run.after[name] for run in self.runs) for name in self.runs[0].after}

    @property
    def by_seed(self) -> dict[str, dict[str, float]]:
        """The measures after training by each seed."""
        return {str(run.settings.seed): run.after for run in self.runs}


def finetune_seeds(
    settings: FinetuneSettings,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Callable[[int], Sequence[TrainerCallback]] = lambda seed: (),
) -> SeedsResult:
    """Fine-tune a model by each of the settings' seeds, in folders `seed-0`, ... of the output.

    Beside them stand a report with mean and spread of every measure, the curves of all, `results.json` and
    `settings.yaml`. As `finetune` does, it works in `OUTPUT.partial`.

    Args:
        settings: What to do, with several `seeds`.
        resume: Go on where it was interrupted: runs that are done stay as they are.
        overwrite: Replace a finished run, or start an interrupted one again.
        callbacks: Gives those for the trainer, by the seed.

    Returns:
        The results.

    Raises:
        TTFileError: If something in the output folder would be lost, there is nothing to resume, or a file cannot be
            read.
        TTValueError: If there are no seeds, or a setting, column or label is wrong.

    Example:
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1, seeds=(0, 1))
        >>> result = finetune_seeds(settings)
        >>> sorted(result.by_seed), len(result.runs)
        (['0', '1'], 2)
    """
    if not settings.seeds:
        raise TTValueError("seeds is empty; name several, or call finetune, which trains once.")
    make_config(settings.method, method_options(settings))
    join(settings)
    if count() > 1:
        raise TTValueError(f"seeds is {settings.seeds}, which {count()} processes cannot train by; name one with seed.")
    output, partial = open_folders(settings, resume=resume, overwrite=overwrite)
    begun = resume
    for seed in settings.seeds:
        run = replace(settings, seed=seed, seeds=(), output=str(Path(settings.output, f"seed-{seed}")))
        done, folder = partial / f"seed-{seed}", partial / f"seed-{seed}.partial"
        if begun and done.exists():
            continue
        training = prepare(run)
        if not begun:
            _begin(settings, partial, overwrite=overwrite)
        try:
            carry_out(training, folder, resume=(folder / SETTINGS).is_file(), callbacks=callbacks(seed))
        except Exception:
            if not begun and not folder.exists():  # nothing has been done yet that one could go on with
                shutil.rmtree(partial)
            raise
        begun = True
        clear(folder)
        folder.rename(done)
    folders = [partial / f"seed-{seed}" for seed in settings.seeds]
    result = SeedsResult(settings, tuple(read_result(folder) for folder in folders))
    for run_result, folder in zip(result.runs, folders, strict=True):
        adapter = folder / Path(run_result.adapter).name
        finetuned_card(run_result, read_details(adapter), seeds=_scores(result)).write(adapter)
    _write(result, partial)
    output_folder(output, kind=KIND if resume or overwrite else None)
    mark_folder(partial, KIND)
    replace_folder(partial, output)
    return result


def _begin(settings: FinetuneSettings, partial: Path, *, overwrite: bool) -> None:
    if overwrite and partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    inner = [f"seed-{seed}{end}/" for seed in settings.seeds for end in ("", ".partial")]
    mark_folder(partial, KIND, also=(*UNFINISHED, *inner))
    write_text(partial / SETTINGS, write_settings(settings))


def _scores(result: SeedsResult) -> dict[str, str]:
    """Say in the card of one run what all of them came to."""
    seeds = ", ".join(map(str, result.settings.seeds))
    values = ", ".join(
        f"{name.replace('_', ' ')} {mean:.4f} ± {result.spread[name]:.4f}" for name, mean in result.mean.items()
    )
    return {f"scores by the seeds {seeds}, mean and sample standard deviation": values}


def _write(result: SeedsResult, folder: Path) -> None:
    """Write the report, the picture and the numbers of all."""
    settings, runs = result.settings, result.runs
    title, count = find_method(settings.method).title, len(runs)
    values = {
        "settings": asdict(settings),
        "seeds": result.by_seed,
        "before": {str(run.settings.seed): run.before for run in runs},
        "mean": result.mean,
        "spread": result.spread,
    }
    write_text(folder / RESULTS, json.dumps(values, indent=2) + "\n")
    rows = [
        *[_row(f"validation {name}", [run.after[name] for run in runs]) for name in result.mean],
        *[_row(f"{name} before training", [run.before[name] for run in runs]) for name in result.mean],
        ["time per step, median", "", "", *(seconds(run.seconds_per_step) for run in runs)],
        ["trainable parameters", "", "", *(f"{run.parameters.trainable:,}" for run in runs)],
        ["saved weights", "", "", *(size(run.adapter_bytes) for run in runs)],
    ]
    reports = ", ".join(f"[seed-{seed}](seed-{seed}/report.md)" for seed in settings.seeds)
    header = ["", "mean", "spread", *(f"seed {run.settings.seed}" for run in runs)]
    first = next(iter(result.mean))
    draw = partial(
        draw_curves,
        [replace(curve_of(run), label=f"seed {run.settings.seed}") for run in runs],
        measure=first,
        title=f"{title}: {first} {result.mean[first]:.3f} ± {result.spread[first]:.3f} by {count} seeds",
        subtitle=f"{runs[0].parameters.trainable:,} trainable parameters; mean and sample standard deviation",
    )
    write_text(
        folder / "report.md",
        f"# {title} on {source_of(settings)}, by {count} seeds\n\nBase model: `{settings.model}`. The spread is the "
        f"sample standard deviation. Each run has a report of its own: {reports}.\n\n{markdown_table(header, rows)}"
        f"{picture(folder / CURVES, 'Loss and score', draw)}",
    )


def _row(name: str, values: list[float]) -> list[str]:
    return [name, *(f"{value:.4f}" for value in (statistics.fmean(values), statistics.stdev(values), *values))]
