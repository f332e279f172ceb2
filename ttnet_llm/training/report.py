"""A run's report in Markdown, and its picture; the page is in the room `page`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ttnet_llm.files import write_text
from ttnet_llm.training.methods import find_method
from ttnet_llm.training.pictures import Curve, draw_curves, picture
from ttnet_llm.training.settings import FinetuneResult, FinetuneSettings

CURVES = "curves.png"


def size(count: int) -> str:
    """Write a number of bytes for people.

    Example:
        >>> size(900), size(51_200), size(90_868_376)
        ('900 B', '51.2 kB', '90.9 MB')
    """
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table, the first column to the left and the others to the right.

    Example:
        >>> print(markdown_table(["a", "b"], [["x", "1"]]))
        | a | b |
        | --- | ---: |
        | x | 1 |
    """
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(value: float | None) -> str:
    """Write a step's time, or a dash where none was taken."""
    return "-" if value is None else f"{value:.3f} s"


def source_of(settings: FinetuneSettings) -> str:
    """Name the data of a run."""
    return settings.task or " and ".join(file for file in (settings.train, settings.validation) if file)


def curve_of(result: FinetuneResult) -> Curve:
    """Take the course of a run for a picture."""
    title = find_method(result.settings.method).title
    return Curve(title, result.losses, result.scores, result.parameters.trainable)


def facts(result: FinetuneResult) -> list[list[str]]:
    """Say in pairs what a run was and what came of it.

    Args:
        result: The run.

    Returns:
        Names and values.
    """
    settings, parameters = result.settings, result.parameters
    return [
        ["trainable parameters", f"{parameters.trainable:,} ({parameters.share:.3%} of all)"],
        ["of these: adapter / norms / head", f"{parameters.adapter:,} / {parameters.norms:,} / {parameters.head:,}"],
        ["saved weights", size(result.adapter_bytes)],
        *[
            [f"validation {name}, before and after", f"{result.before[name]:.4f} → {value:.4f}"]
            for name, value in result.after.items()
        ],
        ["time per step, median", seconds(result.seconds_per_step)],
        ["tokens a second", "-" if result.tokens_per_second is None else f"{result.tokens_per_second:,.0f}"],
        ["peak memory", f"{size(result.peak_memory)} ({'process' if result.device == 'cpu' else result.device})"],
        [
            "training with evaluations",
            f"{result.seconds:.0f} s, {result.steps} steps, {result.processes} processes, {result.threads} CPU threads",
        ],
        ["kind", result.kind],
        ["data", result.labels],
        ["examples, training and validation", f"{result.examples[0]:,} and {result.examples[1]:,}"],
        [
            "learning rate / of the head",
            f"{result.learning_rate:g} / {settings.head_rate(result.learning_rate):g}",
        ],
        *[[f"learning rate of {name}", f"{rate:g}"] for name, rate in settings.rates_by_name().items()],
        ["epochs / batch size / tokens", f"{settings.epochs:g} / {result.batch_size} / {result.max_length}"],
        ["seed", str(settings.seed)],
        ["versions", ", ".join(f"{name} {number}" for name, number in result.versions.items())],
    ]


def write_report(result: FinetuneResult, folder: Path) -> None:
    """Write `report.md` and `curves.png` of one run.

    Args:
        result: The run.
        folder: Where to write.
    """
    settings, parameters = result.settings, result.parameters
    title = find_method(settings.method).title
    # A cell of Markdown has neither lines nor bars.
    rows = [[name, " ".join(value.split()).replace("|", "\\|")] for name, value in facts(result)]
    first = next(iter(result.after))
    warning = "" if result.warning is None else f"**{' '.join(result.warning.split())}**\n\n"
    draw = partial(
        draw_curves,
        [curve_of(result)],
        measure=first,
        title=f"{title}: {first} {result.before[first]:.3f} before, {result.after[first]:.3f} after",
        subtitle=f"{parameters.trainable:,} trainable parameters, {size(result.adapter_bytes)} on disk",
    )
    write_text(
        folder / "report.md",
        f"# {title} on {source_of(settings)}\n\nBase model: `{settings.model}`.\n\n"
        f"{warning}"
        f"{markdown_table(['', ''], rows)}{picture(folder / CURVES, 'Loss and score', draw)}",
    )
