"""Which layers are meant, and which of them share one weight."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import TTEmbedding, TTLinear
from ttnet.nn.embedding import scale_of
from ttnet_llm.tuner.model import near_misses

DENSE = (nn.Linear, Conv1D, nn.Embedding)
TRAINS = (TTLinear, TTEmbedding)


@dataclass(frozen=True)
class Target:
    """A weight to decompose, and the layers that hold it.

    Args:
        name: Full name of the layer that the weight is decomposed for.
        module: That layer.
        others: The further layers that hold the same weight, by name.
    """

    name: str
    module: nn.Module
    others: tuple[tuple[str, nn.Module], ...] = ()

    @property
    def weight(self) -> Tensor:
        """The layer's weight, as the layer has it."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def matrix(self) -> Tensor:  # (in_features, out_features), or (num_embeddings, embedding_dim)
        """The weight as the matrix that a train is made of."""
        return self.weight.detach().mT if isinstance(self.module, nn.Linear) else self.weight.detach()

    @property
    def takes_vectors(self) -> bool:
        """Whether the layer's inputs are vectors, whose second moment a fit may go by."""
        return not isinstance(self.module, nn.Embedding)


def find_targets(model: nn.Module, targets: str | Iterable[str], exclude: str | Iterable[str] = ()) -> list[Target]:
    """Find the layers to decompose.

    Args:
        model: The model.
        targets: As PEFT's `target_modules`: names or endings of names, a regular expression for whole names, or
            `"all-linear"` for every linear layer but the output head.
        exclude: Layers that are not meant after all, named in the same way.

    Returns:
        The layers in the model's order; those that share a weight count as one, and layers that share a weight with
        a target are among them whether they are named or not.

    Raises:
        TTTypeError: If `targets` is of another type, or a module that is meant is of a kind that has no train.
        TTValueError: If nothing is meant, or a weight is shared with something that has no train.
    """
    if not isinstance(model, nn.Module):
        raise TTTypeError(f"model is a {type(model).__name__}; expected a torch module.")
    modules = dict(model.named_modules())
    if any(isinstance(module, BaseTunerLayer) for module in modules.values()):
        raise TTTypeError("model has adapters already; tensorise the bare model, and put adapters on top afterwards.")
    left_out = _match(model, modules, exclude, "exclude") if exclude else []
    names = [name for name in _match(model, modules, targets, "targets") if name not in set(left_out)]
    if not names:
        raise TTValueError(f"exclude is {exclude!r}, which leaves nothing of targets {targets!r}; leave out fewer.")
    for name in names:
        module = modules[name]
        if isinstance(module, TRAINS):
            raise TTTypeError(f"targets names {name!r}, already a {type(module).__name__}; name it in exclude.")
        if not isinstance(module, DENSE):
            raise TTTypeError(
                f"targets names {name!r}, which is a {type(module).__name__}; expected layers that are nn.Linear, "
                "Conv1D or nn.Embedding."
            )
        if isinstance(module.weight, Tensor) and module.weight.is_meta:
            raise TTValueError(f"targets names {name!r}, which is on the meta device; load the model's weights first.")
        plain = next(kind for kind in DENSE if isinstance(module, kind))
        if not _is_plain(module, plain):
            raise TTTypeError(
                f"targets names {name!r}, a {type(module).__name__} that does more than {plain.__name__}; a train "
                "would not do that: name it in exclude."
            )
        weight = module.weight
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise TTTypeError(
                f"targets names {name!r}, whose weight is of dtype {getattr(weight, 'dtype', None)}; expected a "
                "floating dtype: load the model unquantised."
            )
        if type(weight.detach()) is not Tensor:
            raise TTTypeError(
                f"targets names {name!r}, whose weight is a {type(weight.detach()).__name__}; expected a plain tensor: "
                "load the model unquantised and not distributed."
            )
    return _group(model, names)


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Tell whether a layer does what its kind does, but that a table may scale its rows."""
    if isinstance(module, nn.Embedding) and isinstance(module.weight, Tensor) and module.weight.is_floating_point():
        return scale_of(module) is not None
    return type(module).forward is kind.forward and "forward" not in vars(module)


def _match(model: nn.Module, modules: dict[str, nn.Module], targets: str | Iterable[str], argument: str) -> list[str]:
    if isinstance(targets, str):
        if targets == "all-linear":
            head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
            return [n for n, m in modules.items() if isinstance(m, nn.Linear | Conv1D) and m is not head]
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise TTValueError(f"{argument} is {targets!r}, which is no regular expression: {error}.") from error
        names = [name for name in modules if name and pattern.fullmatch(name)]
        if not names:
            raise TTValueError(f"{argument} is {targets!r}, which matches no module. {near_misses(model, targets)}")
        return names
    endings = list(targets) if isinstance(targets, Iterable) else None
    if endings is None or not all(isinstance(ending, str) for ending in endings):
        raise TTTypeError(f"{argument} is {targets!r}; expected 'all-linear', a regular expression or a list of names.")
    if not endings:
        raise TTValueError(f"{argument} is empty; expected at least one name.")
    found: dict[str, None] = {}
    for ending in endings:
        names = [name for name in modules if ending and (name == ending or name.endswith(f".{ending}"))]
        if not names:
            raise TTValueError(f"{argument} names {ending!r}, which matches no module. {near_misses(model, [ending])}")
        found |= dict.fromkeys(names)
    return [name for name in modules if name in found]


def _group(model: nn.Module, names: list[str]) -> list[Target]:
    holders: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append((name, module))
    groups: dict[int, Target] = {}
    chosen = dict(model.named_modules())
    for name in names:
        weight = chosen[name].weight
        if id(weight) in groups:
            continue
        members = holders[id(weight)]
        for other, module in members:
            if not isinstance(module, DENSE):
                raise TTValueError(
                    f"targets names {name!r}, whose weight {other!r}, a {type(module).__name__}, holds as well; a "
                    "train cannot take its place there."
                )
        # A table is what is stored: heads are its transposes.
        members = sorted(members, key=lambda member: not isinstance(member[1], nn.Embedding))
        tables = {m.padding_idx for _, m in members if isinstance(m, nn.Embedding)}
        if len(tables) > 1:
            raise TTValueError(
                f"targets names {name!r}, one of several tables that share a weight but not their padding_idx "
                f"({', '.join(map(str, tables))}); make them the same, or leave it dense."
            )
        groups[id(weight)] = Target(*members[0], tuple(members[1:]))
    return list(groups.values())
