"""Weights that count least set to zero: in any share, or in patterns such as 2:4 that hardware multiplies faster.

What counts least is told by the weights alone, or, with inputs, by Wanda's scores. Fine-tuning that scales weights, as
PEFT's HiRA and IA3 do, keeps the zeros; what adds to them does not.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.scales import count_nonfinite
from ttnet_llm.tensorize.moments import gather_moments
from ttnet_llm.tensorize.saving import check_unquantised
from ttnet_llm.tensorize.targets import Target, find_targets


@dataclass(frozen=True)
class SparseLayer:
    """What a layer has become.

    Args:
        name: Its full name.
        shape: `(out_features, in_features)`.
        zeros: How many of its weights are 0.
        lost: The share, in [0, 1], of the squares of all scores that the zeros had: of the weights' squares, or with
            calibration of what the layer gives out, were its inputs uncorrelated.

    Example:
        >>> SparseLayer("0", shape=(4, 8), zeros=16, lost=0.1).zeros
        16
    """

    name: str
    shape: tuple[int, int]
    zeros: int
    lost: float


@dataclass(frozen=True)
class SparsityReport:
    """What became of the layers of a model.

    Args:
        layers: One by one.

    Example:
        >>> report = SparsityReport((SparseLayer("0", shape=(4, 8), zeros=16, lost=0.1),))
        >>> report.sparsity, report.to_dict()["layers"][0]["zeros"]
        (0.5, 16)
    """

    layers: tuple[SparseLayer, ...]

    @property
    def sparsity(self) -> float:
        """The share of zeros in these layers together."""
        return sum(layer.zeros for layer in self.layers) / sum(math.prod(layer.shape) for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Give what JSON can hold."""
        return {"sparsity": self.sparsity, "layers": [asdict(layer) for layer in self.layers]}


def sparse_mask(
    weight: Tensor,  # (out_features, in_features)
    sparsity: float | str,
    *,
    input_squares: Tensor | None = None,  # (in_features,)
) -> Tensor:  # (out_features, in_features)
    """Say which weights to keep: in every row, or in every group of a row, those of the largest scores.

    Args:
        weight: The matrix of a linear layer, as `nn.Linear` has it, of a real floating dtype.
        sparsity: The share of zeros in every row, in [0, 1), rounded down to whole weights; or `"n:m"`, which keeps n
            of every m neighbours in a row.
        input_squares: The mean square of every input of the layer; then scores are `|W_ij|` times its root, and not
            `|W_ij|` alone.

    Returns:
        True where a weight is kept.

    Raises:
        TTTypeError: If an argument is of another type.
        TTShapeError: If shapes do not go together.
        TTValueError: If `sparsity` is outside its range, m does not divide the row, or numbers are NaN or infinite.

    Source:
        Sun et al., Wanda (arXiv:2306.11695), section 3; without inputs it is magnitude pruning by rows.

    Example:
        >>> weight = torch.tensor([[3.0, -1.0, 2.0, 0.5]])
        >>> sparse_mask(weight, 0.5)
        tensor([[ True, False,  True, False]])
        >>> sparse_mask(weight, "1:2", input_squares=torch.tensor([1.0, 100.0, 1.0, 1.0]))
        tensor([[False,  True,  True, False]])
    """
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        kind = f"of dtype {weight.dtype}" if isinstance(weight, Tensor) else f"a {type(weight).__name__}"
        raise TTTypeError(f"weight is {kind}; expected a tensor of a real floating dtype.")
    if weight.ndim != 2:
        raise TTShapeError(f"weight has shape {tuple(weight.shape)}; expected (out_features, in_features).")
    if count := count_nonfinite(weight):
        raise TTValueError(f"weight holds NaN or infinite entries, {count} of {weight.numel()}; expected finite ones.")
    width = weight.shape[1]
    kept, group = _read(sparsity, width)
    score = weight.double().abs()
    if input_squares is not None:
        if not isinstance(input_squares, Tensor) or input_squares.shape != (width,):
            given = tuple(input_squares.shape) if isinstance(input_squares, Tensor) else type(input_squares).__name__
            raise TTShapeError(f"input_squares is {given}; expected a tensor of shape ({width},), of the inputs.")
        if not bool((input_squares >= 0).all()) or count_nonfinite(input_squares):
            raise TTValueError("input_squares holds negative, NaN or infinite entries; expected means of squares.")
        score = score * input_squares.to(score).sqrt()
    groups = score.unflatten(1, (-1, group))
    mask = torch.zeros_like(groups, dtype=torch.bool)
    return mask.scatter_(2, groups.topk(kept, dim=2).indices, True).flatten(1)


