"""Dense layers of a model decomposed, within one error or one number of parameters, and replaced by trains."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ttnet.errors import MissingExtraError, TTTypeError, TTValueError, import_extra
from ttnet.nn import Layout, RowCounts, SecondMoment, TTEmbedding, TTLinear
from ttnet.nn.layout import check_layout
from ttnet.numerics.scales import count_nonfinite
from ttnet.numerics.truncation import check_eps
from ttnet_llm.tensorize.moments import gather_moments
from ttnet_llm.tensorize.report import LayerReport, TensorizeReport
from ttnet_llm.tensorize.saving import check_unquantised, record
from ttnet_llm.tensorize.sharing_out import Weight, share_out
from ttnet_llm.tensorize.structure import Train, declare_ties, set_module, tie
from ttnet_llm.tensorize.targets import Target, find_targets


def tensorize(
    model: nn.Module,
    *,
    targets: str | Iterable[str],
    exclude: str | Iterable[str] = (),
    eps: float | None = None,
    ratio: float | None = None,
    budget: int | None = None,
    calibration: Iterable[Any] | None = None,
    layout: str = "aligned",
    progress: bool = True,
) -> TensorizeReport:
    """Replace layers of a model by trains, in place; give one of `eps`, `ratio` and `budget`.

    Ranks are raised one by one over all bonds of all layers: first of the layer that loses most, until none loses more
    than it keeps, then where the squared relative errors fall most for each parameter. Everything is checked, and all
    layers are decomposed, before the first one is replaced.

    Args:
        model: The model; transformers' or any other.
        targets: The layers, each an `nn.Linear`, a `Conv1D` or an `nn.Embedding`: names or endings of names in a
            list, a regular expression for whole names, or `"all-linear"` for every linear layer but the output head.
            Layers that share a weight are replaced together, and stay tied.
        exclude: Layers to leave as they are, named like targets; not all of them need be targets.
        eps: Bound on the relative error of every weight, or of every layer's output on the calibration inputs.
        ratio: Bound on the parameters of all these weights together, relative to those of the dense ones; above 0.
        budget: Bound on their number.
        calibration: Batches, each a dictionary of the model's arguments or a tensor. Then the error of a layer's
            output on them is minimised, and not that of its weight; rows of tables count by how often they occur.
            Weights that several layers hold, and tables with `layout="interleaved"`, go by the weight all the same.
        layout: `"aligned"` or `"interleaved"`; see `ttnet.nn.TTLinear`.
        progress: Whether to show a bar on a terminal.

    Returns:
        What has become of each layer. One that a train would not make smaller has stayed dense.

    Raises:
        TTTypeError: If an argument or a layer is of the wrong type.
        TTValueError: If a value is out of range, nothing is targeted, or a weight or a calibration input is not
            finite. The model is then as it was.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
        >>> report = tensorize(model, targets=["0"], ratio=0.5, progress=False)
        >>> type(model[0]).__name__, report.parameters
        ('TTLinear', 2048)
    """
    start = time.perf_counter()
    check_layout(layout)
    check_unquantised(model)
    found = find_targets(model, targets, exclude)
    allowed = _check_size(eps, ratio, budget, sum(target.weight.numel() for target in found))
    batches = _check_calibration(calibration)
    for target in found:
        if count := count_nonfinite(target.weight.detach()):
            raise TTValueError(
                f"The weight of {target.name!r} holds NaN or infinite entries, {count} of {target.weight.numel()}; "
                "expected finite numbers."
            )
        for name in ("max_norm", "scale_grad_by_freq"):
            if getattr(target.module, name, None):
                raise TTValueError(
                    f"targets names {target.name!r}, a table with {name}, which only a dense one can do; "
                    "name it in exclude."
                )
    before = _count(model)
    with _bar(progress) as steps:
        moments: dict[str, SecondMoment | RowCounts] = {}
        if batches is not None:
            advance = steps("Running the calibration batches", _length(batches))
            moments = gather_moments(model, found, batches, advance)
            for target in found:
                # One layer's inputs say nothing of the other's; and the rows of a TT-matrix are never one mode.
                if target.others or (layout != "aligned" and not target.takes_vectors):
                    moments.pop(target.name, None)
        layouts = _choose(found, moments, allowed, layout, steps)
        advance = steps("Decomposing", len(found))
        made: list[tuple[Target, Train | None, LayerReport]] = []
        for target, chosen in zip(found, layouts, strict=True):
            made.append((target, *_decompose(target, chosen, moments.get(target.name), eps, layout)))
            advance()
    for target, train, _ in made:
        if train is not None:
            _replace(model, target, train)
    if any(train is not None for _, train, _ in made):
        declare_ties(model)
        record(model)
    return TensorizeReport(tuple(row for *_, row in made), (before, _count(model)), time.perf_counter() - start)


def _choose(
    found: Sequence[Target],
    moments: dict[str, SecondMoment | RowCounts],
    allowed: int | None,
    kind: str,
    steps: Callable[[str, int | None], Callable[[], None]],
) -> Sequence[Layout | str | None]:
    """Choose layouts and ranks; `"eps"` for those that the error decides on."""
    if allowed is None:
        return ["eps"] * len(found)
    advance = steps("Looking at the singular values", len(found))
    weights = []
    for target in found:
        weights.append(Weight.of(target.matrix, kind, moments.get(target.name), not target.takes_vectors))
        advance()
    return share_out(weights, allowed)


def _decompose(
    target: Target, chosen: Layout | str | None, moment: SecondMoment | RowCounts | None, eps: float | None, kind: str
) -> tuple[Train | None, LayerReport]:
    start = time.perf_counter()
    dense = target.weight.numel()
    shape = (target.matrix.shape[0], target.matrix.shape[1])
    train: Train | None = None
    if chosen is not None:
        options: dict[str, Any] = {"eps": eps, "layout": kind}
        if isinstance(chosen, Layout):
            modes = (chosen.row_modes, chosen.col_modes)
            options = {"max_rank": chosen.ranks[1:-1], "modes": modes, "layout": chosen.kind}
        if isinstance(target.module, nn.Embedding):
            assert not isinstance(moment, SecondMoment)
            train = TTEmbedding.from_embedding(target.module, calibration=moment, **options)
        else:
            assert not isinstance(moment, RowCounts)
            bias: Any = getattr(target.module, "bias", None)
            train = TTLinear.from_matrix(target.matrix, bias, calibration=moment, **options)
            train.tt.requires_grad_(target.weight.requires_grad)
            if bias is not None:
                train.bias = bias  # the very parameter, as others may hold it
            train.train(target.module.training)
        if train.tt.layout.num_parameters >= dense:
            train = None
    tied = tuple(name for name, _ in target.others)
    seconds = time.perf_counter() - start
    if train is None:
        output = None if moment is None else 0.0
        return None, LayerReport(target.name, shape, None, dense, dense, 0.0, output, seconds, tied)
    report = train.report
    assert report is not None
    errors = report.weight_error, report.output_error
    return train, LayerReport(target.name, shape, report.layout, dense, report.parameters, *errors, seconds, tied)


def _replace(model: nn.Module, target: Target, train: Train) -> None:
    set_module(model, target.name, train)
    for name, other in target.others:
        layer: nn.Module = train
        if other is not target.module:
            turned = isinstance(other, nn.Linear) != isinstance(target.module, nn.Linear)
            bias: Any = getattr(other, "bias", None)
            table = isinstance(other, nn.Embedding)
            layer = tie(train, table=table, transposed=turned, bias=bias, training=other.training)
        set_module(model, name, layer)


def _check_size(eps: float | None, ratio: float | None, budget: int | None, dense: int) -> int | None:
    """Make sure that exactly one is given and in range, and give the parameters that are allowed."""
    names = [name for name, value in {"eps": eps, "ratio": ratio, "budget": budget}.items() if value is not None]
    if len(names) != 1:
        have = " and ".join(names) if names else "none of them"
        raise TTValueError(f"{have} given; expected exactly one of eps, ratio and budget.")
    check_eps(eps)
    if ratio is not None:
        if isinstance(ratio, bool) or not isinstance(ratio, numbers.Real):
            raise TTTypeError(f"ratio is {ratio!r}; expected a number above 0.")
        if not 0 < ratio < math.inf:
            raise TTValueError(f"ratio is {ratio}; expected a number above 0, such as 0.5 for half the parameters.")
        return int(ratio * dense)
    if budget is not None:
        if isinstance(budget, bool) or not isinstance(budget, numbers.Integral):
            raise TTTypeError(f"budget is {budget!r}; expected a number of parameters, an integer.")
        if budget < 1:
            raise TTValueError(f"budget is {budget}; expected at least 1 parameter.")
        return int(budget)
    return None


def _check_calibration(calibration: Any) -> Iterable[Any] | None:
    if calibration is None:
        return None
    if isinstance(calibration, torch.Tensor | str | dict) or not isinstance(calibration, Iterable):
        raise TTTypeError(
            f"calibration is a {type(calibration).__name__}; expected an iterable of batches, such as [batch]."
        )
    return calibration


def _length(batches: Any) -> int | None:
    return len(batches) if hasattr(batches, "__len__") else None


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def _bar(shown: bool) -> Iterator[Callable[[str, int | None], Callable[[], None]]]:
    """Give a function that starts a line of a progress bar, and itself gives one that advances it."""
    try:
        rich = import_extra("rich.progress", extra="cli") if shown else None
        console = import_extra("rich.console", extra="cli").Console(stderr=True) if shown else None
    except MissingExtraError:
        rich = None
    if rich is None or console is None:
        yield lambda title, total: lambda: None
        return
    columns = (
        rich.TextColumn("[bold]{task.description}"),
        rich.BarColumn(bar_width=28),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
    )
    with rich.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def steps(title: str, total: int | None) -> Callable[[], None]:
            task = progress.add_task(title, total=total)
            return lambda: progress.advance(task)

        yield steps
