"""A tall matrix held as one tensor train: the building block of LoRETTA's adapters.

The train's modes are those of the rows followed by those of the columns. Cut at the bond between them, it is
the product of two thin factors, and it is only ever used as such: the matrix itself is never formed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttnet import tt_svd
from ttnet.contraction import plan_chain
from ttnet.errors import TTValueError
from ttnet.modes import capped_ranks, choose_modes, num_parameters
from ttnet_llm.matrices.thin import thin_svd
from ttnet_llm.matrices.train_matrix import TrainMatrix

# The published modes of whole (dimension x bottleneck) matrices, in row-major order (arXiv:2402.11417, appendix).
PAPER_MODES = {
    (768, 64): (8, 8, 12, 8, 8),
    (1024, 64): (4, 8, 8, 8, 8, 4),
    (4096, 64): (16, 16, 16, 4, 4, 4),
    (5120, 64): (5, 8, 8, 16, 8, 8),
    (8192, 64): (4, 16, 16, 16, 8, 4),
    (768, 8): (8, 8, 12, 8),
    (1024, 8): (4, 8, 8, 8, 4),
    (4096, 8): (16, 16, 8, 4, 4),
    (5120, 8): (8, 8, 10, 8, 8),
    (8192, 8): (4, 16, 16, 16, 4),
    (768, 768): (8, 8, 12, 12, 8, 8),
}


# What is known of one CPU core, in seconds: it decides when few tokens go through a train core by core.
_FLOP = 1 / 7e10
_THIN_FLOP = 1 / 5e9  # of tokens times a factor of fewer than 16 columns, in single precision
_TOKEN_CALL = 1e-6  # for each token and core of the rows, as these are batched products
_NARROW = 16  # products with fewer columns take as long as those with so many
_HALF_CALLS = 80e-6  # of casting factors to half precision and calling two products in it
_MOST_FEW_TOKENS = 32


@dataclass(frozen=True)
class AlignedLayout:
    """Modes and ranks of a matrix `(rows, cols)` held as one train, and where its columns begin.

    Args:
        modes: The modes of all cores; their product is `rows * cols`.
        ranks: The ranks of all bonds, one more than there are modes.
        rows: Number of rows: the product of the leading modes, where the last of these may be a divisor of
            its core's mode (the core then holds the end of the rows and the beginning of the columns).

    Raises:
        TTValueError: If the boundary between rows and columns does not divide a core's mode.

    Example:
        >>> AlignedLayout.choose(768, 64, rank=5, modes="auto").modes
        (16, 4, 4, 3, 4, 16)
        >>> AlignedLayout.choose(768, 64, rank=5, modes="paper").modes
        (8, 8, 12, 8, 8)
    """

    modes: tuple[int, ...]
    ranks: tuple[int, ...]
    rows: int

    def __post_init__(self) -> None:
        split, before = self._boundary
        if self.rows % before or self.modes[split] % (self.rows // before):
            raise TTValueError(
                f"rows is {self.rows}, which no boundary inside the modes {self.modes} gives; choose modes whose "
                "leading product is the number of rows, or of which one mode splits so that it is."
            )

    @classmethod
    def choose(
        cls, rows: int, cols: int, *, rank: int | Sequence[int], modes: str | Sequence[Sequence[int]]
    ) -> "AlignedLayout":
        """Choose the modes of a `(rows, cols)` matrix.

        Args:
            rows: Number of rows, at least 1.
            cols: Number of columns, at least 1.
            rank: The largest rank, at least 1, or the ranks of the inner bonds for modes that are given.
            modes: `"auto"` for the fewest parameters, ranks capped by the sizes left and right of each bond;
                `"paper"` for the published tables, ranks not capped; or the modes of the rows and those of the
                columns, ranks capped.

        Returns:
            The layout.

        Raises:
            TTValueError: If `modes` is `"paper"` and the tables do not have the size, or ranks are given for bonds
                that the modes do not have.
        """
        if not isinstance(modes, str):
            joint = tuple(mode for side in modes for mode in side) or (1,)
            if isinstance(rank, int):
                return cls(joint, capped_ranks(joint, rank), rows)
            if len(rank) != len(joint) - 1:
                raise TTValueError(
                    f"rank is {list(rank)}, but a train of modes {joint} has {len(joint) - 1} inner bonds; give one "
                    "rank for each, or one integer for all."
                )
            return cls(joint, (1, *rank, 1), rows)
        if not isinstance(rank, int):
            raise TTValueError(f"rank is {list(rank)} with modes {modes!r}; give the modes as well, or one integer.")
        if modes == "auto":
            row_modes, col_modes = choose_modes(rows, cols, rank=rank)
            # A side of size 1 needs no core of its own, and a matrix smaller than its train is one dense core; the
            # cut then lies inside a core.
            joint = tuple(mode for mode in row_modes + col_modes if mode > 1) or (1,)
            layouts = [cls(m, capped_ranks(m, rank), rows) for m in (joint, (rows * cols,))]
            return min(layouts, key=lambda layout: layout.num_parameters)
        if (rows, cols) not in PAPER_MODES:
            known = ", ".join(f"{d} x {b}" for d, b in PAPER_MODES)
            raise TTValueError(
                f"modes is 'paper', but the published tables have no modes for a {rows} x {cols} matrix (they "
                f"have {known}); use modes='auto', which takes any size."
            )
        table = PAPER_MODES[rows, cols]
        return cls(table, (1, *[rank] * (len(table) - 1), 1), rows)

    @property
    def _boundary(self) -> tuple[int, int]:
        """The core with the last of the rows, and the number of rows that the cores before it make."""
        before = 1
        for k, mode in enumerate(self.modes):
            if before * mode >= self.rows:
                return k, before
            before *= mode
        return len(self.modes) - 1, before // self.modes[-1]

    @property
    def split_core(self) -> int:
        """Index of the core with the last of the rows."""
        return self._boundary[0]

    @property
    def split_columns(self) -> int:
        """Size of the part of that core's mode which already belongs to the columns; 1 at a core boundary."""
        k, before = self._boundary
        return self.modes[k] * before // self.rows

    @property
    def cols(self) -> int:
        """Number of columns."""
        return math.prod(self.modes) // self.rows

    @property
    def shape(self) -> str:
        """Rows and columns."""
        return f"{self.rows}x{self.cols}"

    @property
    def split_modes(self) -> list[list[int]]:
        """The modes of the rows and those of the columns; a core with both counts to the rows."""
        k = self.split_core + 1
        return [list(self.modes[:k]), list(self.modes[k:])]

    @property
    def cut_rank(self) -> int:
        """Inner size of the product of the two factors."""
        return self.split_columns * self.ranks[self.split_core + 1]

    @property
    def core_shapes(self) -> list[tuple[int, int, int]]:
        """The shapes `(r_{k-1}, n_k, r_k)` of the cores."""
        return list(zip(self.ranks[:-1], self.modes, self.ranks[1:], strict=True))

    @property
    def num_parameters(self) -> int:
        """Number of entries of all cores."""
        return num_parameters(self.modes, self.ranks)


