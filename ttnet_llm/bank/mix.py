"""Which adapter each row of a batch has, for one thread, and what is kept of them meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ttnet.errors import TTValueError
from ttnet_llm.bank.forms import Form, Made
from ttnet_llm.bank.rows import RowLayout


class Mix:
    """The adapters of a batch's rows.

    Args:
        rows: The adapters that are in it, each once, `(u, size)`.
        index: For every row of the batch its adapter among them, `(n,)`.
        named: Which rows have one, `(n,)`; `None` for all.
        layout: Where an adapter's tensors stand in its row.
        keep_bytes: How much memory made matrices may take until the mix ends; more of them are made again every time.
    """

    def __init__(self, rows: Tensor, index: Tensor, named: Tensor | None, layout: RowLayout, keep_bytes: int) -> None:
        self.rows, self.index, self.named, self.layout = rows, index, named, layout
        self._room = keep_bytes
        self._kept: dict[Form, Made] = {}
        self._one_each = len(rows) == len(index) and bool(
            (index == torch.arange(len(index), device=index.device)).all()
        )

    def prepare(self, forms: Iterable[Form]) -> None:
        """Make the matrices of all modules that there is room for, unless they are learning.

        A compiled model then finds them as tensors, and is the same program for other adapters.

        Args:
            forms: The modules' forms.
        """
        if self.rows.requires_grad:  # or the next step would see the last one's
            return
        for form in forms:
            made = tuple(matrix.contiguous() for matrix in self._make(form))  # the same strides whatever the adapters
            size = sum(matrix.numel() * matrix.element_size() for matrix in made)
            if size > self._room:
                return
            self._room -= size
            self._kept[form] = made

    def made(self, form: Form) -> Made:
        """Give a module's matrices, by row of the batch."""
        kept = self._kept.get(form)
        return self._make(form) if kept is None else kept

    @torch.compiler.disable
    def _make(self, form: Form) -> Made:
        made = form.make(self.rows, self.layout)
        if not self._one_each:
            made = tuple(matrix[self.index] for matrix in made)
        return made if self.named is None else form.without(made, self.named)

    def split(self, x: Tensor) -> Tensor:  # (rows or a multiple, *tokens, d) -> (n, tokens, d)
        """Sort a batch by its rows: beams and returned sequences of a row stand next to each other."""
        n = len(self.index)
        if x.shape[0] % n and n > 1:
            raise TTValueError(
                f"The batch has {x.shape[0]} rows, and {n} adapters were named; expected as many, or a multiple as "
                "beams make it."
            )
        return x.reshape(n, -1, x.shape[-1])


class _Own(threading.local):
    mix: Mix | None = None


class Current:
    """The mix that a thread uses now."""

    def __init__(self) -> None:
        self._own = _Own()
        self._learning: Mix | None = None  # that of the latest forward pass with gradients

    @property
    def mix(self) -> Mix | None:
        """The thread's own; in a backward pass, which may run in a thread of torch's, that of the forward pass."""
        mix = self._own.mix
        if mix is None and self._learning is not None and torch._C._current_graph_task_id() != -1:
            return self._learning  # checkpointed layers are computed once more
        return mix

    @contextmanager
    def using(self, mix: Mix | None) -> Iterator[None]:
        """Use a mix for a while."""
        before, self._own.mix = self._own.mix, mix
        if mix is not None and mix.rows.requires_grad:
            self._learning = mix
        try:
            yield
        finally:
            self._own.mix = before
