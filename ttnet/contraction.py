"""Contraction of tensor networks along planned paths.

The cost of a network depends on the order in which its tensors are contracted, by orders of magnitude.
`plan` finds a good order once (the path finders are those of opt_einsum) and compiles it: what is known from
the shapes, such as permutations, the sides of each matrix product and which reshapes can be skipped, is worked
out at planning time. Calling the plan then runs one product for each step and hardly any Python.

Inside, an index is an integer, so a network may have any number of them; letters are read on the way in and
kept only to print the plan in the words of its author.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce

import torch
from opt_einsum.paths import get_path_fn
from torch import Tensor

from ttnet._equation import (
    Equation,
    Shape,
    Term,
    as_shape,
    hashable,
    index_sizes,
    parse,
    shapes_of,
    written,
)
from ttnet._steps import Arrangement, Reduction, Step, arrange, compile_step, reduce_alone
from ttnet.errors import TTShapeError, TTValueError

OPTIMIZERS = (
    "auto",
    "auto-hq",
    "optimal",
    "dp",
    "branch-all",
    "branch-2",
    "branch-1",
    "greedy",
    "random-greedy",
    "random-greedy-128",
)

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
                `torch.result_type` promotes them.

        Returns:
            The contraction, with dimensions in the order of the output indices. Where there is nothing to
            compute it may be a view of an operand.

        Raises:
            TTTypeError: If an operand is not a tensor.
            TTShapeError: If the number of operands or a shape differs from what was planned.

        Example:
            >>> import torch, ttnet
            >>> trace = ttnet.plan("ii->", (3, 3))
            >>> trace(torch.eye(3))
            tensor(3.)
        """
        if shapes_of(tensors) != self.shapes:
            raise _unplanned(tensors, self.shapes)
        return self._run(tensors)

    def _run(self, tensors: Sequence[Tensor]) -> Tensor:
        dtype = tensors[0].dtype
        operands = list(tensors)
        for tensor in tensors:
            if tensor.dtype != dtype:
                dtype = _result_type(tensors)
                operands = [operand.to(dtype) for operand in tensors]
                break
        for number, diagonals, sums in self._reductions:
            reduced = operands[number]
            for first, second in diagonals:
                reduced = reduced.diagonal(0, first, second)
            # Without the dtype, sums of small integers would come back as int64.
            operands[number] = reduced.sum(sums, dtype=dtype) if sums else reduced
        for left, right, left_layout, right_layout, kind, dims, _, _ in self._steps:
            a, b = operands.pop(left), operands.pop(right)
            if left_layout is not None:
                a = left_layout.apply(a)
            if right_layout is not None:
                b = right_layout.apply(b)
            if kind == "mm":
                operands.append(torch.mm(a, b))
            elif kind == "tensordot":
                operands.append(torch.tensordot(a, b, dims))
            elif kind == "bmm":
                operands.append(torch.bmm(a, b))
            else:
                operands.append(a * b)
        result = operands[0]
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
                    {"mm": "matmul", "tensordot": "matmul", "bmm": "batched matmul", "mul": "product"}[step.kind],
                    str(len({*left, *right})),
                    f"{step.flops:.4g}",
                    f"{math.prod(sizes[index] for index in result):.4g}",
                    self._written([left, right], result),
                    self._written(remaining, self.output) if len(remaining) < 8 else f"{len(remaining)} tensors",
                )
            )
        scaling = max((len({*a, *b}) for a, b, _ in (step.terms for step in self._steps)), default=len(sizes))
        lines = [
            f"Contraction           {self._written(self.inputs, self.output)}",
            f"Cost, all at once     {all_at_once:.4g} flops, scaling {len(sizes)}",
            f"Cost, by this path    {self.flops:.4g} flops, scaling {scaling}",
            f"Largest intermediate  {self.largest_intermediate:.4g} entries",
            "",
        ]
        if not self._steps:
            return "\n".join([*lines, "One operand: nothing to contract pairwise."])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join(lines)

    def _written(self, terms: Sequence[Term], output: Term) -> str:
        return f"{written(terms, self._letters)}->{written([output], self._letters)}"


