"""The steps of a planned contraction: each pairwise contraction written as one product of matrices."""

import math
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from ttnet.contraction.equation import Shape, Term


class Arrangement(NamedTuple):
    """What turns a tensor into the layout its consumer needs; None means that there is nothing to do."""

    unflatten: Shape | None
    permute: tuple[int, ...] | None
    flatten: Shape | None
    transpose: bool = False

    def apply(self, tensor: Tensor) -> Tensor:
        """Run it on a tensor of the shape that it was compiled for."""
        unflatten, permute, flatten, transpose = self
        # As functions: the methods take half as long again to read a tuple.
        if unflatten is not None:
            tensor = torch.reshape(tensor, unflatten)
        if permute is not None:
            tensor = torch.permute(tensor, permute)
        if flatten is not None:
            tensor = torch.reshape(tensor, flatten)
        return tensor.mT if transpose else tensor


class Reduction(NamedTuple):
    """What is done to one operand alone, before all else: take diagonals, then sum dimensions out."""

    operand: int
    diagonals: tuple[tuple[int, int], ...]
    squeeze: Shape | None
    sums: tuple[int, ...]

    def apply(self, tensor: Tensor) -> Tensor:
        """Run it on a tensor of the shape that it was compiled for."""
        for first, second in self.diagonals:
            tensor = tensor.diagonal(0, first, second)
        if self.squeeze is not None:
            tensor = tensor.reshape(self.squeeze)
        # Without the dtype, sums of small integers would come back as int64.
        return tensor.sum(self.sums, dtype=tensor.dtype) if self.sums else tensor


class Step(NamedTuple):
    """One pairwise contraction; `left` and `right` are positions to pop, one after the other."""

    left: int
    right: int
    left_layout: Arrangement | None
    right_layout: Arrangement | None
    kind: str  # mm: matrix product, bmm: batched matrix product, mul: product without a sum
    terms: tuple[Term, Term, Term]
    flops: int


def compile_reduction(
    number: int, term: Term, uses: Counter[int], sizes: dict[int, int]
) -> tuple[Reduction, tuple[Term, Shape], int]:
    """Resolve what concerns one operand alone, repeated indices and those used nowhere else; give what is left.

    That is what is held of the operand, as in `compile_step`, and the flops of the sum.
    """
    diagonals = []
    while len(set(term)) < len(term):
        first = next(k for k, index in enumerate(term) if index in term[k + 1 :])
        second = term.index(term[first], first + 1)
        diagonals.append((first, second))
        # torch.diagonal puts the diagonal last.
        term = (*(index for k, index in enumerate(term) if k not in (first, second)), term[first])
    left = tuple(index for index in term if uses[index] > 1)
    wide = [index for index in term if sizes[index] != 1]
    sums = tuple(k for k, index in enumerate(wide) if uses[index] == 1)
    if not sums:
        return Reduction(number, tuple(diagonals), None, ()), (left, tuple(sizes[index] for index in term)), 0
    squeeze = tuple(sizes[index] for index in wide) if len(wide) < len(term) else None
    shape = tuple(sizes[index] for index in wide if uses[index] > 1)
    return Reduction(number, tuple(diagonals), squeeze, sums), (left, shape), math.prod(sizes[i] for i in wide)


def compile_step(
    pair: tuple[int, int],
    held: list[tuple[Term, Shape]],
    uses: Counter[int],
    position: dict[int, int],
    sizes: dict[int, int],
) -> Step:
    """Turn the contraction of two held tensors into a matrix product, and put its result in their place.

    What is held of a tensor is its indices in order and its actual shape, in which groups of neighbouring indices may
    still be fused: a result is unfused only where its consumer has to permute it. `uses` counts the held tensors, and
    the output, in which an index occurs; the product with the lower `position` comes first in the result.
    """
    left, right = sorted(pair, key=lambda k: min((position.get(i, len(position)) for i in held[k][0]), default=0))
    right -= right > left
    (a, a_shape), (b, b_shape) = held.pop(left), held.pop(right)
    # The shared indices follow the order of the larger tensor, so that it is the smaller one that is copied.
    larger = max(a, b, key=lambda term: math.prod(sizes[index] for index in term))
    shared = set(a) & set(b)
    batch = [index for index in larger if index in shared and uses[index] > 2]
    summed = [index for index in larger if index in shared and uses[index] == 2]
    a_free = [index for index in a if index not in shared]
    b_free = [index for index in b if index not in shared]
    result = (*batch, *a_free, *b_free)
    uses.subtract(shared)

    n_batch, n_a, n_b, n_summed = (math.prod(sizes[i] for i in group) for group in (batch, a_free, b_free, summed))
    kind = "mul" if not summed else "bmm" if batch else "mm"
    first = () if kind == "mm" else (n_batch,)
    a_layout = arrange_matrix(a, a_shape, (batch, a_free, summed), (*first, n_a, n_summed), sizes)
    b_layout = arrange_matrix(b, b_shape, (batch, summed, b_free), (*first, n_summed, n_b), sizes)
    made: Shape = (*first, n_a, n_b)
    flops = n_batch * n_a * n_b * n_summed * (2 if summed else 1)
    held.append((result, made))
    return Step(left, right, a_layout, b_layout, kind, (a, b, result), flops)


def arrange(have: Term, shape: Shape, want: Term, target: Shape, sizes: dict[int, int]) -> Arrangement | None:
    """Say how to bring a tensor with indices `have`, held in `shape`, to the order `want` in shape `target`."""
    # Dimensions of size 1 may move freely: they change the shape, never the order of the entries.
    have, want = (tuple(index for index in term if sizes[index] != 1) for term in (have, want))
    if have == want:
        return None if shape == target else Arrangement(None, None, target)
    full, permuted = (tuple(sizes[index] for index in term) for term in (have, want))
    return Arrangement(
        unflatten=None if shape == full else full,
        permute=tuple(map(have.index, want)),
        flatten=None if permuted == target else target,
    )


def arrange_matrix(
    have: Term, shape: Shape, groups: tuple[list[int], list[int], list[int]], target: Shape, sizes: dict[int, int]
) -> Arrangement | None:
    """Say how to bring a tensor to matrices of shape `target`, given the indices of batch, rows and columns."""
    batch, rows, columns = groups
    plain = arrange(have, shape, (*batch, *rows, *columns), target, sizes)
    if plain is None or plain.permute is None:
        return plain
    flipped = arrange(have, shape, (*batch, *columns, *rows), (*target[:-2], target[-1], target[-2]), sizes)
    if flipped is None or flipped.permute is None:
        return (flipped or Arrangement(None, None, None))._replace(transpose=True)  # a view, where `plain` is a copy
    return plain
