"""In which order to contract a TT-matrix with a batch of tokens, by what each order is expected to cost.

An order cuts the chain of cores into groups of neighbours. The cores of each group are merged, at a cost that does not
depend on the tokens, and the tokens are then swept through the merged groups from one end to the other. One group is
the dense weight, the two groups of an aligned train are its thin factors, and as many groups as cores is the
contraction core by core; every order in between is one as well. Costs add up over the groups, so that the cheapest
order is a shortest path over the bonds.

What is minimised is a time, not a number of operations: thin products run far below the speed of large ones, and a
tensor that does not fit the cache costs more to write than to compute. The constants are those of one CPU core or of
a GPU, roughly; they decide close calls only. They are fixed, so that the same input gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

CoreShape = tuple[int, int, int, int]  # (r, m, n, r'): m is contracted with the tokens, n is a mode of the result
Tree = int | tuple["Tree", "Tree"]  # which cores are merged with which

_LARGEST_BUCKET = 21  # orders for more tokens than 2**20 are those for that many
_WORTH_KEEPING = 0.02  # the share of the work from which on merged groups are kept rather than merged again
_SHORT_ROW = 16  # matrices with rows shorter than this are too thin for batched products


class Machine(NamedTuple):
    """What a device can do, in operations, entries and seconds."""

    flops: float  # a second, in large matrix products
    entries: float  # read or written a second, in order
    moves: float  # read or written a second by a permutation
    call: float  # seconds that any call costs
    chunk: int  # entries of an intermediate that should not be exceeded


MACHINES = {
    "cpu": Machine(flops=7e10, entries=5e9, moves=1.5e9, call=3e-6, chunk=2**18),
    "cuda": Machine(flops=4e13, entries=4e11, moves=2e11, call=8e-6, chunk=2**26),
}


def machine_for(device: str) -> Machine:
    """Give what is assumed of a device.

    Args:
        device: Its type, such as `"cpu"`; one that is not known counts as a GPU.

    Returns:
        The constants.

    Example:
        >>> machine_for("mps") is machine_for("cuda")
        True
    """
    return MACHINES.get(device, MACHINES["cuda"])


class Step(NamedTuple):
    """One product of a sweep: each token holds `batch` matrices `(inner, free)`, which become `(outer, free)`."""

    batch: int
    inner: int
    outer: int
    free: int


class Group(NamedTuple):
    """Neighbouring cores that are merged into one: those from `start` to before `stop`."""

    start: int
    stop: int
    tree: Tree
    step: Step
    rows: int  # the product of its m
    sizes: tuple[int, ...]  # (r, m_1, n_1, ..., r'), the axes of the merged cores
    axes: tuple[int, ...]  # how these are permuted for the sweep
    back: tuple[int, ...]  # how the permutation is undone


@dataclass(frozen=True, eq=False)  # by identity, as hashing the groups would cost more than a call
class Order:
    """How a TT-matrix is contracted with tokens, or looked up.

    Attributes:
        shapes: The shapes `(r, m, n, r')` of the cores.
        kind: `"left"` or `"right"` for a sweep over the groups that begins at that end; `"lookup"` for the choice of
            rows, which begins at the left.
        groups: The groups, in the order of the sweep.
        seconds: What it is expected to take.
        held: Number of entries of all merged groups.
        largest: Number of entries of the largest intermediate for each token, its input and result not counted.
        between: Number of entries of all intermediates of a token together.
        each: The part of `seconds` that grows with the tokens, for one of them.
        columns: Size of a token's result, the product of all n.
        kept: Whether the merged groups are worth keeping from the forward pass to the backward one.

    Example:
        >>> order = cheapest_order(((1, 64, 1, 4), (4, 1, 64, 1)), 4096)
        >>> [(group.start, group.stop) for group in order.groups], order.largest
        ([(0, 1), (1, 2)], 4)
    """

    shapes: tuple[CoreShape, ...]
    kind: str
    groups: tuple[Group, ...]
    seconds: float
    held: int
    largest: int
    between: int
    each: float
    columns: int
    kept: bool = False

    def does_as(self, other: Order) -> bool:
        """Tell whether another order does the same, whatever it is expected to take.

        Args:
            other: An order for the same cores.

        Returns:
            Whether it does.
        """
        return (self.kind, self.groups, self.kept) == (other.kind, other.groups, other.kept)


def bucket(tokens: int) -> int:
    """Give the power of two that a number of tokens is planned as.

    Args:
        tokens: At least 0.

    Returns:
        The exponent.

    Example:
        >>> [bucket(tokens) for tokens in (0, 1, 2, 3, 4096)]
        [0, 0, 1, 2, 12]
    """
    return min(max(tokens - 1, 0).bit_length(), _LARGEST_BUCKET - 1)


def cheapest_order(
    shapes: tuple[CoreShape, ...],
    tokens: int,
    *,
    purpose: str = "product",
    device: str = "cpu",
    limit: int | None = None,
) -> Order:
    """Find the cheapest order for about so many tokens; answers are kept, by powers of two.

    Args:
        shapes: The shapes `(r, m, n, r')` of the cores.
        tokens: Number of tokens or of rows to look up.
        purpose: `"product"` or `"lookup"` for the forward pass alone, `"product, trained"` or `"lookup, trained"` for
            that and the backward pass.
        device: Type of the device, such as `"cpu"`.
        limit: Largest number of entries of the merged groups where these are held and so cost nothing; None where
            they are merged for the occasion.

    Returns:
        The order. Where nothing fits `limit`, the cheapest one without holding anything.

    Example:
        >>> shapes = ((1, 32, 32, 16), (16, 32, 32, 1))
        >>> [len(cheapest_order(shapes, tokens).groups) for tokens in (1, 4096)]
        [2, 1]
    """
    kind = device if device in MACHINES else "cuda"
    return _cheapest_order(shapes, bucket(tokens), purpose, kind, limit)


def order_table(
    shapes: tuple[CoreShape, ...], *, purpose: str = "product", device: str = "cpu"
) -> tuple[tuple[int, Order], ...]:
    """List the cheapest orders with the number of tokens up to which each is used.

    Args:
        shapes: The shapes `(r, m, n, r')` of the cores.
        purpose: As for `cheapest_order`.
        device: As for `cheapest_order`.

    Returns:
        Pairs of a number of tokens and an order, ascending; the last order also serves any larger number.

    Example:
        >>> [tokens for tokens, _ in order_table(((1, 8, 8, 2), (2, 8, 8, 1)))][-1] == 2**20
        True
    """
    rows: list[tuple[int, Order]] = []
    for exponent in range(_LARGEST_BUCKET):
        order = cheapest_order(shapes, 2**exponent, purpose=purpose, device=device)
        if rows and rows[-1][1].does_as(order):
            rows.pop()
        rows.append((2**exponent, order))
    return tuple(rows)


@lru_cache(maxsize=4096)
def whole(shapes: tuple[CoreShape, ...]) -> Order:
    """Give the order that merges all cores into the dense matrix, as a table of its rows.

    Args:
        shapes: The shapes `(r, m, n, r')` of the cores.

    Returns:
        An order for lookups with one group.

    Example:
        >>> whole(((1, 4, 1, 2), (2, 1, 4, 1))).groups[0].tree
        (0, 1)
    """
    tree, seconds = merge_tree(shapes, 0, MACHINES["cpu"])
    group = _group(shapes, "lookup", 0, len(shapes), tree, _step(shapes, "lookup", 0, len(shapes)))
    columns = math.prod(shape[2] for shape in shapes)
    return Order(shapes, "lookup", (group,), seconds, _size(shapes), 0, 0, 0.0, columns)


@lru_cache(maxsize=16384)
def _cheapest_order(
    shapes: tuple[CoreShape, ...], exponent: int, purpose: str, device: str, limit: int | None
) -> Order:
    kinds = ("lookup",) if purpose.startswith("lookup") else ("left", "right")
    machine = MACHINES[device]
    trained = purpose.endswith("trained")
    found = [_shortest_path(shapes, kind, 2**exponent, trained, machine, limit) for kind in kinds]
    orders = [order for order in found if order is not None]
    if not orders:
        return _cheapest_order(shapes, exponent, purpose, device, None)
    return min(orders, key=lambda order: order.seconds)


def _shortest_path(
    shapes: tuple[CoreShape, ...], kind: str, tokens: int, trained: bool, machine: Machine, limit: int | None
) -> Order | None:
    d = len(shapes)
    # Ways to reach a bond, none of which is worse than another in both seconds and entries.
    ways: list[list[tuple[float, int, tuple[Group, ...]]]] = [[(0.0, 0, ())], *([] for _ in range(d))]
    for stop in range(1, d + 1):
        reached = []
        for start in range(stop):
            step = _step(shapes, kind, start, stop)
            tree, merging = merge_tree(shapes[start:stop], start, machine)
            group = _group(shapes, kind, start, stop, tree, step)
            size = _size(shapes[start:stop])
            merging += _arranging(shapes[start:stop], kind, size, machine)
            seconds = _token_seconds(shapes[start:stop], kind, step, tokens, machine)
            # Back through a product there are two more products, and intermediates are swept once more.
            seconds *= 1 if not trained else 3 if (start == 0 if kind == "right" else stop == d) else 4
            seconds += merging * (3 if trained else 1) if limit is None else 0.0
            for cost, held, groups in ways[start]:
                if limit is None or held + size <= limit:
                    reached.append((cost + seconds, held + size, (*groups, group)))
        reached.sort(key=lambda way: way[:2])
        if limit is None:
            ways[stop] = reached[:1]
            continue
        for way in reached:
            if not ways[stop] or way[1] < ways[stop][-1][1]:
                ways[stop].append(way)
    if not ways[d]:
        return None
    cost, held, groups = ways[d][0]
    groups = groups[::-1] if kind == "right" else groups
    between = [g.step.batch * g.step.outer * g.step.free for g in groups[:-1]]
    largest = max(between, default=0)
    each = sum(_token_seconds(shapes[g.start : g.stop], kind, g.step, tokens, machine) for g in groups) / tokens
    again = sum(merge_tree(shapes[g.start : g.stop], g.start, machine)[1] for g in groups)
    kept = trained and again > _WORTH_KEEPING * cost
    columns = math.prod(shape[2] for shape in shapes)
    return Order(shapes, kind, groups, cost, held, largest, sum(between), each, columns, kept)


def _step(shapes: tuple[CoreShape, ...], kind: str, start: int, stop: int) -> Step:
    """Say what a group does to a token's state, which is `(n so far, r m, m to come)`, or mirrored from the right."""
    m = [math.prod(s[1] for s in part) for part in (shapes[:start], shapes[start:stop], shapes[stop:])]
    n = [math.prod(s[2] for s in part) for part in (shapes[:start], shapes[start:stop], shapes[stop:])]
    left, right = shapes[start][0], shapes[stop - 1][3]
    if kind == "left":
        return Step(n[0], left * m[1], n[1] * right, m[2])
    if kind == "right":
        return Step(m[0], m[1] * right, left * n[1], n[2])
    return Step(n[0], left, n[1] * right, 1)


