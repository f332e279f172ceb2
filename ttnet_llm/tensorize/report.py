"""What tensorising a model has come to, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttnet.errors import TTValueError, import_extra
from ttnet.nn import Layout
from ttnet.plotting import COLOURS, STYLE
from ttnet_llm.files import atomic
from ttnet_llm.tensorize.check import Check


@dataclass(frozen=True)
class LayerReport:
    """What has become of one weight.

    Args:
        name: The layer's full name.
        shape: Its input and output size; rows and columns of a table.
        layout: Modes and ranks of the train; None where the layer has stayed dense.
        dense_parameters: Number of entries of the dense weight.
        parameters: Number of entries now.
        weight_error: Frobenius norm of the error relative to that of the weight.
        output_error: The same of the layer's output on the calibration inputs; None without.
        seconds: Time that the decomposition took.
        tied: Further layers that hold the same weight.

    Example:
        >>> row = LayerReport("head", (8, 8), Layout("aligned", (8,), (8,), (1, 2, 1)), 64, 32, 0.1, None, 0.0)
        >>> row.ranks, row.ratio
        ((1, 2, 1), 0.5)
    """

    name: str
    shape: tuple[int, int]
    layout: Layout | None
    dense_parameters: int
    parameters: int
    weight_error: float
    output_error: float | None
    seconds: float
    tied: tuple[str, ...] = ()

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of all bonds; empty for a layer that has stayed dense."""
        return () if self.layout is None else self.layout.ranks

    @property
    def ratio(self) -> float:
        """Parameters relative to those of the dense weight."""
        return self.parameters / self.dense_parameters


@dataclass(frozen=True)
class TensorizeReport:
    """What tensorising a model has come to.

    Args:
        layers: A row for each weight.
        model_parameters: Number of the whole model's parameters, before and after.
        seconds: Time that everything took.
        check: What the model has lost on some texts; None where nobody looked.

    Example:
        >>> print(TensorizeReport((LayerReport("head", (8, 8), None, 64, 64, 0.0, None, 0.0),), (64, 64), 0.1))
        layer  shape  ranks  parameters  of dense  weight error  output error  seconds
        head   8x8    dense          64    100.0%             0             -      0.0
        64 of 64 parameters (100.0%) in 1 layers; the model has 64 of 64 (100.0%).
    """

    layers: tuple[LayerReport, ...]
    model_parameters: tuple[int, int]
    seconds: float
    check: Check | None = None

    @property
    def parameters(self) -> int:
        """Number of entries of all weights of the report."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def dense_parameters(self) -> int:
        """The same before."""
        return sum(layer.dense_parameters for layer in self.layers)

    @property
    def ratio(self) -> float:
        """Parameters of these weights relative to those before."""
        return self.parameters / self.dense_parameters

    HEADINGS = ("layer", "shape", "ranks", "parameters", "of dense", "weight error", "output error", "seconds")

    def rows(self) -> list[tuple[str, ...]]:
        """Give the table's cells, as text."""
        return [
            (
                layer.name,
                "x".join(map(str, layer.shape)),
                "dense" if layer.layout is None else " ".join(map(str, layer.ranks[1:-1])),
                f"{layer.parameters:,}",
                f"{layer.ratio:.1%}",
                f"{layer.weight_error:.3g}",
                "-" if layer.output_error is None else f"{layer.output_error:.3g}",
                f"{layer.seconds:.1f}",
            )
            for layer in self.layers
        ]

    @property
    def summary(self) -> str:
        """The sizes in one sentence, and what the model has lost in another."""
        before, after = self.model_parameters
        lost = "" if self.check is None else f" {self.check}"
        return (
            f"{self.parameters:,} of {self.dense_parameters:,} parameters ({self.ratio:.1%}) in {len(self.layers)} "
            f"layers; the model has {after:,} of {before:,} ({after / before:.1%}).{lost}"
        )

    def __str__(self) -> str:
        cells = [self.HEADINGS, *self.rows()]
        widths = [max(len(row[k]) for row in cells) for k in range(len(self.HEADINGS))]
        lines = [
            "  ".join(c.ljust(w) if k < 3 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in cells
        ]
        return "\n".join([*(line.rstrip() for line in lines), self.summary])

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values."""
        return {
            "parameters": self.parameters,
            "dense_parameters": self.dense_parameters,
            "model_parameters_before": self.model_parameters[0],
            "model_parameters_after": self.model_parameters[1],
            "seconds": self.seconds,
            "check": None if self.check is None else asdict(self.check) | {"loss": self.check.loss},
            "layers": [asdict(layer) | {"ranks": layer.ranks} for layer in self.layers],
        }

    def to_json(self) -> str:
        """Give the report as JSON."""
        return json.dumps(self.to_dict(), indent=2)


def draw_report(layers: Sequence[LayerReport], path: str | Path, *, title: str, subtitle: str = "") -> None:
    """Draw size and error of every layer.

    Args:
        layers: The rows of a report, at least one.
        path: A png, pdf or svg file, written atomically.
        title: The picture's title.
        subtitle: A smaller second line.

    Raises:
        TTValueError: If there is no layer.
    """
    if not layers:
        raise TTValueError("The report has no layers; there is nothing to draw.")
    matplotlib = import_extra("matplotlib", extra="plot")
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False}):
        height = 0.26 * len(layers) + 1.9
        figure = import_extra("matplotlib.figure", extra="plot").Figure(
            figsize=(11.5, height), dpi=160, layout="constrained"
        )
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08, wspace=0.04, rect=(0, 0, 1, 1 - 0.8 / height))
        figure.text(0.012, 1 - 0.26 / height, title, fontsize=15, fontweight="bold", va="center")
        figure.text(0.012, 1 - 0.56 / height, subtitle, fontsize=10.5, color="#5B626B", va="center")
        size, error = figure.subplots(1, 2, sharey=True)
        places = range(len(layers))
        size.barh(places, [layer.dense_parameters for layer in layers], color="#E3E6EA", height=0.72)
        size.barh(places, [layer.parameters for layer in layers], color=COLOURS[0], height=0.72)
        size.set_title("Parameters; dense in grey", loc="left", fontsize=11.5, pad=10)
        size.set_yticks(places, [layer.name for layer in layers])
        size.invert_yaxis()
        size.xaxis.set_major_formatter(import_extra("matplotlib.ticker", extra="plot").EngFormatter(sep=""))
        dots: dict[str, Any] = {"marker": "o", "linestyle": "", "clip_on": False}
        error.plot([layer.weight_error for layer in layers], places, color=COLOURS[0], label="of the weight", **dots)
        outputs = [(layer.output_error, k) for k, layer in enumerate(layers) if layer.output_error is not None]
        if outputs:
            error.plot(*zip(*outputs, strict=True), color=COLOURS[1], label="of the output", **dots)
            error.legend(
                frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0, columnspacing=0.8
            )
        error.set_title("Relative error", loc="left", fontsize=11.5, pad=10)
        error.set_xlim(left=0)
        for axis in (size, error):
            axis.tick_params(length=0)
            axis.grid(axis="y", visible=False)
        with atomic(path) as temporary:
            figure.savefig(temporary, facecolor="white", metadata={"Software": None})
