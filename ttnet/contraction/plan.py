"""Contraction of tensor networks along planned paths.

The cost of a network depends on the order in which its tensors are contracted, by orders of magnitude.
`plan` finds a good order once (the path finders are those of opt_einsum and cotengra) and compiles it: what is
known from the shapes, such as permutations, the sides of each matrix product and which reshapes can be skipped, is
worked out at planning time. Calling the plan then runs one product for each step and hardly any Python.

Inside, an index is an integer, so a network may have any number of them; letters are read on the way in and
kept only to print the plan in the words of its author.
"""

import math
import numbers
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor
from wrapt import when_imported

from ttnet.contraction.equation import (
    Equation,
    Shape,
    Term,
    as_shape,
    hashable,
    index_sizes,
    parse,
    written,
)
from ttnet.contraction.operands import check_dtype, common_dtype, shapes_of, unplanned
from ttnet.contraction.optimizers import OPTIMIZERS, Optimize, Path, PathFinder, as_optimizer, candidate_paths
from ttnet.contraction.steps import Arrangement, Reduction, Step, arrange, compile_reduction, compile_step
from ttnet.errors import TTShapeError, TTTypeError, TTValueError, spell_count
from ttnet.numerics.memory import check_memory
from ttnet.numerics.scales import compute_dtype

__all__ = ["OPTIMIZERS", "ContractionPlan", "contract", "contract_chain", "plan", "plan_chain"]

# The exact search takes under half a second for a chain of this length, and grows with the fourth power.
_LONGEST_EXACT_CHAIN = 40


