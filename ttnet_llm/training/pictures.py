"""Learning curves, and accuracy against the number of parameters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttnet.errors import MissingExtraError, import_extra
from ttnet.plotting import COLOURS, STYLE
from ttnet_llm.files import atomic

logger = logging.getLogger(__name__)


def picture(path: Path, shows: str, draw: Callable[[Path], None]) -> str:
    """Draw what a report shows; without matplotlib, which no result is lost for, the report goes without.

    Args:
        path: Where to, beside the report.
        shows: What is seen there.
        draw: Is called with the path.

    Returns:
        The end of the report, in Markdown.
    """
    try:
        draw(path)
    except MissingExtraError as error:
        logger.warning("%s is not drawn: %s", path.name, error)
        return "\n"
    return f"\n\n![{shows}]({path.name})\n"


@dataclass(frozen=True)
class Curve:
    """A run's course.

    Args:
        label: What to call it.
        losses: `(step, training loss)`.
        scores: `(step, score)`.
        parameters: Trainable parameters.
    """

    label: str
    losses: Sequence[tuple[int, float]]
    scores: Sequence[tuple[int, float]]
    parameters: int


def draw_curves(curves: Sequence[Curve], path: str | Path, *, measure: str, title: str, subtitle: str = "") -> None:
    """Draw loss and score against steps, and for runs of several sizes score against parameters too.

    Args:
        curves: The runs, at least one.
        path: A png, pdf or svg file, written atomically.
        measure: Name of the score.
        title: The picture's statement.
        subtitle: A smaller second line.
    """
    matplotlib = import_extra("matplotlib", extra="plot")
    figure_cls = import_extra("matplotlib.figure", extra="plot").Figure
    with matplotlib.rc_context(STYLE):
        panels = 3 if len({curve.parameters for curve in curves}) > 1 else 2
        figure = figure_cls(figsize=(4.9 * panels, 4.6), dpi=160, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08, wspace=0.04, rect=(0, 0, 1, 0.86))
        figure.text(0.012, 0.945, title, fontsize=15, fontweight="bold", va="center")
        figure.text(0.012, 0.885, subtitle, fontsize=10.5, color="#5B626B", va="center")
        axes = figure.subplots(1, panels)
        _panel(axes[0], "Training loss", "step")
        _panel(axes[1], f"Validation {measure}", "step")
        for colour, curve in zip(_colours(len(curves)), curves, strict=True):
            if curve.losses:
                steps, losses = np.array(curve.losses).T
                axes[0].plot(steps, losses, color=colour, alpha=0.22, lw=1)
                axes[0].plot(steps, smooth(losses), color=colour, lw=2)
            steps, scores = np.array(curve.scores).T
            axes[1].plot(steps, scores, color=colour, lw=2, marker="o", ms=4.5, mec="white", mew=0.8)
        if len(curves) > 1:
            named = [(curve.label, colour) for curve, colour in zip(curves, _colours(len(curves)), strict=True)]
            learnt = [k for k, curve in enumerate(curves) if curve.losses]  # which a run of no steps has not
            losses_end = [(curves[k].losses[-1][0], smooth(np.array(curves[k].losses).T[1])[-1]) for k in learnt]
            _direct_labels(axes[0], losses_end, [named[k] for k in learnt])
            _direct_labels(axes[1], [curve.scores[-1] for curve in curves], named)
            if panels == 3:
                _against_parameters(axes[2], curves, measure)
        with atomic(path) as temporary:
            figure.savefig(temporary, facecolor="white", metadata={"Software": None})


def _panel(axis: Any, title: str, x_label: str) -> None:
    axis.set_title(title, loc="left", fontsize=11.5, pad=10)
    axis.set_xlabel(x_label)
    axis.tick_params(length=0)
    axis.spines["left"].set_visible(False)


def _against_parameters(axis: Any, curves: Sequence[Curve], measure: str) -> None:
    _panel(axis, f"Final {measure} by trainable parameters", "trainable parameters, with the head (log scale)")
    axis.set_xscale("log")
    points = [(curve.parameters, curve.scores[-1][1]) for curve in curves]
    for colour, (size, score) in zip(_colours(len(curves)), points, strict=True):
        axis.plot([size], [score], "o", ms=11, color=colour, mec="white", mew=1.5)
    sizes, scores = zip(*points, strict=True)
    axis.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
    room = max(max(scores) - min(scores), 0.02)
    axis.set_ylim(min(scores) - 0.35 * room, max(scores) + 0.35 * room)
    axis.minorticks_off()
    said = [f"{score:.1%} with {size:,}" if score >= 0 else f"{score:.3f}" for size, score in points]
    # In a column beside the panel, in their points' colours: points are too close for what is said of them.
    heights = _apart(scores, 0.125 * (axis.get_ylim()[1] - axis.get_ylim()[0]))
    for curve, text, colour, height in zip(curves, said, _colours(len(curves)), heights, strict=True):
        axis.text(
            1.02,
            height,
            f"{curve.label}\n{text}",
            transform=axis.get_yaxis_transform(),
            va="center",
            color=colour,
            fontsize=9.5,
            linespacing=1.35,
        )


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights apart where they are closer than a gap, a crowd both ways."""
    order = sorted(range(len(heights)), key=lambda k: heights[k])
    moved: list[float] = []
    for k in order:
        moved.append(max(heights[k], moved[-1] + gap) if moved else heights[k])
    shift = float(np.mean(heights) - np.mean(moved))
    return [moved[order.index(k)] + shift for k in range(len(heights))]


def _direct_labels(axis: Any, points: Sequence[tuple[float, float]], named: Sequence[tuple[str, Any]]) -> None:
    """Write each curve's name at its end, in its colour, moved apart where the ends are close."""
    if not points:
        return
    low, high = axis.get_ylim()
    right = max(x for x, _ in points)
    for k, height in enumerate(_apart([y for _, y in points], 0.058 * (high - low))):
        axis.annotate(
            named[k][0],
            (points[k][0], points[k][1]),
            xytext=(right * 1.03, height),
            textcoords="data",
            va="center",
            color=named[k][1],
            fontsize=10,
            fontweight="bold",
            annotation_clip=False,
        )
    axis.set_xlim(0, right * 1.36)
    axis.set_xticks([tick for tick in axis.get_xticks() if 0 <= tick <= right])


def _colours(count: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(count)]


def smooth(values: Any, width: int = 5) -> Any:
    """Take a centred running mean that narrows towards the ends."""
    half = width // 2
    return np.array([np.mean(values[max(0, k - half) : k + half + 1]) for k in range(len(values))])
