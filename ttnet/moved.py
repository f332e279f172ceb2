"""The full names that classes had in earlier versions, by which pickles of theirs look for them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class _Former(ModuleType):
    """Stands for a module that is no more, and gives what was in it from where that is now."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "A module of an earlier version, for what was pickled then.")
        self.places: dict[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in self.places:
            raise AttributeError(f"module {self.__name__!r} is of an earlier version, and has no {name!r}")
        module, _, new = self.places[name].rpartition(".")
        return getattr(import_module(module), new)


def keep_old_names(places: Mapping[str, str]) -> None:
    """Let classes be found under names of modules that are no more; they are imported when that is done.

    Args:
        places: The full name of each class now, by the old one.

    Example:
        >>> keep_old_names({"ttnet.attic.Train": "ttnet.trains.tensor_train.TensorTrain"})
        >>> from ttnet.attic import Train
        >>> Train
        <class 'ttnet.trains.tensor_train.TensorTrain'>
    """
    for old, new in places.items():
        module, _, name = old.rpartition(".")
        former = sys.modules.get(module)
        if not isinstance(former, _Former):
            former = sys.modules[module] = _Former(module)
        former.places[name] = new
