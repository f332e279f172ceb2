"""The demo's table, for the terminal and for the report, its checks and its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from demo.settings import BATCH_SIZE, HEAD_LEARNING_RATE, MAX_LENGTH, ROWS
from ttnet_llm.files import write_text
from ttnet_llm.training import FinetuneResult
from ttnet_llm.training.pictures import draw_curves
from ttnet_llm.training.report import curve_of, markdown_table, seconds, size

HEADER = [
    "method",
    "adapter",
    "norms",
    "head",
    "on disk",
    "before",
    "after",
    "per step",
]


@dataclass(frozen=True)
class Checks:
    """What was found when the saved adapters were used again.

    Args:
        reloaded: For each method, the largest difference of logits after loading in a fresh process.
        merged: The largest difference of logits after merging LoRETTA_rep; `None` where it was not trained.
        merged_labels: The share of predicted classes that merging left as they were.
    """

    reloaded: dict[str, float]
    merged: float | None = None
    merged_labels: float | None = None

    def sentences(self) -> list[str]:
        """Say it."""
        lines = [
            f"{ROWS[name].title}: loaded from disk in a fresh process, the logits are "
            + ("identical, bit for bit." if difference == 0 else f"up to {difference:.2e} apart.")
            for name, difference in self.reloaded.items()
        ]
        if self.merged is not None:
            lines.append(
                f"LoRETTA_rep merged into the base model: the logits differ by at most {self.merged:.2e}, and "
                f"{self.merged_labels:.1%} of the predicted classes stay the same."
            )
        return lines


def row(name: str, result: FinetuneResult) -> list[str]:
    """Put a run into cells under `HEADER`."""
    parameters = result.parameters
    return [
        ROWS[name].title,
        f"{parameters.adapter:,}",
        f"{parameters.norms:,}",
        f"{parameters.head:,}",
        size(result.adapter_bytes),
        f"{result.before['accuracy']:.1%}",
        f"{result.after['accuracy']:.1%}",
        seconds(result.seconds_per_step),
    ]


def terminal_table(results: Mapping[str, FinetuneResult]) -> Table:
    """Make the table for the terminal."""
    table = Table(title="Trainable parameters, size on disk, validation accuracy, median time", title_justify="left")
    for k, name in enumerate(HEADER):
        table.add_column(
            name, justify="right" if k else "left", no_wrap=True, style="bold" if name == "after" else None
        )
    for name, result in results.items():
        table.add_row(*row(name, result))
    return table


def write_report(
    results: Mapping[str, FinetuneResult], checks: Checks, classes: tuple[str, ...], folder: Path, total_seconds: float
) -> None:
    """Write `report.md` and `curves.png`.

    Args:
        results: The runs by the rows' names.
        checks: What became of the saved adapters.
        classes: Names of the task's classes.
        folder: Where to write.
        total_seconds: Wall-clock time of the whole demo.
    """
    first = next(iter(results.values()))
    rates = ", ".join(f"{ROWS[name].title} {result.learning_rate:g}" for name, result in results.items())
    versions = ", ".join(f"{name} {number}" for name, number in first.versions.items())
    text = f"""# Which library does this docstring come from?

all-MiniLM-L6-v2 (22.7 million parameters, frozen) learns to tell the documentation of {len(classes)} libraries and
areas apart: {", ".join(classes)}. The text is the opening prose of their docstrings, read from the
installed packages, with the libraries' names masked and duplicates removed. {first.examples[0]:,} examples to train
on, {first.examples[1]:,} to validate on, the same number of each class, so guessing gives {1 / len(classes):.1%}.

{markdown_table(HEADER, [row(name, result) for name, result in results.items()])}

Adapter, norms and head are numbers of trained parameters; `on disk` is the saved adapter with the head; `before`
and `after` training are accuracies on the validation texts. A step is a batch of
{BATCH_SIZE} texts of at most {MAX_LENGTH} tokens; its time is the median, on {first.threads} CPU threads.

![Loss and accuracy](curves.png)

## Used again

{chr(10).join(f"- {sentence}" for sentence in checks.sentences())}

## How

Seed {first.settings.seed}, {first.settings.epochs:g} epochs, AdamW with a linear schedule, the new head at
{HEAD_LEARNING_RATE:g} for every method. LoRETTA_rep trains the normalisation layers too, as its paper does.
Learning rates of the adapters: {rates}. They were chosen on SST-2, none on these texts.
The whole demo took {total_seconds / 60:.1f} minutes. Versions: {versions}.
"""
    write_text(folder / "report.md", text)
    best = max(results, key=lambda name: results[name].after["accuracy"])
    draw_curves(
        [replace(curve_of(result), label=ROWS[name].title) for name, result in results.items()],
        folder / "curves.png",
        measure="accuracy",
        title="Which library does this docstring come from?",
        subtitle=f"all-MiniLM-L6-v2, {len(classes)} classes, {first.examples[0]:,} training examples; best: "
        f"{ROWS[best].title} with {results[best].parameters.trainable:,} trainable parameters",
    )


def name_the_final_place(working: Path, output: Path) -> None:
    """Let what was written in a temporary folder name the folder that it moves to when all is done."""
    for file in (file for kind in ("json", "md", "html") for file in working.rglob(f"*.{kind}")):
        text = file.read_text(encoding="utf-8")
        if str(working) in text:
            write_text(file, text.replace(str(working), str(output)))
