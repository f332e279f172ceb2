"""Sums of squares in compiled passes, right to the last digits however many there are."""

from __future__ import annotations

from ttnet.numerics.machine_code import Code, Function, Int

SHORT = 32  # vectors whose squares are added up without looking at what rounding leaves out


class Squares:
    """A sum of squares in double precision: short sums, and sums of those with what rounding leaves out of them.

    Args:
        f: The function that it is a part of.
        lanes: The numbers of a vector.

    Example:
        >>> import ctypes, pytest
        >>> _ = pytest.importorskip("llvmlite")
        >>> f = Function({"x": "float64", "sums": "float64"}, 16)
        >>> squares = Squares(f, 2)
        >>> squares.take(f.load(f.at("x", 0), 2))
        >>> squares.flush()
        >>> squares.write(0)
        >>> x, sums = (ctypes.c_double * 2)(3, 4), (ctypes.c_double * 1)(0)
        >>> f.compile()(ctypes.addressof(x), ctypes.addressof(sums))
        >>> sums[0]
        25.0
    """

    def __init__(self, f: Function, lanes: int) -> None:
        self._f = f
        self._short, self._total, self._left_out = (f.variable(f.zeros("float64", lanes)) for _ in range(3))

    def take(self, vector: Code) -> None:
        """Add the squares of a vector to the short sum."""
        entries = self._f.convert(vector, "float64")
        self._f.build.store(self._f.multiply_add(entries, entries, self._f.build.load(self._short)), self._short)

    def flush(self) -> None:
        """Add the short sum to the others (Knuth's sum of two numbers and its error)."""
        f, load, store = self._f, self._f.build.load, self._f.build.store
        old, new = load(self._total), load(self._short)
        total = f.add(old, new)
        seen = f.subtract(total, old)
        error = f.add(f.subtract(old, f.subtract(total, seen)), f.subtract(new, seen))
        store(total, self._total)
        store(f.add(load(self._left_out), error), self._left_out)
        store(f.zeros("float64", new.type.count), self._short)

    def write(self, place: int | Int) -> None:
        """Add the sum to an entry of `sums`."""
        f = self._f
        for lanes in (self._left_out, self._total):
            total = f.at("sums", place)
            f.store(f.add(f.load(total), f.sum(f.build.load(lanes))), total)