@dataclass(frozen=True)
class ContractionPlan:
    """A contraction whose order is settled: print it to see its cost, call it on tensors to run it.

    A plan is an immutable value, made by `plan` or `plan_chain` for fixed shapes and for tensors of any dtype
    and device. Calling it plans nothing, keeps gradients, and can be traced by `torch.compile`; a layer that is
    compiled should hold its plan as an attribute, so that the sizes in it count as constants.

    Attributes:
        inputs: Integer indices of each operand. The letters of an equation are numbered as they appear.
        output: Integer indices of the result.
        shapes: Shape of each operand.
        path: Pairs of positions in the list of operands: at each step both are removed, and their contraction
            is appended.
        flops: Multiplications and additions of all steps together; a complex one counts once.
        largest_intermediate: Number of entries of the largest tensor that is made, the result included.
        memory_limit: The bound on `largest_intermediate` that was asked for, or None.

    Example:
        >>> import torch, ttnet
        >>> matmul = ttnet.plan("ij,jk->ik", (2, 3), (3, 4))
        >>> matmul(torch.ones(2, 3), torch.ones(3, 4)).shape
        torch.Size([2, 4])
        >>> matmul.flops
        48
    """

    inputs: tuple[Term, ...]
    output: Term
    shapes: tuple[Shape, ...]
    path: tuple[tuple[int, int], ...]
    flops: int
    largest_intermediate: int
    memory_limit: int | None
    _letters: str = field(repr=False, compare=False)
    _reductions: tuple[Reduction, ...] = field(repr=False, compare=False)
    _steps: tuple[Step, ...] = field(repr=False, compare=False)
    _result_layout: Arrangement | None = field(repr=False, compare=False)

    def __call__(
        self,
        *tensors: Tensor,  # of the shapes planned for
    ) -> Tensor:
        """Contract tensors of the planned shapes.

        Args:
            tensors: One tensor for each operand, all on one device. Different dtypes are promoted as
                `torch.result_type` promotes them. On the CPU, bfloat16 and float16 are computed in float32, where
                small products are faster, and cast back; other devices sum their products so by themselves.

        Returns:
            The contraction, with dimensions in the order of the output indices. Where there is nothing to
            compute it may be a view of an operand.

        Raises:
            TTTypeError: If an operand is not a tensor, or their dtype has no products.
            TTShapeError: If the number of operands or a shape differs from what was planned.
            TTValueError: If the devices differ, or the largest intermediate exceeds this machine's memory.

        Example:
            >>> import torch, ttnet
            >>> trace = ttnet.plan("ii->", (3, 3))
            >>> trace(torch.eye(3))
            tensor(3.)
        """
        if shapes_of(tensors) != self.shapes:
            raise unplanned(tensors, self.shapes)
        return self._run(tensors)

    def _run(self, tensors: Sequence[Tensor]) -> Tensor:
        dtype, device = tensors[0].dtype, tensors[0].device
        operands = list(tensors)
        for tensor in tensors:
            if tensor.dtype != dtype or tensor.device != device:
                dtype = common_dtype(tensors)
                operands = [operand.to(dtype) for operand in tensors]
                break
        check_dtype(dtype, device)
        check_memory(
            self.largest_intermediate,
            dtype,
            device,
            what="the largest intermediate of this contraction",
            advice="plan it with a memory_limit, or contract for a part of an index at a time.",
        )
        wide = compute_dtype(dtype) if device.type == "cpu" else dtype
        if wide != dtype:
            operands = [operand.to(wide) for operand in operands]
        for reduction in self._reductions:
            operands[reduction.operand] = reduction.apply(operands[reduction.operand])
        for left, right, left_layout, right_layout, kind, _, _ in self._steps:
            a, b = operands.pop(left), operands.pop(right)
            if left_layout is not None:
                a = left_layout.apply(a)
            if right_layout is not None:
                b = right_layout.apply(b)
            if kind == "mm":
                operands.append(torch.mm(a, b))
            elif kind == "bmm":
                operands.append(torch.bmm(a, b))
            else:
                operands.append(a * b)
        result = operands[0] if wide == dtype else operands[0].to(dtype)
        return result if self._result_layout is None else self._result_layout.apply(result)

    def __str__(self) -> str:
        sizes = index_sizes(self.inputs, self.shapes, self._letters)
        summed = set(sizes) - set(self.output)
        all_at_once = math.prod(sizes.values()) * (max(1, len(self.inputs) - 1) + bool(summed))
        rows = [("step", "operands", "kind", "scaling", "flops", "entries", "contraction", "remaining")]
        remaining = list(self.inputs)
        for number, (pair, step) in enumerate(zip(self.path, self._steps, strict=True), 1):
            left, right, result = step.terms
            remaining = [term for k, term in enumerate(remaining) if k not in pair] + [result]
            rows.append(
                (
                    str(number),
                    str(pair),
                    {"mm": "matmul", "bmm": "batched matmul", "mul": "product"}[step.kind],
                    str(len({*left, *right})),
                    _short(step.flops),
                    _short(math.prod(sizes[index] for index in result)),
                    self._written([left, right], result),
                    self._written(remaining, self.output) if len(remaining) < 8 else f"{len(remaining)} tensors",
                )
            )
        scaling = max((len({*a, *b}) for a, b, _ in (step.terms for step in self._steps)), default=len(sizes))
        lines = [
            f"Contraction           {self._written(self.inputs, self.output)}",
            f"Cost, all at once     {_short(all_at_once)} flops, scaling {len(sizes)}",
            f"Cost, by this path    {_short(self.flops)} flops, scaling {scaling}",
            f"Largest intermediate  {_short(self.largest_intermediate)} entries",
        ]
        if self.memory_limit is not None:
            lines.append(f"Memory limit          {_short(self.memory_limit)} entries")
        lines.append("")
        if not self._steps:
            return "\n".join([*lines, "One operand: nothing to contract pairwise."])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join(lines)

    def _written(self, terms: Sequence[Term], output: Term) -> str:
        return f"{written(terms, self._letters)}->{written([output], self._letters)}"


