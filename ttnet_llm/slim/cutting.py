"""Which heads and neurons go, by the masks on them, and taking them out of a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.slim.architectures import HEADS, NEURONS, Axis, axes, find, find_axes, find_core, plain_layer
from ttnet_llm.slim.entry import say_slim


@dataclass(frozen=True, eq=False)
class Plan:
    """Which heads and neurons of a model stay.

    Args:
        kept: By the axes' names, which of their groups stay: integers, ascending.
        factors: What the layer that reads each of them multiplies it by, float32, of the same shapes.
        groups: How many there were.
        removed: How many parameters of the model go.
        samples: A few weights of the layers that write and read each of them, float32, by which a record knows the
            model that it is for; an empty one knows none.

    Example:
        >>> kept, factors = {"output": torch.tensor([0, 2])}, {"output": torch.ones(2)}
        >>> Plan(kept, factors, groups={"output": 3}, removed=17).kept["output"]
        tensor([0, 2])
    """

    kept: dict[str, Tensor]
    factors: dict[str, Tensor]
    groups: dict[str, int]
    removed: int
    samples: dict[str, Tensor] = field(default_factory=dict)


def plan(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    *,
    heads: float = 1 / 3,
    neurons: float = 1 / 3,
    fold: bool = True,
) -> Plan:
    """Choose which heads and neurons go: those whose masks are the smallest, by their size.

    Heads go in every layer in equal numbers, neurons wherever theirs are smallest in the whole model; one of each stays
    in every layer. Where masks are equal, the first ones go.

    Args:
        model: The model, as `axes` takes it.
        masks: For every axis, by its name, a number for each of its groups, as `learn_masks` gives them.
        heads: The share of every layer's heads that goes, in [0, 1); it is rounded down.
        neurons: The share of all neurons that goes, in [0, 1).
        fold: Whether layers multiply what they read by the masks of what stays, as the masked model does.

    Returns:
        The plan.

    Raises:
        TTTypeError: If the model cannot be cut.
        TTValueError: If a share is out of range, or the masks are not those of the model.

    Source:
        Gu et al., Light-PEFT (arXiv:2406.03792), section 3.2.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=3)
        >>> model = BertModel(config)
        >>> heads, neurons = (axis.name for axis in axes(model))
        >>> found = plan(model, {heads: torch.tensor([0.9, 0.2]), neurons: torch.tensor([0.5, 0.1, 0.7])}, heads=1 / 2)
        >>> found.kept[heads].tolist(), found.kept[neurons].tolist(), found.removed
        ([0], [0, 2], 157)
    """
    check_shares(heads, neurons)
    found = axes(model)
    values = {axis.name: _checked_mask(masks, axis) for axis in found}
    if foreign := sorted(set(masks) - set(values)):
        raise TTValueError(f"masks names {foreign[0]!r}, which is no axis of the model; expected those of axes(model).")
    going: dict[str, set[int]] = {axis.name: set() for axis in found}
    for axis in found:
        if axis.kind == HEADS:
            order = values[axis.name].abs().argsort(stable=True)
            going[axis.name] = set(order[: _count(heads, axis.groups)].tolist())
    _choose_neurons([axis for axis in found if axis.kind == NEURONS], values, neurons, going)
    kept = {axis.name: torch.tensor([k for k in range(axis.groups) if k not in going[axis.name]]) for axis in found}
    factors = {name: values[name][indices] if fold else torch.ones(len(indices)) for name, indices in kept.items()}
    removed = sum(axis.parameters * len(going[axis.name]) for axis in found)
    samples = {axis.name: sample(model, axis) for axis in found}
    return Plan(kept, factors, {axis.name: axis.groups for axis in found}, removed, samples)


def sample(model: nn.Module, axis: Axis) -> Tensor:
    """Take a few weights of the layers that an axis is cut out of.

    Args:
        model: The whole model.
        axis: One of its axes.

    Returns:
        Four entries of each layer's weight, evenly spaced, float32 on the CPU; of weights that are nowhere, NaN.
    """
    base = find_core(model).base_model
    taken = []
    for name in (*(name for name, _ in axis.writers), *axis.readers):
        found = find(base, name)
        weight = found if isinstance(found, Tensor) else plain_layer(found).weight
        entries = weight.detach().flatten()[[k * (weight.numel() - 1) // 3 for k in range(4)]]
        taken.append(torch.full((4,), math.nan) if entries.is_meta else entries.float().cpu())
    return torch.cat(taken)


def check_shares(heads: float, neurons: float) -> None:
    """Refuse shares that are out of range.

    Args:
        heads: As `plan` takes it.
        neurons: The same.

    Raises:
        TTValueError: If one is.
    """
    for name, share in (("heads", heads), ("neurons", neurons)):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise TTValueError(f"{name} is {share!r}; expected the share that goes, at least 0 and below 1.")


def _checked_mask(masks: Mapping[str, Tensor], axis: Axis) -> Tensor:
    mask = masks.get(axis.name)
    if not isinstance(mask, Tensor) or mask.shape != (axis.groups,) or not bool(torch.isfinite(mask).all()):
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else mask
        raise TTValueError(
            f"masks has {shape} for {axis.name!r}; expected a tensor of {axis.groups} finite numbers, one for each of "
            f"its {axis.kind}."
        )
    return mask.detach().float().cpu()


def _count(share: float, number: int) -> int:
    return min(math.floor(share * number + 1e-9), number - 1)  # a third of 3 is 1, whatever rounding makes of it


def _choose_neurons(found: list[Axis], values: Mapping[str, Tensor], share: float, going: dict[str, set[int]]) -> None:
    """Let the smallest of all go, but for the largest of each layer."""
    if not found:
        return
    sizes = torch.cat([values[axis.name].abs() for axis in found])
    places = [(axis.name, k) for axis in found for k in range(axis.groups)]
    last = {axis.name: int(values[axis.name].abs().argsort(stable=True)[-1]) for axis in found}
    order = [places[k] for k in sizes.argsort(stable=True).tolist()]
    free = [(name, k) for name, k in order if k != last[name]]
    for name, k in free[: _count(share, len(places))]:
        going[name].add(k)


def slim(model: nn.Module, plan: Plan) -> None:
    """Cut heads and neurons out of a model, in place.

    What it computes then is what it computed with the masks on the inputs of the layers that read them; the factors of
    what stays go into the weights of these. Put adapters on it afterwards. It trains, is saved by `save_pretrained` and
    loaded by `from_pretrained` like any other, where `ttnet_llm` is imported.

    Args:
        model: The model, as `axes` takes it, without adapters.
        plan: What `plan` has chosen for it.

    Raises:
        TTTypeError: If the model has adapters, or cannot be cut.
        TTValueError: If the plan is not one for this model.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=3)
        >>> model = BertModel(config)
        >>> found = plan(model, {axis.name: torch.rand(axis.groups) for axis in axes(model)}, heads=1 / 2)
        >>> before = model.num_parameters()
        >>> slim(model, found)
        >>> model.num_parameters() == before - found.removed, model.encoder.layer[0].intermediate.dense.out_features
        (True, 2)
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise TTTypeError("model has adapters already; cut the bare model, and put adapters on top afterwards.")
    check_plan(axes(model), plan)
    cut(model, plan)
    say_slim(model, {name: len(indices) for name, indices in plan.kept.items()})


