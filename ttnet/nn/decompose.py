"""Decompose a dense weight into the cores of a layer: to an error, to ranks or to a size, by weight or by output."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttnet.decomposition.tt_svd import tt_svd
from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.nn.calibrated_fit import RowScaling, Sweeper, Whitening, output_error
from ttnet.nn.calibration import RowCounts, SecondMoment
from ttnet.nn.kernels import merged
from ttnet.nn.layout import Layout, Modes, check_layout, check_modes
from ttnet.nn.orders import whole
from ttnet.nn.ranks import Spectrum, spend, train_tensor
from ttnet.numerics.dense import as_dense
from ttnet.numerics.scales import count_nonfinite, max_exponent, times_power_of_two
from ttnet.numerics.truncation import check_eps, dtype_for_bound

_MAX_SWEEPS = 4
_SWEEP_TOL = 1e-2


@dataclass(frozen=True)
class Decomposition:
    """What the decomposition of a dense weight has come to.

    Attributes:
        layout: The modes and ranks.
        dense_parameters: Number of entries of the dense weight.
        weight_error: Frobenius norm of the error relative to that of the weight, of the cores as they are stored.
        output_error: The same for the layer's output (without the bias) on the calibration inputs; None without.

    Example:
        >>> print(Decomposition(Layout("aligned", (8,), (8,), (1, 2, 1)), 64, 0.125, None))
        aligned train 8 | 8 of ranks 2: 32 parameters (50.0 % of 64), weight error 0.125
    """

    layout: Layout
    dense_parameters: int
    weight_error: float
    output_error: float | None

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of all bonds, the outer ones included."""
        return self.layout.ranks

    @property
    def parameters(self) -> int:
        """Number of entries of all cores."""
        return self.layout.num_parameters

    @property
    def ratio(self) -> float:
        """Parameters of the train relative to those of the dense weight."""
        return self.parameters / self.dense_parameters

    def __str__(self) -> str:
        rows, cols = (" x ".join(map(str, side)) for side in (self.layout.row_modes, self.layout.col_modes))
        ranks = ", ".join(map(str, self.ranks[1:-1])) or "none"
        output = "" if self.output_error is None else f", output error {self.output_error:.3g}"
        return (
            f"{self.layout.kind} train {rows} | {cols} of ranks {ranks}: {self.parameters:,} parameters "
            f"({100 * self.ratio:.1f} % of {self.dense_parameters:,}), weight error {self.weight_error:.3g}{output}"
        )


@torch.no_grad()
def decompose(
    matrix: Tensor,  # (rows, cols)
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    ratio: float | None = None,
    budget: int | None = None,
    modes: Modes = "auto",
    layout: str = "aligned",
    calibration: Tensor | Iterable[Tensor] | SecondMoment | RowCounts | None = None,
    padded_rows: int | None = None,
) -> tuple[list[Tensor], Layout, Decomposition]:
    """Decompose a matrix that tokens are multiplied by from the left; see `TTLinear.from_linear`.

    Args:
        matrix: The matrix, of finite entries.
        eps: Bound on the relative error.
        max_rank: Bound on the ranks.
        ratio: Bound on the relative number of parameters.
        budget: Bound on the number of parameters.
        modes: `"auto"` or the modes of either side.
        layout: `"aligned"` or `"interleaved"`.
        calibration: Inputs of the layer, or their second moment; or how often each row is asked for. Then the rows are
            one mode, so that the fit is the best there is.
        padded_rows: Number of rows to fill the matrix up to, with zeros; None for none.

    Returns:
        The cores, of the shapes of the layout and the dtype of the matrix; the layout; and what it has come to.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If an argument does not fit the matrix.
        TTValueError: If a value is out of range, or numbers are not finite.

    Example:
        >>> cores, chosen, report = decompose(torch.ones(8, 4), eps=0.1)
        >>> [tuple(core.shape) for core in cores], report.ratio
        ([(1, 2, 1), (1, 4, 1), (1, 4, 1)], 0.3125)
    """
    matrix = as_dense(matrix, "the weight").detach()
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise TTShapeError(f"the weight has shape {tuple(matrix.shape)}; expected a matrix of at least one entry.")
    check_layout(layout)
    size = check_size_arguments(eps, max_rank, ratio, budget, matrix.numel())
    padded = (matrix.shape[0] if padded_rows is None else padded_rows, matrix.shape[1])
    if isinstance(calibration, RowCounts):
        candidates = _with_rows_as_one(*padded, kind=layout, modes=modes, max_rank=max_rank)
    else:
        candidates = _candidates(*padded, kind=layout, modes=modes, max_rank=max_rank)
    if count := count_nonfinite(matrix):
        raise TTValueError(
            f"the weight holds NaN or infinite entries, {count} of {matrix.numel()}; expected finite numbers."
        )
    moment = calibration if isinstance(calibration, RowCounts | None) else SecondMoment.of(calibration, matrix.shape[0])
    filled = torch.nn.functional.pad(matrix, (0, 0, 0, padded[0] - matrix.shape[0]))

    fit = _Fit(filled, moment)
    if eps is not None:
        fits = [fit.to_error(candidate, check_eps(eps)) for candidate in candidates]
        cores = min(fits, key=lambda found: sum(core.numel() for core in found))
        chosen = candidates[next(k for k, found in enumerate(fits) if found is cores)]
    else:
        if size is None:
            (chosen,) = candidates
        else:
            chosen = fit.cheapest(candidates, size)
        cores = fit.to_ranks(chosen)
    chosen = chosen.with_ranks((1, *(core.shape[-1] for core in cores)))
    cores = [core.to(matrix.dtype) for core in balanced(cores)]
    return (
        [core.reshape(shape) for core, shape in zip(cores, chosen.core_shapes, strict=True)],
        chosen,
        fit.report(cores, chosen, matrix),
    )


