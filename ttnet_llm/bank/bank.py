"""Thousands of adapters of one configuration on one model."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.bank.adapters import Adapters, check_capacity
from ttnet_llm.bank.layer import BankLayer
from ttnet_llm.bank.mix import Current, Mix, read_names
from ttnet_llm.bank.pattern import Pattern
from ttnet_llm.bank.saving import Index, check_place, open_parts, read_common, read_index, write_bank
from ttnet_llm.tuner import AdapterConfig

KEPT = 2**28  # bytes that the matrices of one mix may take


class AdapterBank(Adapters):
    """Adapters of one configuration, held as rows of one table, on a model whose batches mix them at will.

    The model is changed in place: each adapted layer computes what the adapters of a batch's rows change, all rows in
    one product. Where nothing is in use the model is the base model.

    Args:
        model: The model, without adapters; transformers' or any other.
        config: The configuration of all adapters: any linear method's, or LoRETTA_adp's.
        capacity: How many adapters the bank may hold; memory is taken for those that it has.
        dtype: Of the adapters' numbers.
        device: Where they are; `None` takes the model's.
        common: The cores that all adapters have in common and the bank holds once, for methods that learn several
            tasks with one core for each (MetaTT with `num_tasks`): a checkpoint's folder, its tensors, or a model whose
            active adapter has them; `True` draws them. An adapter is then one task's core, of some tens of numbers.
        keep_bytes: How much memory the matrices of the adapters in use may take until another mix is used; what does
            not fit is made again in every forward pass.

    Raises:
        TTTypeError: If adapters of the configuration cannot be stacked, or have no cores in common.
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
        common: str | Path | Mapping[str, Tensor] | PeftModel | bool = False,
        keep_bytes: int = KEPT,
    ) -> None:
        check_capacity(capacity, 1)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TTTypeError(f"dtype is {dtype!r}; expected a floating torch dtype.")
        if any(isinstance(module, BankLayer) for module in model.modules()):
            raise TTTypeError("model has a bank already; call its unload() first.")
        place = torch.device(device) if device is not None else _device_of(model)
        super().__init__(Pattern(model, config, common), capacity, dtype, place)
        self.model, self.keep_bytes = model, keep_bytes
        self._current = Current()
        self._id, self._generations = uuid.uuid4().hex, dict[Path, int]()
        self._layers: dict[str, BankLayer] = {}
        for name, form in self._pattern.forms.items():
            parent, _, own = name.rpartition(".")
            holder = model.get_submodule(parent)
            self._layers[name] = BankLayer(name, getattr(holder, own), form, self._current)
            setattr(holder, own, self._layers[name])
        self._hook = model.register_forward_pre_hook(self._current.note, with_kwargs=True)

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
                self._common,
            )

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
            common = None if self._common is None else self._pattern.split_common(self._common)
            write_bank(folder, self.config, self._storage, index, common)
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
        common = read_common(index, Path(path))
        options: dict[str, Any] = {"device": device, "common": common or False, "keep_bytes": keep_bytes}
        bank = cls(model, config, capacity=index.capacity, dtype=dtype, **options)
        if bank._pattern.layout.shapes != index.shapes:  # in whatever order
            bank.unload()
            raise TTValueError(
                f"An adapter in {str(path)!r} has {index.size:,} numbers in {len(index.shapes)} tensors, and on this "
                f"model it would have {bank.parameters_each:,} in {len(bank._pattern.layout.shapes)}, or of other "
                "modules; give the model that the bank was made for."
            )
        bank._arrange(index.shapes)
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


def _device_of(model: nn.Module) -> torch.device:
    places = (parameter.device for parameter in model.parameters() if not parameter.is_meta)
    return next(places, torch.device("cpu"))
