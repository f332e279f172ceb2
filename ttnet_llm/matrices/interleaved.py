"""A matrix held as a TT-matrix: the other building block of LoRETTA's adapters.

Every core holds a mode of the rows and one of the columns. No bond separates the rows from the columns, so that the
TT ranks do not bound the rank of the matrix; but there are no thin factors either, and the matrix is formed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttnet import TTMatrix, plan
from ttnet.errors import TTShapeError, TTValueError
from ttnet.modes import capped_ranks, choose_paired_modes, num_parameters
from ttnet.trains.chain import check_shape
from ttnet_llm.matrices.train_matrix import TrainMatrix


@dataclass(frozen=True)
class InterleavedLayout:
    """Modes and ranks of a matrix held as a TT-matrix of cores `(r_{k-1}, m_k, n_k, r_k)`.

    Args:
        row_modes: The d row modes, m_1 to m_d.
        col_modes: The d column modes, n_1 to n_d.
        ranks: The d + 1 ranks of the bonds, of which the first and the last are 1.

    Raises:
        TTTypeError: If a mode or a rank is not an integer.
        TTShapeError: If there are no modes, not as many of the rows as of the columns, a mode is below 1, or the
            outer ranks are not 1.
        TTValueError: If a rank is below 1, or there are not d + 1 of them.

    Example:
        >>> InterleavedLayout.choose(768, 64, rank=5, modes="auto")
        InterleavedLayout(row_modes=(8, 2, 2, 2, 3, 4), col_modes=(2, 2, 2, 2, 1, 4), ranks=(1, 5, 5, 5, 5, 5, 1))
    """

    row_modes: tuple[int, ...]
    col_modes: tuple[int, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        rows, cols = check_shape(self.row_modes, "row_modes"), check_shape(self.col_modes, "col_modes")
        if not rows or len(rows) != len(cols):
            raise TTShapeError(
                f"row_modes is {rows} and col_modes is {cols}; expected as many modes of the columns as of the rows, "
                "and at least one: give a core that has only one of the two the other mode 1."
            )
        num_parameters(self._products, self.ranks)  # refuses ranks of another number, or below 1
        if (self.ranks[0], self.ranks[-1]) != (1, 1):
            raise TTShapeError(f"ranks is {self.ranks}; expected the first and the last of them to be 1.")

    @classmethod
    def choose(
        cls, rows: int, cols: int, *, rank: int | Sequence[int], modes: str | Sequence[Sequence[int]]
    ) -> "InterleavedLayout":
        """Choose the modes of a `(rows, cols)` matrix.

        Args:
            rows: Number of rows, at least 1.
            cols: Number of columns, at least 1.
            rank: The largest rank, at least 1, capped at every bond by the sizes left and right of it; or, for modes
                that are given, the ranks of the inner bonds as they shall be.
            modes: `"auto"` for the fewest parameters, which is one dense core where no TT-matrix is smaller; or the
                modes of the rows and as many of the columns.

        Returns:
            The layout.

        Raises:
            TTValueError: If `modes` is neither of the two or does not multiply to the size, or ranks are given
                without modes, or not one for each inner bond.
            TTShapeError: If there are not as many modes of the rows as of the columns.

        Example:
            >>> InterleavedLayout.choose(12, 6, rank=2, modes=((3, 4), (2, 3))).core_shapes
            [(1, 3, 2, 2), (2, 4, 3, 1)]
        """
        if modes == "auto":
            if not isinstance(rank, int):
                raise TTValueError(f"rank is {list(rank)} with modes 'auto'; give the modes as well, or one integer.")
            modes = choose_paired_modes(rows, cols, rank=rank)
        if isinstance(modes, str) or len(modes) != 2:
            raise TTValueError(
                f"modes is {modes!r}; expected 'auto', or two sequences: the modes of the rows and of the columns."
            )
        row_modes, col_modes = map(tuple, modes)
        # The layout of the ranks 1 tells whether the modes are sound, before ranks are worked out from them.
        layout = cls(row_modes, col_modes, (1,) * (len(row_modes) + 1))
        if (layout.rows, layout.cols) != (rows, cols):
            raise TTValueError(
                f"modes is {row_modes} for the rows and {col_modes} for the columns, which multiply to {layout.rows} x "
                f"{layout.cols}; expected {rows} x {cols}, the size of the matrix."
            )
        ranks = capped_ranks(layout._products, rank) if isinstance(rank, int) else (1, *rank, 1)
        return cls(row_modes, col_modes, ranks)

    @property
    def _products(self) -> list[int]:
        """The sizes `m_k n_k` of the pairs."""
        return [m * n for m, n in zip(self.row_modes, self.col_modes, strict=True)]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return math.prod(self.row_modes)

    @property
    def cols(self) -> int:
        """Number of columns."""
        return math.prod(self.col_modes)

    @property
    def shape(self) -> str:
        """Rows and columns."""
        return f"{self.rows}x{self.cols}"

    @property
    def split_modes(self) -> list[list[int]]:
        """The modes of the rows and those of the columns."""
        return [list(self.row_modes), list(self.col_modes)]

    @property
    def core_shapes(self) -> list[tuple[int, int, int, int]]:
        """The shapes `(r_{k-1}, m_k, n_k, r_k)` of the cores."""
        return list(zip(self.ranks[:-1], self.row_modes, self.col_modes, self.ranks[1:], strict=True))

    @property
    def num_parameters(self) -> int:
        """Number of entries of all cores."""
        return num_parameters(self._products, self.ranks)


class InterleavedMatrix(TrainMatrix):
    """A trainable matrix of shape `(rows, cols)` held as the cores of a TT-matrix.

    Args:
        layout: Its modes and ranks.

    Example:
        >>> matrix = InterleavedMatrix(InterleavedLayout.choose(768, 8, rank=5, modes="auto"))
        >>> matrix.reset_parameters(1 / 768)
        >>> (weight,) = matrix.chain()
        >>> tuple(weight.shape), sum(p.numel() for p in matrix.parameters()), int(torch.linalg.matrix_rank(weight))
        ((768, 8), 385, 8)
    """

    layout: InterleavedLayout
    layout_class = InterleavedLayout

    def __init__(self, layout: InterleavedLayout) -> None:
        super().__init__(layout)
        # Bonds are numbered 0 to d, row modes follow, then column modes. The outer bonds stay, as a sum over them
        # would be work.
        d = len(self.cores)
        row, col = range(d + 1, 2 * d + 1), range(2 * d + 1, 3 * d + 1)
        terms = tuple((k, row[k], col[k], k + 1) for k in range(d))
        self._plan = plan((terms, (0, *row, *col, d)), *layout.core_shapes, optimize="dp")

    def _isometry(self, k: int) -> Tensor:
        """Core k as a map from its column mode and the bond after it to the bond before it and its row mode.

        The matrix is one such map after the other, from the last core to the first, each on its own mode and the
        bond: if every core keeps lengths, the whole does. So its singular values are exactly equal where every core
        is at least as tall as it is wide, and elsewhere spread about as far as those of a dense random matrix.
        """
        return self.cores[k].flatten(0, 1).flatten(1)

    def _mean_square(self) -> Tensor:
        (weight,) = self.chain()
        return weight.square().mean()

    def chain(self) -> list[Tensor]:
        """Contract the cores to the matrices whose product is this one: the one matrix, of shape `(rows, cols)`."""
        weight = self._plan(*self._wide_cores())
        return [weight.reshape(self.layout.rows, self.layout.cols).to(self.cores[0].dtype)]

    def factors(self) -> tuple[Tensor, Tensor]:
        """Give the matrix as a product of two, of which the one on the thinner side is an identity.

        Returns:
            `left` of shape `(rows, t)` and `right` of shape `(t, cols)`, whose product is the matrix; t is the
            smaller of `rows` and `cols`.
        """
        (weight,) = self.chain()
        eye = torch.eye(min(weight.shape), dtype=weight.dtype, device=weight.device)
        return (weight, eye) if self.layout.cols <= self.layout.rows else (eye, weight)

    def _fitted(
        self,
        left: Tensor,  # (rows, k)
        right: Tensor,  # (k, cols)
    ) -> list[Tensor]:
        """The cores of a TT-matrix near a product, by TT-SVD.

        Its squared error is at most d - 1 times that of the nearest TT-matrix of these ranks.
        """
        layout = self.layout
        weight = left.double() @ right.double()
        fitted = TTMatrix.from_dense(weight, layout.row_modes, layout.col_modes, max_rank=layout.ranks[1:-1])
        return list(fitted.cores)