def plan(
    equation: Equation, *shapes: Sequence[int], optimize: Optimize = "auto", memory_limit: int | None = None
) -> ContractionPlan:
    """Find a cheap order for a contraction; plans are cached, so asking again costs next to nothing.

    An index may be shared by any number of operands, repeat within one operand (its diagonal is taken), and
    be missing from the output (it is summed over). Sizes never broadcast.

    Args:
        equation: Letters as in `numpy.einsum`, such as `"ij,jk->ik"`, where a missing output stands for the
            indices that occur once, in alphabetical order; or a pair of integer terms, such as
            `([(0, 1), (1, 2)], (0, 2))`.
        shapes: Shape of each operand.
        optimize: Name of a path finder, one of `ttnet.contraction.OPTIMIZERS`: "auto" is exact for small networks
            and greedy for large ones, "dp" is slower and finds fewer flops, and "cotengra", which needs the extra of
            that name, is for large networks that are no trees. Or a path, such as `[(0, 1), (0, 1)]`: the positions
            of two operands for each step, which are removed, and their contraction appended. Or a callable that is
            given the sets of indices of the operands and of the output, the sizes of the indices and, if there is
            one, the memory limit, and gives a path; those of opt_einsum and cotengra are such.
        memory_limit: Bound on the entries of every intermediate and of the result, at least 1, or None. (Divide
            bytes by `dtype.itemsize`: a plan knows no dtype.) If the cheapest path exceeds it, others are searched:
            every one for up to 9 operands, beyond that with the path finder's own heuristics and at random, with a
            fixed seed.

    Returns:
        The plan.

    Raises:
        TTTypeError: If the equation is neither of the two kinds, or another argument is of the wrong type.
        TTValueError: If the equation cannot be read, the path finder is unknown or gives no valid path, or no path
            within the memory limit is found.
        TTShapeError: If the shapes do not fit the equation.
        MissingExtraError: If cotengra is asked for and not installed.

    Example:
        >>> print(plan("ij,jk,kl->il", (8, 9), (9, 2), (2, 8)))
        Contraction           ij,jk,kl->il
        Cost, all at once     3456 flops, scaling 4
        Cost, by this path    544 flops, scaling 3
        Largest intermediate  64 entries
        <BLANKLINE>
        step  operands  kind    scaling  flops  entries  contraction  remaining
        1     (0, 1)    matmul  3        288    16       ij,jk->ik    kl,ik->il
        2     (0, 1)    matmul  3        256    64       ik,kl->il    il->il
    """
    sizes = tuple(as_shape(k, shape) for k, shape in enumerate(shapes))
    return _plan(hashable(equation), sizes, as_optimizer(optimize), _as_limit(memory_limit))


def contract(
    equation: Equation,
    *tensors: Tensor,
    optimize: Optimize = "auto",
    memory_limit: int | None = None,
) -> Tensor:
    """Contract tensors along a cheap path, which is planned once for each equation and shapes.

    Args:
        equation: Letters or integer indices, as in `plan`.
        tensors: One tensor for each operand, of any dtypes, all on one device.
        optimize: Path finder or path, as in `plan`.
        memory_limit: Bound on the entries of every intermediate and of the result, as in `plan`.

    Returns:
        The contraction, with dimensions in the order of the output indices.

    Raises:
        TTTypeError: If an argument is of the wrong type, or the dtype has no products.
        TTValueError: If the equation cannot be read, no path is found as in `plan`, the devices differ, or the
            largest intermediate exceeds this machine's memory.
        TTShapeError: If the tensors do not fit the equation.
        MissingExtraError: If cotengra is asked for and not installed.

    Example:
        >>> import torch
        >>> a, b = torch.ones(2, 3), torch.ones(3, 4)
        >>> contract("ij,jk->ik", a, b).shape == contract(([(0, 1), (1, 2)], (0, 2)), a, b).shape
        True
    """
    return _plan(hashable(equation), shapes_of(tensors), as_optimizer(optimize), _as_limit(memory_limit))._run(tensors)


def plan_chain(shapes: Sequence[Sequence[int]]) -> ContractionPlan:
    """Find the cheapest order in which to contract the cores of a train into one tensor.

    Args:
        shapes: Shapes `(r_{k-1}, n_k, r_k)` of d >= 1 cores. Up to 40 cores the order has the fewest flops,
            beyond that it is greedy.

    Returns:
        A plan that takes the cores and gives their contraction, of shape `(r_0, n_1, ..., n_d, r_d)`.

    Raises:
        TTTypeError: If a shape is not a sequence of integers.
        TTShapeError: If there are no shapes, one has not three sizes, or neighbours differ in their rank.

    Example:
        >>> plan_chain([(1, 4, 3), (3, 4, 2), (2, 5, 1)]).path
        ((0, 1), (0, 1))
    """
    return _plan_chain(tuple(as_shape(k, shape) for k, shape in enumerate(shapes)))


def contract_chain(
    cores: Sequence[Tensor],  # (r_{k-1}, n_k, r_k)
) -> Tensor:
    """Contract the cores of a train into one tensor, in the cheapest order.

    Args:
        cores: d >= 1 cores of shapes `(r_{k-1}, n_k, r_k)`, of any dtypes, all on one device.

    Returns:
        The contraction, of shape `(r_0, n_1, ..., n_d, r_d)`.

    Raises:
        TTTypeError: If a core is not a tensor.
        TTShapeError: If there are no cores, one has not three dimensions, or neighbours differ in their rank.

    Example:
        >>> import torch
        >>> contract_chain([torch.ones(1, 4, 3), torch.ones(3, 4, 2)]).shape
        torch.Size([1, 4, 4, 2])
    """
    return _plan_chain(shapes_of(cores))._run(cores)


