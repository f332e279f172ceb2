"""Thousands of adapters of one configuration on one model."""

from __future__ import annotations

import copy
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet.near import near
from ttnet_llm.bank.layer import BankLayer
from ttnet_llm.bank.mix import Current, Mix, read_names
from ttnet_llm.bank.pattern import Pattern
from ttnet_llm.bank.rows import RowLayout
from ttnet_llm.bank.saving import Index, check_place, open_parts, read_index, write_bank
from ttnet_llm.bank.storage import Storage
from ttnet_llm.lora.checkpoint import write_adapter
from ttnet_llm.tuner import AdapterConfig

_WITH_HEADS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")  # tasks whose adapters bring a head
KEPT = 2**28  # bytes that the matrices of one mix may take


class AdapterBank:
    """Adapters of one configuration, held as rows of one table, on a model whose batches mix them at will.

    The model is changed in place: each adapted layer computes what the adapters of a batch's rows change, all rows in
    one product. Where nothing is in use the model is the base model.

    Args:
        model: The model, without adapters; transformers' or any other.
        config: The configuration of all adapters: any linear method's, or LoRETTA_adp's.
        capacity: How many adapters the bank may hold; memory is taken for those that it has.
        dtype: Of the adapters' numbers.
        device: Where they are; `None` takes the model's.
        keep_bytes: How much memory the matrices of the adapters in use may take until another mix is used; what does
            not fit is made again in every forward pass.

    Raises:
        TTTypeError: If adapters of the configuration cannot be stacked.
        TTValueError: If a value is outside its range.

    Example:
        >>> from ttnet_llm import LorettaRepConfig
        >>> model = nn.Sequential(nn.Linear(16, 16))
        >>> bank = AdapterBank(model, LorettaRepConfig(target_modules=["0"], init_weights=False))
        >>> bank.add("ann")
        >>> bank.add("bob")
        >>> x = torch.ones(3, 5, 16)
        >>> with bank.use(["ann", None, "bob"]):
        ...     mixed = model(x)
        >>> with bank.use("ann"):
        ...     bool(torch.allclose(mixed[0], model(x)[0], atol=1e-6))
        True
        >>> torch.equal(mixed[1], model(x)[1]), len(bank), "bob" in bank
        (True, 2, True)
    """

    def __init__(
        self,
        model: nn.Module,
        config: AdapterConfig,
        *,
        capacity: int = 10_000,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        keep_bytes: int = KEPT,
    ) -> None:
        _check_capacity(capacity, 1)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TTTypeError(f"dtype is {dtype!r}; expected a floating torch dtype.")
        if any(isinstance(module, BankLayer) for module in model.modules()):
            raise TTTypeError("model has a bank already; call its unload() first.")
        self.model, self.capacity, self.keep_bytes = model, capacity, keep_bytes
        self._pattern = Pattern(model, config)
        place = torch.device(device) if device is not None else _device_of(model)
        self._storage = Storage(self._pattern.layout.size, dtype, place)
        self._numbers: dict[str, int] = {}  # of the adapters' rows
        self._trained: dict[str, nn.Parameter] = {}
        self._lock = threading.RLock()
        self._current = Current()
        self._id, self._generations = uuid.uuid4().hex, dict[Path, int]()
        self._layers: dict[str, BankLayer] = {}
        for name, form in self._pattern.forms.items():
            parent, _, own = name.rpartition(".")
            holder = model.get_submodule(parent)
            self._layers[name] = BankLayer(name, getattr(holder, own), form, self._current)
            setattr(holder, own, self._layers[name])
        self._hook = model.register_forward_pre_hook(self._current.note, with_kwargs=True)

    @property
    def config(self) -> AdapterConfig:
        """The configuration of all adapters."""
        return self._pattern.config

    @property
    def parameters_each(self) -> int:
        """How many numbers an adapter has."""
        return self._storage.size

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
            _check_capacity(capacity, max(len(self), 1))
            self.capacity = capacity

    def add(
        self,
        name: str,
        source: str | Path | Mapping[str, Tensor] | PeftModel | None = None,
        *,
        adapter: str = "default",
    ) -> None:
        """Add an adapter.

        Args:
            name: Its name in the bank, a new one.
            source: A folder with its checkpoint, its tensors by the keys of a checkpoint, or a model that has it;
                `None` draws a fresh one.
            adapter: Its name in that model.

        Raises:
            TTFileError: If the checkpoint cannot be read.
            TTShapeError: If a tensor has another shape than the bank's.
            TTTypeError: If the source is of another type, or holds what a bank does not keep.
            TTValueError: If there is such a name, the bank is full, or the adapter is of another configuration.
        """
        self._check_new(name)
        row = self._pattern.row_of(source, f"the adapter {name!r}", adapter)
        with self._lock:
            self._check_new(name)
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
            row = self._storage[self._number(name)].detach().clone()
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

    @contextmanager
    def use(self, names: str | Sequence[str | None] | None) -> Iterator[None]:
        """Use adapters in this thread for a while.

        Args:
            names: One name, for all rows of every batch; or a list with a name for each row, `None` for rows that the
                base model is for. Batches may have each of these rows several times, as beams and returned sequences
                make it.

        Raises:
            TTTypeError: If it is something else.
            TTValueError: If there is no such adapter, or the list is empty.
        """
        if not self._layers:
            raise TTValueError("The bank was taken off its model by unload(); make or load another.")
        with self._current.using(self._mix(names)):
            yield

    def checkpointing(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Say with which adapters checkpointed layers are computed once more: the `context_fn` of torch's checkpoints.

        Returns:
            Contexts of the forward pass and of the second one.

        Example:
            >>> from torch.utils.checkpoint import checkpoint
            >>> from ttnet_llm import LorettaRepConfig
            >>> bank = AdapterBank(nn.Sequential(nn.Linear(4, 4)), LorettaRepConfig(r=2, target_modules=["0"]))
            >>> bank.add("ann")
            >>> (parameter,) = bank.trainable("ann")
            >>> with bank.use("ann"):
            ...     options = {"use_reentrant": False, "context_fn": bank.checkpointing}
            ...     out = checkpoint(bank.model, torch.ones(1, 4), **options)
            >>> out.sum().backward()
            >>> parameter.grad.shape == (bank.parameters_each,)
            True
        """
        return self._current.checkpointing()

    def _mix(self, names: str | Sequence[str | None] | None) -> Mix | None:
        chosen = read_names(names)
        with self._lock:
            rows = {name: self._row(name) for name in dict.fromkeys(chosen) if name is not None}
            if not rows:
                return None
            return Mix.of(
                names if isinstance(names, str) else chosen,
                rows,
                self._pattern.layout,
                self._pattern.forms.values(),
                self.keep_bytes,
            )

    def _row(self, name: str) -> Tensor:  # (parameters,)
        number = self._number(name)
        return self._trained[name] if name in self._trained else self._storage[number]

    def trainable(self, names: str | Iterable[str]) -> list[nn.Parameter]:
        """Make adapters trainable; those of all rows of a batch then learn in one step.

        Each is one parameter, a row of the bank's own table, and so gradients and an optimiser's state are only for
        these. Sum the rows' losses, rather than average them, for the gradients that each adapter would have alone.
        With gradient checkpointing, give `checkpointing` as its `context_fn`.

        Args:
            names: Their names.

        Returns:
            A parameter of shape `(parameters_each,)` for each, in their order.

        Raises:
            TTTypeError: If adapters of the bank count from a start, which training would move along.
            TTValueError: If there is no such adapter.

        Example:
            >>> from ttnet_llm import LorettaRepConfig
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
        chosen = [names] if isinstance(names, str) else list(names)
        with self._lock:
            for name in chosen:
                number = self._number(name)
                self._trained.setdefault(name, nn.Parameter(self._storage[number]))
                self._storage.touch(number)
            return [self._trained[name] for name in chosen]

    def freeze(self, names: str | Iterable[str] | None = None) -> None:
        """End the training of adapters, which keep what they have learnt.

        Args:
            names: Their names; `None` for all.

        Raises:
            TTValueError: If there is no such adapter.
        """
        with self._lock:
            chosen = list(self._trained) if names is None else [names] if isinstance(names, str) else list(names)
            for number, name in [(self._number(name), name) for name in chosen]:
                self._storage.touch(number)
                self._let_go(name)

    def _let_go(self, name: str) -> None:
        """Give a trained parameter memory of its own, so that its optimiser no longer writes into the bank."""
        if (parameter := self._trained.pop(name, None)) is not None:
            parameter.data = parameter.data.clone()

    def save(self, path: str | Path) -> None:
        """Write the bank, or what has changed of it since it was saved there or loaded from there.

        Args:
            path: A new folder, or a bank's.

        Raises:
            TTFileError: If the folder holds something else.
        """
        with self._lock:
            place = Path(path).resolve()
            generation = self._generations.get(place)
            folder = check_place(path, self._id, generation)
            for name in self._trained:
                self._storage.touch(self._numbers[name])  # as optimisers write into it
            index = Index(
                dtype=str(self._storage.dtype).removeprefix("torch."),
                capacity=self.capacity,
                size=self.parameters_each,
                numbers=dict(self._numbers),
                parts=[],
                shapes=dict(self._pattern.layout.shapes),
                bank=self._id,
                generation=(generation or 0) + 1,
            )
            write_bank(folder, self.config, self._storage, index)
            self._generations[place] = index.generation

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: nn.Module,
        *,
        device: torch.device | str | None = None,
        keep_bytes: int = KEPT,
    ) -> Self:
        """Open a saved bank; numbers are read when they are first used.

        Parts that cannot be read are told of by a warning, and leave all others as they are.

        Args:
            path: The bank's folder.
            model: The model that its adapters are for.
            device: As for the bank.
            keep_bytes: The same.

        Returns:
            The bank, which goes on in that folder where it is saved there.

        Raises:
            TTFileError: If there is no bank, or its index cannot be read.
            TTValueError: If the adapters have other sizes on this model.
        """
        index = read_index(path)
        config: Any = PeftConfig.from_pretrained(str(path))
        dtype = getattr(torch, index.dtype)
        bank = cls(model, config, capacity=index.capacity, dtype=dtype, device=device, keep_bytes=keep_bytes)
        if bank._pattern.layout.shapes != index.shapes:  # in whatever order
            bank.unload()
            raise TTValueError(
                f"An adapter in {str(path)!r} has {index.size:,} numbers in {len(index.shapes)} tensors, and on this "
                f"model it would have {bank.parameters_each:,} in {len(bank._pattern.layout.shapes)}, or of other "
                "modules; give the model that the bank was made for."
            )
        bank._pattern.layout = RowLayout(index.shapes)  # in the order that the rows have
        open_parts(bank._storage, index, Path(path).resolve())
        bank._id, bank._generations[Path(path).resolve()] = index.bank, index.generation
        bank._numbers = index.numbers
        return bank

    def unload(self) -> nn.Module:
        """Take the bank off the model.

        Returns:
            The model, as it was.
        """
        for name, layer in self._layers.items():
            parent, _, own = name.rpartition(".")
            setattr(self.model.get_submodule(parent), own, layer.base_layer)
        if self._layers:
            self._hook.remove()
            self._pattern.thaw()
        self._layers = {}
        return self.model

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


def _check_capacity(capacity: int, least: int) -> None:
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < least:
        raise TTValueError(f"capacity is {capacity!r}; expected an integer of at least {least}.")


def _device_of(model: nn.Module) -> torch.device:
    places = (parameter.device for parameter in model.parameters() if not parameter.is_meta)
    return next(places, torch.device("cpu"))
