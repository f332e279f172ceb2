"""What a layer is asked: the second moment of its inputs, or how often each row of a table is looked up.

Both say in which metric an error of the weight counts; `ttnet.nn.calibrated_fit` fits trains in it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.nn.layout import check_size
from ttnet.numerics.scales import count_nonfinite, split_scale, times_power_of_two

# What few inputs say of the correlation of features is taken with caution, as by shrinkage to the diagonal (Ledoit &
# Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices"): by this share where there are no
# more inputs than features, and by less the more there are. With 300 inputs of MiniLM's layers it takes up to 4 % off
# the error on held-out ones. The ridge is for features that are always zero.
_SHRINKAGE = 0.1
_RIDGE = 1e-6


class SecondMoment:
    """The mean of `x^T x` over the inputs x of a layer, taken in piece by piece and never held as a whole.

    Args:
        features: Size of the inputs.

    Example:
        >>> moment = SecondMoment(2)
        >>> moment.update(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
        >>> moment.matrix()
        tensor([[1., 1.],
                [1., 2.]], dtype=torch.float64)
    """

    def __init__(self, features: int) -> None:
        self.features = check_size(features, "features")
        self.count = 0
        self._sum: Tensor | None = None
        self._exponent = 0  # inputs are divided by 2**exponent, so that no square leaves the range

    @classmethod
    def of(cls, calibration: Tensor | Iterable[Tensor] | SecondMoment, features: int) -> SecondMoment:
        """Take in whatever describes a layer's inputs.

        Args:
            calibration: Inputs `(..., features)`, one tensor or an iterable of them, or their second moment.
            features: Size of the layer's inputs.

        Returns:
            Their second moment.

        Raises:
            TTTypeError: If it is of another kind.
            TTShapeError: If it is of another width.
            TTValueError: If it holds no inputs, or such as are NaN or infinite.

        Example:
            >>> SecondMoment.of([torch.ones(3, 2), torch.ones(1, 4, 2)], 2).count
            7
        """
        if isinstance(calibration, SecondMoment):
            moment = calibration
            if moment.features != features:
                raise TTShapeError(
                    f"calibration is a SecondMoment of {moment.features} features; expected {features}, the layer's."
                )
        else:
            if not isinstance(calibration, Iterable):
                raise TTTypeError(
                    f"calibration is a {type(calibration).__name__}; expected a tensor of shape (..., {features}), an "
                    "iterable of such tensors, or a SecondMoment."
                )
            moment = cls(features)
            for x in [calibration] if isinstance(calibration, Tensor) else calibration:
                moment.update(x)
        if not moment.count:
            raise TTValueError("calibration holds no inputs; expected at least one.")
        return moment

    @torch.no_grad()
    def update(
        self,
        x: Tensor,  # (*batch, features)
    ) -> None:
        """Take in further inputs.

        Args:
            x: Inputs of any floating or complex dtype.

        Raises:
            TTTypeError: If `x` is no such tensor.
            TTShapeError: If its last size is another one.
            TTValueError: If entries are NaN or infinite.
        """
        if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
            kind = f"of dtype {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise TTTypeError(f"calibration holds a tensor or value {kind}; expected floating or complex tensors.")
        if x.ndim == 0 or x.shape[-1] != self.features:
            raise TTShapeError(
                f"calibration holds a tensor of shape {tuple(x.shape)}; expected (..., {self.features}), inputs of "
                "the layer."
            )
        if count := count_nonfinite(x):
            raise TTValueError(
                f"calibration holds NaN or infinite entries, {count} of {x.numel()} in a tensor of shape "
                f"{tuple(x.shape)}; expected finite inputs."
            )
        if not x.numel():
            return
        rows, scale = split_scale(x.reshape(-1, self.features).to(_double(x)))
        exponent = int(scale)
        if self._sum is None:
            self._sum, self._exponent = rows.new_zeros(self.features, self.features), exponent
        if exponent > self._exponent:
            self._sum = times_power_of_two(self._sum, 2 * (self._exponent - exponent))
            self._exponent = exponent
        rows = times_power_of_two(rows, exponent - self._exponent)
        # Of x^T x, the part that `x (M - T)` sees is the conjugate for complex inputs.
        self._sum = self._sum.to(rows.device) + rows.mH @ rows
        self.count += len(rows)

    def matrix(self) -> Tensor:  # (features, features)
        """Give the mean of `x^H x`.

        Returns:
            A Hermitian matrix in double precision.

        Raises:
            TTValueError: If there were no inputs.
        """
        return times_power_of_two(self.scaled(), 2 * self._exponent)

    def metric(self) -> Tensor:  # (features, features)
        """Estimate the metric of further inputs: positive definite, and up to a scale, with a mean diagonal of one.

        Returns:
            The matrix, whose off-diagonal entries are shrunk where there are few inputs; the identity if all inputs
            were zero, as they then tell nothing.
        """
        moment = self.scaled()
        mean = float(moment.diagonal().real.mean())
        eye = torch.eye(self.features, dtype=moment.dtype, device=moment.device)
        if mean == 0:
            return eye
        shrinkage = _SHRINKAGE * min(1.0, self.features / self.count)
        shrunk = torch.lerp(moment, torch.diag(moment.diagonal()), shrinkage) / mean
        return (shrunk + _RIDGE * eye) / (1 + _RIDGE)

    def scaled(self) -> Tensor:  # (features, features)
        """Give the matrix up to a power of two that keeps it in range, in double precision.

        Returns:
            The matrix.

        Raises:
            TTValueError: If there were no inputs.
        """
        if self._sum is None:
            raise TTValueError("the second moment holds no inputs; call update with some first.")
        return self._sum / self.count


class RowCounts:
    """How often each row of a table is asked for: what the second moment of one-hot inputs has on its diagonal.

    Args:
        rows: Number of rows of the table.

    Example:
        >>> counts = RowCounts(3)
        >>> counts.update(torch.tensor([[0, 2], [2, 2]]))
        >>> counts.scaled()
        tensor([0.2500, 0.0000, 0.7500], dtype=torch.float64)
    """

    def __init__(self, rows: int) -> None:
        self.rows = check_size(rows, "rows")
        self._counts = torch.zeros(self.rows, dtype=torch.int64)

    @classmethod
    def of(cls, calibration: Tensor | Iterable[Tensor] | RowCounts, rows: int) -> RowCounts:
        """Take in whatever describes what a table is asked for.

        Args:
            calibration: Row numbers of any shape, one tensor or an iterable of them, or how often each occurs.
            rows: Number of rows of the table.

        Returns:
            The counts.

        Raises:
            TTTypeError: If it is of another kind.
            TTShapeError: If the counts are for another number of rows.
            TTValueError: If it holds no row numbers, or such as the table does not have.
        """
        if isinstance(calibration, RowCounts):
            counts = calibration
            if counts.rows != rows:
                raise TTShapeError(f"calibration is RowCounts of {counts.rows} rows; expected {rows}, the table's.")
        else:
            if not isinstance(calibration, Iterable):
                raise TTTypeError(
                    f"calibration is a {type(calibration).__name__}; expected a tensor of row numbers, an iterable of "
                    "such tensors, or RowCounts."
                )
            counts = cls(rows)
            for ids in [calibration] if isinstance(calibration, Tensor) else calibration:
                counts.update(ids)
        if not counts.count:
            raise TTValueError("calibration holds no row numbers; expected at least one.")
        return counts

    def update(
        self,
        ids: Tensor,  # (*batch,)
    ) -> None:
        """Take in further row numbers.

        Args:
            ids: The numbers, of an integer dtype.

        Raises:
            TTTypeError: If `ids` is no such tensor.
            TTValueError: If the table does not have such rows.
        """
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
            kind = f"of dtype {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
            raise TTTypeError(f"calibration holds a tensor or value {kind}; expected tensors of row numbers.")
        flat = ids.detach().reshape(-1).to("cpu", torch.int64)
        wrong = flat[(flat < 0) | (flat >= self.rows)]
        if len(wrong):
            raise TTValueError(f"calibration holds {int(wrong[0])}; expected row numbers from 0 to {self.rows - 1}.")
        self._counts += torch.bincount(flat, minlength=self.rows)

    @property
    def count(self) -> int:
        """Number of all row numbers taken in."""
        return int(self._counts.sum())

    def scaled(self) -> Tensor:  # (rows,)
        """Give the share of every row, in double precision.

        Returns:
            The shares, which add up to one.
        """
        return self._counts.double() / self.count

    def metric(self) -> Tensor:  # (rows,)
        """Estimate how much every row counts in the long run, up to a scale, with a mean of one.

        Returns:
            Numbers above 0: half of what counts is as often as it was asked for, half the same for all rows, as most of
            a vocabulary does not occur in a few sentences.
        """
        return (self.scaled() * self.rows + 1) / 2


def _double(x: Tensor) -> torch.dtype:
    return torch.complex128 if x.is_complex() else torch.float64
