"""A study's pictures, and the numbers that they share with its tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.study.runs import Record, Runs, score
from benchmarks.study.settings import Study
from ttnet.plotting import COLOURS, STYLE
from ttnet_llm.files import atomic

_OURS = ("TT", "Loretta", "Lorta", "Lotr", "MetaTT", "Melora", "Ether", "Dept", "Neuron")


def scores_of(plan: Study, done: Runs, method: str, rate: float, task: str | None = None) -> list[float]:
    """Give a score for each seed, the mean over the tasks unless one is named: accuracies, or losses."""
    by_seed: dict[int, list[float]] = {}
    for run in plan.reported(method, rate):
        if task in (None, run.task):
            by_seed.setdefault(run.seed, []).append(abs(score(done[run])))
    return [statistics.mean(scores) for scores in by_seed.values()]


def parameters_of(plan: Study, done: Runs, method: str, rate: float) -> int:
    """Count what a method trains but for a head."""
    record: Record = done[next(plan.reported(method, rate))]
    return int(record["adapter"]) + int(record["norms"])


def draw_scores(plan: Study, rates: Mapping[str, Sequence[float]], done: Runs, path: Path) -> None:
    """Draw score against trained parameters, with names beside the picture, in the order of the scores.

    A method far below all others is named and not drawn, and one far larger, as full fine-tuning, is a line: either
    would leave the others no room.
    """
    ours = {name for name, method in plan.methods.items() if method.config and method.config.startswith(_OURS)}
    counts = {name: parameters_of(plan, done, name, rate) for name, (rate, *_) in rates.items()}
    scores = {name: scores_of(plan, done, name, rate) for name, (rate, *_) in rates.items() if counts[name]}
    losses = score(done[next(plan.reported(name := next(iter(rates)), rates[name][0]))]) < 0
    sign = 1 if losses else -1
    means = {name: statistics.mean(each) for name, each in scores.items()}
    order = sorted(means, key=lambda name: sign * means[name])
    middle, best = (statistics.median(means.values()), means[order[0]]) if order else (0.0, 0.0)
    below = [name for name in order if abs(means[name] - middle) > 3 * abs(best - middle)]
    large = [name for name in order if counts[name] > 100 * statistics.median(counts[name] for name in order)]
    with rc_context(STYLE):
        figure = Figure(figsize=(6.8, max(4.4, 0.19 * len(order) + 1.2)), dpi=160, layout="constrained")
        axes = figure.subplots()
        for name in order:
            if name in below:
                continue
            colour = COLOURS[0 if name in ours else 1]
            if name in large:
                axes.axhline(means[name], color=colour, lw=1, ls="--")
                continue
            count = len(scores[name])
            error = statistics.stdev(scores[name]) / count**0.5 if count > 1 else None
            axes.errorbar(counts[name], means[name], error, fmt="o", color=colour, capsize=3, ms=5)
        axes.set_xscale("log")
        axes.margins(x=0.12)
        right = axes.get_xlim()[1]
        for place, name in enumerate(order):
            text = f"{name} ({counts[name]:,})" + (f": {means[name]:.3f}, not drawn" if name in below else "")
            height = 1 - (place + 0.5) / len(order)
            end = (1.03, height)
            colour = COLOURS[0 if name in ours else 1]
            axes.text(*end, text, transform=axes.transAxes, va="center", fontsize=8, color=colour)
            if name not in below:
                start = (right if name in large else counts[name], means[name])
                line = {"arrowstyle": "-", "color": "#C9CDD2", "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
                axes.annotate("", start, end, textcoords="axes fraction", arrowprops=line, zorder=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("trained parameters without the head")
        axes.set_ylabel(f"{'loss, smaller upwards' if losses else 'accuracy'}, mean ± standard error")
        axes.yaxis.set_inverted(losses)  # the best one on top, beside its name
        axes.set_title(plan.title, loc="left")
        with atomic(path) as partial:
            figure.savefig(partial, format="png")


def draw_courses(plan: Study, rates: Mapping[str, Sequence[float]], done: Runs, path: Path) -> None:
    """Draw the losses on held-out data on the way, means over tasks and seeds, and what is written at their ends."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6.8, 4.6), dpi=160, layout="constrained")
        axes = figure.subplots()
        for k, (name, (rate, *_)) in enumerate(rates.items()):
            records = [done[run] for run in plan.reported(name, rate)]
            courses = np.array([record["course"] for record in records])  # (runs, evaluations, step and loss)
            epochs = courses[:, :, 0].mean(axis=0) / records[0]["steps"] * plan.epochs
            losses = courses[:, :, 1]
            error = losses.std(axis=0, ddof=1) / len(records) ** 0.5 if len(records) > 1 else 0 * epochs
            style = {
                "color": COLOURS[k % len(COLOURS)],
                "ls": "-" if k < len(COLOURS) else "--",
                "marker": "o",
                "ms": 3,
            }
            axes.errorbar(epochs, losses.mean(axis=0), error, capsize=2, label=name, **style)
        axes.legend(frameon=False)
        axes.set_xlabel("epochs")
        axes.set_ylabel("loss on held-out data, mean ± standard error")
        axes.set_title(plan.title, loc="left")
        with atomic(path) as partial:
            figure.savefig(partial, format="png")
