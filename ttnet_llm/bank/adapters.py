"""Adapters of one configuration by their names: rows of one table that come, go and learn."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet.near import near
from ttnet_llm.bank.pattern import Pattern
from ttnet_llm.bank.storage import Storage
from ttnet_llm.lora.checkpoint import write_adapter
from ttnet_llm.tuner import AdapterConfig

_WITH_HEADS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")  # tasks whose adapters bring a head


class Adapters:
    """Base of the bank: what it does with adapters, whatever their model does with them.

    Args:
        pattern: What they have in common.
        capacity: How many there may be.
        dtype: Of their numbers.
        device: Where they are.
    """

    def __init__(self, pattern: Pattern, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.capacity, self._pattern = capacity, pattern
        self._storage = Storage(pattern.own_size, dtype, device)
        self._numbers: dict[str, int] = {}  # of the adapters' rows
        self._trained: dict[str, nn.Parameter] = {}
        self._lock = threading.RLock()
        # What stands once for all, behind each adapter's own numbers.
        self._common = None if pattern.common is None else pattern.common.to(device, dtype)

    def _arrange(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Take the order of a saved table's tensors."""
        self._pattern.arrange(shapes)
        if self._pattern.common is not None:
            self._common = self._pattern.common.to(self._storage.device, self._storage.dtype)

    @property
    def config(self) -> AdapterConfig:
        """The configuration of all adapters."""
        return self._pattern.config

    @property
    def parameters_each(self) -> int:
        """How many numbers an adapter has of its own."""
        return self._storage.size

    @property
    def parameters_common(self) -> int:
        """How many numbers there are once for all adapters."""
        return 0 if self._common is None else self._common.numel()

    @property
    def names(self) -> list[str]:
        """The adapters' names, in the order in which they came."""
        with self._lock:
            return list(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def set_capacity(self, capacity: int) -> None:
        """Set how many adapters the bank may hold.

        Args:
            capacity: The number, at least that of the adapters that there are.

        Raises:
            TTValueError: If it is smaller.
        """
        with self._lock:
            check_capacity(capacity, max(len(self), 1))
            self.capacity = capacity

    def add(
        self,
        name: str,
        source: str | Path | Mapping[str, Tensor] | PeftModel | None = None,
        *,
        adapter: str = "default",
        task: int | None = None,
    ) -> None:
        """Add an adapter.

        Args:
            name: Its name in the bank, a new one.
            source: A folder with its checkpoint, its tensors by the keys of a checkpoint, or a model that has it;
                `None` draws a fresh one.
            adapter: Its name in that model.
            task: Where adapters have cores in common: which of the source's tasks it is, from 0; `None` takes the one
                that the source's config says.

        Raises:
            TTFileError: If the checkpoint cannot be read.
            TTShapeError: If a tensor has another shape than the bank's.
            TTTypeError: If the source is of another type, or holds what a bank does not keep.
            TTValueError: If there is such a name, the bank is full, or the adapter is of another configuration, or of
                other common cores.
        """
        self._check_new(name)
        row = self._pattern.row_of(source, f"the adapter {name!r}", adapter, task)
        with self._lock:
            self._check_new(name)
            row = self._own_part(row, name, drawn=source is None)
            if len(self._numbers) >= self.capacity:
                raise TTValueError(
                    f"The bank holds {len(self._numbers)} adapters, its capacity; remove some, or raise it with "
                    "set_capacity (--capacity)."
                )
            self._numbers[name] = self._storage.put(row)

    def remove(self, name: str) -> None:
        """Remove an adapter; its place is used again.

        Args:
            name: Its name.

        Raises:
            TTValueError: If there is none.
        """
        with self._lock:
            number = self._number(name)
            self._let_go(name)
            self._storage.drop(number)
            del self._numbers[name]

    def rename(self, name: str, new: str) -> None:
        """Give an adapter another name.

        Args:
            name: Its name.
            new: The new one.

        Raises:
            TTValueError: If there is no adapter of the one name, or there is one of the other.
        """
        with self._lock:
            self._number(name)
            self._check_new(new)
            self._numbers = {new if each == name else each: number for each, number in self._numbers.items()}
            if name in self._trained:
                self._trained[new] = self._trained.pop(name)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Give an adapter's tensors, as its checkpoint has them.

        Args:
            name: Its name.

        Returns:
            Copies, by their keys.
        """
        with self._lock:
            row = self._storage[self._number(name)].detach()
            row = row.clone() if self._common is None else torch.cat([row, self._common.detach()])
        return self._pattern.layout.split(row)

    def export(self, name: str, folder: str | Path) -> None:
        """Write an adapter's ordinary checkpoint, which PEFT loads.

        Args:
            name: Its name.
            folder: A new folder, or that of an earlier export, which is replaced.

        Raises:
            TTFileError: If the folder holds something else.
            TTValueError: If there is no such adapter.
        """
        config = copy.deepcopy(self.config)
        if config.task_type in _WITH_HEADS:  # which PEFT would look for in the checkpoint
            config.task_type = None
        write_adapter(folder, config, self.tensors(name), kind="bank-export", classes={})

    def _row(self, name: str) -> Tensor:  # (parameters,)
        number = self._number(name)
        return self._trained[name] if name in self._trained else self._storage[number]

    def _own_part(self, row: Tensor, name: str, drawn: bool) -> Tensor:
        """Take off an adapter's row what all have in common, and check that it is that."""
        if self._common is None:
            return row
        own, common = row.split([self._storage.size, self._common.numel()])
        differs = common.to(self._common) != self._common.detach()
        if bool(differs.any()) and not drawn:
            raise TTValueError(
                f"The common cores of the adapter {name!r} differ from the bank's in {int(differs.sum()):,} of "
                f"{common.numel():,} numbers; a bank with common cores keeps tasks that were trained with them, frozen "
                "or all together: make another bank for this one, or one without common."
            )
        return own

    def trainable(self, names: str | Iterable[str], *, common: bool = False) -> list[nn.Parameter]:
        """Make adapters trainable; those of all rows of a batch then learn in one step.

        Each is one parameter, a row of the bank's own table, and so gradients and an optimiser's state are only for
        these. Sum the rows' losses, rather than average them, for the gradients that each adapter would have alone.
        With gradient checkpointing, give `checkpointing` as its `context_fn`.

        Args:
            names: Their names.
            common: Whether what the adapters have in common learns, too, which changes all of them.

        Returns:
            A parameter of shape `(parameters_each,)` for each, in their order, and with `common` one of shape
            `(parameters_common,)` at the end.

        Raises:
            TTTypeError: If adapters of the bank count from a start, which training would move along, or have nothing in
                common that could learn.
            TTValueError: If there is no such adapter.

        Example:
            >>> from ttnet_llm import AdapterBank, LorettaRepConfig
            >>> bank = AdapterBank(nn.Sequential(nn.Linear(4, 4)), LorettaRepConfig(r=2, target_modules=["0"]))
            >>> bank.add("ann")
            >>> optimiser = torch.optim.SGD(bank.trainable("ann"), lr=0.1)
            >>> with bank.use("ann"):
            ...     bank.model(torch.ones(1, 4)).sum().backward()
            >>> optimiser.step()
            >>> bank.freeze()
        """
        if self._pattern.keeps_start:
            raise TTTypeError(
                f"init_weights is {self.config.init_weights!r}: the bank's adapters count from a start, which must not "
                "learn; train them with PEFT, and add them."
            )
        if common and self._common is None:
            raise TTTypeError("common is True; the adapters of this bank have no cores in common: leave it out.")
        chosen = [names] if isinstance(names, str) else list(names)
        with self._lock:
            for name in chosen:
                number = self._number(name)
                self._trained.setdefault(name, nn.Parameter(self._storage[number]))
                self._storage.touch(number)
            learning = [self._trained[name] for name in chosen]
            if common and self._common is not None:
                self._common = self._common if isinstance(self._common, nn.Parameter) else nn.Parameter(self._common)
                learning.append(self._common)
            return learning

    def freeze(self, names: str | Iterable[str] | None = None) -> None:
        """End the training of adapters, which keep what they have learnt.

        Args:
            names: Their names; `None` for all, and for what they have in common.

        Raises:
            TTValueError: If there is no such adapter.
        """
        with self._lock:
            chosen = list(self._trained) if names is None else [names] if isinstance(names, str) else list(names)
            for number, name in [(self._number(name), name) for name in chosen]:
                self._storage.touch(number)
                self._let_go(name)
            if names is None and self._common is not None:
                self._common = self._common.detach().clone()

    def _let_go(self, name: str) -> None:
        """Give a trained parameter memory of its own, so that its optimiser no longer writes into the bank."""
        if (parameter := self._trained.pop(name, None)) is not None:
            parameter.data = parameter.data.clone()

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            hint = near(str(name), self._numbers).strip()
            meant = f" {hint[0].upper()}{hint[1:]}" if hint else ""
            raise TTValueError(f"There is no adapter {name!r} in the bank, which has {len(self._numbers)}.{meant}")
        return self._numbers[name]

    def _check_new(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise TTTypeError(f"name is {name!r}; expected a text.")
        if name in self._numbers:
            raise TTValueError(f"There is an adapter {name!r} already; remove it first, or choose another name.")


def check_capacity(capacity: int, least: int) -> None:
    """Refuse a capacity that is none.

    Args:
        capacity: How many adapters there may be.
        least: How many there must be room for.

    Raises:
        TTValueError: If it is no integer of at least that.

    Example:
        >>> check_capacity(10, 1)
    """
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < least:
        raise TTValueError(f"capacity is {capacity!r}; expected an integer of at least {least}.")