def plain_weight(layer: torch.nn.Module) -> Tensor:
    """Give the weight of a dense layer.

    Args:
        layer: The layer.

    Returns:
        Its weight, detached.

    Raises:
        TTTypeError: If it is a tensor of another class, such as those of quantised weights.
    """
    weight = layer.weight
    if not isinstance(weight, Tensor) or type(weight.detach()) is not Tensor:
        raise TTTypeError(
            f"the weight of layer is a {type(weight).__name__}; expected a plain tensor: decompose the layer before it "
            "is quantised or distributed."
        )
    return weight.detach()


def check_size_arguments(
    eps: float | None, max_rank: int | Sequence[int] | None, ratio: float | None, budget: int | None, dense: int
) -> int | None:
    """Make sure that exactly one of the four is given, and give the parameters that `ratio` or `budget` allow.

    Args:
        eps: A relative error, or None.
        max_rank: Ranks, or None.
        ratio: A ratio above 0, or None.
        budget: A number of parameters, at least 1, or None.
        dense: Number of parameters of the dense weight.

    Returns:
        The number of parameters, or None for the other two.

    Raises:
        TTTypeError: If one is of the wrong type.
        TTValueError: If there is none or more than one, or a value is out of range.

    Example:
        >>> check_size_arguments(None, None, 0.25, None, 64)
        16
    """
    given = {"eps": eps, "max_rank": max_rank, "ratio": ratio, "budget": budget}
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        have = " and ".join(names) if names else "none of them"
        raise TTValueError(f"{have} given; expected exactly one of eps, max_rank, ratio and budget.")
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


def _candidates(rows: int, cols: int, *, kind: str, modes: Modes, max_rank: int | Sequence[int] | None) -> list[Layout]:
    """List the layouts to try; with ranks where they are given."""
    if max_rank is not None:
        return [Layout.choose(rows, cols, kind=kind, ranks=max_rank, modes=modes)]
    if not isinstance(modes, str):
        sides = check_modes(modes, rows, cols)
        return [Layout.unranked(kind, *sides)]
    if modes != "auto":
        raise TTValueError(f"modes is {modes!r}; expected 'auto' or the modes of either side.")
    return candidate_layouts(rows, cols, kind)


def _with_rows_as_one(
    rows: int, cols: int, *, kind: str, modes: Modes, max_rank: int | Sequence[int] | None
) -> list[Layout]:
    """List those candidates whose rows are one mode."""
    if modes == "auto" and max_rank is not None and kind == "aligned":
        modes = ((rows,), (cols,))
    candidates = _candidates(rows, cols, kind=kind, modes=modes, max_rank=max_rank)
    found = [candidate for candidate in candidates if kind == "aligned" and len(candidate.row_modes) == 1]
    if not found:
        raise TTValueError(
            f"layout is {kind!r} and modes is {modes!r} with a table's calibration; expected 'aligned' and one mode "
            "for the rows, such as 'auto' chooses."
        )
    return found


