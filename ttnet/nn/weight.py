"""The matrix of a layer, held as the trainable cores of a train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ttnet.errors import TTIndexError, TTShapeError, TTTypeError
from ttnet.nn.kernels import lookup, merged, product, rows, sweep, take
from ttnet.nn.layout import Layout
from ttnet.nn.offload import bring_back
from ttnet.nn.orders import CoreShape, Order, cheapest_order, order_table, whole
from ttnet.numerics.scales import compute_dtype
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

# Seconds that sorting takes, for each id and for a call.
_SORTING, _SORTING_CALL = 6e-8, 2e-5

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # since torch 2.7

_Stamp = tuple[int, tuple[tuple[int, int], ...]]

# Fused optimisers change parameters without raising their version, so every optimiser's steps are counted, too.
_optimiser_steps = 0


def _note_step(*_: Any) -> None:
    global _optimiser_steps
    _optimiser_steps += 1


register_optimizer_step_post_hook(_note_step)


class TTWeight(nn.Module):
    """A trainable matrix `(rows, cols)` held as the cores of a train; what `TTLinear` and `TTEmbedding` are made of.

    Two layers that hold the same `TTWeight` are tied.

    Args:
        layout: Its modes and ranks. Its rows may be more than those of the matrix; they are then never seen.
        rows: Number of rows; None for all of the layout's.
        device: Where the cores are made.
        dtype: Their dtype.

    Example:
        >>> weight = TTWeight(Layout.choose(12, 8, kind="interleaved", ranks=2, modes=((3, 4), (2, 4))))
        >>> weight.reset_parameters(1.0)
        >>> weight.value
        TTMatrix([3x2]-2-[4x4], float32)
        >>> weight.matrix().shape
        torch.Size([12, 8])
    """

    cores: nn.ParameterList
    fixed_row: Tensor | None

    def __init__(
        self,
        layout: Layout,
        rows: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.rows, self.cols = layout.rows if rows is None else rows, layout.cols
        self.cores = nn.ParameterList(torch.empty(shape, device=device, dtype=dtype) for shape in layout.core_shapes)
        self.fixed: int | None = None
        self.register_buffer("fixed_row", None)
        self._held: dict[tuple[Order, torch.dtype], tuple[_Stamp, list[Tensor], list[Tensor]]] = {}
        self._plan()

    @classmethod
    def of(cls, cores: Sequence[Tensor], layout: Layout, rows: int | None = None) -> TTWeight:
        """Make a weight of given cores, which are copied.

        Args:
            cores: The cores, of the layout's shapes.
            layout: The modes and ranks.
            rows: As for the class.

        Returns:
            The weight.

        Example:
            >>> layout = Layout("aligned", (3,), (2,), (1, 1, 1))
            >>> TTWeight.of([torch.ones(1, 3, 1), torch.ones(1, 2, 1)], layout).matrix().detach()
            tensor([[1., 1.],
                    [1., 1.],
                    [1., 1.]])
        """
        weight = cls(layout, rows, device="meta")
        for k, core in enumerate(cores):
            weight.cores[k] = nn.Parameter(core.detach().clone(memory_format=torch.contiguous_format))
        weight._plan()
        return weight

    def fix_row(self, row: int) -> None:
        """Hold a row outside of the train, as a buffer that is not trained; its numbers are zero at first.

        Args:
            row: Its number.
        """
        core = self.cores[0]
        self.fixed = row
        self.register_buffer("fixed_row", torch.zeros(self.cols, device=core.device, dtype=core.dtype))

    @property
    def value(self) -> TensorTrain | TTMatrix:
        """The train (aligned) or TT-matrix (interleaved), hidden rows included, whose cores are the parameters."""
        cores = self._resident()
        return TensorTrain(cores) if self.layout.kind == "aligned" else TTMatrix(cores)

    @torch.no_grad()
    def set_value(self, value: TensorTrain | TTMatrix) -> None:
        """Take over the cores of a train of the same modes and of any ranks.

        A core of the same shape stays the same parameter, another one is replaced by a new parameter.

        Args:
            value: What `value` gives, with other numbers or ranks.

        Raises:
            TTTypeError: If it is of the other kind.
            TTShapeError: If its modes differ.

        Example:
            >>> weight = TTWeight(Layout.choose(12, 8, kind="aligned", ranks=2, modes=((3, 4), (2, 4))))
            >>> weight.reset_parameters(1.0)
            >>> weight.set_value(weight.value.round(max_rank=1))
            >>> weight.layout.ranks
            (1, 1, 1, 1, 1)
        """
        kind = TensorTrain if self.layout.kind == "aligned" else TTMatrix
        if not isinstance(value, kind):
            raise TTTypeError(
                f"value is a {type(value).__name__}; expected a {kind.__name__}, as the layout is {self.layout.kind!r}."
            )
        layout = self.layout.with_ranks(value.ranks)
        if layout.core_shapes != tuple(tuple(core.shape) for core in value.cores):
            raise TTShapeError(
                f"value is {value!r}; expected the modes of the layer, {self.layout.row_modes} for the rows and "
                f"{self.layout.col_modes} for the columns."
            )
        for k, core in enumerate(value.cores):
            old = self.cores[k]
            if old.shape == core.shape:
                old.copy_(core)
            else:
                new = core.detach().to(device=old.device, dtype=old.dtype, copy=True)
                self.cores[k] = nn.Parameter(new, requires_grad=old.requires_grad)
        self.layout = layout
        self.forget()
        self._plan()

    @torch.no_grad()
    def reset_parameters(self, variance: float) -> None:
        """Draw the cores so that the entries of the matrix have a mean square of `variance`.

        A core maps its column mode and the bond after it to the bond before it and its row mode. All are drawn
        orthogonal as such maps, so that the singular values of the matrix spread as little as those of a dense random
        one, while independent entries would spread them the more the longer the train. One factor, shared by all
        cores, then sets the mean square, whatever the ranks, the order and the layout.

        Args:
            variance: Above 0.
        """
        if self.cores[0].is_meta:
            return
        drawn = []
        for core, (r, m, n, s) in zip(self.cores, self.layout.pair_shapes, strict=True):
            drawn.append(_draw_orthogonal(r * m, n * s, core).reshape(core.shape))
        wide = torch.complex128 if drawn[0].is_complex() else torch.float64
        flat = TensorTrain(core.reshape(r, -1, s).to(wide) for core, (r, _, _, s) in self._with_shapes(drawn))
        wanted = (math.log(variance) + math.log(self.layout.rows * self.layout.cols)) / 2
        factor = math.exp((wanted - float(flat.log_norm())) / len(drawn))
        for parameter, core in zip(self.cores, drawn, strict=True):
            parameter.copy_(core * factor)

    def _with_shapes(self, cores: Sequence[Tensor]) -> list[tuple[Tensor, CoreShape]]:
        return list(zip(cores, self.layout.pair_shapes, strict=True))

    # --- using it -----------------------------------------------------------------------------

    def matrix(self) -> Tensor:  # (rows, cols)
        """Form the dense matrix, with gradients; costs one merge of all cores.

        Returns:
            The matrix.
        """
        (table,) = merged(self._dense_order, self._pairs(False), self.cores[0].dtype)
        table = table[: self.rows, 0]
        if self.fixed_row is None:
            return table
        numbers = torch.arange(self.rows, device=table.device)
        return torch.where(self._is_fixed(numbers)[:, None], self.fixed_row, table)

    def multiply(
        self,
        x: Tensor,  # (*batch, rows), or (*batch, cols) if transposed
        *,
        bias: Tensor | None = None,  # (cols,), or (rows,) if transposed
        transposed: bool = False,
        hold: int = 0,
    ) -> Tensor:  # (*batch, cols), or (*batch, rows)
        """Multiply row vectors by the matrix or its transpose, in the cheapest order, and add a bias.

        Args:
            x: The vectors, of the dtype of the cores.
            bias: The bias, or None.
            transposed: Whether to multiply by the transpose.
            hold: Bytes of merged cores that may be held for the next call; 0 to hold none.

        Returns:
            The products.
        """
        device = x.device.type
        if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(device))
        elif x.dtype != self.cores[0].dtype:
            raise TTTypeError(f"x has dtype {x.dtype}, but the layer's is {self.cores[0].dtype}; convert one of them.")
        with torch.autocast(device, enabled=False):  # cores are merged in single precision all the same
            return self._multiply(x, bias, transposed, hold)

    def _multiply(self, x: Tensor, bias: Tensor | None, transposed: bool, hold: int) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        cores = self._pairs(transposed)
        exact = not transposed or (self.rows == self.layout.rows and self.fixed_row is None)
        inner_bias = bias if exact else None  # otherwise the result is yet to be put right
        if hold and self._may_hold():
            order = cheapest_order(
                self._shapes[transposed], len(tokens), device=x.device.type, limit=hold // x.element_size()
            )
            y = sweep(tokens, order, self._merged(order, cores, x.dtype, hold))
            y = y if inner_bias is None else y + inner_bias.to(y.dtype)
        else:
            y = product(tokens, self._order(tokens.shape[0], transposed), inner_bias, cores)
        if transposed and self.rows < self.layout.rows:
            y = y[:, : self.rows].contiguous()
        if self.fixed_row is not None:
            y = self._with_fixed_row(tokens, y, transposed)
        if bias is not None and not exact:
            y = y + bias.to(y.dtype)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _with_fixed_row(self, x: Tensor, y: Tensor, transposed: bool) -> Tensor:
        """Correct a product for the row that the train does not hold."""
        row = cast(Tensor, self.fixed_row).to(x.dtype)
        if transposed:
            numbers = torch.arange(self.rows, device=x.device)
            return torch.where(self._is_fixed(numbers), (x @ row)[:, None], y)
        held = rows(torch.tensor([self.fixed], device=x.device), self._order(1, None), self._pairs(False))
        return y + x[:, self.fixed, None] * (row - held[0])

    def look_up(
        self,
        ids: Tensor,  # (*batch,)
        *,
        hold: int = 0,
    ) -> Tensor:  # (*batch, cols)
        """Form the rows of the given numbers, in the cheapest order.

        Args:
            ids: Row numbers from 0 to `rows - 1`, of an integer dtype.
            hold: Bytes of merged cores that may be held for the next call; 0 to hold none.

        Returns:
            The rows.

        Raises:
            TTIndexError: If a number is out of range.
        """
        flat = ids.reshape(-1)
        flat = flat if flat.dtype in (torch.int64, torch.int32) else flat.long()
        self._check_ids(flat)
        once, back = self._distinct(flat)
        found = self._rows(once, hold)
        if back is not None:
            found = take(found, back)
        if self.fixed_row is not None:
            found = torch.where(self._is_fixed(flat)[:, None], self.fixed_row, found)
        return found.reshape(*ids.shape, self.cols)

    def _is_fixed(self, numbers: Tensor) -> Tensor:
        return torch.eq(numbers, cast(int, self.fixed))

    def _check_ids(self, ids: Tensor) -> None:
        if ids.device.type == "cpu" and not torch.compiler.is_compiling():
            if len(ids):
                low, high = (int(bound) for bound in torch.aminmax(ids))
                if low < 0 or high >= self.rows:
                    wrong = low if low < 0 else high
                    raise TTIndexError(f"ids holds {wrong}; expected row numbers from 0 to {self.rows - 1}.")
        else:  # without waiting for the device
            inside = ((ids >= 0) & (ids < self.rows)).all()
            torch._assert_async(inside, f"ids holds numbers outside of 0 to {self.rows - 1}")

    def _distinct(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give the distinct ids, and where each is found among them, if contracting each once is worth the sorting."""
        if torch.compiler.is_compiling() or ids.device.type != "cpu":
            return ids, None  # their number would have to be known to the host
        order = self._order(len(ids), None)
        if order.each * len(ids) < 2 * (_SORTING * len(ids) + _SORTING_CALL):  # half of the ids repeated, say
            return ids, None
        once, back = torch.unique(ids, return_inverse=True)
        return once, back

    def _rows(self, flat: Tensor, hold: int) -> Tensor:
        cores = self._pairs(False)
        if hold and self._may_hold():
            wide = compute_dtype(cores[0].dtype)
            limit = hold // torch.empty((), dtype=wide).element_size()
            order = cheapest_order(
                self._shapes[False], len(flat), purpose="lookup", device=cores[0].device.type, limit=limit
            )
            found = lookup(flat, order, self._merged(order, cores, wide, hold)).to(cores[0].dtype)
        else:
            found = rows(flat, self._order(flat.shape[0], None), cores)
        return found

    def _pairs(self, transposed: bool) -> list[Tensor]:
        """View the cores as those of a TT-matrix `(r, m, n, r')` whose m is contracted."""
        pairs = [core.view(shape) for core, shape in self._with_shapes(self._resident())]
        return [core.transpose(1, 2) for core in pairs] if transposed else pairs

    def _resident(self) -> list[nn.Parameter]:
        """The cores, with their entries."""
        if self.cores[0].is_meta:
            bring_back(self)
        return list(self.cores)

    # --- orders -------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Settle the orders that compiled code will use; a call in eager mode looks them up."""
        shapes = self.layout.pair_shapes
        self._shapes = (shapes, tuple((r, n, m, s) for r, m, n, s in shapes))
        device = self.cores[0].device.type
        device = "cpu" if device == "meta" else device
        uses = {False: (shapes, "product"), True: (self._shapes[True], "product"), None: (shapes, "lookup")}
        self._tables = {
            (use, trained): order_table(cores, purpose=f"{what}, trained" if trained else what, device=device)
            for use, (cores, what) in uses.items()
            for trained in (False, True)
        }
        self._dense_order = whole(shapes)

    def _order(self, tokens: int, transposed: bool | None) -> Order:
        table = self._tables[transposed, torch.is_grad_enabled()]
        for most, order in table[:-1]:
            if not _is_exporting() and tokens <= most:  # an exported program has one order for all sizes
                return order
        return table[-1][1]

    # --- holding ------------------------------------------------------------------------------

    def _may_hold(self) -> bool:
        if torch.compiler.is_compiling():
            return False
        cores = list(self.cores)
        if torch.is_grad_enabled() and any(core.requires_grad for core in cores):
            return False
        return not any(core.is_inference() for core in cores)

    def _merged(self, order: Order, cores: Sequence[Tensor], dtype: torch.dtype, hold: int) -> list[Tensor]:
        """Merge the cores, or take what is held of them if none has changed since."""
        stamp = _optimiser_steps, tuple((core.data_ptr(), core._version) for core in self.cores)
        found = self._held.get((order, dtype))
        if found is not None and found[0] == stamp:
            return found[1]
        with torch.inference_mode(False), torch.no_grad():
            matrices = [matrix.contiguous() for matrix in merged(order, cores, dtype)]
        size = sum(matrix.nbytes for matrix in matrices)
        if size > hold:
            return matrices
        held = sum(matrix.nbytes for old, kept, _ in self._held.values() if old == stamp for matrix in kept)
        if found is not None or held + size > hold or any(old != stamp for old, _, _ in self._held.values()):
            self._held.clear()
        # The cores' memory is kept with them, as a new core at an old address would pass for the old one.
        self._held[order, dtype] = stamp, matrices, [core.detach() for core in self.cores]
        return matrices

    def forget(self) -> None:
        """Drop what is held of merged cores."""
        self._held.clear()

    def train(self, mode: bool = True) -> TTWeight:
        """Switch to training or back, and drop what is held; see `torch.nn.Module.train`."""
        self.forget()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> TTWeight:
        self.forget()
        super()._apply(fn, recurse)
        self._plan()
        return self

    def __getstate__(self) -> dict[str, Any]:
        planned = ("_shapes", "_tables", "_dense_order")
        return {name: value for name, value in self.__dict__.items() if name not in planned} | {"_held": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan()

    def extra_repr(self) -> str:
        """Say what the weight is made of."""
        return f"({self.rows}, {self.cols}), {describe(self.layout)}"


def _draw_orthogonal(rows: int, columns: int, like: Tensor) -> Tensor:
    """Draw a matrix with orthonormal rows or columns, whichever are fewer, evenly among all such."""
    shape = max(rows, columns), min(rows, columns)
    q, r = torch.linalg.qr(torch.randn(shape, device=like.device, dtype=compute_dtype(like.dtype)))
    q = q * torch.sgn(r.diagonal())
    return q if rows >= columns else q.mT


def describe(layout: Layout) -> str:
    """Write a layout for a layer's repr.

    Args:
        layout: The layout.

    Returns:
        Its text.

    Example:
        >>> describe(Layout("aligned", (8,), (4,), (1, 2, 1)))
        "layout='aligned', modes=((8,), (4,)), ranks=(1, 2, 1)"
    """
    return f"layout={layout.kind!r}, modes={(layout.row_modes, layout.col_modes)}, ranks={layout.ranks}"
