"""The compiled passes over an unfolding, as functions of memory: see `compiled_passes`, which calls them.

A block of rows is copied into memory that stays in cache, on the way turned round if the rows of X lie apart, brought
to the precision of the products, and measured. All products are then made of tiles: some rows by three vectors of
columns, whose sums stay in registers; meanwhile the next block is called from memory. Of a symmetric product only what
is right of the diagonal is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ttnet.decomposition.square_sums import SHORT, Squares
from ttnet.numerics import machine_code
from ttnet.numerics.machine_code import Code, Function, Int

_VECTORS = 3  # of a tile


@dataclass(frozen=True)
class Kind:
    """How a matrix lies in memory, and in which precision and vectors it is multiplied: what a pass is compiled for.

    Args:
        stored: Its precision in memory, "float32" or "float64".
        computed: That of the products.
        is_turned: Whether columns, not rows, lie together.
        width: Bytes of a vector.

    Example:
        >>> Kind("float64", "float32", False, 64).lanes
        16
    """

    stored: str
    computed: str
    is_turned: bool
    width: int

    @property
    def lanes(self) -> int:
        """The numbers of a vector."""
        return self.width // machine_code.ITEMSIZE[self.computed]

    @property
    def tile_rows(self) -> int:
        """The rows of a tile, with which its sums, a vector of each column and one of numbers take all registers."""
        return 8 if machine_code.registers().count >= 32 else 4

    @property
    def unit(self) -> int:
        """Rows and columns of blocks are multiples of it: whole vectors and whole tiles."""
        return max(self.lanes, self.tile_rows)


@functools.cache
def product_pass(kind: Kind, is_gram: bool) -> Callable[..., None]:
    """Compile the sum over rows of products with X: of its own columns, or of another matrix of as many rows.

    Args:
        kind: How X lies in memory and is multiplied.
        is_gram: Whether the other matrix is X, and so the product symmetric; then all squares are added up, too.

    Returns:
        A function of what `arguments` names below, in order: addresses, and integers.
    """
    arguments = {
        "x": kind.stored, "rows": "int", "n": "int", "step": "int", "columns": "int", "block_rows": "int",
        "height": "int", "block": kind.computed, "other": kind.computed, "sums": "float64",
    }  # fmt: skip
    f = Function(arguments, kind.width)
    columns, step, block_rows, height = (f.integer(name) for name in ("columns", "step", "block_rows", "height"))
    squares = Squares(f, kind.lanes) if is_gram else None
    for start, count in _blocks(f):
        _pack(f, kind, start, count, squares)
        with f.loop(0, height, kind.tile_rows) as i:

            def left(row: int, k: Int, i: Int = i, start: Int = start) -> Code:
                return (
                    f.at("block", k * columns + i + row) if is_gram else f.at("other", (start + k) * height + i + row)
                )

            def next_block(k: Int, vector: Int, i: Int = i, start: Int = start, count: Int = count) -> Code:
                if kind.is_turned:
                    return f.at("x", (i + k % 8) * step + start + block_rows + k // 8 * 8)
                line = i // kind.tile_rows * (1 if is_gram else columns // (kind.lanes * _VECTORS))
                line = line if is_gram else line + vector // _VECTORS
                return f.at("x", (start + block_rows) * step + (line * count + k) * 8)

            first = i // kind.lanes if is_gram else f.integer(0)  # from the diagonal on
            ahead = next_block if is_gram or not kind.is_turned else None
            for column, tile in _tiles(f, kind, left, "block", count, columns, first, ahead):
                for row, q, vector in _entries(tile):
                    place = f.at("sums", (i + row) * columns + column + q * kind.lanes)
                    f.store(f.add(f.load(place, kind.lanes), f.convert(vector, "float64")), place)
    if squares:
        squares.write(height * columns)  # behind the matrix
    return f.compile()


_PROJECTION = ("x", "out", "rows", "n", "step", "columns", "r", "out_step", "rank", "block_rows", "v", "back", "block",
               "product", "sums")  # fmt: skip


def _projection(kind: Kind, result: Kind) -> Function:
    kinds = {"x": kind.stored, "out": result.stored, "sums": "float64"}
    kinds |= dict.fromkeys(("v", "back", "block", "product"), kind.computed)
    return Function({name: kinds.get(name, "int") for name in _PROJECTION}, kind.width)


@functools.cache
def turned_pass(kind: Kind, measured: str | None) -> Callable[..., None]:
    """Compile the product of an X whose columns lie together with few columns, where it is and into such a matrix.

    Vectors are of rows then, and nothing has to be turned round.

    Args:
        kind: How X and the product lie in memory and are multiplied.
        measured: As for `project_pass`, but for "entries".

    Returns:
        A function of the arguments of that of `project_pass`.
    """
    f = _projection(kind, kind)
    rows, n, step, r, out_step, rank = (f.integer(name) for name in ("rows", "n", "step", "r", "out_step", "rank"))
    lanes, height = kind.lanes, kind.tile_rows
    squares = Squares(f, lanes) if measured == "norms" else None
    second = Squares(f, lanes) if measured else None

    def strip(start: Int, vectors: int, mask: Code | None) -> None:
        with f.loop(0, r, height) as first:
            sums = [[f.variable(f.zeros(kind.computed, lanes)) for _ in range(vectors)] for _ in range(height)]
            with f.loop(0, n, SHORT) as chunk:
                with f.loop(chunk, f.min(n, chunk + SHORT)) as k:
                    line = [f.load(f.at("x", k * step + start + q * lanes), lanes, mask) for q in range(vectors)]
                    if vectors > 1:
                        with f.when("==", first, 0):
                            for q in range(vectors):
                                f.prefetch(f.at("x", k * step + start + (vectors + q) * lanes))
                    if squares:
                        with f.when("==", first, 0):
                            for entries in line:
                                squares.take(entries)
                    for row, totals in enumerate(sums):
                        number = f.splat(f.load(f.at("v", k * rank + first + row)), lanes)
                        for q, total in enumerate(totals):
                            f.store(f.multiply_add(number, line[q], f.build.load(total)), total)
                if squares:
                    with f.when("==", first, 0):
                        squares.flush()
            for row, totals in enumerate(sums):
                with f.when("<", first + row, r):
                    for q, total in enumerate(totals):
                        value = f.build.load(total)
                        if second:
                            second.take(value)
                        f.store(value, f.at("out", (first + row) * out_step + start + q * lanes), mask)
            if second:
                second.flush()

    wide = _VECTORS * lanes
    whole = rows // wide * wide
    with f.loop(0, whole, wide) as start:
        strip(start, _VECTORS, None)
    with f.loop(whole, rows, lanes) as start:
        strip(start, 1, f.first(rows - start, lanes))
    for place, each in enumerate((squares, second)):
        if each:
            each.write(place)
    return f.compile()


@functools.cache
def project_pass(kind: Kind, result: Kind, measured: str | None, looks_ahead: bool) -> Callable[..., None]:
    """Compile the product of X with few columns.

    Args:
        kind: How X lies in memory and is multiplied.
        result: How the product lies in memory.
        measured: What is summed up besides: "product", "norms", "entries" or None.
        looks_ahead: Whether the next block is called from memory, which does not pay if it comes in many streams.

    Returns:
        A function of what `arguments` names below, in order: addresses, and integers.
    """
    f = _projection(kind, result)
    n, step, columns, rank, block_rows = (f.integer(name) for name in ("n", "step", "columns", "rank", "block_rows"))
    lanes, zero = kind.lanes, f.integer(0)
    squares = Squares(f, lanes) if measured in ("norms", "entries") else None
    second = Squares(f, lanes) if measured else None
    for start, count in _blocks(f):
        entries, stride, is_copied = f.at("block", 0), columns, f.integer(1)
        if kind.stored == kind.computed and not kind.is_turned:
            # Rows that lie together are multiplied where they are, if they make whole tiles and, to subtract, vectors.
            rest = count % kind.unit + (n % lanes if measured == "entries" else 0)
            is_copied = f.min(rest, f.integer(1))
            entries = f.select(is_copied, entries, f.at("x", start * step))
            stride = f.integer(f.select(is_copied, columns.code, step.code))
        with f.when("==", is_copied, 1):
            _pack(f, kind, start, count, squares)
        with f.loop(0, _whole_rows(kind, count), kind.tile_rows) as i:
            if squares:
                with f.when("==", is_copied, 0):
                    _take_rows(f, kind, squares, f.at(entries, i * stride))

            def left(row: int, k: Int, i: Int = i, entries: Code = entries, stride: Int = stride) -> Code:
                return f.at(entries, (i + row) * stride + k)

            def next_block(k: Int, _: Int, i: Int = i, start: Int = start) -> Code:
                if kind.is_turned:
                    return f.at("x", k * step + start + block_rows + i)
                return f.at("x", (start + block_rows + i) * step + k * 8)

            for column, tile in _tiles(f, kind, left, "v", n, rank, zero, next_block if looks_ahead else None):
                for row, q, vector in _entries(tile):
                    f.store(vector, f.at("product", (i + row) * rank + column + q * lanes))
            if measured == "entries" and second:
                _take_difference(f, kind, i, entries, stride, second)
        _unpack(f, result, start, count, None if measured == "entries" else second)
    for place, each in enumerate((squares, second)):
        if each:
            each.write(place)
    return f.compile()


def _take_rows(f: Function, kind: Kind, squares: Squares, first: Code) -> None:
    """Measure rows of a tile where they are."""
    n, step, lanes = f.integer("n"), f.integer("step"), kind.lanes
    whole = n // lanes * lanes
    for row in range(kind.tile_rows):
        with f.loop(0, whole, lanes * SHORT) as chunk:
            with f.loop(chunk, f.min(whole, chunk + lanes * SHORT), lanes) as column:
                squares.take(f.load(f.at(first, step * row + column), lanes))
            squares.flush()
        with f.when("<", whole, n):
            squares.take(f.load(f.at(first, step * row + whole), lanes, f.first(n - whole, lanes)))
            squares.flush()


def _take_difference(f: Function, kind: Kind, i: Int, block: Code, stride: Int, squares: Squares) -> None:
    """Measure what the product with V^T leaves of some rows of a block."""
    columns, rank = f.integer("columns"), f.integer("rank")
    last = (f.integer("n") + (kind.lanes - 1)) // kind.lanes  # behind which a block may have more, but x has other rows

    def left(row: int, k: Int) -> Code:
        return f.at("product", (i + row) * rank + k)

    for column, tile in _tiles(f, kind, left, "back", f.integer("r"), columns, f.integer(0), last=last):
        for row, q, vector in _entries(tile):
            entries = f.load(f.at(block, (i + row) * stride + column + q * kind.lanes), kind.lanes)
            squares.take(f.subtract(entries, vector))
        squares.flush()


def _blocks(f: Function) -> Iterator[tuple[Int, Int]]:
    """Go through the rows in blocks: their first row and their number."""
    with f.loop(0, f.integer("rows"), f.integer("block_rows")) as start:
        yield start, f.min(f.integer("block_rows"), f.integer("rows") - start)


def _pack(f: Function, kind: Kind, start: Int, count: Int, squares: Squares | None) -> None:
    """Copy rows of x into the block, with zeros below them up to the end of a tile."""
    copy = _copy_turned if kind.is_turned else _copy_rows
    end = copy(f, kind, start, count, squares)
    columns = f.integer("columns")
    with f.loop(end * columns, _whole_rows(kind, count) * columns, kind.lanes) as place:
        f.store(f.zeros(kind.computed, kind.lanes), f.at("block", place))


def _whole_rows(kind: Kind, count: Int) -> Int:
    """Give the rows that are computed of a block of `count`: those of whole tiles."""
    return (count + (kind.unit - 1)) // kind.unit * kind.unit


def _copy_rows(f: Function, kind: Kind, start: Int, count: Int, squares: Squares | None) -> Int:
    columns, n, step, lanes = f.integer("columns"), f.integer("n"), f.integer("step"), kind.lanes
    whole = n // lanes * lanes

    def vector(row: Int, column: Int, mask: Code | None) -> None:
        entries = f.load(f.at("x", (start + row) * step + column), lanes, mask)
        if squares:
            squares.take(entries)
        f.store(f.convert(entries, kind.computed), f.at("block", row * columns + column))

    with f.loop(0, count) as row:
        with f.loop(0, whole, lanes * SHORT) as chunk:
            with f.loop(chunk, f.min(whole, chunk + lanes * SHORT), lanes) as column:
                vector(row, column, None)
            if squares:
                squares.flush()
        with f.when("<", whole, n):
            vector(row, whole, f.first(n - whole, lanes))
            if squares:
                squares.flush()
    return count


def _copy_turned(f: Function, kind: Kind, start: Int, count: Int, squares: Squares | None) -> Int:
    columns, n, step, lanes = f.integer("columns"), f.integer("n"), f.integer("step"), kind.lanes
    whole, whole_rows = n // lanes * lanes, count // lanes * lanes

    def square(row: Int, column: Int, is_edge: bool) -> None:
        lines = []
        for k in range(lanes):
            mask, place = None, column + k
            if is_edge:
                # Of columns behind the last one nothing is read, and at a place that is memory: hidden faults are slow.
                mask, place = f.first(f.min(count - row, (n - place) * lanes), lanes), f.min(place, n - 1)
            lines.append(f.load(f.at("x", place * step + start + row), lanes, mask))
            if squares:
                squares.take(lines[-1])
        if squares:
            squares.flush()
        for k, line in enumerate(f.transpose([f.convert(line, kind.computed) for line in lines])):
            f.store(line, f.at("block", (row + k) * columns + column))

    with f.loop(0, whole, lanes) as column:
        with f.loop(0, whole_rows, lanes) as row:
            square(row, column, False)
        with f.when("<", whole_rows, count):
            square(whole_rows, column, True)
    with f.when("<", whole, n), f.loop(0, count, lanes) as row:
        square(row, whole, True)
    return (count + (lanes - 1)) // lanes * lanes


def _unpack(f: Function, result: Kind, start: Int, count: Int, squares: Squares | None) -> None:
    """Copy the product to where it belongs."""
    rank, r, step, lanes = f.integer("rank"), f.integer("r"), f.integer("out_step"), result.lanes
    if result.is_turned:
        with f.loop(0, r, lanes) as column, f.loop(0, count, lanes) as row:
            lines = [f.load(f.at("product", (row + k) * rank + column), lanes) for k in range(lanes)]
            if squares:
                for line in lines:
                    squares.take(line)
                squares.flush()
            for k, line in enumerate(f.transpose(lines)):
                mask = f.first(f.min(count - row, (r - column - k) * lanes), lanes)
                place = f.at("out", f.min(column + k, r - 1) * step + start + row)
                f.store(f.convert(line, result.stored), place, mask)
        return
    with f.loop(0, count) as row, f.loop(0, r, lanes) as column:
        line = f.load(f.at("product", row * rank + column), lanes)
        if squares:
            squares.take(line)
            squares.flush()
        f.store(f.convert(line, result.stored), f.at("out", (start + row) * step + column), f.first(r - column, lanes))


def _tiles(
    f: Function,
    kind: Kind,
    left: Callable[[int, Int], Code],
    right: str,
    depth: Int,
    columns: Int,
    first: Int,
    ahead: Callable[[Int, Int], Code] | None = None,
    last: Int | None = None,
) -> Iterator[tuple[Int, list[list[Code]]]]:
    """Multiply the rows of a tile with the columns of a matrix: the first column and the sums of each tile.

    Args:
        f: The function.
        kind: Its vectors.
        left: Tells where the entry of a row is that a step takes.
        right: The other matrix, of which a step takes a row.
        depth: The number of steps.
        columns: The columns of the other matrix.
        first: The first vector of columns.
        ahead: Tells which place of memory will be read next while a step is done, of a vector of columns.
        last: The vector of columns to end before; None for all of them.
    """
    lanes = kind.lanes

    def tile(vector: Int, vectors: int) -> tuple[Int, list[list[Code]]]:
        column = vector * lanes
        height = range(kind.tile_rows)
        sums = [[f.variable(f.zeros(kind.computed, lanes)) for _ in range(vectors)] for _ in height]
        with f.loop(0, depth) as k:
            if ahead:
                f.prefetch(ahead(k, vector))
            line = [f.load(f.at(right, k * columns + column + q * lanes), lanes) for q in range(vectors)]
            for row in height:
                number = f.splat(f.load(left(row, k)), lanes)
                for q, total in enumerate(sums[row]):
                    f.store(f.multiply_add(number, line[q], f.build.load(total)), total)
        return column, [[f.build.load(total) for total in each] for each in sums]

    last = columns // lanes if last is None else last
    groups = (last - first) // _VECTORS
    with f.loop(0, groups) as group:
        yield tile(first + group * _VECTORS, _VECTORS)
    done = first + groups * _VECTORS
    for vectors in range(1, _VECTORS):
        with f.when("==", last - done, vectors):
            yield tile(done, vectors)


def _entries(tile: Sequence[Sequence[Code]]) -> Iterator[tuple[int, int, Code]]:
    """Give the row, the place and the sums of each vector of a tile."""
    for row, vectors in enumerate(tile):
        for q, vector in enumerate(vectors):
            yield row, q, vector