class AlignedMatrix(TrainMatrix):
    """A trainable matrix of shape `(rows, cols)` held as the cores of one tensor train, rows first.

    Args:
        layout: Its modes and ranks.

    Example:
        >>> matrix = AlignedMatrix(AlignedLayout.choose(768, 8, rank=5, modes="auto"))
        >>> left, right = matrix.factors()
        >>> tuple(left.shape), tuple(right.shape), sum(p.numel() for p in matrix.parameters())
        ((768, 5), (5, 8), 395)
    """

    layout: AlignedLayout
    layout_class = AlignedLayout

    def __init__(self, layout: AlignedLayout) -> None:
        super().__init__(layout)
        # Everything that the forward pass needs is settled here, once.
        s, c = layout.split_core, layout.split_columns
        left, right = layout.core_shapes[: s + 1], layout.core_shapes[s + 1 :]
        before, mode, after = left[-1]
        # Where the cut lies inside a core, its column part goes to the bond, next to the rank.
        self._split_shape = (before, mode // c, c * after) if c > 1 else None
        left[-1] = (before, mode // c, c * after)
        self._split, self._split_columns = s, c
        self._left_plan = plan_chain(left)
        self._right_plan = plan_chain(right) if right else None
        self._left_shape = (layout.rows, c * after)
        self._right_shape = (after, layout.cols // c)
        self._few, self._few_half = self._count_few_tokens(single=True), self._count_few_tokens(single=False)

    def _isometry(self, k: int) -> Tensor:
        """Core k as a map away from the cut: if all are isometries, the singular values of the matrix are equal."""
        core = self.cores[k]
        if k == self._split and self._split_shape is not None:
            core = core.view(self._split_shape)
        return core.flatten(0, 1) if k <= self._split else core.flatten(1)

    def _mean_square(self) -> Tensor:
        a, b = self.factors()
        return torch.sum((a.T @ a) * (b @ b.T)) / (self.layout.rows * self.layout.cols)

    def _cut_cores(self) -> tuple[list[Tensor], list[Tensor]]:
        """The cores on either side of the cut, in single precision at least."""
        cores = self._wide_cores()
        if self._split_shape is not None:
            cores[self._split] = cores[self._split].view(self._split_shape)
        return cores[: self._split + 1], cores[self._split + 1 :]

    def factors(self) -> tuple[Tensor, Tensor]:
        """Contract the cores on either side of the cut.

        Returns:
            `left` of shape `(rows, t)` and `right` of shape `(t, cols)`, whose product is the matrix.
        """
        left_cores, right_cores = self._cut_cores()
        left = self._left_plan(*left_cores).view(self._left_shape)
        if self._right_plan is None:
            right = left.new_ones(1, 1)
        else:
            right = self._right_plan(*right_cores).view(self._right_shape)
        if self._split_columns > 1:
            eye = torch.eye(self._split_columns, dtype=right.dtype, device=right.device)
            right = torch.kron(eye, right)
        dtype = self.cores[0].dtype
        return left.to(dtype), right.to(dtype)

    @property
    def few_tokens(self) -> int:
        """Up to so many tokens `multiply` is cheaper than forming the factors and multiplying by them."""
        return self._few if self.cores[0].element_size() >= 4 else self._few_half

    def _count_few_tokens(self, single: bool) -> int:
        layout, k = self.layout, self._split + 1
        if self._split_columns > 1 or self._right_plan is None:
            return 0
        # What each token costs core by core, less what it costs by the factors.
        thin = 2 * layout.cut_rank * layout.rows, 2 * layout.cut_rank * layout.cols
        rest, done, flops = layout.rows, 1, -sum(thin)
        for before, mode, after in layout.core_shapes[:k]:
            rest //= mode
            flops += 2 * before * mode * after * max(rest, _NARROW)
        for before, mode, after in layout.core_shapes[k:]:
            flops += 2 * done * before * mode * after
            done *= mode
        each = k * _TOKEN_CALL + flops * _FLOP
        if single and layout.cut_rank < _NARROW:
            each -= thin[0] * (_THIN_FLOP - _FLOP)
        forming = (self._left_plan.flops + self._right_plan.flops) * _FLOP + (0 if single else _HALF_CALLS)
        if each * _MOST_FEW_TOKENS <= forming:
            return _MOST_FEW_TOKENS
        return int(forming / each)

    def multiply(
        self,
        x: Tensor,  # (tokens, rows)
    ) -> Tensor:  # (tokens, cols)
        """Multiply tokens by the matrix core by core, without forming its factors.

        Args:
            x: The tokens, of shape `(tokens, rows)`.

        Returns:
            `x @ left @ right`, of shape `(tokens, cols)`. Source: Novikov et al. 2015, "Tensorizing Neural Networks",
            eq. 5.

        Example:
            >>> matrix = AlignedMatrix(AlignedLayout.choose(768, 8, rank=5, modes="auto"))
            >>> matrix.reset_parameters(1.0)
            >>> x = torch.ones(2, 768)
            >>> left, right = matrix.factors()
            >>> torch.allclose(matrix.multiply(x), x @ left @ right, atol=1e-3)
            True
        """
        left_cores, right_cores = self._cut_cores()
        tokens, rest = x.shape
        state = x.to(left_cores[0].dtype)
        for core in left_cores:  # the state is (tokens, r n, modes to come), and becomes (tokens, r', modes to come)
            matrix = core.flatten(0, 1)
            rest //= core.shape[1]
            state = torch.bmm(matrix.mT.expand(tokens, -1, -1), state.reshape(tokens, len(matrix), rest))
        for core in right_cores:  # the state is (tokens, modes so far, r), and becomes (tokens, modes so far n, r')
            state = torch.mm(state.reshape(-1, len(core)), core.flatten(1))
        return state.reshape(tokens, self.layout.cols).to(x.dtype)

    def multiply_by_transpose(
        self,
        x: Tensor,  # (tokens, cols)
    ) -> Tensor:  # (tokens, rows)
        """Multiply tokens by the transposed matrix core by core, without forming its factors.

        Args:
            x: The tokens, of shape `(tokens, cols)`.

        Returns:
            `x @ (left @ right).T`, of shape `(tokens, rows)`. Source: as of `multiply`, from the other end.

        Example:
            >>> matrix = AlignedMatrix(AlignedLayout.choose(768, 8, rank=5, modes="auto"))
            >>> matrix.reset_parameters(1.0)
            >>> x = torch.ones(2, 8)
            >>> left, right = matrix.factors()
            >>> torch.allclose(matrix.multiply_by_transpose(x), x @ (left @ right).T, atol=1e-3)
            True
        """
        left_cores, right_cores = self._cut_cores()
        tokens, state, done = len(x), x.to(left_cores[0].dtype), 1
        for core in reversed(right_cores):  # (tokens, modes to come, n r) becomes (tokens, modes to come, r')
            state = torch.mm(state.reshape(-1, core.shape[1] * core.shape[2]), core.flatten(1).mT)
        for core in reversed(left_cores):  # (tokens, r, modes so far) becomes (tokens, r', n modes so far)
            matrix = core.flatten(0, 1)
            state = torch.bmm(matrix.expand(tokens, -1, -1), state.reshape(tokens, core.shape[2], done))
            done *= core.shape[1]
        return state.reshape(tokens, self.layout.rows).to(x.dtype)

    @property
    def moves(self) -> tuple[int, int] | None:
        """Numbers that are written on the way, in forming the factors, and core by core for each token.

        The factors count, and what goes in and comes out does not; `None` where the cut lies inside a core, so that
        there is no way core by core.
        """
        if self._split_columns > 1 or self._right_plan is None:
            return None
        layout, k = self.layout, self._split + 1
        forming = each = 0
        sides = layout.core_shapes[:k], [shape[::-1] for shape in reversed(layout.core_shapes[k:])]
        for size, side in zip((layout.rows, layout.cols), sides, strict=True):
            done = 1
            for place, (_, mode, after) in enumerate(side):
                done *= mode
                forming += done * after if place else 0  # a single core is the factor as it is
                each += size // done * after
        return forming, each - layout.cut_rank  # the state at the cut is counted from both of its sides

    def chain(self) -> list[Tensor]:
        """Give the thin matrices whose product is this one; see `factors`."""
        return list(self.factors())

    def _fitted(
        self,
        left: Tensor,  # (rows, k)
        right: Tensor,  # (k, cols)
    ) -> list[Tensor]:
        """The cores of the train nearest to a product, by TT-SVD.

        The bond at the cut carries the root of its singular values on either side, so that both sides learn at
        the same pace.
        """
        s, modes, ranks = self._split, self.layout.modes, self.layout.ranks
        if self._split_columns > 1:
            # The cut lies inside a core, so that its two sides are no trains of their own.
            dense = (left.double() @ right.double()).reshape(modes)
            return list(tt_svd(dense, max_rank=list(ranks[1:-1])).cores)
        u, sigma, v = thin_svd(left, right)
        t = min(ranks[s + 1], len(sigma))
        u, sigma, v = u[:, :t], sigma[:t], v[:t]
        root = torch.where(sigma > 0, sigma.rsqrt(), 0.0)
        cores = _side(u * sigma, modes[: s + 1], ranks[1 : s + 1])
        if self._right_plan is None:
            cores[-1] = cores[-1] * v[:, 0]
        else:
            # From the outer end to the cut, as the left side is.
            columns = (sigma[:, None] * v).reshape(t, *modes[s + 1 :])
            mirrored = _side(
                columns.permute(*reversed(range(columns.ndim))).reshape(-1, t), modes[:s:-1], ranks[-2 : s + 1 : -1]
            )
            cores[-1], mirrored[-1] = cores[-1] * root, mirrored[-1] * root
            cores += [core.permute(2, 1, 0) for core in reversed(mirrored)]
        return cores


def _side(
    matrix: Tensor,  # (n_1 ... n_p, t)
    modes: Sequence[int],
    ranks: Sequence[int],  # of the p - 1 bonds between the modes
) -> list[Tensor]:
    """Hold a tall matrix as the cores of one side of a train, the last of which ends with the bond of size t."""
    t = matrix.shape[1]
    *cores, last = tt_svd(matrix.reshape(*modes, t), max_rank=[*ranks, t]).cores
    cores[-1] = torch.tensordot(cores[-1], last[:, :, 0], dims=1)
    return cores