@torch.no_grad()
def sparsify(
    model: nn.Module,
    sparsity: float | str,
    *,
    targets: str | Iterable[str] = "all-linear",
    exclude: str | Iterable[str] = (),
    calibration: Iterable[Any] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> SparsityReport:
    """Set the least of the weights of a model's linear layers to zero, in place.

    Every layer is looked at with the inputs that it has in the dense model. Everything is checked before the first
    weight changes.

    Args:
        model: The model; transformers' or any other.
        sparsity: As `sparse_mask` takes it.
        targets: The layers, each an `nn.Linear` or a `Conv1D`: names or endings of names in a list, a regular
            expression for whole names, or `"all-linear"` for every linear layer but the output head.
        exclude: Layers to leave dense, named like targets.
        calibration: Batches, each a dictionary of the model's arguments or a tensor that is its only one: their inputs
            weigh the weights, as Wanda does. Weights that several layers hold go by their size all the same.
        advance: Called after every batch.

    Returns:
        What became of each layer.

    Raises:
        TTTypeError: If an argument or a layer is of the wrong type.
        TTValueError: If a value is out of range, nothing is targeted, or a weight or an input is not finite. The model
            is then as it was.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4))
        >>> report = sparsify(model, "2:4")
        >>> report.sparsity, [layer.zeros for layer in report.layers]
        (0.5, [16, 8])
    """
    check_unquantised(model)
    found = find_targets(model, targets, exclude)
    for target in found:
        if isinstance(target.module, nn.Embedding):
            raise TTTypeError(
                f"targets names {target.name!r}, which is a table, or shares its weight with one; expected linear "
                "layers: name it in exclude."
            )
        _read(sparsity, target.matrix.shape[0], f" of {target.name!r}")
        if count := count_nonfinite(target.weight):
            raise TTValueError(
                f"The weight of {target.name!r} holds NaN or infinite entries, {count} of {target.weight.numel()}; "
                "expected finite numbers."
            )
    squares: dict[str, Tensor] = {}
    if calibration is not None:
        alone = [target for target in found if not target.others]
        moments = gather_moments(model, alone, calibration, advance, InputSquares)
        squares = {name: moment.mean() for name, moment in moments.items()}
    return SparsityReport(tuple(_thin_out(target, sparsity, squares.get(target.name)) for target in found))


class InputSquares:
    """The mean square of every input of a layer, taken in piece by piece.

    Args:
        features: Size of the inputs.

    Example:
        >>> squares = InputSquares(2)
        >>> squares.update(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
        >>> squares.mean()
        tensor([1., 2.], dtype=torch.float64)
    """

    def __init__(self, features: int) -> None:
        self.count = 0
        self._sum = torch.zeros(features, dtype=torch.float64)

    def update(
        self,
        x: Tensor,  # (*batch, features)
    ) -> None:
        """Take in further inputs.

        Args:
            x: Inputs of any real floating dtype.

        Raises:
            TTValueError: If entries are NaN or infinite.
        """
        if count := count_nonfinite(x):
            raise TTValueError(f"calibration holds NaN or infinite entries, {count} of {x.numel()}; expected finite.")
        flat = x.detach().flatten(0, -2).double()
        self._sum += flat.square().sum(0).cpu()
        self.count += len(flat)

    def mean(self) -> Tensor:  # (features,)
        """Give the means, in float64."""
        return self._sum / self.count


def _read(sparsity: float | str, width: int, where: str = "") -> tuple[int, int]:
    """Give how many weights are kept in every group of how many."""
    if isinstance(sparsity, str):
        found = re.fullmatch(r"(\d+):(\d+)", sparsity)
        kept, group = (int(number) for number in found.groups()) if found else (0, 0)
        if not 0 < kept < group:
            raise TTValueError(
                f"sparsity is {sparsity!r}; expected a number in [0, 1), or 'n:m' with 0 < n < m, which keeps n of "
                "every m neighbours."
            )
        if width % group:
            raise TTValueError(
                f"sparsity is {sparsity!r}, but {group} does not divide the {width} inputs{where}; take another "
                "pattern, or leave such layers out with exclude."
            )
        return kept, group
    if isinstance(sparsity, bool) or not isinstance(sparsity, numbers.Real) or not 0 <= sparsity < 1:
        raise TTValueError(f"sparsity is {sparsity!r}; expected a number in [0, 1), or a pattern such as '2:4'.")
    exact = Fraction(str(float(sparsity)))  # as it is written: 0.29 of 100 are 29, and not 28.99...
    return width - math.floor(width * exact), width


def _thin_out(target: Target, sparsity: float | str, squares: Tensor | None) -> SparseLayer:
    weight = target.matrix.mT  # (out_features, in_features), a view of the layer's own
    dropped = ~sparse_mask(weight, sparsity, input_squares=None if squares is None else squares.to(weight.device))
    counts = weight.double().square()
    if squares is not None:
        counts = counts * squares.to(weight.device)
    whole = float(counts.sum())
    lost = float(counts[dropped].sum()) / whole if whole else 0.0
    weight.masked_fill_(dropped, 0)
    return SparseLayer(target.name, (weight.shape[0], weight.shape[1]), int((weight == 0).sum()), lost)


def count_zeros(layers: Iterable[nn.Module]) -> tuple[int, int]:
    """Count the weights of some layers that are exactly 0, and all of them.

    Args:
        layers: Layers with a `weight`.

    Returns:
        Zeros, and weights.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> _ = sparsify(nn.Sequential(layer), 0.5)
        >>> count_zeros([layer])
        (4, 8)
    """
    weights = [layer.weight for layer in layers if isinstance(layer.weight, Tensor)]
    return sum(int((weight == 0).sum()) for weight in weights), sum(weight.numel() for weight in weights)
