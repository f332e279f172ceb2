"""Line charts as SVG, to be read off by pointing, by keys, or in a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ttnet_llm.training.page.html import escape, folded, table

WIDTH, HEIGHT = 560, 270
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 48  # margins
MOST = 400  # points of a line; more than a screen shows apart
COLOURS = 6  # of the style sheet

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Args:
        label: Its name.
        points: `(x, y)`, by ascending x.
        trend: Another line through them, to see the course by; the points are pale then.
    """

    label: str
    points: Sequence[Point]
    trend: Sequence[Point] | None = None


def chart(title: str, lines: Sequence[Line], *, x_label: str, log: bool = False) -> str:
    """Draw lines.

    Args:
        title: The chart's.
        lines: The lines; what is not finite, or not above 0 on a logarithmic scale, is left out.
        x_label: What is to the right.
        log: Whether heights are logarithms.

    Returns:
        A `figure` of HTML.

    Example:
        >>> figure = chart("Loss", [Line("loss", [(1, 2.0), (2, 1.0)])], x_label="step")
        >>> figure.count("<circle"), "step 2, loss: 1" in figure
        (2, True)
    """
    kept = [Line(line.label, _fit(line.points, log), _fit(line.trend or (), log)) for line in lines]
    kept = [line for line in kept if line.points]
    if not kept:
        return f'<figure><figcaption>{escape(title)}</figcaption><p class="faint">Nothing to draw.</p></figure>'
    across = _Scale([x for line in kept for x, _ in line.points], LEFT, WIDTH - RIGHT)
    up = _Scale([y for line in kept for _, y in (*line.points, *(line.trend or ()))], HEIGHT - BOTTOM, TOP, log, 0.06)
    drawn = [_grid(across, up, x_label)]
    for k, line in enumerate(kept):
        drawn.append(_path("line pale" if line.trend else "line", k, [(across(x), up(y)) for x, y in line.points]))
        if line.trend:
            drawn.append(_path("line", k, [(across(x), up(y)) for x, y in line.trend]))
    # The points above all lines, so that none is hidden.
    for k, line in enumerate(kept):
        kind = f"{_colour(k)} small" if len(line.points) > 40 else _colour(k)
        for x, y in line.points:
            say = escape(f"{x_label} {x:g}, {line.label}: {y:.4g}")
            place = f'cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5"'
            drawn.append(f'<circle class="{kind}" {place} data-say="{say}"/>')
    names = "".join(f'<li class="{_colour(k)}">{escape(line.label)}</li>' for k, line in enumerate(kept))
    legend = f'<ul class="legend">{names}</ul>' if len(kept) > 1 else ""
    rows = [[f"{x:g}", line.label, f"{y:.6g}"] for line in kept for x, y in line.points]
    about = escape(f"{title}; the arrow keys go from point to point")
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{legend}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{about}" tabindex="0">{"".join(drawn)}</svg>'
        f'<output class="tip" hidden></output>{folded("Numbers", table([x_label, "", "value"], rows))}</figure>'
    )


class _Scale:
    """From values to places.

    Args:
        values: What has to fit in, at least one.
        start: The place of the smallest.
        end: The place of the largest.
        log: Whether equal factors are equally far apart.
        room: What is left free at both ends, as a share of the span.
    """

    def __init__(self, values: Sequence[float], start: float, end: float, log: bool = False, room: float = 0.0) -> None:
        self._place: Callable[[float], float] = math.log10 if log else float
        low, high = self._place(min(values)), self._place(max(values))
        spare = room * (high - low) if high > low else 0.5 * (abs(high) or 1.0)
        self.low, self.high, self.log = low - spare, high + spare, log
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        return self._start + (self._place(value) - self.low) / (self.high - self.low) * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Give round values within."""
        if not self.log:
            return ticks(self.low, self.high)
        powers = range(math.ceil(self.low), math.floor(self.high) + 1)
        if len(powers) >= 2:
            return [10.0**k for k in powers[:: -(-len(powers) // 6)]]
        return [value for value in ticks(10**self.low, 10**self.high) if value > 0]


def ticks(low: float, high: float) -> list[float]:
    """Give some four to ten round values in an interval.

    Args:
        low: Its lower end.
        high: Its upper end, above the lower one.

    Returns:
        Multiples of 1, 2 or 5 times a power of ten.

    Example:
        >>> ticks(0.0, 1.0), ticks(3.0, 19.0)
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [5.0, 10.0, 15.0])
    """
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(power * factor for factor in (5, 2, 1) if power * factor <= (high - low) / 3)
    return [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _fit(points: Sequence[Point], log: bool) -> list[Point]:
    fit = [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)]
    stride = -(-len(fit) // MOST)
    return fit[:: stride or 1]


def _colour(k: int) -> str:
    return f"c{k % COLOURS}"


def _path(kind: str, k: int, places: Sequence[Point]) -> str:
    return f'<path class="{kind} {_colour(k)}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>'


def _grid(across: _Scale, up: _Scale, x_label: str) -> str:
    floor, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
    lines = [f'<path class="grid" d="M{LEFT} {up(value):.1f}H{WIDTH - RIGHT}"/>' for value in up.ticks()]
    heights = [_text(LEFT - 8, up(value) + 4, f"{value:.4g}", "end") for value in up.ticks()]
    widths = [_text(across(value), floor + 18, f"{value:g}") for value in across.ticks()]
    rule = f'<path class="rule" d="M0 {TOP}V{floor}" visibility="hidden"/>'
    return "".join((*lines, *heights, *widths, _text(middle, HEIGHT - 6, x_label), rule))


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