def candidate_layouts(rows: int, cols: int, kind: str) -> list[Layout]:
    """List the layouts that may suit a dense matrix: of few cores, since ranks are large, and of balanced modes.

    Args:
        rows: Number of rows.
        cols: Number of columns.
        kind: `"aligned"` or `"interleaved"`.

    Returns:
        The layouts, of ranks 1.

    Example:
        >>> [(c.row_modes, c.col_modes) for c in candidate_layouts(384, 1536, "interleaved")]
        [((16, 24), (48, 32)), ((6, 8, 8), (16, 12, 8))]
    """
    if kind == "aligned":
        # The smaller modes outside, where a bond's rank is at most their size.
        row_sides = dict.fromkeys(balanced_modes(rows, count) for count in (1, 2, 3))
        col_sides = dict.fromkeys(balanced_modes(cols, count)[::-1] for count in (1, 2, 3))
        pairs = [(a, b) for a, b in itertools.product(row_sides, col_sides) if abs(len(a) - len(b)) < 2]
    else:
        pairs = [(balanced_modes(rows, count), balanced_modes(cols, count)[::-1]) for count in (2, 3)]
        pairs = [(_filled(a, len(b)), _filled(b, len(a))) for a, b in pairs]
    return [Layout.unranked(kind, a, b) for a, b in dict.fromkeys(pairs)]


def _filled(modes: tuple[int, ...], count: int) -> tuple[int, ...]:
    return modes + (1,) * (count - len(modes))


