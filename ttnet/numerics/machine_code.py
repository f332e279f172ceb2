"""Functions over memory, written in LLVM's language and compiled for the processor at hand by llvmlite (extra `fast`).

A BLAS knows matrices, but not where they come from: entries of another precision, rows that lie apart in memory, sums
that are wanted along the way. A function that is written here reads memory once and does all of it in registers as
wide as the machine has. `Function` is the little that such functions need: loops, vectors, sums of products.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.metadata
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

ITEMSIZE = {"float32": 4, "float64": 8}
_OLDEST = (0, 45)  # version of llvmlite

Code = Any  # a value, a type or a pointer of LLVM's language, for which llvmlite has no static types


@functools.cache
def is_available() -> bool:
    """Say whether functions can be compiled here.

    Returns:
        Whether llvmlite is installed, and not older than what this is written for, as others may have asked for it.

    Example:
        >>> is_available() in (True, False)
        True
    """
    try:
        found = re.match(r"(\d+)\.(\d+)", importlib.metadata.version("llvmlite"))
    except importlib.metadata.PackageNotFoundError:
        return False
    return found is not None and (int(found[1]), int(found[2])) >= _OLDEST


@dataclass(frozen=True)
class Registers:
    """The vector registers of a processor.

    Args:
        width: Bytes of one.
        count: How many there are.

    Example:
        >>> Registers(64, 32).lanes("float32")
        16
    """

    width: int
    count: int

    def lanes(self, dtype: str) -> int:
        """Give how many numbers a register holds.

        Args:
            dtype: "float32" or "float64".

        Returns:
            The number.
        """
        return self.width // ITEMSIZE[dtype]


@functools.cache
def registers() -> Registers:
    """Give the vector registers of this processor, or those that every processor has if it is not a known one.

    Returns:
        Their width and number.
    """
    has = _binding().get_host_cpu_features()
    if has.get("avx512f"):
        return Registers(64, 32)
    if has.get("avx2") and has.get("fma"):
        return Registers(32, 16)
    return Registers(16, 32 if has.get("neon") else 16)


@functools.cache
def _ir() -> ModuleType:
    return importlib.import_module("llvmlite.ir")


@functools.cache
def _binding() -> ModuleType:
    binding = importlib.import_module("llvmlite.binding")
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


class Function:
    """A function that is being written, instruction by instruction.

    Arithmetic of integers, by which memory is addressed, is written as in Python, with an `Int`.

    Args:
        arguments: Name and kind of each argument: "int", or "float32" or "float64" for a pointer to such numbers. No
            two pointers may reach the same memory.
        width: Bytes of the vectors it may use, which the processor must have.

    Example:
        >>> import pytest
        >>> _ = pytest.importorskip("llvmlite")
        >>> f = Function({"x": "float64", "n": "int"}, 16)
        >>> with f.loop(0, f.integer("n")) as i:
        ...     place = f.at("x", i)
        ...     f.store(f.add(f.load(place), f.load(place)), place)
        >>> numbers = (ctypes.c_double * 3)(1, 2, 3)
        >>> f.compile()(ctypes.addressof(numbers), 3)
        >>> list(numbers)
        [2.0, 4.0, 6.0]
    """

    def __init__(self, arguments: Mapping[str, str], width: int) -> None:
        ir = _ir()
        self._types = {"int": ir.IntType(64), "float32": ir.FloatType(), "float64": ir.DoubleType()}
        self._width = width
        self._module = ir.Module("passes")
        self._module.triple = _binding().get_default_triple()
        kinds = [self._types[kind] if kind == "int" else self._types[kind].as_pointer() for kind in arguments.values()]
        self._function = ir.Function(self._module, ir.FunctionType(ir.VoidType(), kinds), "run")
        self._arguments = dict(zip(arguments, self._function.args, strict=True))
        self._is_pointer = [kind != "int" for kind in arguments.values()]
        for argument, is_pointer in zip(self._function.args, self._is_pointer, strict=True):
            if is_pointer:
                argument.add_attribute("noalias")
        self.build = ir.IRBuilder(self._function.append_basic_block("entry"))

    # --- integers and control ---

    def integer(self, value: str | int | Int | Code) -> Int:
        """Give an integer: the argument of a name, a number of Python, or what is one already."""
        if isinstance(value, Int):
            return value
        if isinstance(value, str):
            return Int(self, self._arguments[value])
        return Int(self, _ir().Constant(self._types["int"], value) if isinstance(value, int) else value)

    def min(self, a: Int, b: Int) -> Int:
        """Give the smaller one of two integers."""
        return self.integer(self.build.select(self.build.icmp_signed("<", a.code, b.code), a.code, b.code))

    def select(self, condition: Int, a: Code, b: Code) -> Code:
        """Give the first one of two values if an integer is not 0, or the second one."""
        return self.build.select(self.build.icmp_signed("!=", condition.code, self.integer(0).code), a, b)

    @contextlib.contextmanager
    def loop(self, start: int | Int, stop: int | Int, step: int | Int = 1) -> Iterator[Int]:
        """Repeat what is written inside for each integer of a range."""
        count = self.variable(self.integer(start).code)
        head, body, behind = (self._function.append_basic_block(name) for name in ("head", "body", "behind"))
        self.build.branch(head)
        self.build.position_at_end(head)
        self.build.cbranch(self.build.icmp_signed("<", self.build.load(count), self.integer(stop).code), body, behind)
        self.build.position_at_end(body)
        now = self.integer(self.build.load(count))
        yield now
        self.build.store((now + step).code, count)
        self.build.branch(head)
        self.build.position_at_end(behind)

    @contextlib.contextmanager
    def when(self, sign: str, a: Int, b: int | Int) -> Iterator[None]:
        """Do what is written inside if a comparison of two integers holds."""
        with self.build.if_then(self.build.icmp_signed(sign, a.code, self.integer(b).code)):
            yield

    # --- memory ---

    def variable(self, value: Code) -> Code:
        """Give a variable that holds a value; it ends up in a register."""
        with self.build.goto_entry_block():
            place = self.build.alloca(value.type)
        self.build.store(value, place)
        return place

    def at(self, pointer: str | Code, offset: int | Int) -> Code:
        """Give a pointer to an entry behind a pointer, or behind that of a named argument."""
        pointer = self._arguments[pointer] if isinstance(pointer, str) else pointer
        return self.build.gep(pointer, [self.integer(offset).code])

    def load(self, place: Code, lanes: int | None = None, mask: Code | None = None) -> Code:
        """Read a number, or a vector of some lanes; those that a mask leaves out are 0 and not read."""
        if lanes is None:
            return self.build.load(place)
        kind = place.type.pointee
        vector = _ir().VectorType(kind, lanes)
        place, align = self.build.bitcast(place, vector.as_pointer()), _itemsize(kind)
        if mask is None:
            return self.build.load(place, align=align)
        zeros = self.splat(_ir().Constant(kind, 0.0), lanes)
        return self._call(f"llvm.masked.load.{_suffix(vector)}.p0", vector, [place, self._bits(align), mask, zeros])

    def store(self, value: Code, place: Code, mask: Code | None = None) -> None:
        """Write a number or a vector, without the lanes that a mask leaves out."""
        if not hasattr(value.type, "count"):
            self.build.store(value, place)
            return
        align = _itemsize(value.type.element)
        place = self.build.bitcast(place, value.type.as_pointer())
        if mask is None:
            self.build.store(value, place, align=align)
        else:
            name = f"llvm.masked.store.{_suffix(value.type)}.p0"
            self._call(name, _ir().VoidType(), [value, place, self._bits(align), mask])

    def prefetch(self, place: Code) -> None:
        """Have the line of a place, which need not exist, brought into the cache while other things go on."""
        line = self.build.bitcast(place, _ir().IntType(8).as_pointer())
        self._call(
            "llvm.prefetch.p0", _ir().VoidType(), [line, *map(self._bits, (0, 2, 1))]
        )  # to read, moderately near

    def first(self, count: Int, lanes: int) -> Code:
        """Give a mask of the first `count` lanes, of which there may be fewer or more."""
        ir = _ir()
        places = ir.Constant(ir.VectorType(self._types["int"], lanes), list(range(lanes)))
        return self.build.icmp_signed("<", places, self.splat(count.code, lanes))

    # --- vectors ---

    def zeros(self, dtype: str, lanes: int) -> Code:
        """Give a vector of zeros."""
        return self.splat(_ir().Constant(self._types[dtype], 0.0), lanes)

    def splat(self, number: Code, lanes: int) -> Code:
        """Give a vector of one number."""
        ir = _ir()
        empty = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        vector = self.build.insert_element(empty, number, self._bits(0))
        return self.build.shuffle_vector(vector, empty, self._places([0] * lanes))

    def add(self, a: Code, b: Code) -> Code:
        """Add numbers or vectors."""
        return self.build.fadd(a, b)

    def subtract(self, a: Code, b: Code) -> Code:
        """Subtract numbers or vectors."""
        return self.build.fsub(a, b)

    def multiply_add(self, a: Code, b: Code, c: Code) -> Code:
        """Give `a b + c` of vectors, rounded once."""
        return self._call(f"llvm.fma.{_suffix(a.type)}", a.type, [a, b, c])

    def sum(self, vector: Code) -> Code:
        """Add the lanes of a vector, in pairs."""
        while vector.type.count > 1:
            lanes = vector.type.count
            halves = [list(range(start, start + lanes // 2)) for start in (0, lanes // 2)]
            vector = self.add(*(self.build.shuffle_vector(vector, vector, self._places(half)) for half in halves))
        return self.build.extract_element(vector, self._bits(0))

    def convert(self, value: Code, dtype: str) -> Code:
        """Give a number or a vector in another precision."""
        kind = value.type.element if hasattr(value.type, "count") else value.type
        wanted = self._types[dtype]
        if kind == wanted:
            return value
        if hasattr(value.type, "count"):
            wanted = _ir().VectorType(wanted, value.type.count)
        return self.build.fptrunc(value, wanted) if dtype == "float32" else self.build.fpext(value, wanted)

    def transpose(self, rows: Sequence[Code]) -> list[Code]:
        """Give the columns of a square of vectors, by exchanging halves, quarters and so on of pairs of rows."""
        square = list(rows)
        lanes = len(square)
        distance = lanes // 2
        while distance:
            upper = [k if not k & distance else lanes + k - distance for k in range(lanes)]
            lower = [k + distance if not k & distance else lanes + k for k in range(lanes)]
            for k in range(lanes):
                if not k & distance:
                    a, b = square[k], square[k + distance]
                    square[k] = self.build.shuffle_vector(a, b, self._places(upper))
                    square[k + distance] = self.build.shuffle_vector(a, b, self._places(lower))
            distance //= 2
        return square

    # --- the result ---

    def compile(self) -> Callable[..., None]:
        """Compile the function.

        Returns:
            It. Pointers are taken as addresses; other threads of Python go on while it runs.
        """
        binding = _binding()
        self.build.ret_void()
        features = binding.get_host_cpu_features()
        if features.get("avx512f"):
            features["prefer-256-bit"] = False
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=features.flatten(), opt=2
        )
        module = binding.parse_assembly(str(self._module))
        module.verify()
        # Variables into registers; what else could be made better would take longer to compile than it saves.
        passes = binding.create_new_function_pass_manager()
        passes.add_sroa_pass()
        options = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options())
        passes.run(module.get_function("run"), options)
        engine = binding.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        kinds = [ctypes.c_void_p if is_pointer else ctypes.c_int64 for is_pointer in self._is_pointer]
        compiled = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address("run"))

        def run(*arguments: int, _owner: object = engine) -> None:
            compiled(*arguments)

        return run

    def _bits(self, number: int) -> Code:
        return _ir().Constant(_ir().IntType(32), number)

    def _places(self, places: Sequence[int]) -> Code:
        return _ir().Constant(_ir().VectorType(_ir().IntType(32), len(places)), list(places))

    def _call(self, name: str, result: Code, arguments: Sequence[Code]) -> Code:
        """Call an instruction of LLVM that has no symbol of its own."""
        function = self._module.globals.get(name)
        if function is None:
            kind = _ir().FunctionType(result, [each.type for each in arguments])
            function = _ir().Function(self._module, kind, name)
        return self.build.call(function, arguments)


def _itemsize(kind: Code) -> int:
    return 4 if kind == _ir().FloatType() else 8


def _suffix(vector: Code) -> str:
    return f"v{vector.count}f{8 * _itemsize(vector.element)}"


@dataclass(frozen=True)
class Int:
    """An integer of a function, with the arithmetic by which memory is addressed.

    Args:
        function: The function.
        code: Its value there.
    """

    function: Function
    code: Code

    def __add__(self, other: int | Int) -> Int:
        return self.function.integer(self.function.build.add(self.code, self.function.integer(other).code))

    def __sub__(self, other: int | Int) -> Int:
        return self.function.integer(self.function.build.sub(self.code, self.function.integer(other).code))

    def __mul__(self, other: int | Int) -> Int:
        return self.function.integer(self.function.build.mul(self.code, self.function.integer(other).code))

    def __floordiv__(self, other: int | Int) -> Int:
        return self.function.integer(self.function.build.sdiv(self.code, self.function.integer(other).code))

    def __mod__(self, other: int | Int) -> Int:
        return self.function.integer(self.function.build.srem(self.code, self.function.integer(other).code))
