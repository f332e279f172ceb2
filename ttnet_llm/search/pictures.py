"""Pictures of searches: the best score against trials, and ranks over modules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ttnet.errors import import_extra
from ttnet.plotting import COLOURS, DEPTHS, FAINT, INK, STYLE
from ttnet_llm.files import atomic
from ttnet_llm.linear.sharing import place


def draw_course(
    scores: Sequence[float | None],
    best: Sequence[float],
    path: str | Path,
    *,
    measure: str,
    title: str,
    subtitle: str = "Each trial, and the best so far",
) -> None:
    """Draw what trials came to, and the best of them so far.

    Args:
        scores: One for each trial, at least one; `None` where it failed.
        best: The best up to each trial, not finite before the first that did not fail.
        path: A png, pdf or svg file, written atomically.
        measure: Name of the score.
        title: The picture's statement.
        subtitle: A smaller second line.
    """
    with _axes(path, (7.2, 4.4), title, subtitle) as axis:
        numbers = range(1, len(scores) + 1)
        found = [(k, score) for k, score in zip(numbers, scores, strict=True) if score is not None]
        axis.plot(*zip(*found, strict=True), "o", color=COLOURS[1], alpha=0.45, ms=6, mec="white", mew=0.8)
        course = [(k, value) for k, value in zip(numbers, best, strict=True) if math.isfinite(value)]
        axis.step(*zip(*course, strict=True), where="post", color=COLOURS[0], lw=2)
        low = axis.get_ylim()[0]
        if failed := [k for k, score in zip(numbers, scores, strict=True) if score is None]:
            axis.plot(failed, [low] * len(failed), "x", color=FAINT, ms=7, clip_on=False)
            axis.annotate("failed", (failed[-1], low), xytext=(8, 4), textcoords="offset points", color=FAINT)
        axis.xaxis.set_major_locator(import_extra("matplotlib.ticker", extra="plot").MaxNLocator(integer=True))
        axis.set_xlabel("trial")
        axis.set_ylabel(measure.replace("_", " "))


def draw_ranks(ranks: Mapping[str, int], path: str | Path, *, title: str, subtitle: str = "") -> None:
    """Draw the ranks of modules, layers from left to right and the places in a layer from top to bottom.

    Args:
        ranks: By modules' full names, at least one; 0 for one that is left out.
        path: A png, pdf or svg file, written atomically.
        title: The picture's statement.
        subtitle: A smaller second line.
    """
    places = {name: place(name) for name in ranks}
    layers = list(dict.fromkeys(layer for layer, _ in places.values()))
    kinds = list(dict.fromkeys(kind for _, kind in places.values()))
    shades = import_extra("matplotlib.colors", extra="plot").LinearSegmentedColormap.from_list("depth", DEPTHS)
    most = max(*ranks.values(), 1)
    size = (max(2.6 + 0.62 * len(layers), 7.2), 1.6 + 0.42 * len(kinds))
    with _axes(path, size, title, subtitle) as axis:
        axis.grid(visible=False)
        axis.spines["bottom"].set_visible(False)
        for name, (layer, kind) in places.items():
            x, y, rank = layers.index(layer), kinds.index(kind), ranks[name]
            shade = math.log2(rank) / max(math.log2(most), 1) if rank else 0.0
            colour = shades(shade) if rank else "#F1F3F5"
            axis.barh(y, 0.94, left=x - 0.47, height=0.9, color=colour)
            ink = FAINT if not rank else "white" if shade > 0.4 else INK
            axis.text(x, y, str(rank) if rank else "-", ha="center", va="center", color=ink, fontsize=9.5)
        axis.set_xlim(-0.5, len(layers) - 0.5)
        axis.set_ylim(len(kinds) - 0.5, -0.5)
        axis.set_xticks(range(len(layers)), [layer.rpartition(".")[2] for layer in layers])
        axis.set_yticks(range(len(kinds)), kinds)
        axis.set_xlabel("layer")


@contextmanager
def _axes(path: str | Path, size: tuple[float, float], title: str, subtitle: str) -> Iterator[Any]:
    """Give axes below a title, and save the picture once the block has ended well."""
    matplotlib = import_extra("matplotlib", extra="plot")
    with matplotlib.rc_context(STYLE):
        figure = import_extra("matplotlib.figure", extra="plot").Figure(figsize=size, dpi=160, layout="constrained")
        height = size[1]
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08, rect=(0, 0, 1, 1 - 0.8 / height))
        figure.text(0.012, 1 - 0.26 / height, title, fontsize=15, fontweight="bold", va="center")
        figure.text(0.012, 1 - 0.56 / height, subtitle, fontsize=10.5, color="#5B626B", va="center")
        axis = figure.subplots()
        axis.tick_params(length=0)
        axis.spines["left"].set_visible(False)
        yield axis
        with atomic(path) as temporary:
            figure.savefig(temporary, facecolor="white", metadata={"Software": None})
