"""The matrices of several experts as one tensor train over rows, experts and columns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ttnet.contraction import plan_chain
from ttnet.errors import TTValueError
from ttnet.modes import choose_modes
from ttnet_llm.matrices.aligned import AlignedLayout, AlignedMatrix


@dataclass(frozen=True)
class ExpertLayout(AlignedLayout):
    """Modes and ranks of matrices `(rows, cols)` of several experts, held as one train.

    Side by side they are one matrix `(rows, experts * cols)`, whose layout this is.

    Args:
        modes: The modes of the rows, then the number of experts, then the modes of one expert's columns.
        ranks: The ranks of all bonds, one more than there are modes.
        rows: Number of rows: the product of the modes before the experts'.
        core: The experts' core, counted from 0.

    Example:
        >>> layout = ExpertLayout.of_experts(8, 768, 512, rank=5, modes="auto")
        >>> layout.modes, layout.core, layout.num_parameters
        ((16, 4, 4, 3, 8, 2, 4, 4, 16), 4, 885)
    """

    core: int

    @classmethod
    def of_experts(
        cls, experts: int, rows: int, cols: int, *, rank: int | Sequence[int], modes: str | Sequence[Sequence[int]]
    ) -> "ExpertLayout":
        """Choose the modes.

        Args:
            experts: How many experts there are, at least 1.
            rows: Number of rows, at least 1.
            cols: Number of columns of each expert's matrix, at least 1.
            rank: The largest rank, at least 1, capped by the sizes left and right of each bond; or, for modes that are
                given, the ranks of all inner bonds, those on either side of the experts among them.
            modes: `"auto"` for the fewest parameters, or the modes of the rows and those of one expert's columns.

        Returns:
            The layout.

        Raises:
            TTValueError: If `modes` is `"paper"`, as the published tables have no experts, or ranks are given for bonds
                that there are not.
        """
        if modes == "paper":
            raise TTValueError("modes is 'paper', but the published tables have no mode for experts; use 'auto'.")
        if isinstance(modes, str):
            if not isinstance(rank, int):
                raise TTValueError(f"rank is {list(rank)} with modes 'auto'; give the modes as well, or one integer.")
            modes = choose_modes(rows, cols, rank=rank)
        row_modes, col_modes = (tuple(side) or (1,) for side in modes)
        joint = AlignedLayout.choose(rows, experts * cols, rank=rank, modes=(row_modes, (experts, *col_modes)))
        return cls(joint.modes, joint.ranks, rows, len(row_modes))

    @property
    def experts(self) -> int:
        """Number of experts."""
        return self.modes[self.core]

    @property
    def shape(self) -> str:
        """Rows, experts and columns of one expert."""
        return f"{self.rows}x{self.experts}x{self.cols // self.experts}"

    @property
    def split_modes(self) -> list[list[int]]:
        """The modes of the rows and those of one expert's columns."""
        return [list(self.modes[: self.core]), list(self.modes[self.core + 1 :])]


class ExpertTrain(AlignedMatrix):
    """Trainable matrices of several experts, held as the cores of one tensor train.

    Cut on both sides of the experts' core, it is two thin factors that all experts share, and a small matrix of each
    between them.

    Args:
        layout: Its modes and ranks.

    Example:
        >>> train = ExpertTrain.of_experts(8, 768, 512, rank=5, modes="auto")
        >>> [tuple(factor.shape) for factor in train.expert_factors()]
        [(768, 5), (8, 5, 5), (5, 512)]
    """

    layout: ExpertLayout

    def __init__(self, layout: ExpertLayout) -> None:
        super().__init__(layout)
        shapes, k = layout.core_shapes, layout.core
        self._before, self._after = plan_chain(shapes[:k]), plan_chain(shapes[k + 1 :])
        self._before_shape = (layout.rows, layout.ranks[k])
        self._after_shape = (layout.ranks[k + 1], math.prod(layout.modes[k + 1 :]))

    @classmethod
    def of_experts(
        cls, experts: int, rows: int, cols: int, *, rank: int | Sequence[int], modes: str | Sequence[Sequence[int]]
    ) -> "ExpertTrain":
        """Make a train whose modes its layout chooses, without setting its entries; see `ExpertLayout.of_experts`."""
        return cls(ExpertLayout.of_experts(experts, rows, cols, rank=rank, modes=modes))

    def expert_factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Contract the cores on either side of the experts' one.

        Returns:
            `left` of shape `(rows, t)`, `middle` of shape `(experts, t, u)` and `right` of shape `(u, cols)`: the
            matrix of expert e is `left @ middle[e] @ right`.
        """
        cores, k = self._wide_cores(), self.layout.core
        left = self._before(*cores[:k]).view(self._before_shape)
        right = self._after(*cores[k + 1 :]).view(self._after_shape)
        dtype = self.cores[0].dtype
        return left.to(dtype), cores[k].movedim(1, 0).to(dtype), right.to(dtype)
