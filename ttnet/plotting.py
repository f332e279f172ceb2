"""Pictures of trains: their networks, ranks and singular values, and what compression costs.

Every function draws on the axes it is given, or on those of a new figure of its own, and returns them. Nothing is
shown and matplotlib's settings stay as they are: `axes.figure` is what a notebook displays, and
`axes.figure.savefig("ranks.png")` writes a file.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ttnet.decomposition.tt_svd import tt_svd
from ttnet.errors import TTTypeError, TTValueError, import_extra
from ttnet.numerics.dense import as_dense
from ttnet.numerics.truncation import check_eps, check_max_rank
from ttnet.trains.chain import CoreChain
from ttnet.trains.fidelity import relative_error
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by every common kind of colour vision.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#7F7F7F", "#CC79A7", "#E69F00")
# From light to dark, for what has an order.
DEPTHS = ("#9CC9E8", "#0072B2", "#0B2E4A")
INK = "#22262B"
FAINT = "#8A9099"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#C9CDD2",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#ECEEF0",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


def plot_ranks(
    trains: TensorTrain | TTMatrix | Sequence[TensorTrain | TTMatrix] | Mapping[str, TensorTrain | TTMatrix],
    ax: Axes | None = None,
) -> Axes:
    """Draw the ranks of one train or several along their bonds.

    A dashed line gives the largest rank that any tensor of that shape needs, the smaller side of the unfolding.

    Args:
        trains: A train or TT-matrix of order 2 or more, a sequence of them, or a mapping from labels to them.
        ax: The axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        TTTypeError: If `trains` holds something else.
        TTValueError: If there is none, or one has no inner bond.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> import ttnet
        >>> x = ttnet.random((4, 4, 4), 3, seed=0)
        >>> axes = plot_ranks({"sum": x + x, "rounded": ttnet.round(x + x)})
        >>> axes.get_ylabel()
        'rank'
    """
    labelled = _label(trains)
    highest = max(max(train.ranks) for train in labelled.values())
    top = 1.12 * highest
    shapes = {tuple(math.prod(core.shape[1:-1]) for core in train.cores) for train in labelled.values()}
    with _drawing_on(ax) as ax:
        for colour, (label, train) in zip(itertools.cycle(COLOURS), labelled.items(), strict=False):
            bonds = range(1, len(train.cores))
            marker = "o" if len(bonds) <= 40 else None
            ax.plot(bonds, train.ranks[1:-1], color=colour, lw=2, marker=marker, ms=5, label=label, zorder=3)
        for shape in shapes:
            # No further than the picture reaches: they may be too large for any float.
            bounds = [min(bound, 4 * highest) for bound in _unfolding_bounds(shape)]
            name = "largest possible" if min(bounds) <= top else None
            ax.plot(range(1, len(shape)), bounds, color=FAINT, lw=1, ls="--", label=name, zorder=2)
        ax.set_ylim(0, top)
        ax.set_xlabel("bond")
        ax.set_ylabel("rank")
        _whole_numbers(ax.xaxis)
        _whole_numbers(ax.yaxis)
        _legend(ax)
    return ax


def plot_singular_values(tt: TensorTrain | TTMatrix, ax: Axes | None = None) -> Axes:
    """Draw the singular values of all unfoldings of a train, which say what each bond can do without.

    They are drawn relative to the train's norm, whatever its scale; where they come down to the machine epsilon of the
    dtype, below which there is rounding noise alone, a dotted line is drawn there.

    Args:
        tt: A train or TT-matrix of order 2 or more, of finite entries.
        ax: The axes to draw on; None makes a figure.

    Returns:
        The axes.

    Raises:
        TTTypeError: If `tt` is of another type.
        TTValueError: If it has no inner bond, entries that are NaN or infinite or none at all, or is zero.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> import ttnet
        >>> axes = plot_singular_values(ttnet.random((4, 4, 4), 3, seed=0))
        >>> [len(line.get_xdata()) for line in axes.lines[:2]]
        [3, 3]
    """
    _check_has_bonds(tt, "tt")
    if tt.device.type == "meta":
        raise TTValueError("tt is on the meta device, where cores have no entries; expected another device.")
    train = tt.to_train() if isinstance(tt, TTMatrix) else tt
    values = [bond.tolist() for bond in train.detach().singular_values(normalised=True)]
    if not values[0][0]:
        raise TTValueError("tt is zero, and so are all its singular values; there is nothing to draw.")
    numbers = [[value for value in bond if value > 0] for bond in values]  # zero has no place on a logarithmic axis
    shades = import_extra("matplotlib.colors", extra="plot").LinearSegmentedColormap.from_list("depth", DEPTHS)
    last, named = len(numbers) - 1, _spread(len(numbers), 6)
    epsilon = torch.finfo(tt.dtype).eps
    with _drawing_on(ax) as ax:
        for k, bond in enumerate(numbers):
            part = k / max(1, last)
            # Broad lines below narrow ones, so that equal ones are all seen.
            width = 4 - 2.8 * part
            label = f"bond {k + 1}" if k in named else None
            ax.plot(
                range(1, len(bond) + 1), bond, color=shades(part), lw=width, marker="o", ms=2.5 + width, label=label
            )
        if min(map(min, numbers)) < 1e4 * epsilon:
            ax.axhline(epsilon, color=FAINT, lw=1, ls=":", label="machine epsilon")
        ax.set_yscale("log")
        ax.set_xlabel("index")
        ax.set_ylabel("singular value / norm of the train")
        _whole_numbers(ax.xaxis)
        _legend(ax)
    return ax


def plot_compression(
    x: Tensor | npt.NDArray[Any],  # (n_1, ..., n_d)
    *,
    eps: Iterable[float] | None = None,
    max_rank: Iterable[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what a dense tensor costs as a train: the relative error, as measured, against the number of parameters.

    The tensor is decomposed once, to machine precision, and then rounded to each bound.

    Args:
        x: A tensor or numpy array of order 2 or more, as for `ttnet.tt_svd`.
        eps: Bounds on the relative error, one point each. None without `max_rank` takes powers of ten down to the
            precision of the dtype.
        max_rank: Bounds on the ranks, one point each.
        ax: The axes to draw on; None makes a figure.

    Returns:
        The axes, both of them logarithmic. A point that is exact is drawn at the machine epsilon.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If a mode is empty.
        TTValueError: If an argument is out of range, `x` has entries that are NaN or infinite, or is zero, or of an
            order below 2.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> i = torch.arange(8.0)
        >>> axes = plot_compression(1 / (1 + i[:, None, None] + i[:, None] + i), eps=[1e-1, 1e-2, 1e-3])
        >>> axes.get_xlabel(), len(axes.lines[0].get_xdata())
        ('parameters', 3)
    """
    x = as_dense(x).detach()
    precision = torch.finfo(x.dtype).eps
    if eps is None and max_rank is None:
        eps = [10.0**-k for k in range(1, int(-math.log10(precision)))]
    bounds = _bounds("eps", eps, check_eps) + _bounds("max_rank", max_rank, lambda rank: check_max_rank(rank, 1))
    if not bounds:
        raise TTValueError("eps and max_rank hold no bound; expected at least one, or None for both.")
    if x.ndim < 2:
        raise TTValueError(f"x has order {x.ndim}; expected at least 2, since there is a rank between modes alone.")
    exact = tt_svd(x)
    if not x.any():
        raise TTValueError("x is zero, and an error relative to it means nothing; expected other entries.")
    rounded = [exact.round(**bound) for bound in bounds]
    points = sorted({(tt.num_parameters, max(relative_error(x, tt), precision), max(tt.ranks)) for tt in rounded})
    with _drawing_on(ax) as ax:
        ax.plot(
            [size for size, _, _ in points],
            [error for _, error, _ in points],
            color=COLOURS[1],
            lw=2,
            marker="o",
            ms=5,
            label="tensor train",
            zorder=3,
        )
        for rank, group in itertools.groupby(points, key=lambda point: point[2]):
            place = next(group)[:2]
            ax.annotate(f"rank {rank}", place, (6, 4), textcoords="offset points", fontsize=8.5, color=FAINT)
        ax.axvline(x.numel(), color=COLOURS[0], lw=1.5, ls="--", label="the dense tensor")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("parameters")
        ax.set_ylabel("relative error")
        _legend(ax)
    return ax