def _group(shapes: tuple[CoreShape, ...], kind: str, start: int, stop: int, tree: Tree, step: Step) -> Group:
    part = shapes[start:stop]
    sizes = (part[0][0], *(size for shape in part for size in shape[1:3]), part[-1][3])
    m, n, last = range(1, len(sizes) - 1, 2), range(2, len(sizes) - 1, 2), len(sizes) - 1
    axes = {
        "left": (0, *m, *n, last),  # (r m, n r'), the transpose of what the step multiplies by
        "right": (0, *n, *m, last),  # (r n, m r')
        "lookup": (*m, 0, *n, last),  # (m, r n r')
    }[kind]
    back = tuple(sorted(range(len(axes)), key=axes.__getitem__))
    return Group(start, stop, tree, step, math.prod(shape[1] for shape in part), sizes, axes, back)


def _size(shapes: tuple[CoreShape, ...]) -> int:
    return shapes[0][0] * math.prod(m * n for _, m, n, _ in shapes) * shapes[-1][3]


def product_seconds(rows: int, inner: int, columns: int, machine: Machine) -> float:
    """Estimate a matrix product `(rows, inner) @ (inner, columns)`."""
    entries = rows * inner + inner * columns + rows * columns
    return machine.call + 2 * rows * inner * columns / machine.flops + entries / machine.entries


