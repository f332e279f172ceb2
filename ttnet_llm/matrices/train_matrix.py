"""A trainable matrix held as the cores of a train: what its layouts, aligned and interleaved, have in common."""

import math
from collections.abc import Sequence
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from ttnet.nn.offload import bring_back
from ttnet.numerics.scales import compute_dtype


class TrainLayout(Protocol):
    """How a train holds a matrix: what each layout says of it."""

    @property
    def rows(self) -> int:
        """Number of rows."""

    @property
    def cols(self) -> int:
        """Number of columns."""

    @property
    def shape(self) -> str:
        """Its sizes, as a config records the modes that were chosen for them."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of all bonds, the outer ones included."""

    @property
    def split_modes(self) -> list[list[int]]:
        """The modes of the rows and those of the columns, as `choose` takes them."""

    @property
    def core_shapes(self) -> Sequence[tuple[int, ...]]:
        """The shapes of the cores, ranks first and last."""

    @property
    def num_parameters(self) -> int:
        """Number of entries of all cores."""

    @classmethod
    def choose(cls, rows: int, cols: int, *, rank: int | Sequence[int], modes: str | Sequence[Sequence[int]]) -> Self:
        """Choose the modes of a `(rows, cols)` matrix, or take those that are given."""


class TrainMatrix(nn.Module):
    """A trainable matrix of shape `(rows, cols)` held as the cores of a train.

    Args:
        layout: Its modes and ranks.

    Example:
        >>> from ttnet_llm.matrices.aligned import AlignedMatrix
        >>> matrix = AlignedMatrix.choose(768, 8, rank=5, modes="auto")
        >>> isinstance(matrix, TrainMatrix), matrix.layout.rows, len(matrix.cores)
        (True, 768, 5)
    """

    layout: TrainLayout
    layout_class: ClassVar[type[TrainLayout]]

    def __init__(self, layout: TrainLayout) -> None:
        super().__init__()
        self.layout = layout
        self.cores = nn.ParameterList(torch.empty(shape, dtype=torch.float32) for shape in layout.core_shapes)

    @classmethod
    def choose(cls, rows: int, cols: int, *, rank: int | Sequence[int], modes: str | Sequence[Sequence[int]]) -> Self:
        """Make a matrix whose modes its layout chooses, without setting its entries.

        Args:
            rows: Number of rows, at least 1.
            cols: Number of columns, at least 1.
            rank: The largest rank, or the ranks of the inner bonds; see the layout.
            modes: How it is chosen, or the modes of the rows and of the columns; see the layout.

        Returns:
            The matrix.

        Raises:
            TTError: As the layout does.
        """
        return cls(cls.layout_class.choose(rows, cols, rank=rank, modes=modes))

    @torch.no_grad()
    def reset_parameters(self, variance: float, zero: bool = False, gaussian: bool = False) -> None:
        """Draw the cores so that the entries of the matrix have a given variance.

        Cores drawn independently would make a product whose norm scatters and whose singular values fall off
        quickly, the more the longer the train. Drawn orthogonal, each as the map that its layout makes of it, they
        give one whose singular values are equal, as nearly as those of a dense random matrix; one factor, shared by
        all cores, then sets the variance whatever the ranks and the order.

        Args:
            variance: Mean square of the entries of the matrix; at least 0.
            zero: Whether the matrix shall be zero: its first core is then zero and the others drawn as before,
                so that the gradient of the first core is not.
            gaussian: Whether to draw every core from a normal distribution instead.
        """
        if self.cores[0].is_meta:  # where there are no entries
            return
        for k, core in enumerate(self.cores):
            if gaussian:
                nn.init.normal_(core)
            else:
                nn.init.orthogonal_(self._isometry(k))
        factor = (variance / self._mean_square()) ** (0.5 / len(self.cores))
        for core in self.cores:
            core.mul_(factor)
        if zero:
            nn.init.zeros_(self.cores[0])

    def _isometry(self, k: int) -> Tensor:  # (m, n)
        """Core k as the matrix that is to be orthogonal, in the memory of the core."""
        raise NotImplementedError

    def _mean_square(self) -> Tensor:  # ()
        """The mean square of the entries of the matrix."""
        raise NotImplementedError

    def _wide_cores(self) -> list[Tensor]:
        """The cores in single precision at least, as small products are slow in half."""
        held = self.cores
        cores: list[Tensor] = [getattr(held, str(k)) for k in range(len(held))]  # iterating takes five times as long
        if cores[0].is_meta:
            bring_back(held)
            cores = list(held)
        wide = compute_dtype(cores[0].dtype)
        return cores if wide == cores[0].dtype else [core.to(wide) for core in cores]

    def chain(self) -> list[Tensor]:
        """Give the matrices, as thin as the layout allows, whose product is this one."""
        raise NotImplementedError

    def factors(self) -> tuple[Tensor, Tensor]:
        """Give the matrix as a product of two.

        Returns:
            `left` of shape `(rows, t)` and `right` of shape `(t, cols)`, whose product is the matrix.
        """
        raise NotImplementedError

    @torch.no_grad()
    def fit(
        self,
        left: Tensor,  # (rows, k)
        right: Tensor,  # (k, cols)
    ) -> None:
        """Set the cores to a train near a product, by TT-SVD, with equal norms.

        Args:
            left: Shape `(rows, k)`.
            right: Shape `(k, cols)`.
        """
        load_cores(list(self.cores), self._fitted(left, right))

    def _fitted(self, left: Tensor, right: Tensor) -> list[Tensor]:
        """The cores of a train near `left @ right`, of ranks at most these."""
        raise NotImplementedError


def load_cores(parameters: Sequence[nn.Parameter], cores: Sequence[Tensor]) -> None:
    """Set parameters to the cores of a train whose ranks are at most theirs, with equal norms.

    Where a bond has room to spare, the core before it is filled up at random and the one after it with zeros: the
    train stays what it is, and can learn to use the room.

    Args:
        parameters: The cores to set, in place.
        cores: As many cores, each at most as large in every dimension.

    Example:
        >>> parameters = nn.ParameterList([nn.Parameter(torch.empty(1, 2, 2)), nn.Parameter(torch.empty(2, 2, 1))])
        >>> load_cores(parameters, [torch.ones(1, 2, 1), torch.ones(1, 2, 1)])
        >>> torch.tensordot(*parameters, dims=1).flatten().tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    norms = [float(torch.linalg.vector_norm(core)) for core in cores]
    mean = math.exp(sum(map(math.log, norms)) / len(norms)) if all(norms) else 0.0
    with torch.no_grad():
        for parameter, core, norm in zip(parameters, cores, norms, strict=True):
            parameter.normal_(0, (mean or 1.0) / core.numel() ** 0.5)
            parameter[core.shape[0] :] = 0
            room = parameter[tuple(slice(size) for size in core.shape)]
            room.copy_(core * (mean / norm) if mean else core)
