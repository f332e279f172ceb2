"""What a layer has for each adapter, which walks over a model may pass by.

PEFT walks over the whole model, and over all adapters that it has, several times for every one that is added. Hundreds
of adapters of many small cores each would make that the most of the work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

_ADDED: ContextVar[str | None] = ContextVar("added", default=None)


class ByAdapter(nn.ModuleDict):
    """Modules by the names of adapters.

    Example:
        >>> modules = ByAdapter({"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)})
        >>> with adding("b"):
        ...     [name for name, _ in modules.named_parameters()]
        ['b.weight', 'b.bias']
    """

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Walk over the modules as torch does, but only over the one of an adapter that is being added."""
        added = _ADDED.get()
        if added is None:
            yield from super().named_modules(memo, prefix, remove_duplicate)
            return
        memo = set() if memo is None else memo
        if self not in memo:
            if remove_duplicate:
                memo.add(self)
            yield prefix, self
            if added in self:
                inner = f"{prefix}.{added}" if prefix else added
                yield from self[added].named_modules(memo, inner, remove_duplicate)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Give the tensors as torch does, but only those of an adapter that is being added."""
        if (name := _ADDED.get()) is None:
            return super().state_dict(*args, **kwargs)
        destination, prefix = kwargs["destination"], kwargs["prefix"]  # as the layer asks, in whose state it is
        if name in self:
            self[name].state_dict(**kwargs | {"prefix": f"{prefix}{name}."})
        return destination


def being_added() -> str | None:
    """Name the adapter that is being added; `None` where none is."""
    return _ADDED.get()


@contextmanager
def adding(adapter_name: str = "") -> Iterator[Any]:
    """Let walks over models pass by all adapters but one, which is being added.

    Args:
        adapter_name: The adapter's name; empty for none, as no adapter is called like that.
    """
    mark = _ADDED.set(adapter_name)
    try:
        yield
    finally:
        _ADDED.reset(mark)