def balanced_modes(size: int, count: int) -> tuple[int, ...]:
    """Factor a size into a number of factors as equal as possible, ascending; into fewer where it has no more.

    Args:
        size: At least 1.
        count: At least 1.

    Returns:
        The factors, none of which is 1 unless the size is.

    Example:
        >>> balanced_modes(384, 2), balanced_modes(384, 3), balanced_modes(13, 2)
        ((16, 24), (6, 8, 8), (13,))
    """
    if count == 1 or size == 1:
        return (size,)
    root = size ** (1 / count)
    divisors = [k for k in range(1, math.isqrt(size) + 1) if size % k == 0]
    smallest = max((k for k in divisors if k <= root + 1e-9), default=1)
    rest = balanced_modes(size // smallest, count - 1)
    return tuple(sorted((smallest, *rest))) if smallest > 1 else rest


def whitening_of(metric: Tensor, layout: Layout) -> Whitening | RowScaling:
    """Choose the change of coordinates for a metric.

    Args:
        metric: The metric `(rows, rows)`, or its diagonal `(rows,)` if it is that alone.
        layout: The modes; for a diagonal the rows are one of them.

    Returns:
        The change.
    """
    return Whitening(metric, layout.row_modes) if metric.ndim == 2 else RowScaling(metric)


class _Fit:
    """A matrix to be decomposed, and the metric in which its error counts."""

    def __init__(self, matrix: Tensor, moment: SecondMoment | RowCounts | None) -> None:
        self._matrix, self._moment = matrix, moment
        self._metric = None if moment is None else self._like(moment.metric(), matrix)
        # Calibrated fits solve linear equations, and do so in double precision; scales are left to `tt_svd`.
        self._exponent = int(max_exponent(matrix))
        if self._metric is not None:
            self._wide = times_power_of_two(matrix.to(self._metric.dtype), -self._exponent)

    @staticmethod
    def _like(metric: Tensor, matrix: Tensor) -> Tensor:
        """Give a metric in double precision; its real part is all that a real matrix sees of it."""
        if matrix.is_complex():
            return metric.to(matrix.device, torch.complex128)
        return (metric.real if metric.is_complex() else metric).to(matrix.device)

    def _whitened(self, layout: Layout) -> tuple[Tensor, Whitening | RowScaling | None]:
        if self._metric is None:
            return self._matrix, None
        whitening = whitening_of(self._metric, layout)
        return whitening.apply(self._wide), whitening

    def cheapest(self, candidates: Sequence[Layout], budget: int) -> Layout:
        """Choose among layouts, with ranks within a number of parameters, that of the least error."""
        best: tuple[float, Layout] | None = None
        for candidate in candidates:
            if candidate.num_parameters > budget:
                continue
            spectrum = Spectrum.of(self._whitened(candidate)[0], candidate)
            (ranked,) = spend([spectrum], budget)
            bound = spectrum.bound(ranked)
            if best is None or bound < best[0]:
                best = bound, ranked
        if best is None:
            least = min(candidate.num_parameters for candidate in candidates)
            raise TTValueError(
                f"{budget} parameters are allowed for a weight of {self._matrix.numel()}; expected at least {least}, "
                "which ranks of 1 take: raise ratio or budget."
            )
        return best[1]

    def to_ranks(self, layout: Layout) -> list[Tensor]:
        """Fit a train with the ranks of a layout, or smaller ones where these are enough; cores `(r, m, n, r')`."""
        return self._fitted(layout, None, layout.ranks[1:-1])

    def to_error(self, layout: Layout, eps: float) -> list[Tensor]:
        """Fit a train to a relative error."""
        allowed = eps
        for _ in range(8):
            cores = self._fitted(layout, allowed, None)
            if self._metric is None or (found := self._output_error(cores)) <= eps:
                break
            # Unless the rows are one mode, the whitened error is only near the true one.
            allowed *= 0.9 * eps / found
        return cores

    def _fitted(self, layout: Layout, eps: float | None, ranks: Sequence[int] | None) -> list[Tensor]:
        matrix, whitening = self._whitened(layout)
        tensor = train_tensor(matrix, layout)
        if eps is not None and dtype_for_bound(tensor.dtype, eps, tensor.ndim) != tensor.dtype:
            eps = 0.0  # a layer keeps its half precision, in which no rank holds such a bound
        train = tt_svd(tensor, eps=eps, max_rank=ranks)
        cores = [core.unflatten(1, pair) for core, pair in zip(train.cores, layout.pairs, strict=True)]
        if whitening is None:
            return cores
        if isinstance(whitening, Whitening) and len(layout.row_modes) > 1:
            sweeper = Sweeper(matrix, whitening.metric(), layout)
            cores = sweeper.run(cores, tol=_SWEEP_TOL, max_sweeps=_MAX_SWEEPS)
        for k in range(len(layout.row_modes)):
            cores[k] = whitening.undo(cores[k], k)
        cores = balanced(cores)
        cores[0] = times_power_of_two(cores[0], self._exponent)
        return balanced(cores)

    def _output_error(self, cores: Sequence[Tensor]) -> float:
        if self._moment is None:
            return 0.0
        dense = times_power_of_two(_dense(cores, self._wide.dtype), -self._exponent)
        return output_error(self._wide - dense, self._wide, self._like(self._moment.scaled(), self._wide))

    def report(self, cores: Sequence[Tensor], layout: Layout, matrix: Tensor) -> Decomposition:
        """Measure a fit."""
        wide = torch.complex128 if matrix.is_complex() else torch.float64
        exact = times_power_of_two(self._matrix.to(wide), -self._exponent)
        difference = exact - times_power_of_two(_dense(cores, wide), -self._exponent)
        norm = torch.linalg.vector_norm(exact)
        error = float(torch.linalg.vector_norm(difference) / norm) if norm > 0 else 0.0
        return Decomposition(layout, matrix.numel(), error, None if self._moment is None else self._output_error(cores))


def _dense(cores: Sequence[Tensor], dtype: torch.dtype) -> Tensor:  # (rows, cols)
    shapes = tuple((c.shape[0], c.shape[1], c.shape[2], c.shape[3]) for c in cores)
    return merged(whole(shapes), [core.to(dtype) for core in cores], dtype)[0][:, 0]


def balanced(cores: Sequence[Tensor]) -> list[Tensor]:
    """Scale cores by powers of two so that their largest entries are of like size; their product stays as it is.

    Args:
        cores: Cores of any shapes.

    Returns:
        The new cores.

    Example:
        >>> [float(core) for core in balanced([torch.tensor([16.0]), torch.tensor([1.0])])]
        [4.0, 4.0]
    """
    exponents = [int(max_exponent(core)) for core in cores]
    share, more = divmod(sum(exponents), len(cores))
    return [
        times_power_of_two(core, share + (k < more) - exponent)
        for k, (core, exponent) in enumerate(zip(cores, exponents, strict=True))
    ]
