"""Run a contraction order: merge the cores, sweep the tokens through them, and come back with the gradients.

Between two steps a sweep from the left holds, for every token, a tensor `(n so far, r m, m to come)` in which `r` is
the bond that is open and `m` the next mode to contract. A step multiplies the middle by a matrix, and
`(n so far, n r', m to come)` is the next such tensor without any permutation. From the right it is the mirror image.

Under autograd the tokens and the cores are kept for the backward pass, which sweeps once more: that costs at most as
much again as the forward pass, while the intermediates of a train can be many times larger than the tokens. Merged
groups are kept only where merging is a good part of the work, for few tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ttnet.nn.orders import Group, Order, Step, Tree, is_folded, machine_for
from ttnet.numerics.scales import compute_dtype

# --- merging --------------------------------------------------------------------------------------


def merged(order: Order, cores: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Merge the cores of every group, in single precision at least.

    Args:
        order: The order.
        cores: Cores of shapes `(r, m, n, r')`.
        dtype: The dtype of the result.

    Returns:
        For each group a matrix `(outer, inner)` for a sweep, or a table of them `(rows, inner, outer)` for a lookup,
        which is the view of a core that is a group by itself.
    """
    cores = _wide(cores)
    return [_arrange(order, group, _merge(group.tree, cores)).to(dtype) for group in order.groups]


def _wide(cores: Sequence[Tensor]) -> Sequence[Tensor]:
    dtype = compute_dtype(cores[0].dtype)
    return cores if dtype == cores[0].dtype else [core.to(dtype) for core in cores]


def _merge(tree: Tree, cores: Sequence[Tensor]) -> Tensor:  # (r, m_1 n_1 ... m_p n_p, r')
    if isinstance(tree, int):
        return cores[tree].flatten(1, 2)
    left, right = _merge(tree[0], cores), _merge(tree[1], cores)
    product = left.reshape(-1, left.shape[-1]) @ right.reshape(right.shape[0], -1)
    return product.view(left.shape[0], -1, right.shape[-1])


def _pull(tree: Tree, cores: Sequence[Tensor], grad: Tensor, grads: list[Tensor | None]) -> None:
    """Take the gradient of a merged group to the cores; each half is merged again, which costs less than the whole."""
    if isinstance(tree, int):
        grads[tree] = grad.reshape(cores[tree].shape)
        return
    left, right = (_merge(branch, cores) for branch in tree)
    a, b = left.reshape(-1, left.shape[-1]), right.reshape(right.shape[0], -1)
    grad = grad.reshape(a.shape[0], b.shape[1])
    left_grad, right_grad = grad @ b.mH, a.mH @ grad
    del grad, a, b
    _pull(tree[0], cores, left_grad.view(left.shape), grads)
    _pull(tree[1], cores, right_grad.view(right.shape), grads)


def _arrange(order: Order, group: Group, core: Tensor) -> Tensor:
    step = group.step
    core = core.view(group.sizes).permute(group.axes)
    if order.kind == "lookup":
        return core.reshape(group.rows, step.inner, step.outer)
    if order.kind == "left":
        return core.reshape(step.inner, step.outer).mT
    return core.reshape(step.outer, step.inner)


def _rearrange(order: Order, group: Group, matrix: Tensor) -> Tensor:
    """Undo `_arrange`."""
    matrix = matrix.mT if order.kind == "left" else matrix
    arranged = matrix.reshape([group.sizes[axis] for axis in group.axes])
    return arranged.permute(group.back).reshape(group.sizes[0], -1, group.sizes[-1])


# --- sweeping -------------------------------------------------------------------------------------


def _multiply(state: Tensor, matrix: Tensor, step: Step) -> Tensor:
    if step.free == 1:
        return F.linear(state.reshape(-1, step.inner), matrix)
    x = state.reshape(-1, step.inner, step.free)
    if is_folded(step):
        return F.linear(x.mT.reshape(-1, step.inner), matrix).view(-1, step.free, step.outer).mT
    return torch.bmm(matrix.expand(len(x), -1, -1), x)


