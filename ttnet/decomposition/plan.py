"""In which order TT-SVD cuts the bonds: counted in arithmetic and in memory traffic.

The first pass reads the whole tensor and all later ones what it leaves, so the order decides. A step takes some modes
from one end, the first or the last ones, merges them into the short side of an unfolding, and cuts all bonds among
them and the one that separates them from the rest: the thick bounds of Roehrig-Zoellner, Thies, Basermann 2022,
"Performance of the Low-Rank TT-SVD for Large Dense Tensors on Modern MultiCore CPUs", section 3.3. A short side of n
that is cut to rank r leaves a fraction r/n of the entries to the steps after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from ttnet.decomposition.unfolding import BLOCK_NUMEL

# Below so many entries a tensor stays in cache and calls cost more than arithmetic: nothing to plan.
SMALL_NUMEL = 2**14
QUICK = 8  # times as many entries, up to which an SVD of few rows costs less than the calls of a step
_STEP_CALLS = 4e7  # of which each costs so much, in floating-point operations
# What moving a byte through the caches costs, in floating-point operations.
_FLOPS_PER_BYTE = 5.0
_SINGLE = 4  # bytes
_CALLS = 5e7  # what the many small steps of a sketch cost, in floating-point operations
_MOST_COLUMNS = 4096  # beyond which merging more modes is not looked at
# Columns that a sketch draws beyond the rank expected, its probes included.
OVERSAMPLING = 12
SAMPLE = 8  # a sketch of a sample reads one block of rows of how many
_SAMPLED_BLOCKS = 8  # with fewer a sample is none
_SAMPLED_SPARE = 2  # columns that a sample may ask for beyond the rank expected
SIDES = ("left", "right")


@dataclass(frozen=True)
class Step:
    """A part of a sweep: some modes of one end, the kernel that looks at them first, and what it costs.

    Args:
        side: "left" or "right".
        modes: How many modes are merged.
        method: "gram", "qr" or "randomized".
        rows: The long side of the unfolding.
        columns: The short side.
        rank: The rank expected at the outermost bond.
        flops: Arithmetic in units of a floating-point operation of a matrix product; slower kernels count more.
        bytes: Memory read and written.
        is_last: Whether it leaves a single mode.
        rival: The price of the best step without a sketch.
    """

    side: str
    modes: int
    method: str
    rows: int
    columns: int
    rank: int
    flops: float
    bytes: float
    is_last: bool = False
    rival: float = math.inf

    @property
    def cost(self) -> float:
        """Arithmetic and traffic together, in floating-point operations."""
        return self.flops + _FLOPS_PER_BYTE * self.bytes

    @property
    def price(self) -> float:
        """The cost, were all later steps to go on alike: each leaves the fraction rank / columns to the next one."""
        if self.is_last:
            return self.cost
        return self.cost / (1 - self.rank / self.columns) if self.rank < self.columns else math.inf

    @property
    def max_sketch(self) -> int:
        """The number of columns up to which a sketch or sample costs less than the rival, or is the first one."""
        if self.method == "sampled":
            spare = max(0.0, self.rival - self.cost) / (2.25 * self.rows * self.columns)
            return min(self.rank + _SAMPLED_SPARE + int(min(spare, self.columns)), self.columns)
        spare = max(0.0, self.rival - self.cost) / (4.25 * self.rows * self.columns)
        return min(
            self.rank + OVERSAMPLING + int(min(spare, self.columns)), max(self.columns // 4, self.rank + OVERSAMPLING)
        )


def kernel_flops(method: str, rows: int, columns: int, rank: int) -> float:
    """Count the arithmetic of one kernel, the projection included.

    Args:
        method: "gram", "qr" or "randomized".
        rows: The long side of the unfolding.
        columns: The short side.
        rank: The rank expected.

    Returns:
        Floating-point operations, weighted by how much slower than a matrix product they run: a symmetric product
        counts half of a full one, Householder transformations run at a third of its speed. A sketch counts its calls
        and, as it may fail, what it draws first once more.

    Example:
        >>> kernel_flops("gram", 2**20, 64, 16) / 2**26
        96.0...
    """
    numel = rows * columns
    if method == "gram":
        return numel * (columns + 2 * rank) + 12 * columns**3
    if method == "qr":
        return numel * (150 + 4 * columns + 2 * rank) + 25 * columns**3
    if method == "sampled":
        size = rank + _SAMPLED_SPARE
        drawn = columns / SAMPLE
        return _CALLS + numel * (drawn + 2.25 * size) + 12 * columns**3
    size = rank + OVERSAMPLING
    # What is drawn, twice: of a sample where there are rows enough for one.
    drawn = 0.5 if rows > 2 * SAMPLE * max(4 * size, BLOCK_NUMEL["cpu"] // columns) else 4
    return _CALLS + (drawn + 2.25) * numel * size + rows * size**2 + 2 * rows * size * rank + 30 * columns * size**2


def kernel_bytes(method: str, rows: int, columns: int, rank: int, itemsize: int) -> float:
    """Count the memory traffic of one kernel, the projection included.

    Args:
        method: "gram", "qr" or "randomized".
        rows: The long side of the unfolding.
        columns: The short side.
        rank: The rank expected.
        itemsize: Bytes of an entry.

    Returns:
        Bytes: two passes over the unfolding, and what comes out of the second one.

    Example:
        >>> kernel_bytes("gram", 2**20, 64, 16, 8) / 2**29
        2.25
    """
    if method == "sampled":
        return itemsize * rows * (1.125 * columns + 2 * (rank + _SAMPLED_SPARE))
    if method == "randomized":
        return itemsize * rows * (1.125 * columns + 3 * (rank + OVERSAMPLING))
    return itemsize * rows * (2 * columns + rank)


def is_quickly_cut(outer_ranks: tuple[int, int], shape: Sequence[int], few_rows: bool) -> bool:
    """Say whether the first bond is cut by an SVD before a step would be planned, looked at and projected.

    Args:
        outer_ranks: The ranks of the bonds before and behind the modes that are left.
        shape: Those modes, two or more.
        few_rows: Whether that may be so, besides for all small tensors, for larger ones whose first unfolding has few
            rows.

    Returns:
        Whether it is.

    Example:
        >>> is_quickly_cut((1, 1), (2,) * 16, True), is_quickly_cut((1, 1), (256, 256), True)
        (True, False)
    """
    numel = outer_ranks[0] * math.prod(shape) * outer_ranks[1]
    if numel <= SMALL_NUMEL or not few_rows or numel > QUICK * SMALL_NUMEL:
        return numel <= SMALL_NUMEL
    rows = outer_ranks[0] * shape[0]
    size = min(rows, numel // rows)
    return numel * (40 + 8 * size) + 50 * size**3 <= _STEP_CALLS


def next_step(
    shape: Sequence[int],
    outer_ranks: tuple[int, int],
    rank_of: Callable[[int], int],
    method: str,
    itemsize: int,
    most_columns: int | None = None,
    sides: Collection[str] = SIDES,
) -> Step | None:
    """Choose how to go on with the part of the tensor that is left.

    Args:
        shape: The modes that are left, two or more.
        outer_ranks: The ranks of the bonds before and behind them.
        rank_of: Tells the rank expected at the bond before mode k of them, 0 < k < len(shape).
        method: The kernel that looks first.
        itemsize: Bytes of an entry.
        most_columns: The most columns that there is memory for; None for any number.
        sides: The ends to take modes from.

    Returns:
        The step of the lowest price; a tensor of few entries is taken from the left, mode by mode, by "qr". None if
        there is none from `sides` within `most_columns`, or if the method is "randomized" and no short side is long
        enough to gain by it.

    Example:
        >>> next_step((2,) * 26, (1, 1), lambda k: 16, "gram", 8).modes  # 2**6 = 64 to 16
        6
    """
    numel = outer_ranks[0] * math.prod(shape) * outer_ranks[1]
    small = numel <= SMALL_NUMEL
    steps = []
    for side, modes, columns in _unfoldings(shape, outer_ranks, small):
        rows = numel // columns
        rank = min(rank_of(modes if side == "left" else len(shape) - modes), rows, columns)
        if side not in sides or (most_columns is not None and columns > most_columns):
            continue
        if method == "randomized" and (small or 4 * (rank + OVERSAMPLING) > min(rows, columns)):
            continue
        if method == "sampled" and (modes > 1 or not _has_sample(rows, columns) or rank + _SAMPLED_SPARE >= columns):
            continue
        kernel = "qr" if small else method
        flops = kernel_flops(kernel, rows, columns, rank)
        if side == "right":  # whose cores are made left-orthogonal at the end
            flops += 4 * columns * rank**2
        moved = kernel_bytes(kernel, rows, columns, rank, itemsize)
        if side == "left":  # rows that lie apart in memory, which fast arithmetic and thin products do not hide
            moved *= 1.25 if itemsize <= _SINGLE or kernel == "randomized" else 1.1
        steps.append(Step(side, modes, kernel, rows, columns, rank, flops, moved, modes == len(shape) - 1))
    return min(steps, key=lambda step: step.price, default=None)


def _has_sample(rows: int, columns: int) -> bool:
    """Say whether a sample of the rows has blocks enough, and in them many times as many rows as columns."""
    return rows >= SAMPLE * _SAMPLED_BLOCKS * max(2 * columns, BLOCK_NUMEL["cpu"] // columns)


def _unfoldings(shape: Sequence[int], outer_ranks: tuple[int, int], small: bool) -> Iterator[tuple[str, int, int]]:
    """Give side, number of modes and columns of each unfolding that a step may start with."""
    for side, columns, sizes in (("left", outer_ranks[0], shape), ("right", outer_ranks[1], shape[::-1])):
        for modes, size in enumerate(sizes[:-1], start=1):
            columns *= size
            if modes > 1 and columns > _MOST_COLUMNS:
                break
            yield side, modes, columns
            if small:
                return


@dataclass(frozen=True)
class SweepPlan:
    """The steps of a sweep, from the first one to the last; it prints as a table.

    Args:
        shape: The mode sizes of the tensor.
        steps: The steps.

    Example:
        >>> print(plan_sweep((64,) * 4, 10))
        TT-SVD of shape (64, 64, 64, 64): 3 steps, 5.1e+09 flops, 3.5e+08 bytes
        step  modes  side   method  rows    columns  rank  flops    bytes
        1     1      right  gram    262144  64       10    1.4e+09  2.9e+08
        2     1      left   gram    40960   64       10    2.2e+08  5.0e+07
        3     1      right  gram    640     640      10    3.4e+09  6.6e+06
    """

    shape: tuple[int, ...]
    steps: tuple[Step, ...]

    @property
    def flops(self) -> float:
        """The arithmetic of all steps."""
        return sum(step.flops for step in self.steps)

    @property
    def bytes(self) -> float:
        """The memory traffic of all steps."""
        return sum(step.bytes for step in self.steps)

    def __str__(self) -> str:
        names = ("step", "modes", "side", "method", "rows", "columns", "rank", "flops", "bytes")
        rows = [
            (k, s.modes, s.side, s.method, s.rows, s.columns, s.rank, f"{s.flops:.1e}", f"{s.bytes:.1e}")
            for k, s in enumerate(self.steps, start=1)
        ]
        table = [[str(entry) for entry in row] for row in [names, *rows]]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        head = f"TT-SVD of shape {self.shape}: {len(self.steps)} steps, {self.flops:.1e} flops, {self.bytes:.1e} bytes"
        return "\n".join([head, *lines])


def plan_sweep(shape: Sequence[int], rank: int, *, method: str = "gram", itemsize: int = 8) -> SweepPlan:
    """Plan a whole sweep for ranks that are known beforehand.

    Args:
        shape: The mode sizes, two or more.
        rank: The rank of every bond that is not bounded by the sizes of the modes.
        method: "gram", "qr" or "randomized", which stands for "gram" wherever it cannot gain.
        itemsize: Bytes of an entry.

    Returns:
        The plan. `tt_svd` follows it as far as the ranks turn out as expected, and plans anew after each step. What it
        cuts by an SVD at once, since that is small or has few rows, stands here as a step, too.

    Example:
        >>> [(step.modes, step.columns, step.rank) for step in plan_sweep((2,) * 26, 16).steps][:3]
        [(6, 64, 16), (2, 64, 16), (2, 64, 16)]
    """
    rest, ranks = list(shape), (1, 1)
    steps = []
    while len(rest) > 1:
        step = next_step(rest, ranks, lambda k: rank, method, itemsize)
        step = step or next_step(rest, ranks, lambda k: rank, "gram", itemsize)
        assert step is not None
        steps.append(step)
        if step.side == "left":
            rest, ranks = rest[step.modes :], (step.rank, ranks[1])
        else:
            rest, ranks = rest[: -step.modes], (ranks[0], step.rank)
    return SweepPlan(tuple(shape), tuple(steps))
