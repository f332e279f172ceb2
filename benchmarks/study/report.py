"""A study's page: its tables, and score against trained parameters."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.study.pictures import draw_courses, draw_scores, parameters_of, scores_of
from benchmarks.study.runs import Record, Runs, score
from benchmarks.study.settings import Study
from ttnet_llm.files import write_text
from ttnet_llm.training.report import markdown_table

TASKS = {
    "sst2": "SST-2 (4,000 phrases kept from its training part)",
    "mrpc": "MRPC (its test part)",
    "rte": "RTE (its validation part)",
    "sst2-prompts": "SST-2 as prompts (1,000 phrases kept from its training part)",
    "code": "code of models of transformers that are kept from training",
    "docstrings": "the demo's docstrings (12 classes)",
}


def write_report(plan: Study, rates: Mapping[str, Sequence[float]], done: Runs, path: Path, command: str) -> None:
    """Write a study's Markdown file, and its picture where a rate was chosen.

    Args:
        plan: The study.
        rates: The reported learning rates of every method.
        done: The trainings.
        path: The file.
        command: What repeats the study.
    """
    table = _rates_table(plan, rates, done) if plan.every_rate else _scores_table(plan, rates, done)
    first = next(run for name in rates for run in plan.reported(name, rates[name][0]))
    record = done[first]
    picture, image = "", path.with_suffix(".png")
    if plan.evaluations:
        draw_courses(plan, rates, done, image)
        picture = f"![Losses on the way]({image.name})\n\n"
    elif not plan.every_rate:
        draw_scores(plan, rates, done, image)
        picture = f"![Scores against trained parameters]({image.name})\n\n"
    where = when_and_where([done[run] for name in rates for rate in rates[name] for run in plan.reported(name, rate)])
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    most = max(len(plan.methods[name].rates) for name in rates)
    chosen = (
        "Every rate of a method is shown, and none was chosen."
        if plan.every_rate
        else "The learning rates are given."
        if most == 1
        else f"Each method's learning rate was chosen among {most} by other seeds "
        f"({_list(plan.select_seeds)}) on examples that are neither trained on nor reported "
        f"({_list(plan.select_tasks or plan.tasks)}), and is the same for all tasks."
    )
    losses = "accuracy" not in record
    epochs = f"{plan.epochs:g} epoch{'s' * (plan.epochs != 1)}"
    what = (f"pieces of {plan.max_length} tokens", "") if losses else ("examples", " texts of similar lengths")
    setting = (
        f"{plan.model or 'all-MiniLM-L6-v2 (6 layers, hidden size 384)'}, {plan.examples:,} training {what[0]} "
        f"drawn by the seed, {epochs}, batches of {plan.batch_size}{what[1]}, AdamW "
        "with a linear warm-up and decay, no dropout."
    )
    has_head = not losses and record["head"] > 0
    if plan.dtype != "float32":
        setting += f" The frozen model is in {plan.dtype}, what is trained in float32."
    if has_head:
        setting += f" The new head learns at the rate {plan.head_rate:g}, and is not counted below."
    setting += f" {chosen}"
    measure = "mean losses of a token, the lower the better," if losses else "accuracies"
    differences = (
        " A difference is the mean of those seed by seed, ± its standard error: the methods of a seed see the same "
        f"examples in the same order{' and start with the same head' if has_head else ''}"
        f"{'; below 0 is better.' if losses else '.'}"
        if plan.beside
        else ""
    )
    write_text(
        path,
        f"""# {plan.title}

{setting}

Scores are {measure} on {_list([TASKS[task] for task in plan.tasks])}, as mean ± standard
deviation over the seeds {_list(plan.seeds)}.{differences}

{table}

{plan.note and plan.note + 2 * chr(10)}{picture}{versions}; one CPU thread a training, {where}. Repeat:

    {command}

What it says of [which method, rank and rate to take](../choosing.md).
""",
    )


def when_and_where(records: Sequence[Record]) -> str:
    """Tell from when to when trainings ran, and on what, as far as their records say.

    Args:
        records: Of the trainings.

    Returns:
        The end of a sentence.
    """
    days = sorted({record["date"] for record in records if "date" in record}) or ["a day that was not recorded"]
    processors = sorted({record["processor"] for record in records if "processor" in record})
    if processors and any("processor" not in record for record in records):
        processors.append("others that were not recorded")
    when = f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}"
    return f"run {when}" + (f" on {' and '.join(processors)}" if processors else "")


def _scores_table(plan: Study, rates: Mapping[str, Sequence[float]], done: Runs) -> str:
    means = {name: scores_of(plan, done, name, rate) for name, (rate, *_) in rates.items()}
    losses = score(done[next(plan.reported(name := next(iter(rates)), rates[name][0]))]) < 0
    bare = next((name for name in rates if losses and plan.methods[name].is_bare), None)
    header = ["method", "parameters", "rate", *plan.tasks]
    header += ["mean"] if len(plan.tasks) > 1 else []
    header += [f"against {name}" for name in plan.beside]
    header += [f"share of {plan.beside[-1]}'s gain"] if bare and plan.beside else []
    header += ["lowest loss", "last loss", "last training loss"] if plan.evaluations else []
    rows = []
    for name, (rate, *_) in rates.items():
        row = [name, f"{parameters_of(plan, done, name, rate):,}", "-" if name == bare else f"{rate:g}"]
        row += [_spread(scores_of(plan, done, name, rate, task)) for task in plan.tasks]
        row += [f"{statistics.mean(means[name]):.4f}"] if len(plan.tasks) > 1 else []
        for other in plan.beside:
            differences = [ours - theirs for ours, theirs in zip(means[name], means[other], strict=True)]
            row.append("-" if other == name else _difference(differences))
        if bare and plan.beside:
            untouched = statistics.mean(means[bare])
            gain = untouched - statistics.mean(means[plan.beside[-1]])
            row.append(f"{(untouched - statistics.mean(means[name])) / gain:.1%}")
        if plan.evaluations:
            found = [done[run] for run in plan.reported(name, rate)]
            row += [_spread([min(loss for _, loss in record["course"]) for record in found])]
            row += [_spread([record["loss"] for record in found])]
            row += [_spread([record["training"][-1] for record in found])]
        rows.append((statistics.mean(means[name]) * (1 if losses else -1), row))
    return markdown_table(header, [row for _, row in sorted(rows, key=lambda row: row[0])])


def _rates_table(plan: Study, rates: Mapping[str, Sequence[float]], done: Runs) -> str:
    header = ["task", "method", "parameters", *(f"rate {k}" for k in ("low", "middle", "high")), "best - worst"]
    rows = []
    for task in plan.tasks:
        for name, tried in rates.items():
            scores = [scores_of(plan, done, name, rate, task) for rate in tried]
            means = [statistics.mean(part) for part in scores]
            cells = [f"{rate:g}: {_spread(part)}" for rate, part in zip(tried, scores, strict=True)]
            count = f"{parameters_of(plan, done, name, tried[0]):,}"
            rows.append([task, name, count, *cells, f"{max(means) - min(means):.3f}"])
    return markdown_table(header, rows)


def _spread(scores: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.4f}{deviation}"


def _difference(differences: Sequence[float]) -> str:
    """Write a mean with its standard error, which one seed has none of."""
    count = len(differences)
    error = f" ± {statistics.stdev(differences) / count**0.5:.4f}" if count > 1 else ""
    return f"{statistics.mean(differences):+.4f}{error}"


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
