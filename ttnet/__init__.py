"""Tensor trains on PyTorch: mathematics, layers and files; nothing here knows of language models.

The public names are those of `__init__.pyi`; each is imported when it is first used.
"""

from typing import Any

import lazy_loader

from ttnet.moved import keep_old_names
from ttnet.near import near
from ttnet.starting import is_command

_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _import(name)
    except AttributeError:
        advice = near(name, __all__).strip() or _method_of_trains(name)
        raise AttributeError(f"ttnet has no {name!r}{'; ' if advice else ''}{advice}") from None


def _method_of_trains(name: str) -> str:
    """Name the method, or the call in the place of one, that is looked for as a function."""
    if name.startswith("_"):  # what Python and tools look for on their own
        return ""
    train = _import("TensorTrain")
    call = f"train.{name}" if hasattr(train, name) else train._call_for(name)
    return f"take {call}." if call else ""


keep_old_names(
    {
        "ttnet.tensor_train.TensorTrain": "ttnet.trains.tensor_train.TensorTrain",
        "ttnet.tt_matrix.TTMatrix": "ttnet.trains.tt_matrix.TTMatrix",
        "ttnet._steps.Arrangement": "ttnet.contraction.steps.Arrangement",
        "ttnet._steps.Reduction": "ttnet.contraction.steps.Reduction",
        "ttnet._steps.Step": "ttnet.contraction.steps.Step",
    }
)

# torch knows trains from here on, as trees of tensors and in its files. The commands alone do without until they run.
if not (is_command("ttnet") or is_command("ttnet-llm")):
    from ttnet import trains  # noqa: F401