def plan(equation: Equation, *shapes: Sequence[int], optimize: str = "auto") -> ContractionPlan:
    """Find a cheap order for a contraction; plans are cached, so asking again costs next to nothing.

    An index may be shared by any number of operands, repeat within one operand (its diagonal is taken), and
    be missing from the output (it is summed over). Sizes never broadcast.

    Args:
        equation: Letters as in `numpy.einsum`, such as `"ij,jk->ik"`, where a missing output stands for the
            indices that occur once, in alphabetical order; or a pair of integer terms, such as
            `([(0, 1), (1, 2)], (0, 2))`.
        shapes: Shape of each operand.
        optimize: Name of a path finder of opt_einsum, one of `ttnet.contraction.OPTIMIZERS`: "auto" is exact
            for small networks and greedy for large ones, "dp" is slower and finds fewer flops.

    Returns:
        The plan.

    Raises:
        TTTypeError: If the equation is neither of the two kinds, or a shape is not a sequence of integers.
        TTValueError: If the equation cannot be read, or the path finder is unknown.
        TTShapeError: If the shapes do not fit the equation.

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
    return _plan(hashable(equation), tuple(as_shape(k, shape) for k, shape in enumerate(shapes)), str(optimize))


@torch.compiler.allow_in_graph
def contract(
    equation: Equation,
    *tensors: Tensor,
    optimize: str = "auto",
) -> Tensor:
    """Contract tensors along a cheap path, which is planned once for each equation and shapes.

    Args:
        equation: Letters or integer indices, as in `plan`.
        tensors: One tensor for each operand, of any dtypes, all on one device.
        optimize: Name of the path finder, as in `plan`.

    Returns:
        The contraction, with dimensions in the order of the output indices.

    Raises:
        TTTypeError: If an operand is not a tensor, or the equation is of neither kind.
        TTValueError: If the equation cannot be read, or the path finder is unknown.
        TTShapeError: If the tensors do not fit the equation.

    Example:
        >>> import torch
        >>> a, b = torch.ones(2, 3), torch.ones(3, 4)
        >>> contract("ij,jk->ik", a, b).shape == contract(([(0, 1), (1, 2)], (0, 2)), a, b).shape
        True
    """
    return _plan(hashable(equation), shapes_of(tensors), str(optimize))._run(tensors)


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


@torch.compiler.allow_in_graph
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


# --- planning -------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _plan(equation: Equation, shapes: tuple[Shape, ...], optimize: str) -> ContractionPlan:
    inputs, output, letters = parse(equation)
    shapes = tuple(map(tuple, shapes))
    sizes = index_sizes(inputs, shapes, letters)
    try:
        find_path = get_path_fn(optimize)
    except KeyError:
        raise TTValueError(f"optimize is {optimize!r}; expected one of {', '.join(OPTIMIZERS)}.") from None

    uses = Counter(index for term in inputs for index in set(term)) + Counter(output)
    terms, reductions, flops = [], [], 0
    for number, term in enumerate(inputs):
        term, diagonals, sums = reduce_alone(term, uses)
        if diagonals or sums:
            reductions.append(Reduction(number, diagonals, tuple(term.index(index) for index in sums)))
        flops += math.prod(sizes[index] for index in term) if sums else 0
        terms.append(tuple(index for index in term if index not in sums))

    path: list[tuple[int, int]] = []
    if len(terms) > 1:
        # An empty index costs nothing whatever the order, and not every path finder takes it.
        costs = {index: max(size, 1) for index, size in sizes.items()}
        found = find_path([frozenset(term) for term in terms], frozenset(output), costs, None)
        path = [(min(pair), max(pair)) for pair in found]
    held = [(term, tuple(sizes[index] for index in term)) for term in terms]
    steps: list[Step] = []
    for pair in path:
        step, result = compile_step(pair, held, output, sizes)
        steps.append(step)
        held = [entry for k, entry in enumerate(held) if k not in pair] + [result]
    term, shape = held[0]
    return ContractionPlan(
        inputs=inputs,
        output=output,
        shapes=shapes,
        path=tuple(path),
        flops=flops + sum(step.flops for step in steps),
        largest_intermediate=max(
            math.prod(sizes[index] for index in made) for made in [output, *(step.terms[2] for step in steps)]
        ),
        _letters=letters,
        _reductions=tuple(reductions),
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
    return _plan((inputs, (0, *modes, d)), shapes, "dp" if d <= _LONGEST_EXACT_CHAIN else "auto")


# --- running --------------------------------------------------------------------------------------


def _unplanned(tensors: Sequence[Tensor], shapes: tuple[Shape, ...]) -> TTShapeError:
    """Say what is wrong with operands that a plan was not made for."""
    if len(tensors) != len(shapes):
        return TTShapeError(f"{len(tensors)} tensors were given; expected {len(shapes)}, one for each operand.")
    number = next(k for k, tensor in enumerate(tensors) if tensor.shape != shapes[k])
    return TTShapeError(
        f"operand {number} has shape {tuple(tensors[number].shape)}; expected {shapes[number]}, the shape that "
        "this contraction was planned for. Make a plan for the new shapes."
    )


def _result_type(tensors: Sequence[Tensor]) -> torch.dtype:
    """Promote as `torch.result_type` does for two: a scalar tensor lends its kind, not its width."""
    sized = [tensor.dtype for tensor in tensors if tensor.ndim]
    scalar = [tensor.dtype for tensor in tensors if not tensor.ndim]
    if not sized or not scalar:
        return reduce(torch.promote_types, sized or scalar)
    return torch.result_type(
        torch.empty(1, dtype=reduce(torch.promote_types, sized)),
        torch.empty((), dtype=reduce(torch.promote_types, scalar)),
    )