def is_folded(step: Step) -> bool:
    """Tell whether the products of a step are too thin to be run as a batch, and better permuted into one."""
    return 1 < step.free < _SHORT_ROW


def _token_seconds(shapes: tuple[CoreShape, ...], kind: str, step: Step, tokens: int, machine: Machine) -> float:
    """Estimate what a group of cores does to the tokens."""
    if kind == "lookup" and any(m > 1 for _, m, _, _ in shapes):
        return _lookup_seconds(step, tokens, machine)
    return _step_seconds(step, tokens, machine)


def _step_seconds(step: Step, tokens: int, machine: Machine) -> float:
    many = tokens * step.batch
    seconds = product_seconds(many * step.free, step.inner, step.outer, machine)
    if is_folded(step):
        seconds += 4 * machine.call + 2 * many * step.free * (step.inner + step.outer) / machine.moves
    elif step.free > 1:
        seconds += machine.call + many * 1e-2 * machine.call
    return seconds


def _lookup_seconds(step: Step, tokens: int, machine: Machine) -> float:
    row = step.inner * step.outer
    seconds = 2 * machine.call + 2 * tokens * row / machine.entries
    if step.batch * step.inner > 1:
        # Every token has a matrix of its own, so that the product is as slow as reading it.
        seconds += machine.call + tokens * (2e-2 * machine.call + 8 * step.batch * row / machine.flops)
    return seconds


