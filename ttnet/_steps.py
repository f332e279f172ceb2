"""The steps of a planned contraction: each pairwise contraction written as one product of matrices."""

import math
from collections import Counter
from typing import NamedTuple

from torch import Tensor

from ttnet._equation import Shape, Term


class Arrangement(NamedTuple):
    """What turns a tensor into the layout its consumer needs; None means that there is nothing to do."""

    unflatten: Shape | None
    permute: tuple[int, ...] | None
    flatten: Shape | None

    def apply(self, tensor: Tensor) -> Tensor:
        unflatten, permute, flatten = self
        if unflatten is not None:
            tensor = tensor.reshape(unflatten)
        if permute is not None:
            tensor = tensor.permute(permute)
        return tensor if flatten is None else tensor.reshape(flatten)


class Reduction(NamedTuple):
    """What is done to one operand alone, before all else: take diagonals, then sum dimensions out."""

    operand: int
    diagonals: tuple[tuple[int, int], ...]
    sums: tuple[int, ...]


class Step(NamedTuple):
    """One pairwise contraction; `left` and `right` are positions to pop, one after the other."""

    left: int
    right: int
    left_layout: Arrangement | None
    right_layout: Arrangement | None
    kind: str  # mm or tensordot: matrix product, bmm: batched matrix product, mul: product without a sum
    dims: tuple[tuple[int, ...], tuple[int, ...]] | None  # of a tensordot
    terms: tuple[Term, Term, Term]
    flops: int


def reduce_alone(term: Term, uses: Counter[int]) -> tuple[Term, tuple[tuple[int, int], ...], list[int]]:
    """Resolve what concerns one operand alone: repeated indices, and indices used nowhere else."""
    diagonals = []
    while len(set(term)) < len(term):
        first = next(k for k, index in enumerate(term) if index in term[k + 1 :])
        second = term.index(term[first], first + 1)
        diagonals.append((first, second))
        # torch.diagonal puts the diagonal last.
        term = (*(index for k, index in enumerate(term) if k not in (first, second)), term[first])
    return term, tuple(diagonals), [index for index in term if uses[index] == 1]


def compile_step(
    pair: tuple[int, int], held: list[tuple[Term, Shape]], output: Term, sizes: dict[int, int]
) -> tuple[Step, tuple[Term, Shape]]:
    """Turn the contraction of two held tensors into a matrix product; say what is held of its result.

    What is held of a tensor is its indices in order and its actual shape, in which groups of neighbouring
    indices may still be fused: a result is unfused only where its consumer has to permute it.
    """
    # The last product comes out in the order of the output, the others in the order the indices are given in.
    position = {index: k for k, index in enumerate(output if len(held) == 2 else sizes)}
    left, right = sorted(pair, key=lambda k: min((position.get(i, len(position)) for i in held[k][0]), default=0))
    (a, a_shape), (b, b_shape) = held[left], held[right]
    needed = set(output).union(*(term for k, (term, _) in enumerate(held) if k not in pair))
    # The shared indices follow the order of the larger tensor, so that it is the smaller one that is copied.
    larger = max(a, b, key=lambda term: math.prod(sizes[index] for index in term))
    shared = [index for index in larger if index in a and index in b]
    batch = [index for index in shared if index in needed]
    summed = [index for index in shared if index not in needed]
    a_free = [index for index in a if index not in shared]
    b_free = [index for index in b if index not in shared]
    result = (*batch, *a_free, *b_free)

    n_batch, n_a, n_b, n_summed = (math.prod(sizes[i] for i in group) for group in (batch, a_free, b_free, summed))
    kind = "mul" if not summed else "bmm" if batch else "mm"
    first = () if kind == "mm" else (n_batch,)
    a_layout = arrange(a, a_shape, (*batch, *a_free, *summed), (*first, n_a, n_summed), sizes)
    b_layout = arrange(b, b_shape, (*batch, *summed, *b_free), (*first, n_summed, n_b), sizes)
    made: Shape = (*first, n_a, n_b)
    dims = None
    if kind == "mm" and any(layout is not None and layout.permute for layout in (a_layout, b_layout)):
        # The same product; tensordot permutes at less overhead than separate calls would.
        kind = "tensordot"
        a_layout = arrange(a, a_shape, a, tuple(sizes[index] for index in a), sizes)
        b_layout = arrange(b, b_shape, b, tuple(sizes[index] for index in b), sizes)
        made = tuple(sizes[index] for index in result)
        dims = (tuple(map(a.index, summed)), tuple(map(b.index, summed)))
    flops = n_batch * n_a * n_b * n_summed * (2 if summed else 1)
    step = Step(left, right - (right > left), a_layout, b_layout, kind, dims, (a, b, result), flops)
    return step, (result, made)


def arrange(have: Term, shape: Shape, want: Term, target: Shape, sizes: dict[int, int]) -> Arrangement | None:
    """Say how to bring a tensor with indices `have`, held in `shape`, to the order `want` in shape `target`."""
    # Dimensions of size 1 may move freely: they change the shape, never the order of the entries.
    if [index for index in have if sizes[index] != 1] == [index for index in want if sizes[index] != 1]:
        return None if shape == target else Arrangement(None, None, target)
    full, permuted = tuple(sizes[index] for index in have), tuple(sizes[index] for index in want)
    return Arrangement(
        unflatten=None if shape == full else full,
        permute=tuple(have.index(index) for index in want),
        flatten=None if permuted == target else target,
    )