def draw_train(tt: TensorTrain | TTMatrix, title: str) -> Figure:
    """Draw a train's ranks and singular values side by side.

    Args:
        tt: A train or TT-matrix, as for `plot_singular_values`.
        title: The picture's title.

    Returns:
        The figure.

    Raises:
        TTValueError: If there is nothing to draw.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> import ttnet
        >>> len(draw_train(ttnet.random((4, 4, 4), 3, seed=0), "A train").axes)
        2
    """
    with _style():
        figure = _figure(9.6)
        left, right = figure.subplots(1, 2)
        plot_ranks(tt, left)
        plot_singular_values(tt, right)
        for axes in (left, right):
            axes.tick_params(length=0, which="both")
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold")
    return figure


def _label(trains: object) -> dict[str, TensorTrain | TTMatrix]:
    """Give every train a label, none if it is alone."""
    if isinstance(trains, CoreChain):
        labelled: dict[Any, Any] = {"": trains}
    elif isinstance(trains, Mapping):
        labelled = dict(trains)
    elif isinstance(trains, Sequence) and not isinstance(trains, str):
        labelled = {f"train {k + 1}": train for k, train in enumerate(trains)}
    else:
        labelled = {"": trains}
    if not labelled:
        raise TTValueError("there is no train to draw; expected at least one.")
    for label, train in labelled.items():
        _check_has_bonds(train, f"the train {label!r}" if label else "tt")
    return labelled


