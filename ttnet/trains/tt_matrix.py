"""The TT-matrix: a linear operator held as a chain of small cores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn, Self, overload

import numpy.typing as npt
import torch  # noqa: F401  (of the examples)
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.modes import choose_paired_modes
from ttnet.numerics.dense import as_dense
from ttnet.trains import arithmetic, reductions
from ttnet.trains.chain import CoreChain, check_plain, check_shape, shorten
from ttnet.trains.habits import NORMS_INSTEAD, ROUNDS_INSTEAD, in_other_words
from ttnet.trains.instead import MATRICES_BESIDES, OF_MATRICES
from ttnet.trains.matrix_products import times_dense, times_train
from ttnet.trains.tensor_train import TensorTrain


class TTMatrix(CoreChain):
    """A matrix `W` of shape `(prod m_k, prod n_k)` as a chain of cores `(r, m_k, n_k, r')`.

    Row and column numbers are taken apart into multi-indices, last index fastest, and
    `W[(i_1..i_d), (j_1..j_d)] = G_1[:, i_1, j_1, :] @ ... @ G_d[:, i_d, j_d, :]`.
    Values are immutable. Source: Oseledets 2010, "Approximation of 2^d x 2^d matrices using tensor decomposition",
    and Novikov et al. 2015, "Tensorizing Neural Networks", eq. 3.

    Args:
        cores: d >= 1 cores of shape `(r_{k-1}, m_k, n_k, r_k)` with `r_0 = r_d = 1`, all of one floating or complex
            dtype and on one device; they are kept as they are, not copied.

    Raises:
        TTTypeError: If a core is not a floating or complex tensor, or the dtypes differ.
        TTShapeError: If the shapes do not chain up.
        TTValueError: If the devices differ.

    Example:
        >>> w = TTMatrix([torch.ones(1, 2, 3, 1), torch.ones(1, 2, 3, 1)])
        >>> w
        TTMatrix([2x3]-1-[2x3], float32)
        >>> w @ torch.ones(9)
        tensor([9., 9., 9., 9.])
    """

    __slots__ = ()
    _core_shape: ClassVar[tuple[str, ...]] = ("r", "m", "n", "r'")
    _from_dense = "TTMatrix.from_dense(other, row_shape, col_shape)"
    _instead = OF_MATRICES
    _besides = MATRICES_BESIDES

    @classmethod
    def from_dense(
        cls,
        w: Tensor | npt.NDArray[Any],  # (M, N)
        row_shape: Sequence[int] | None = None,
        col_shape: Sequence[int] | None = None,
        *,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
        method: str = "auto",
    ) -> Self:
        """Decompose a dense matrix, `||w - result|| <= eps ||w||` in the Frobenius norm, by TT-SVD.

        Args:
            w: The matrix, of any dtype that `ttnet.tt_svd` takes.
            row_shape: Mode sizes whose product is M; None, for both, takes those that `ttnet.modes.choose_paired_modes`
                finds for the rank `max_rank`, or 8 where that is no int.
            col_shape: As many mode sizes, whose product is N.
            eps: Bound on the relative Frobenius error; see `ttnet.tt_svd`.
            max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.
            method: See `ttnet.tt_svd`.

        Returns:
            The TT-matrix, left-orthogonal.

        Raises:
            TTShapeError: If the shapes do not fit the matrix or each other.
            TTTypeError: If an argument is of the wrong type.
            TTValueError: If an argument is out of range, or `w` has entries that are NaN or infinite.

        Example:
            >>> TTMatrix.from_dense(torch.eye(12), (3, 4), (3, 4)).ranks
            (1, 1, 1)
            >>> TTMatrix.from_dense(torch.eye(64), max_rank=1)
            TTMatrix([2x2]-1-[2x2]-1-[2x2]-1-[2x2]-1-[2x2]-1-[2x2], float32)
        """
        from ttnet.decomposition.in_memory import dense_cores  # here, since that room also builds trains

        if row_shape is None and col_shape is None:
            w = as_dense(w, "w")
            if w.ndim != 2:
                raise TTShapeError(f"w has shape {tuple(w.shape)}; expected a matrix.")
            rank = max_rank if isinstance(max_rank, int) and max_rank > 0 else 8
            row_shape, col_shape = choose_paired_modes(*w.shape, rank=rank)
        elif row_shape is None or col_shape is None:
            raise TTShapeError("of row_shape and col_shape one is None; give both, or neither.")
        rows, cols = check_shape(row_shape, "row_shape"), check_shape(col_shape, "col_shape")
        if not rows or len(rows) != len(cols):
            raise TTShapeError(
                f"row_shape has {len(rows)} modes and col_shape has {len(cols)}; expected as many, and at least 1."
            )
        w = as_dense(w, "w")
        if tuple(w.shape) != (math.prod(rows), math.prod(cols)):
            raise TTShapeError(
                f"w has shape {tuple(w.shape)}; expected ({math.prod(rows)}, {math.prod(cols)}), the products of "
                f"row_shape {rows} and col_shape {cols}."
            )
        order = len(rows)
        pairs = [axis for k in range(order) for axis in (k, order + k)]  # m_1, n_1, m_2, n_2, ...
        sizes = [m * n for m, n in zip(rows, cols, strict=True)]
        paired = w.reshape(*rows, *cols).permute(pairs).reshape(sizes)
        cores = dense_cores(paired, eps=eps, max_rank=max_rank, method=method)
        return cls([core.unflatten(1, (m, n)) for core, m, n in zip(cores, rows, cols, strict=True)])

    @classmethod
    def from_train(cls, train: TensorTrain, row_shape: Sequence[int], col_shape: Sequence[int]) -> Self:
        """Take each mode of a train, of size `m_k * n_k`, for a row and a column mode: the inverse of `to_train`.

        Args:
            train: A train of order 1 or more.
            row_shape: The mode sizes of the rows, as many as the train has modes.
            col_shape: The mode sizes of the columns; `row_shape[k] * col_shape[k]` is the size of mode k.

        Returns:
            The TT-matrix, of the ranks of the train.

        Raises:
            TTTypeError: If an argument is of the wrong type.
            TTShapeError: If the sizes do not fit.

        Example:
            >>> import ttnet
            >>> TTMatrix.from_train(ttnet.random((6, 4), 3, seed=0), (2, 2), (3, 2))
            TTMatrix([2x3]-3-[2x2], float32)
        """
        if not isinstance(train, TensorTrain):
            raise TTTypeError(f"train is a {type(train).__name__}; expected a TensorTrain.")
        rows, cols = check_shape(row_shape, "row_shape"), check_shape(col_shape, "col_shape")
        if not rows or len(rows) != len(cols) or train.shape != tuple(m * n for m, n in zip(rows, cols, strict=True)):
            raise TTShapeError(
                f"the train has shape {shorten(train.shape)}, row_shape is {shorten(rows)} and col_shape is "
                f"{shorten(cols)}; expected as many modes in each, and products row_shape[k] * col_shape[k] as sizes."
            )
        return cls([core.unflatten(1, (m, n)) for core, m, n in zip(train.cores, rows, cols, strict=True)])

    def to_train(self) -> TensorTrain:
        """Give the same entries as a train of modes `m_k * n_k`, the column index fastest.

        Returns:
            The train, of the same ranks.

        Example:
            >>> import ttnet
            >>> ttnet.eye((2, 2)).to_train().shape
            (4, 4)
        """
        return TensorTrain([core.flatten(1, 2) for core in self._cores])

    def _like(self, train: TensorTrain) -> TTMatrix:
        """Take a train apart into this one's modes."""
        return TTMatrix.from_train(train, self.row_shape, self.col_shape)

    def _check_alike(self, other: TTMatrix) -> None:
        if not isinstance(other, TTMatrix):
            raise TTTypeError(f"other is a {type(other).__name__}; expected a TTMatrix.")
        if (self.row_shape, self.col_shape) != (other.row_shape, other.col_shape):
            raise TTShapeError(
                f"the TT-matrices have modes {shorten(self.row_shape)} x {shorten(self.col_shape)} and "
                f"{shorten(other.row_shape)} x {shorten(other.col_shape)}; expected the same."
            )

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The mode sizes of the rows, m_1 to m_d."""
        return tuple(core.shape[1] for core in self._cores)

    @property
    def col_shape(self) -> tuple[int, ...]:
        """The mode sizes of the columns, n_1 to n_d."""
        return tuple(core.shape[2] for core in self._cores)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (M, N) of the dense matrix, in Python ints of any size."""
        return math.prod(self.row_shape), math.prod(self.col_shape)

    @property
    def ndim(self) -> int:
        """The number of dimensions of the dense matrix: 2."""
        return 2

    @property
    def T(self) -> TTMatrix:
        """The transpose, without conjugation."""
        return TTMatrix([core.transpose(1, 2) for core in self._cores])

    @property
    def H(self) -> TTMatrix:
        """The conjugate transpose."""
        return self.T.conj()

    def full(self) -> Tensor:
        """Contract to the dense matrix.

        Returns:
            A tensor of shape (M, N).

        Raises:
            TTValueError: If it has more entries than this machine's memory holds.

        Example:
            >>> TTMatrix([torch.eye(2)[None, :, :, None]]).full()
            tensor([[1., 0.],
                    [0., 1.]])
        """
        order = len(self._cores)
        dense = arithmetic.full(self._cores)  # (m_1, n_1, m_2, n_2, ...)
        return dense.permute([*range(0, 2 * order, 2), *range(1, 2 * order, 2)]).reshape(self.shape)

    @in_other_words(**NORMS_INSTEAD)
    def norm(self) -> Tensor:
        """Compute the Frobenius norm, by orthogonalisation and so without cancellation.

        Returns:
            A real tensor of shape ().

        Example:
            >>> TTMatrix([torch.eye(4)[None, :, :, None]]).norm()
            tensor(2.0000)
        """
        return self.to_train().norm()

    def log_norm(self) -> Tensor:
        """Compute the natural logarithm of the Frobenius norm, for operators whose norm is no number of the dtype.

        Returns:
            A real tensor of shape (); minus infinity for a zero operator.

        Example:
            >>> import ttnet
            >>> ttnet.eye((4,) * 1000).log_norm()
            tensor(693.1472)
        """
        return self.to_train().log_norm()

    def dot(self, other: TTMatrix) -> Tensor:
        """Sum `conj(self) * other` over all entries: the trace of `self.H @ other`, at the cost of `TensorTrain.dot`.

        Args:
            other: A TT-matrix of the same modes, on the same device.

        Returns:
            A tensor of shape (), of the promoted dtype.

        Raises:
            TTTypeError: If `other` is not a TT-matrix.
            TTShapeError: If the modes differ.
            TTValueError: If the devices differ.

        Example:
            >>> import ttnet
            >>> ttnet.eye((2, 3)).dot(ttnet.eye((2, 3)))
            tensor(6.)
        """
        self._check_alike(other)
        return self.to_train().dot(other.to_train())

    def slogdot(self, other: TTMatrix) -> tuple[Tensor, Tensor]:
        """Compute `dot` in scaled form, for operators whose inner product is no number of the dtype.

        Args:
            other: A TT-matrix of the same modes, on the same device.

        Returns:
            The sign, or phase, and the natural logarithm of the size; see `TensorTrain.slogdot`.

        Raises:
            TTTypeError: If `other` is not a TT-matrix.
            TTShapeError: If the modes differ.
            TTValueError: If the devices differ.

        Example:
            >>> import ttnet
            >>> x = ttnet.eye((4,) * 1000)
            >>> x.slogdot(-x)
            (tensor(-1.), tensor(1386.294...))
        """
        self._check_alike(other)
        return self.to_train().slogdot(other.to_train())

    def trace(self) -> Tensor:
        """Sum the diagonal, which `ttnet.diag` gives as a train.

        Returns:
            A tensor of shape ().

        Raises:
            TTShapeError: If a row mode and its column mode differ in size.

        Example:
            >>> import ttnet
            >>> ttnet.eye((2, 3)).trace()
            tensor(6.)
        """
        from ttnet.trains import joining  # here, since that module builds TT-matrices

        diagonal = joining.diag(self)
        return TensorTrain(reductions.reduce(diagonal.cores, range(diagonal.ndim))).full()

    @in_other_words(**ROUNDS_INSTEAD)
    def round(
        self, eps: float | None = None, *, max_rank: int | Sequence[int] | None = None, method: str = "auto"
    ) -> TTMatrix:
        """Reduce the ranks to what an error bound needs; see `ttnet.round`.

        Args:
            eps: Bound on the relative Frobenius error, at least 0; None for machine precision.
            max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.
            method: See `ttnet.round`.

        Returns:
            A left-orthogonal TT-matrix.

        Raises:
            TTValueError: If an argument is out of range, or a core has entries that are NaN or infinite.

        Example:
            >>> w = TTMatrix.from_dense(torch.eye(12), (3, 4), (3, 4))
            >>> (w + w).round().ranks
            (1, 1, 1)
        """
        return self._like(self.to_train().round(eps=eps, max_rank=max_rank, method=method))

    @overload
    def matmul(self, other: Tensor) -> Tensor: ...
    @overload
    def matmul(self, other: TensorTrain) -> TensorTrain: ...
    @overload
    def matmul(self, other: TTMatrix) -> TTMatrix: ...
    def matmul(self, other: Tensor | TensorTrain | TTMatrix) -> Tensor | TensorTrain | TTMatrix:
        """Give `self @ other`: in code for `torch.compile`, which cannot trace that operator between objects.

        Args:
            other: A tensor of shape (N,) or (..., N, columns), a train of shape `col_shape`, or a TT-matrix.

        Returns:
            The product, of the kind of `other`.

        Raises:
            TTTypeError: If `other` is of another type.
            TTShapeError: If the shapes do not fit.
            TTValueError: If the devices differ.

        Example:
            >>> import ttnet
            >>> ttnet.eye((2, 3)).matmul(torch.arange(6.0))
            tensor([0., 1., 2., 3., 4., 5.])
        """
        if not isinstance(other, Tensor | TensorTrain | TTMatrix):
            raise TTTypeError(f"other is a {type(other).__name__}; expected a torch.Tensor, TensorTrain or TTMatrix.")
        return self.__matmul__(other)

    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, other: TensorTrain) -> TensorTrain: ...
    @overload
    def __matmul__(self, other: TTMatrix) -> TTMatrix: ...
    def __matmul__(self, other: object) -> Tensor | TensorTrain | TTMatrix:
        if not isinstance(other, Tensor | TensorTrain | TTMatrix):
            return NotImplemented
        if other.device != self.device:
            raise TTValueError(f"the operands are on {self.device} and {other.device}; move them to one device.")
        if isinstance(other, Tensor):
            return times_dense(self, check_plain(other, "the tensor"))
        inner = other.row_shape if isinstance(other, TTMatrix) else other.shape
        if inner != self.col_shape:
            name = "row_shape" if isinstance(other, TTMatrix) else "shape"
            raise TTShapeError(
                f"the left operand has col_shape {shorten(self.col_shape)} but the right one has {name} "
                f"{shorten(inner)}; they must be equal."
            )
        cores = times_train(self, other)
        return TTMatrix(cores) if isinstance(other, TTMatrix) else TensorTrain(cores)

    @overload
    def __rmatmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __rmatmul__(self, other: TensorTrain) -> TensorTrain: ...
    def __rmatmul__(self, other: object) -> Tensor | TensorTrain:
        if isinstance(other, TensorTrain):
            return self.T @ other
        if isinstance(other, Tensor):
            return self.T @ other if other.ndim < 2 else (self.T @ other.mT).mT
        return NotImplemented

    def __getitem__(self, key: object) -> NoReturn:
        raise TTTypeError(
            "a TT-matrix is not indexed; take to_train(), whose modes are pairs of a row's and a column's, "
            "ttnet.diag(matrix), or full() if it is small."
        )

    __iter__ = None  # which Python would make of `__getitem__`

    def __add__(self, other: object) -> TTMatrix:
        if not isinstance(other, TTMatrix):
            if self._scalar(other) is not None:
                self._refuse("+")
            return NotImplemented
        self._check_alike(other)
        return self._like(self.to_train() + other.to_train())

    def __radd__(self, other: object) -> TTMatrix:
        # What `sum(operators)` begins with.
        return self if isinstance(other, int) and other == 0 else self.__add__(other)

    def __sub__(self, other: object) -> TTMatrix:
        if not isinstance(other, TTMatrix) and self._scalar(other) is None:
            return NotImplemented
        return self + -other  # type: ignore[operator]

    def __rsub__(self, other: object) -> TTMatrix:
        return (-self).__add__(other)

    def __neg__(self) -> TTMatrix:
        return self._like(-self.to_train())

    def __pos__(self) -> TTMatrix:
        return self

    def __mul__(self, other: object) -> TTMatrix:
        if isinstance(other, TTMatrix):
            self._check_alike(other)
            return self._like(self.to_train() * other.to_train())
        scalar = self._scalar(other)
        return NotImplemented if scalar is None else self._like(self.to_train() * scalar)

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> TTMatrix:
        if isinstance(other, TTMatrix):
            self._refuse("/")
        scalar = self._scalar(other)
        return NotImplemented if scalar is None else self._like(self.to_train() / scalar)