def _arranging(shapes: tuple[CoreShape, ...], kind: str, size: int, machine: Machine) -> float:
    """Estimate the permutation of a merged group into the matrix that the sweep multiplies by."""
    rows, columns = any(m > 1 for _, m, _, _ in shapes), any(n > 1 for _, _, n, _ in shapes)
    alone = len(shapes) == 1 and (kind == "left" or shapes[0][0] == 1)
    return 0.0 if alone or not (rows and columns) else machine.call + 2 * size / machine.entries


def merge_tree(shapes: tuple[CoreShape, ...], first: int, machine: Machine) -> tuple[Tree, float]:
    """Find the cheapest order in which to merge neighbouring cores, by dynamic programming over the bonds.

    Args:
        shapes: The shapes `(r, m, n, r')` of the cores.
        first: The number of the first core.
        machine: What to estimate for.

    Returns:
        The tree, whose leaves are the numbers of the cores, and the seconds.

    Example:
        >>> merge_tree(((1, 4, 1, 2), (2, 4, 1, 2), (2, 4, 4, 1)), 0, MACHINES["cpu"])[0]
        ((0, 1), 2)
    """
    tree, seconds = _merge_tree(shapes, machine)
    return _numbered(tree, first), seconds


def _numbered(tree: Tree, first: int) -> Tree:
    return tree + first if isinstance(tree, int) else (_numbered(tree[0], first), _numbered(tree[1], first))


@lru_cache(maxsize=16384)
def _merge_tree(shapes: tuple[CoreShape, ...], machine: Machine) -> tuple[Tree, float]:
    if len(shapes) == 1:
        return 0, 0.0
    return min(_splits(shapes, machine), key=lambda split: split[1])


def _splits(shapes: tuple[CoreShape, ...], machine: Machine) -> Iterator[tuple[Tree, float]]:
    for cut in range(1, len(shapes)):
        (left, left_cost), (right, right_cost) = _merge_tree(shapes[:cut], machine), _merge_tree(shapes[cut:], machine)
        inner = shapes[cut][0]
        product = product_seconds(_size(shapes[:cut]) // inner, inner, _size(shapes[cut:]) // inner, machine)
        yield (left, _numbered(right, cut)), left_cost + right_cost + product