def sweep(
    x: Tensor,  # (tokens, in_size)
    order: Order,
    matrices: Sequence[Tensor],
) -> Tensor:  # (tokens, out_size)
    """Multiply tokens by a TT-matrix whose groups are merged; native to autograd.

    Args:
        x: The tokens.
        order: The order.
        matrices: What `merged` gave, of the dtype of `x`.

    Returns:
        The product.
    """
    tokens = x.shape[0]
    for group, matrix in zip(order.groups, matrices, strict=True):
        x = _multiply(x, matrix, group.step)
    return x.reshape(tokens, order.columns)


def chunk_size(order: Order, device: torch.device) -> int:
    """Give the number of tokens to sweep at a time, so that intermediates stay in the cache or in bounds."""
    return max(16, machine_for(device.type).chunk // max(order.largest, 1))


def _sweep_in_chunks(x: Tensor, order: Order, matrices: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """Sweep without autograd, in pieces where intermediates are large, and add the bias in place."""
    chunk = chunk_size(order, x.device)
    if len(x) <= chunk:
        y = sweep(x, order, matrices)
    else:
        y = x.new_empty(len(x), order.columns)
        for start in range(0, len(x), chunk):
            y[start : start + chunk] = sweep(x[start : start + chunk], order, matrices)
    return y if bias is None else y.add_(bias)


def _states(x: Tensor, order: Order, matrices: Sequence[Tensor]) -> list[Tensor]:
    """Give the tokens before each step."""
    states = [x]
    for group, matrix in zip(order.groups[:-1], matrices, strict=False):
        states.append(_multiply(states[-1], matrix, group.step))
    return states


def _sweep_back(
    states: list[Tensor],
    grad: Tensor,  # (tokens, out_size)
    order: Order,
    matrices: Sequence[Tensor],
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, list[Tensor]]:
    """Give the gradients of the tokens and of the merged groups; `needs` says which, and the states are used up."""
    shape = states[0].shape
    grads: list[Tensor] = []
    for k in reversed(range(len(states))):
        step, matrix = order.groups[k].step, matrices[k]
        if needs[1]:
            grads.append(_outer(grad, states[k], step, order.kind == "left"))
        states.pop()
        if k == 0 and not needs[0]:
            return None, grads[::-1]
        grad = _multiply(grad, matrix.mH, Step(step.batch, step.outer, step.inner, step.free))
    return grad.reshape(shape), grads[::-1]


def _outer(grad: Tensor, state: Tensor, step: Step, transposed: bool) -> Tensor:  # (outer, inner)
    """Give the gradient of a step's matrix, laid out in memory as the matrix itself is."""
    a, b, rows, columns = grad, state.conj(), step.outer, step.inner
    if transposed:
        a, b, rows, columns = b, a, columns, rows
    if step.free == 1:
        result = a.reshape(-1, rows).mT @ b.reshape(-1, columns)
    else:
        a, b = a.reshape(-1, rows, step.free), b.reshape(-1, columns, step.free)
        if rows * columns < (rows + columns) * step.free:  # to sum small products is cheaper than to permute factors
            result = torch.bmm(a, b.mT).sum(0)
        else:
            result = a.transpose(0, 1).reshape(rows, -1) @ b.transpose(0, 1).reshape(columns, -1).mT
    return result.mT if transposed else result


# --- looking up -----------------------------------------------------------------------------------


def take(
    table: Tensor,  # (rows, *shape)
    ids: Tensor,  # (tokens,)
) -> Tensor:  # (tokens, *shape)
    """Choose rows of a table, with gradients that add up in a fixed order.

    Args:
        table: The table.
        ids: Row numbers.

    Returns:
        The rows.
    """
    few = not _is_traced() and not torch.is_grad_enabled() and ids.shape[0] < table.shape[0]
    if table.is_complex() or (few and not table.is_contiguous()):  # torch's embedding has no gradient for these,
        return table.index_select(0, ids)  # and would copy a table that is the view of a core
    return F.embedding(ids, table.flatten(1)).unflatten(1, table.shape[1:])


def digits(
    ids: Tensor,  # (tokens,)
    order: Order,
) -> list[Tensor]:
    """Take row numbers apart into one number for each group; the last group's is the fastest.

    Args:
        ids: Row numbers.
        order: An order for lookups.

    Returns:
        One tensor of shape `(tokens,)` for each group.
    """
    found: list[Tensor] = []
    for group in reversed(order.groups):
        found.append(ids % group.rows if group.start else ids)
        ids = ids // group.rows if group.rows > 1 else ids
    return found[::-1]


def lookup(
    ids: Tensor,  # (tokens,)
    order: Order,
    tables: Sequence[Tensor],
) -> Tensor:  # (tokens, columns)
    """Form rows of a TT-matrix whose groups are merged; native to autograd.

    Args:
        ids: Row numbers.
        order: An order for lookups.
        tables: What `merged` gave.

    Returns:
        The rows.
    """
    state = None
    for group, table, chosen in zip(order.groups, tables, digits(ids, order), strict=True):
        state = _look_up(state, table, chosen, group.step)
    assert state is not None  # there is at least one group
    return state.reshape(ids.shape[0], order.columns)


def _look_up(state: Tensor | None, table: Tensor, chosen: Tensor, step: Step) -> Tensor:
    if len(table) == 1 and state is not None:
        return state.reshape(-1, step.inner) @ table[0]
    matrices = take(table, chosen)
    return matrices if state is None else torch.bmm(_blocks(state, step, 0), matrices)


def _blocks(state: Tensor, step: Step, side: int) -> Tensor:
    return state.reshape(-1, step.batch, step.outer if side else step.inner)


def _look_up_back(
    ids: Tensor,  # (tokens,)
    grad: Tensor,  # (tokens, columns)
    order: Order,
    tables: Sequence[Tensor],
) -> list[Tensor]:
    """Give the gradients of the merged groups."""
    chosen = digits(ids, order)
    states: list[Tensor | None] = [None]
    for group, table, digit in zip(order.groups[:-1], tables, chosen, strict=False):
        states.append(_look_up(states[-1], table, digit, group.step))
    grads = []
    for k in reversed(range(len(tables))):
        step, table, state = order.groups[k].step, tables[k], states.pop()
        if state is not None and len(table) == 1:
            grad = grad.reshape(-1, step.outer)
            state = state.reshape(-1, step.inner)
            grads.append((state.mH @ grad).view(table.shape))
            grad = grad @ table[0].mH
            continue
        row_grads = grad
        if state is not None:
            grad = _blocks(grad, step, 1)
            row_grads = torch.bmm(_blocks(state, step, 0).mH, grad)
            grad = torch.bmm(grad, take(table, chosen[k]).mH)
        # For few ids laid out in memory as the table is, which may be the view of a core; for many as sums go fastest.
        few = len(ids) < len(table)
        zeros = torch.zeros_like(table) if few else table.new_zeros(table.shape).flatten(1)
        added = zeros.index_add_(0, chosen[k], row_grads.reshape(-1, *zeros.shape[1:]))
        grads.append(added.view(table.shape))
    return grads[::-1]


# --- autograd -------------------------------------------------------------------------------------


def _pull_all(order: Order, cores: Sequence[Tensor], matrix_grads: list[Tensor]) -> list[Tensor | None]:
    """Take the gradients of the merged groups, which are used up, to the cores."""
    wide = _wide(cores)
    grads: list[Tensor | None] = [None] * len(cores)
    for group in reversed(order.groups):
        _pull(group.tree, wide, _rearrange(order, group, matrix_grads.pop().to(wide[0].dtype)), grads)
    return [None if grad is None else grad.to(core.dtype) for grad, core in zip(grads, cores, strict=True)]


class _Product(torch.autograd.Function):
    """Tokens times a TT-matrix, plus a bias; keeps the tokens and the cores for the backward pass.

    The merged groups are kept as well where merging them again would take long, and intermediates that are small.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Order, bias: Tensor | None, *cores: Tensor) -> Tensor:
        matrices = merged(order, cores, x.dtype)
        ctx.save_for_backward(x, *cores)
        ctx.order, ctx.bias_dtype = order, None if bias is None else bias.dtype
        ctx.kept, ctx.states = matrices if order.kept else None, None
        if len(order.groups) == 1 or len(x) * order.between > machine_for(x.device.type).chunk:
            return _sweep_in_chunks(x, order, matrices, bias)
        ctx.states = _states(x, order, matrices)[1:]
        y = _multiply(ctx.states[-1], matrices[-1], order.groups[-1].step).reshape(len(x), order.columns)
        return y if bias is None else y.add_(bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *cores = ctx.saved_tensors
        order, matrices, states = ctx.order, ctx.kept, ctx.states
        ctx.kept = ctx.states = None
        if torch.is_grad_enabled():  # gradients of gradients flow through what leads to these
            matrices = states = None
        if matrices is None:
            matrices = merged(order, cores, x.dtype)
        needs = (ctx.needs_input_grad[0], any(ctx.needs_input_grad[3:]))
        bias_grad = grad.sum(0).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        if states is None:
            x_grad, matrix_grads = _sweep_back_in_chunks(x, grad, order, matrices, needs)
        else:
            x_grad, matrix_grads = _sweep_back([x, *states], grad, order, matrices, needs)
        del matrices, states
        grads = _pull_all(order, cores, matrix_grads) if needs[1] else [None] * len(cores)
        return x_grad, None, bias_grad, *grads


def _sweep_back_in_chunks(
    x: Tensor, grad: Tensor, order: Order, matrices: Sequence[Tensor], needs: tuple[bool, bool]
) -> tuple[Tensor | None, list[Tensor]]:
    chunk = chunk_size(order, x.device)
    if len(x) <= chunk:
        return _sweep_back(_states(x, order, matrices), grad, order, matrices, needs)
    x_grad = x.new_empty(x.shape) if needs[0] else None
    sums: list[Tensor] = []
    for start in range(0, len(x), chunk):
        piece = slice(start, start + chunk)
        part, grads = _sweep_back(_states(x[piece], order, matrices), grad[piece], order, matrices, needs)
        if x_grad is not None and part is not None:
            x_grad[piece] = part
        grads = [g.to(compute_dtype(g.dtype)) for g in grads]
        sums = [a + b for a, b in zip(sums, grads, strict=True)] if sums else grads
    return x_grad, sums


class _Lookup(torch.autograd.Function):
    """Rows of a TT-matrix; keeps their numbers and the cores for the backward pass and nothing else."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, order: Order, *cores: Tensor) -> Tensor:
        ctx.save_for_backward(ids, *cores)
        ctx.order = order
        return _lookup_wide(ids, order, cores)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ids, *cores = ctx.saved_tensors
        order, wide = ctx.order, compute_dtype(grad.dtype)
        table_grads = _look_up_back(ids, grad.to(wide), order, merged(order, cores, wide))
        return None, None, *_pull_all(order, cores, table_grads)


def _is_traced() -> bool:
    """Tell whether a compiler or a transform of torch.func is at work, which needs plain operations."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def product(
    x: Tensor,  # (tokens, in_size)
    order: Order,
    bias: Tensor | None,  # (out_size,)
    cores: Sequence[Tensor],  # (r, m, n, r')
) -> Tensor:  # (tokens, out_size)
    """Multiply tokens by a TT-matrix and add a bias, with gradients for all three.

    Args:
        x: The tokens.
        order: The order.
        bias: The bias, or None.
        cores: The cores.

    Returns:
        The product, of the dtype of `x`.
    """
    if _is_traced():
        y = sweep(x, order, merged(order, cores, x.dtype))
        return y if bias is None else y + bias.to(y.dtype)
    if torch.is_grad_enabled():
        return _Product.apply(x, order, bias, *cores)
    return _sweep_in_chunks(x, order, merged(order, cores, x.dtype), bias)


def rows(
    ids: Tensor,  # (tokens,)
    order: Order,
    cores: Sequence[Tensor],  # (r, m, n, r')
) -> Tensor:  # (tokens, columns)
    """Form rows of a TT-matrix, with gradients for its cores.

    Args:
        ids: Row numbers, all of them valid.
        order: The order.
        cores: The cores.

    Returns:
        The rows.
    """
    if torch.is_grad_enabled() and not _is_traced():
        return _Lookup.apply(ids, order, *cores)
    return _lookup_wide(ids, order, cores)


def _lookup_wide(ids: Tensor, order: Order, cores: Sequence[Tensor]) -> Tensor:
    dtype = cores[0].dtype
    return lookup(ids, order, merged(order, cores, compute_dtype(dtype))).to(dtype)
