"""The tensor train: a tensor of any order, held as a chain of small cores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor

from ttnet.errors import TTTypeError
from ttnet.trains import arithmetic, indexing, reductions
from ttnet.trains.dims import check_dim, one_by_one
from ttnet.trains.entrywise import TrainArithmetic
from ttnet.trains.habits import NORMS_INSTEAD, ROUNDS_INSTEAD, in_other_words
from ttnet.trains.instead import OF_TRAINS, TRAINS_BESIDES


class TensorTrain(TrainArithmetic):
    """A tensor as a product of cores, `x[i_1, ..., i_d] = G_1[:, i_1, :] @ ... @ G_d[:, i_d, :]`.

    Values are immutable: every operation gives a new train. Addition and multiplication let the ranks grow; `round`
    brings them down again. Source: Oseledets 2011, "Tensor-Train Decomposition", eq. 1.2.

    Args:
        cores: d cores of shape `(r_{k-1}, n_k, r_k)` with `r_0 = r_d = 1`, all of one floating or complex dtype and on
            one device; they are kept as they are, not copied. A train of order 0, which is a scalar, is one core of
            shape (1, 1).

    Raises:
        TTTypeError: If a core is not a floating or complex tensor, or the dtypes differ.
        TTShapeError: If the shapes do not chain up.
        TTValueError: If the devices differ.

    Example:
        >>> import torch
        >>> x = TensorTrain([torch.ones(1, 2, 3), torch.ones(3, 4, 1)])
        >>> x
        TensorTrain([2]-3-[4], float32)
        >>> x.full()
        tensor([[3., 3., 3., 3.],
                [3., 3., 3., 3.]])
    """

    __slots__ = ()
    _core_shape: ClassVar[tuple[str, ...]] = ("r", "n", "r'")
    _from_dense = "ttnet.tt_svd(other)"
    _instead = OF_TRAINS
    _besides = TRAINS_BESIDES

    def _is_core_shape(self, shape: Sequence[int]) -> bool:
        return len(shape) == 3 or (len(shape) == 2 and len(self._cores) == 1)

    @property
    def ndim(self) -> int:
        """The order: the number of modes."""
        return 0 if self._cores[0].ndim == 2 else len(self._cores)

    @property
    def shape(self) -> tuple[int, ...]:
        """The mode sizes."""
        return tuple(core.shape[1] for core in self._cores) if self.ndim else ()

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of all bonds, the outer ones included: order + 1 ints that begin and end with 1."""
        return (1, *(core.shape[-1] for core in self._cores)) if self.ndim else (1,)

    @property
    def T(self) -> TensorTrain:
        """The train with its modes in the opposite order, as numpy's `.T`; exact, of the same ranks."""
        if not self.ndim:
            return self
        return TensorTrain([core.permute(2, 1, 0) for core in reversed(self._cores)])

    def full(self) -> Tensor:
        """Contract to the dense tensor.

        Returns:
            A tensor of shape `shape`.

        Raises:
            TTValueError: If it has more entries than this machine's memory holds.

        Example:
            >>> import torch
            >>> TensorTrain([torch.eye(2)[None], torch.eye(2)[:, :, None]]).full()
            tensor([[1., 0.],
                    [0., 1.]])
        """
        return arithmetic.full(self._cores)

    def dot(self, other: TensorTrain) -> Tensor:
        """Sum `conj(self) * other` over all entries, without forming them.

        It conjugates as `torch.vdot` does; `torch.dot(self, other)` conjugates neither.

        Args:
            other: A train of the same shape, on the same device.

        Returns:
            A tensor of shape (), of the promoted dtype; `slogdot` serves where the sum leaves the range of that.

        Raises:
            TTTypeError: If `other` is not a train.
            TTShapeError: If the shapes differ.
            TTValueError: If the devices differ.

        Example:
            >>> import ttnet
            >>> ttnet.ones((2, 3)).dot(ttnet.ones((2, 3)))
            tensor(6.)
        """
        self._check_alike(other)
        return arithmetic.dot(self._cores, other._cores)

    def slogdot(self, other: TensorTrain) -> tuple[Tensor, Tensor]:
        """Compute `dot` in scaled form, for trains whose inner product is no number of the dtype.

        Args:
            other: A train of the same shape, on the same device.

        Returns:
            Two tensors of shape (), as `torch.linalg.slogdet` gives them: the sign, or for complex dtypes the phase,
            of the promoted dtype, and the natural logarithm of the size; 0 and minus infinity for 0.

        Raises:
            TTTypeError: If `other` is not a train.
            TTShapeError: If the shapes differ.
            TTValueError: If the devices differ.

        Example:
            >>> import ttnet
            >>> x = ttnet.ones((4,) * 1000)
            >>> x.slogdot(-x)
            (tensor(-1.), tensor(1386.294...))
        """
        self._check_alike(other)
        return arithmetic.slogdot(self._cores, other._cores)

    @in_other_words(**NORMS_INSTEAD)
    def norm(self) -> Tensor:
        """Compute the Frobenius norm, by orthogonalisation and so without cancellation.

        Returns:
            A real tensor of shape (); `log_norm` serves where it leaves the range of the dtype.

        Example:
            >>> import ttnet
            >>> ttnet.ones((2, 8)).norm()
            tensor(4.0000)
        """
        return arithmetic.norm(self._cores)

    def log_norm(self) -> Tensor:
        """Compute the natural logarithm of the Frobenius norm, for trains whose norm is no number of the dtype.

        Returns:
            A real tensor of shape (); minus infinity for a zero train.

        Example:
            >>> import ttnet
            >>> ttnet.ones((4,) * 1000).log_norm()
            tensor(693.1472)
        """
        return arithmetic.log_norm(self._cores)

    @in_other_words(**ROUNDS_INSTEAD)
    def round(
        self, eps: float | None = None, *, max_rank: int | Sequence[int] | None = None, method: str = "auto"
    ) -> TensorTrain:
        """Reduce the ranks to what an error bound needs; see `ttnet.round`.

        Args:
            eps: Bound on the relative Frobenius error, at least 0; None for machine precision.
            max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.
            method: "auto", "svd", "gram" or "randomized".

        Returns:
            A left-orthogonal train.

        Raises:
            TTValueError: If an argument is out of range, or a core has entries that are NaN or infinite.

        Example:
            >>> import ttnet
            >>> x = ttnet.ones((2, 3, 4))
            >>> (x + x).round().ranks
            (1, 1, 1, 1)
        """
        from ttnet.trains import rounding  # here, since that module builds trains

        return rounding.round(self, eps=eps, max_rank=max_rank, method=method)

    def orthogonalise(self, centre: int) -> TensorTrain:
        """Move the norm into one core and make the others orthogonal; see `ttnet.orthogonalise`.

        Args:
            centre: The number of that core, from -order to order - 1.

        Returns:
            The same tensor, with left-orthogonal cores left of the centre and right-orthogonal ones right of it.

        Raises:
            TTIndexError: If there is no such core.
            TTValueError: If a core has entries that are NaN or infinite.

        Example:
            >>> import ttnet
            >>> ttnet.ones((2, 8)).orthogonalise(0).cores[0].norm()
            tensor(4.0000)
        """
        from ttnet.trains import orthogonal

        return orthogonal.orthogonalise(self, centre)

    def singular_values(self, *, normalised: bool = False) -> list[Tensor]:
        """Compute the singular values of every unfolding; see `ttnet.singular_values`.

        Args:
            normalised: Divide them by the norm, which serves for plots and where that is no number of the dtype.

        Returns:
            For each inner bond, a real tensor in descending order.

        Raises:
            TTValueError: If a core has entries that are NaN or infinite.

        Example:
            >>> import ttnet
            >>> ttnet.ones((2, 8)).singular_values()
            [tensor([4.0000])]
        """
        from ttnet.trains import orthogonal

        return orthogonal.singular_values(self, normalised=normalised)

    def entropies(self) -> Tensor:
        """Compute the entanglement entropy of every bond; see `ttnet.entropies`.

        Returns:
            A real tensor of shape (order - 1,), in nats.

        Raises:
            TTValueError: If a core has entries that are NaN or infinite.

        Example:
            >>> import ttnet
            >>> ttnet.ones((2, 3, 4)).entropies().shape
            torch.Size([2])
        """
        from ttnet.trains import orthogonal

        return orthogonal.entropies(self)

    @in_other_words()
    def sum(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> TensorTrain | Tensor:
        """Sum over all modes, or over some of them.

        Args:
            dim: A mode or several different ones, from -order to order - 1; None for all of them. It may be called
                `axis`.
            keepdim: Whether the modes stay, with size 1. It may be called `keepdims`.

        Returns:
            A train, or a tensor of shape () if no mode is left.

        Raises:
            TTTypeError: If `dim` is of another type.
            TTIndexError: If there is no such mode.
            TTValueError: If `dim` is empty, or names a mode twice.

        Example:
            >>> import ttnet
            >>> x = ttnet.arange((2, 3))
            >>> x.sum(), x.sum(dim=0).full()
            (tensor(15.), tensor([3., 5., 7.]))
        """
        return self._reduce(dim, keepdim=keepdim, mean=False)

    @in_other_words()
    def mean(self, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> TensorTrain | Tensor:
        """Take the mean over all modes, or over some of them; no count of entries is too large for it.

        Args:
            dim: A mode or several different ones, from -order to order - 1; None for all of them. It may be called
                `axis`.
            keepdim: Whether the modes stay, with size 1. It may be called `keepdims`.

        Returns:
            A train, or a tensor of shape () if no mode is left.

        Raises:
            TTTypeError: If `dim` is of another type.
            TTIndexError: If there is no such mode.
            TTValueError: If `dim` is empty, or names a mode twice.

        Example:
            >>> import ttnet
            >>> ttnet.ones((7,) * 1000).mean()
            tensor(1.)
        """
        return self._reduce(dim, keepdim=keepdim, mean=True)

    def _reduce(self, dim: int | Sequence[int] | None, *, keepdim: bool, mean: bool) -> TensorTrain | Tensor:
        dims = reductions.chosen_modes(dim, self.ndim)
        train = TensorTrain(reductions.reduce(self._cores, dims, keepdim=keepdim, mean=mean))
        return train if train.ndim else train.full()

    def permute(
        self,
        dims: int | Sequence[int],
        *more: int,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
    ) -> TensorTrain:
        """Put the modes in another order; see `ttnet.permute`.

        Args:
            dims: For each mode of the result, which one of this train it is.
            *more: The others, where `dims` is the first of them.
            eps: Bound on the relative Frobenius error, at least 0; None for machine precision.
            max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.

        Returns:
            A train.

        Raises:
            TTValueError: If an argument is out of range, or a core has entries that are NaN or infinite.

        Example:
            >>> import ttnet
            >>> ttnet.ones((2, 3, 4)).permute((2, 0, 1)).shape
            (4, 2, 3)
        """
        from ttnet.trains import permuting  # here, since that module builds trains

        return permuting.permute(self, one_by_one(dims, more, "dims"), eps=eps, max_rank=max_rank)

    def transpose(
        self, dim0: int, dim1: int, *, eps: float | None = None, max_rank: int | Sequence[int] | None = None
    ) -> TensorTrain:
        """Exchange two modes; see `ttnet.permute`.

        Args:
            dim0: A mode, from -order to order - 1.
            dim1: Another mode.
            eps: Bound on the relative Frobenius error, at least 0; None for machine precision.
            max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.

        Returns:
            A train.

        Raises:
            TTIndexError: If there is no such mode.
            TTValueError: If an argument is out of range, or a core has entries that are NaN or infinite.

        Example:
            >>> import ttnet
            >>> ttnet.ones((2, 3, 4)).transpose(0, -1).shape
            (4, 3, 2)
        """
        i, j = check_dim(dim0, self.ndim, "dim0"), check_dim(dim1, self.ndim, "dim1")
        dims = list(range(self.ndim))
        dims[i], dims[j] = j, i
        return self.permute(dims, eps=eps, max_rank=max_rank)

    def reshape(
        self,
        shape: int | Sequence[int],
        *more: int,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
    ) -> TensorTrain:
        """Merge and split neighbouring modes; see `ttnet.reshape`.

        Args:
            shape: The new mode sizes, of the same product; one of them may be -1.
            *more: The others, where `shape` is the first of them.
            eps: Bound on the relative Frobenius error, at least 0; None for machine precision.
            max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.

        Returns:
            A train.

        Raises:
            TTShapeError: If the numbers of entries differ.
            TTValueError: If an argument is out of range, or a core has entries that are NaN or infinite.

        Example:
            >>> import ttnet
            >>> ttnet.ones((4, 6)).reshape((2, 2, -1)).shape, ttnet.ones((4, 6)).reshape(-1, 3).shape
            ((2, 2, 6), (8, 3))
        """
        from ttnet.trains import reshaping  # here, since that module builds trains

        return reshaping.reshape(self, one_by_one(shape, more, "shape"), eps=eps, max_rank=max_rank)

    def __getitem__(self, key: Any) -> TensorTrain | Tensor:
        train = TensorTrain(indexing.index(self._cores, key))
        return train if train.ndim else train.full()

    def __iter__(self) -> Iterator[TensorTrain | Tensor]:
        """Go through the slices of the first mode, as arrays do; the cores are `cores`."""
        return (self[k] for k in range(len(self)))

    def __len__(self) -> int:
        """Give the size of the first mode, as arrays do; `ndim` is the number of modes."""
        if not self.ndim:
            raise TTTypeError("a train of order 0 has no length.")
        return self.shape[0]
