"""A picture of what is left of a model's heads and neurons, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ttnet.errors import import_extra
from ttnet.plotting import COLOURS, FAINT, STYLE
from ttnet_llm.files import atomic
from ttnet_llm.slim.architectures import HEADS, NEURONS, Axis


def draw_kept(axes: Sequence[Axis], kept: Mapping[str, int], path: str | Path, *, title: str, subtitle: str) -> None:
    """Draw how many heads and neurons of every layer are left.

    Args:
        axes: What there was.
        kept: How many are left, by the axes' names.
        path: A png, pdf or svg file, written atomically.
        title: The picture's statement.
        subtitle: A smaller second line.
    """
    matplotlib = import_extra("matplotlib", extra="plot")
    rows = {kind: [axis for axis in axes if axis.kind == kind] for kind in (HEADS, NEURONS)}
    width = max(7.2, 1.6 + 0.5 * max(map(len, rows.values())))
    with matplotlib.rc_context(STYLE):
        figure = import_extra("matplotlib.figure", extra="plot").Figure((width, 4.6), dpi=160, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08, rect=(0, 0, 1, 1 - 0.8 / 4.6))
        figure.text(0.012, 1 - 0.26 / 4.6, title, fontsize=15, fontweight="bold", va="center")
        figure.text(0.012, 1 - 0.56 / 4.6, subtitle, fontsize=10.5, color="#5B626B", va="center")
        for panel, (kind, found), colour in zip(figure.subplots(2, 1), rows.items(), COLOURS, strict=False):
            shares = [kept[axis.name] / axis.groups for axis in found]
            panel.bar(range(len(found)), [1] * len(found), 0.8, color="#F1F3F5")
            panel.bar(range(len(found)), shares, 0.8, color=colour)
            for k, axis in enumerate(found):
                panel.text(k, shares[k] + 0.02, str(kept[axis.name]), ha="center", va="bottom", color=FAINT, fontsize=9)
            panel.set_ylim(0, 1.15)
            panel.set_yticks([0, 1], ["0", str(max((axis.groups for axis in found), default=1))])
            panel.set_xticks(range(len(found)))
            panel.set_ylabel(kind)
            panel.grid(visible=False)
            panel.tick_params(length=0)
        panel.set_xlabel("layer")
        with atomic(path) as temporary:
            figure.savefig(temporary, facecolor="white", metadata={"Software": None})