def check_plan(found: Iterable[Axis], plan: Plan) -> None:
    """Refuse a plan that is none for a model.

    Args:
        found: The model's axes.
        plan: The plan.

    Raises:
        TTValueError: If it is none.
    """
    groups = {axis.name: axis.groups for axis in found}
    if groups != plan.groups or not groups.keys() == plan.kept.keys() == plan.factors.keys():
        differing = sorted(name for name in {*groups, *plan.groups} if groups.get(name) != plan.groups.get(name))
        name = differing[0] if differing else "all"
        raise TTValueError(
            f"plan is for another model: of {name!r} it has {plan.groups.get(name)}, the model {groups.get(name)}; "
            "make one with plan(model, masks)."
        )
    for name, kept in plan.kept.items():
        whole = list(range(groups[name]))
        rows = kept.tolist()
        if not rows or sorted(set(rows)) != rows or not set(rows) <= set(whole) or len(plan.factors[name]) != len(rows):
            raise TTValueError(
                f"plan keeps {rows} of {name!r}; expected at least one of {len(whole)}, ascending, and a factor for "
                "each."
            )


def cut(model: nn.Module, plan: Plan) -> None:
    """Cut a model that is known to fit a plan; on the meta device, too.

    Args:
        model: The model.
        plan: The plan.
    """
    base = find_core(model).base_model
    for axis in find_axes(model):
        kept, factors = plan.kept[axis.name], plan.factors[axis.name]
        if len(kept) < axis.groups:
            for name, repeats in axis.writers:
                _cut_outputs(base, name, kept, axis.groups, repeats)
            for name in axis.sizes:
                parent, _, attribute = name.rpartition(".")
                holder = find(base, parent)
                setattr(holder, attribute, getattr(holder, attribute) * len(kept) // axis.groups)
        for name in axis.readers:
            _cut_inputs(find(base, name), kept, factors, axis.groups)


def positions(kept: Tensor, groups: int, size: int, repeats: int = 1) -> Tensor:
    """Tell which features the kept groups have.

    Args:
        kept: The groups, shape `(k,)`.
        groups: How many there are.
        size: The number of features.
        repeats: How many times all groups stand there.

    Returns:
        The features' indices, ascending.

    Example:
        >>> positions(torch.tensor([0, 2]), 3, 12, 2).tolist()
        [0, 1, 4, 5, 6, 7, 10, 11]
    """
    return torch.arange(size, device=kept.device).view(repeats, groups, -1)[:, kept].flatten()


def _cut_outputs(base: nn.Module, name: str, kept: Tensor, groups: int, repeats: int) -> None:
    found = find(base, name)
    if isinstance(found, Tensor):
        parent, _, attribute = name.rpartition(".")
        setattr(find(base, parent), attribute, _selected(found, 0, positions(kept, groups, len(found), repeats)))
        return
    dim, size = {nn.Linear: (0, "out_features"), Conv1D: (1, "nf"), nn.Embedding: (1, "embedding_dim")}[type(found)]
    chosen = positions(kept, groups, found.weight.shape[dim], repeats)
    found.weight = _selected(found.weight, dim, chosen)
    if getattr(found, "bias", None) is not None:
        found.bias = _selected(found.bias, 0, chosen)
    setattr(found, size, len(chosen))


def _cut_inputs(reader: Any, kept: Tensor, factors: Tensor, groups: int) -> None:
    dim, size = (1, "in_features") if isinstance(reader, nn.Linear) else (0, "nx")
    width = reader.weight.shape[dim] // groups
    chosen = positions(kept, groups, reader.weight.shape[dim])
    weight = _selected(reader.weight, dim, chosen)
    if not weight.is_meta and not bool((factors == 1).all()):
        scales = factors.repeat_interleave(width).to(weight.device)
        product = weight.detach() * (scales if dim == 1 else scales[:, None])  # float32 at least
        weight = nn.Parameter(product.to(weight.dtype), requires_grad=weight.requires_grad)
    reader.weight = weight
    setattr(reader, size, len(chosen))


def _selected(parameter: Tensor, dim: int, chosen: Tensor) -> nn.Parameter:
    values = parameter.detach().index_select(dim, chosen.to(parameter.device))
    return nn.Parameter(values, requires_grad=parameter.requires_grad)
