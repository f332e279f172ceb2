"""Which adapter each row of a batch has, for one thread or task, and what is kept of them meanwhile."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Self

import torch
from torch import Tensor, nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.bank.forms import Form, Made
from ttnet_llm.bank.rows import RowLayout


class Mix:
    """The adapters of a batch's rows.

    Args:
        sources: The adapters that are in it, each once and of shape `(size,)`.
        index: For every row of the batch its adapter among them, `(n,)`.
        named: Which rows have one, `(n,)`; `None` for all.
        layout: Where an adapter's tensors stand in its row.
        keep_bytes: How much memory made matrices may take until the mix ends; more of them are made again every time.
        for_all: Whether the one row stands for all of any batch.
        common: What stands once for all adapters, behind each one's own numbers.
    """

    def __init__(
        self,
        sources: list[Tensor],
        index: Tensor,
        named: Tensor | None,
        layout: RowLayout,
        keep_bytes: int,
        for_all: bool = False,
        common: Tensor | None = None,
    ) -> None:
        self.index, self.named, self.layout, self._for_all = index, named, layout, for_all
        self._common = common
        self.learns = any(source.requires_grad for source in [*sources, *([] if common is None else [common])])
        # What learns is read anew for each forward pass, so that each sees the last step; the rest is a copy.
        self._sources = sources if self.learns else [self._complete(torch.stack(sources))]
        self._room = keep_bytes
        self._kept: dict[Form, Made] = {}
        self._one_each = index.tolist() == list(range(len(sources)))
        self._shapes: tuple[int, frozenset[int]] | None = None  # the batch's rows, and its tokens
        self._repeats = {1}  # how often batches have repeated the rows that are named

    @classmethod
    def of(
        cls,
        names: str | list[str | None],
        rows: dict[str, Tensor],
        layout: RowLayout,
        forms: Iterable[Form],
        keep_bytes: int,
        common: Tensor | None = None,
    ) -> Self:
        """Mix adapters, and make what there is room for.

        Args:
            names: For every row of the batch its adapter's name, `None` for none; or one name for all.
            rows: These adapters, at least one, each of shape `(size,)`, without what is common.
            layout: Where an adapter's tensors stand in its row.
            forms: The modules' forms.
            keep_bytes: As the class takes it.
            common: The same.

        Returns:
            The mix.
        """
        for_all, names = isinstance(names, str), [names] if isinstance(names, str) else names
        places, device = {name: place for place, name in enumerate(rows)}, next(iter(rows.values())).device
        index = torch.tensor([0 if name is None else places[name] for name in names], device=device)
        named = None
        if None in names:
            named = torch.tensor([name is not None for name in names], device=device)
        # What is made here may be used where gradients are wanted, whatever is in force now.
        with torch.inference_mode(False), torch.no_grad():
            mix = cls(list(rows.values()), index, named, layout, keep_bytes, for_all, common)
            mix.prepare(forms)
        return mix

    def prepare(self, forms: Iterable[Form]) -> None:
        """Make the matrices of all modules that there is room for, unless they are learning.

        A compiled model then finds them as tensors, and is the same program for other adapters.

        Args:
            forms: The modules' forms.
        """
        for form in forms if not self.learns else ():
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

    def takes_cores(self, form: Form, tokens: int) -> bool:
        """Say whether a module's update of so many tokens a row is computed core by core."""
        return form not in self._kept and form.takes_cores(tokens)

    @torch.compiler.disable
    def update(
        self,
        form: Form,
        x: Tensor,  # (n, tokens, in)
        training: bool,
    ) -> Tensor:  # (n, tokens, out)
        """Compute a module's update core by core.

        Args:
            form: The module's form.
            x: What it reads, by row.
            training: Whether to drop some of it.

        Returns:
            What the adapters add, by row.
        """
        rows = self._rows()
        found = form.multiply(rows if self._one_each else rows[self.index], self.layout, x, training)
        return found if self.named is None else torch.where(self.named[:, None, None], found, 0)

    def _rows(self) -> Tensor:  # (adapters, size)
        return self._complete(torch.stack(self._sources)) if self.learns else self._sources[0]

    def _complete(self, rows: Tensor) -> Tensor:  # (adapters, own size) -> (adapters, size)
        return rows if self._common is None else torch.cat([rows, self._common.expand(len(rows), -1)], 1)

    @torch.compiler.disable
    def _make(self, form: Form) -> Made:
        rows = self._rows()
        made = form.make(rows, self.layout)
        if not self._one_each:
            made = tuple(matrix[self.index] for matrix in made)
        return made if self.named is None else form.without(made, self.named)

    def note(self, inputs: Iterable[Any]) -> None:
        """Take down how many rows and tokens the model was given.

        Args:
            inputs: Its arguments.
        """
        tensors = [each for each in inputs if isinstance(each, Tensor) and each.ndim > 1]
        self._shapes = None
        if tensors:
            self._shapes = len(tensors[0]), frozenset(math.prod(each.shape[:2]) for each in tensors)
            self._check_repeats([each for each in tensors if len(each) == len(tensors[0])])

    def _check_repeats(self, tensors: list[Tensor]) -> None:
        """Refuse a batch with more rows than names, unless each row stands there several times.

        That is how `generate` begins with beams and returned sequences, which then go different ways.
        """
        rows, n = len(tensors[0]), len(self.index)
        if self._for_all or rows % n or (repeats := rows // n) in self._repeats:
            return
        if any(bool((each.unflatten(0, (n, repeats)) != each[::repeats, None]).any()) for each in tensors):
            raise TTValueError(
                f"The batch has {rows} rows, and {n} adapters were named; expected one name, or None, for each row. "
                "Fewer are taken where every row stands there several times, as generate repeats rows for beams and "
                "returned sequences."
            )
        self._repeats.add(repeats)

    def split(self, x: Tensor, name: str) -> Tensor:  # (rows or a multiple, *tokens, d) -> (n, tokens, d)
        """Sort what a module reads by the batch's rows: beams and returned sequences of one stand next to each other.

        Args:
            x: What it reads.
            name: The module's name, for the message.

        Returns:
            The same by rows.

        Raises:
            TTValueError: If it has no part for each row.
        """
        n = len(self.index)
        if not self._for_all and not self._has_rows(x, n):
            given = "" if self._shapes is None else f", where the model was given {self._shapes[0]} rows"
            raise TTValueError(
                f"The module {name!r} reads a tensor of shape {tuple(x.shape)}{given}, and {n} adapters were named; "
                "expected one name for each row, or a divisor as beams make it. A module whose input does not begin "
                "with the batch's rows cannot have an adapter for each: leave it out of target_modules."
            )
        return x.reshape(n, -1, x.shape[-1])

    def _has_rows(self, x: Tensor, n: int) -> bool:
        if x.shape[0] % n:
            return False
        if self._shapes is None:  # an inner part was called by itself
            return x.ndim > 2 or x.shape[0] == n
        rows, tokens = self._shapes
        return x.shape[0] == rows or (x.ndim == 2 and x.shape[0] in tokens)


def read_names(names: Any) -> list[str | None]:
    """Give what a user names as one name, or `None`, for each row.

    Args:
        names: One name, or names and `None` in an order.

    Returns:
        The list.

    Raises:
        TTTypeError: If it is something else.
        TTValueError: If it is empty.

    Example:
        >>> read_names("ann"), read_names(["ann", None])
        (['ann'], ['ann', None])
    """
    if names is None or isinstance(names, str):
        return [names]
    chosen = list(names) if isinstance(names, Iterable) and not isinstance(names, set | frozenset | dict) else None
    if chosen is None or not all(name is None or isinstance(name, str) for name in chosen):
        shown = names if chosen is None else chosen
        raise TTTypeError(f"names is {shown!r}; expected a name, or a list with a name or None for each row.")
    if not chosen:
        raise TTValueError("names is empty; expected a name or None for each row of the batch.")
    return chosen


class _Unknown:
    """Stands for what a thread uses that has said nothing."""


_UNKNOWN = _Unknown()


class _Thread(threading.local):
    """What a thread uses, for compiled models, which cannot ask a `ContextVar`."""

    mix: Mix | None = None
    tasks = 0  # how many uses are going on that are not inside one another


class Current:
    """The mix that a thread, or task of asyncio, uses now."""

    def __init__(self) -> None:
        self._thread = _Thread()
        self._own: ContextVar[Mix | _Unknown | None] = ContextVar("mix", default=_UNKNOWN)
        self._again: ContextVar[bool] = ContextVar("again", default=False)  # whether a layer is computed once more
        self._has_learnt = False

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # a copied model goes on with the bank's adapters

    def get(self) -> Mix | None:
        """Give the mix.

        Raises:
            TTValueError: If a checkpointed layer is computed once more, and nobody has said with which.
        """
        if torch.compiler.is_compiling():
            if self._thread.tasks > 1:
                raise TTValueError(
                    "Several tasks of one thread use adapters at a time, which a compiled model cannot tell apart; run "
                    "it in threads, with asyncio.to_thread."
                )
            return self._thread.mix
        mix = self._own.get()
        if self._has_learnt and not self._again.get() and torch._C._current_graph_task_id() != -1:
            raise TTValueError(
                "A checkpointed layer is computed once more in the backward pass, where it is not known with which "
                "adapters; call gradient_checkpointing_enable with gradient_checkpointing_kwargs={'use_reentrant': "
                "False, 'context_fn': bank.checkpointing}."
            )
        return None if isinstance(mix, _Unknown) else mix

    def note(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Take down what the model was given, as a hook before its forward pass."""
        if not torch.compiler.is_compiling() and (mix := self.get()) is not None:
            mix.note([*args, *kwargs.values()])

    @contextmanager
    def using(self, mix: Mix | None, *, again: bool = False) -> Iterator[None]:
        """Use a mix for a while.

        Args:
            mix: The mix.
            again: Whether for what is computed once more.
        """
        self._has_learnt |= mix is not None and mix.learns
        thread, outer = self._thread, isinstance(self._own.get(), _Unknown)
        before = None if outer else thread.mix
        token, mark = self._own.set(mix), self._again.set(again)
        thread.mix, thread.tasks = mix, thread.tasks + outer
        try:
            yield
        finally:
            self._own.reset(token)
            self._again.reset(mark)
            thread.tasks -= outer
            thread.mix = before

    def checkpointing(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Give the contexts of a checkpointed layer's forward pass and of its second one."""
        own = self._own.get()
        mix = None if isinstance(own, _Unknown) else own
        return nullcontext(), _Reused(lambda: self.using(mix, again=True))


class _Reused(AbstractContextManager[None]):
    """A context that may be entered more than once."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        self._entered.append(self._make())
        self._entered[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self._entered.pop().__exit__(*error)