def _check_has_bonds(tt: object, name: str) -> None:
    if not isinstance(tt, TensorTrain | TTMatrix):
        raise TTTypeError(f"{name} is a {type(tt).__name__}; expected a TensorTrain or a TTMatrix.")
    if len(tt.ranks) < 3:
        raise TTValueError(f"{name} has order {len(tt.ranks) - 1}; expected at least 2, since bonds are drawn.")


def _bounds(name: str, values: object, check: Callable[[Any], object]) -> list[dict[str, Any]]:
    """Give one keyword argument of `round` for each bound, all of them checked."""
    if values is None:
        return []
    try:
        bounds = list(values)  # type: ignore[call-overload]
    except TypeError:
        raise TTTypeError(
            f"{name} is a {type(values).__name__}; expected a sequence of bounds, one point each."
        ) from None
    for bound in bounds:
        check(bound)
    return [{name: bound} for bound in bounds]


def draw_network(
    value: TensorTrain | TTMatrix | nn.Module, ax: Axes | None = None, *, beside: str | None = None, most: int = 10
) -> Axes:
    """Draw a train as a diagram: a circle for each core, a line for each bond with its rank, a leg for each mode.

    Legs that point up are a matrix's rows, or the modes of what a layer reads; those that point down are its columns,
    or the modes of what it writes. A layer of `ttnet.nn` is drawn in its own layout: aligned, with all that is read on
    the left of the bond that the matrix is cut at, or interleaved, with a pair of legs at each core.

    Args:
        value: A train, a TT-matrix, or a layer of `ttnet.nn`.
        ax: The axes to draw on; None makes a figure.
        beside: The name of a weight that the value is added to, as an adapter is; it is drawn below as a square with a
            leg on either side.
        most: How many cores are drawn at most, at least 2; the middle of longer trains is left out.

    Returns:
        The axes.

    Raises:
        TTTypeError: If `value` is of another type, or `most` is not an int.
        TTValueError: If `most` is below 2, or `value` is of order 0.
        MissingExtraError: If matplotlib is not installed.

    Example:
        >>> import ttnet
        >>> axes = draw_network(ttnet.random((4, 5, 6), 3, seed=0))
        >>> [text.get_text() for text in axes.texts]
        ['4', '5', '6', '3', '3']
    """
    value, rows = _chain_of(value)
    if isinstance(most, bool) or not isinstance(most, int):
        raise TTTypeError(f"most is {most!r}; expected an int.")
    if most < 2:
        raise TTValueError(f"most is {most}; expected at least 2.")
    count = len(value.cores)
    shown = list(range(count)) if count <= most else [*range(most // 2), *range(count - (most + 1) // 2, count)]
    gap = most // 2 if count > most else None  # before which cores are left out
    at = {core: place + (gap is not None and place >= gap) for place, core in enumerate(shown)}
    with _drawing_on(ax, width=max(4.0, 0.9 * len(at) + 1.0)) as ax:
        ax.set_axis_off()
        ax.set_aspect("equal")
        for core, x in at.items():
            sizes = value.cores[core].shape[1:-1]
            ups = [True, False] if len(sizes) == 2 else [core < rows]
            for size, up in zip(sizes, ups, strict=True):
                colour, sign = (COLOURS[1], 1) if up else (COLOURS[0], -1)
                ax.plot([x, x], [0, 0.62 * sign], color=colour, lw=2, zorder=1)
                ax.text(x, 0.8 * sign, f"{size}", ha="center", va="center")
        for left, right in itertools.pairwise(shown):
            style = "-" if right == left + 1 else ":"
            ax.plot([at[left], at[right]], [0, 0], color=INK, lw=2, ls=style, zorder=1)
            label = f"{value.ranks[left + 1]}" if right == left + 1 else f"{right - left - 1} more"
            ax.text((at[left] + at[right]) / 2, 0.14, label, ha="center", va="bottom", fontsize=9, color=FAINT)
        ax.scatter(list(at.values()), [0] * len(at), s=420, color="white", edgecolors=INK, linewidths=2, zorder=2)
        if beside is not None:
            middle = max(at.values()) / 2
            ax.plot([middle - 0.9, middle + 0.9], [-1.7, -1.7], color=INK, lw=2, zorder=1)
            ax.scatter([middle], [-1.7], s=900, marker="s", color="#ECEEF0", edgecolors=INK, linewidths=2, zorder=2)
            ax.text(middle, -1.7, beside, ha="center", va="center", zorder=3)
            ax.text(middle, -1.17, "+", ha="center", va="center", fontsize=14)
        ax.set_xlim(-0.8, max(at.values()) + 0.8)
        ax.set_ylim(-2.3 if beside is not None else -1.1, 1.1)
    return ax


def _chain_of(value: Any) -> tuple[TensorTrain | TTMatrix, int]:
    """Give what is drawn, and how many of a train's modes point up."""
    from ttnet.nn.weight import TTWeight  # here, as only layers need it

    rows = 0
    weight = value if isinstance(value, TTWeight) else getattr(value, "tt", None)
    if isinstance(value, nn.Module) and isinstance(weight, TTWeight):
        value, rows = weight.value, len(weight.layout.row_modes)
    if not isinstance(value, TensorTrain | TTMatrix):
        raise TTTypeError(f"value is a {type(value).__name__}; expected a train, a TT-matrix or a layer of ttnet.nn.")
    if isinstance(value, TensorTrain) and not value.ndim:
        raise TTValueError("value is a train of order 0, which has no modes; expected at least one.")
    return value, rows


def _unfolding_bounds(sizes: Sequence[int]) -> list[int]:
    """Give the smaller side of every unfolding, in Python ints of any size."""
    left = list(itertools.accumulate(sizes[:-1], operator.mul))
    right = list(itertools.accumulate(sizes[:0:-1], operator.mul))[::-1]
    return [min(pair) for pair in zip(left, right, strict=True)]


def _spread(count: int, most: int) -> set[int]:
    """Give at most `most` of the numbers below `count`, both ends among them, evenly spread."""
    return {round(k * (count - 1) / max(1, min(count, most) - 1)) for k in range(min(count, most))}


def _style() -> Any:
    return import_extra("matplotlib", extra="plot").rc_context(STYLE)


def _figure(width: float) -> Figure:
    # Not pyplot's, which would keep it in a global list and may open a window.
    return import_extra("matplotlib.figure", extra="plot").Figure(figsize=(width, 4.0), dpi=160, layout="constrained")


@contextmanager
def _drawing_on(ax: Axes | None, *, width: float = 5.6) -> Iterator[Axes]:
    """Give the user's axes as they are, or those of a new figure, in our style while it is drawn on."""
    if ax is not None:
        if not hasattr(ax, "plot"):
            raise TTTypeError(f"ax is a {type(ax).__name__}; expected the axes of a matplotlib figure, or None.")
        yield ax
        return
    with _style():
        axes = _figure(width).subplots()
        axes.tick_params(length=0, which="both")
        yield axes


def _whole_numbers(axis: Any) -> None:
    axis.set_major_locator(import_extra("matplotlib.ticker", extra="plot").MaxNLocator(integer=True))


def _legend(ax: Axes) -> None:
    """Name what is drawn, unless it is one unnamed line."""
    handles, labels = ax.get_legend_handles_labels()
    named = {label: handle for handle, label in zip(handles, labels, strict=True) if label}
    if named:
        ax.legend(named.values(), named.keys())