@when_imported("torch._dynamo")  # which takes as long to import as torch itself, and is only there to compile
def _trace_as_one_step(dynamo: ModuleType) -> None:
    for function in (contract, contract_chain):
        dynamo.allow_in_graph(function)


# --- planning -------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _plan(
    equation: Equation, shapes: tuple[Shape, ...], optimize: str | Path | PathFinder, memory_limit: int | None
) -> ContractionPlan:
    inputs, output, letters = parse(equation)
    shapes = tuple(map(tuple, shapes))
    sizes = index_sizes(inputs, shapes, letters)
    result_size = math.prod(sizes[index] for index in output)
    if memory_limit is not None and result_size > memory_limit:
        raise TTValueError(
            f"memory_limit is {memory_limit:,} entries, but the result alone has {spell_count(result_size)}; raise the "
            "limit, or contract for a part of an index at a time."
        )
    uses = Counter(index for term in inputs for index in set(term)) + Counter(output)
    alone = [compile_reduction(number, term, uses, sizes) for number, term in enumerate(inputs)]
    smallest = math.inf
    for path in candidate_paths([term for _, (term, _), _ in alone], output, sizes, optimize, memory_limit):
        held, steps = [left for _, left, _ in alone], []
        position, still_used = {index: k for k, index in enumerate(sizes)}, uses.copy()
        for pair in path:
            if len(held) == 2:  # the last product comes out in the order of the output
                position = {index: k for k, index in enumerate(output)}
            steps.append(compile_step((min(pair), max(pair)), held, still_used, position, sizes))
        largest = max([result_size, *(math.prod(sizes[index] for index in step.terms[2]) for step in steps)])
        smallest = min(smallest, largest)
        if memory_limit is None or largest <= memory_limit:
            break
    else:
        raise TTValueError(
            f"memory_limit is {memory_limit:,} entries, but every path that was found has a larger intermediate, of "
            f"{spell_count(int(smallest))} at best; raise the limit, or contract for a part of an index at a time."
        )
    ((term, shape),) = held
    return ContractionPlan(
        inputs=inputs,
        output=output,
        shapes=shapes,
        path=tuple((min(pair), max(pair)) for pair in path),
        flops=sum(flops for _, _, flops in alone) + sum(step.flops for step in steps),
        largest_intermediate=largest,
        memory_limit=memory_limit,
        _letters=letters,
        _reductions=tuple(reduction for reduction, _, _ in alone if reduction.diagonals or reduction.sums),
        _steps=tuple(steps),
        _result_layout=arrange(term, shape, output, tuple(sizes[index] for index in output), sizes),
    )


@lru_cache(maxsize=4096)
def _plan_chain(shapes: tuple[Shape, ...]) -> ContractionPlan:
    if not shapes:
        raise TTShapeError("there are no cores; expected at least one, of shape (r_{k-1}, n_k, r_k).")
    for k, shape in enumerate(shapes):
        if len(shape) != 3:
            raise TTShapeError(f"core {k} has shape {tuple(shape)}; expected three sizes, (r_{{k-1}}, n_k, r_k).")
        if k and shapes[k - 1][2] != shape[0]:
            raise TTShapeError(
                f"core {k - 1} ends with rank {shapes[k - 1][2]} but core {k} begins with rank {shape[0]}; "
                "neighbouring cores must share their rank."
            )
    d = len(shapes)
    modes = range(d + 1, 2 * d + 1)
    inputs = tuple((k, modes[k], k + 1) for k in range(d))
    return _plan((inputs, (0, *modes, d)), shapes, "dp" if d <= _LONGEST_EXACT_CHAIN else "auto", None)


def _as_limit(memory_limit: int | None) -> int | None:
    if memory_limit is None:
        return None
    if isinstance(memory_limit, bool) or not isinstance(memory_limit, numbers.Integral):
        raise TTTypeError(f"memory_limit is {memory_limit!r}; expected a number of entries, an int >= 1, or None.")
    if memory_limit < 1:
        raise TTValueError(f"memory_limit is {memory_limit}; expected a number of entries >= 1, or None for no limit.")
    return int(memory_limit)


def _short(count: int) -> str:
    """Write a count of any size in a few digits."""
    return f"{count:.4g}" if count < 10**300 else spell_count(count)
