"""Networks that all modules of a shape have in common: one for the model, a view of it for each module."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial

from ttnet.nn.offload import bring_back
from ttnet_llm.linear.network import FactorNetwork


@dataclass(frozen=True)
class Group:
    """The modules of one shape, seen as a grid of layers and projections.

    Args:
        in_features: Their input size.
        out_features: Their output size.
        fan_in: How many inputs an output adds up: `in_features`, or 1 for an embedding.
        layers: The layers that have such a module, by name.
        projections: The modules' names within their layers.
        head_size: Size of an attention head, a divisor of `out_features`.

    Example:
        >>> names = ["layer.0.q", "layer.0.v", "layer.1.q", "layer.1.v"]
        >>> Group.of(names, 8, 8, 8, head_size=4).projections
        ('q', 'v')
    """

    in_features: int
    out_features: int
    fan_in: int
    layers: tuple[str, ...]
    projections: tuple[str, ...]
    head_size: int

    @classmethod
    def of(cls, names: list[str], in_features: int, out_features: int, fan_in: int, head_size: int | None) -> "Group":
        """Arrange modules by their names.

        Args:
            names: Their full names.
            in_features: Their input size.
            out_features: Their output size.
            fan_in: How many inputs an output adds up.
            head_size: The model's size of a head; where it does not divide the output, that counts as one head.

        Returns:
            The group.
        """
        layers, projections = (tuple(dict.fromkeys(part)) for part in zip(*map(place, names), strict=True))
        if not head_size or out_features % head_size:
            head_size = out_features
        return cls(in_features, out_features, fan_in, layers, projections, head_size)


class SharedView(FactorNetwork):
    """One module's view of a network that all modules of a shape have in common.

    The network is held by the first module's view alone, so that it is counted, moved and saved once. The others keep
    a reference that torch does not look into.

    Example:
        >>> from peft import get_peft_model
        >>> from ttnet_llm import LotrConfig
        >>> model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        >>> model = get_peft_model(model, LotrConfig(target_modules=["0", "1"]))
        >>> first, second = (layer.networks["default"] for layer in model.base_model.adapter_layers().values())
        >>> isinstance(second, SharedView), first.shared is second.shared, second.part("U").shape
        (True, True, torch.Size([6, 2]))
    """

    common_cls: ClassVar[Any]  # of the common network; made from a group and a config
    layer: int
    projection: int
    _reference: tuple[nn.Module, ...] = ()  # in a tuple, so that torch does not register it

    @classmethod
    def shape(cls, in_features: int, out_features: int, fan_in: int) -> tuple[int, int, int]:
        """Say what modules agree in that share a network: by default in all of their sizes.

        Args:
            in_features: A module's input size.
            out_features: Its output size.
            fan_in: How many inputs an output adds up.

        Returns:
            The sizes that their group gets.
        """
        return in_features, out_features, fan_in

    @property
    def shared(self) -> Any:
        """The common network."""
        return self._reference[0]

    def part(self, name: str) -> Tensor:
        """Give a parameter of the common network.

        Where FSDP2 shards the model by layers, it gathers the common network for the layer that holds it alone: in the
        others it is gathered here, and the gradients of all of them are averaged as FSDP2's own are.

        Args:
            name: The parameter's name in it.

        Returns:
            The parameter, whole.
        """
        find = attrgetter(name)  # FSDP1 puts tensors in the place of parameters
        parameter: Tensor = find(self.shared)
        if parameter.is_meta:
            bring_back(self.shared)
            parameter = find(self.shared)
        if isinstance(parameter, DTensor):
            return parameter.full_tensor(grad_placements=[Partial("avg")] * parameter.device_mesh.ndim)
        return parameter

    def connect(self, shared: nn.Module, layer: int, projection: int, owner: bool) -> None:
        """Say what the view looks at.

        Args:
            shared: The common network.
            layer: The module's layer, counted among those of the group.
            projection: The module's place in its layer.
            owner: Whether this view holds the common network for all.
        """
        self._reference = (shared,)
        self.layer, self.projection = layer, projection
        if owner:
            self.common = shared  # registered with torch


@dataclass(frozen=True)
class Member:
    """A module whose network is a view of one that it shares with others.

    Args:
        name: The module's full name.
        in_features: Its input size.
        out_features: Its output size.
        fan_in: How many inputs an output adds up.
        view: Its view.
    """

    name: str
    in_features: int
    out_features: int
    fan_in: int
    view: SharedView


def share(members: Iterable[Member], config: Any, head_size: int | None) -> list[tuple[str, nn.Module]]:
    """Make the networks that modules share, one for each shape, and connect the views with them.

    Args:
        members: The modules, in the model's order.
        config: The method's config.
        head_size: The model's size of an attention head, if it says.

    Returns:
        For each of the networks the name of the module that holds it for all, and the network.
    """
    shapes: dict[tuple[int, int, int], list[Member]] = {}
    for member in members:
        shape = member.view.shape(member.in_features, member.out_features, member.fan_in)
        shapes.setdefault(shape, []).append(member)
    made = []
    for shape, alike in shapes.items():
        group = Group.of([member.name for member in alike], *shape, head_size)
        shared: nn.Module = alike[0].view.common_cls(group, config)
        for member in alike:
            layer, projection = place(member.name)
            places = group.layers.index(layer), group.projections.index(projection)
            member.view.connect(shared, *places, owner=member is alike[0])
        made.append((alike[0].name, shared))
    return made


def place(name: str) -> tuple[str, str]:
    """Take a module's name apart into its layer and its place in it.

    Args:
        name: The full name; the first number in it is the layer's.

    Returns:
        The layer's name, empty for a module outside all layers, and the rest.

    Example:
        >>> place("encoder.layer.3.attention.self.query")
        ('encoder.layer.3', 'attention.self.query')
        >>> place("score")
        ('', 'score')
    """
    found = re.fullmatch(r"((?:.*?\.)?\d+)\.(.+)", name)
    return (found[1], found[2]) if found else ("", name)


def head_size(config: dict[str, Any]) -> int | None:
    """Read the size of an attention head off a transformers config.

    Args:
        config: The config as a dict.

    Returns:
        The size; `None` where it does not say, or has one for every stage.

    Example:
        >>> head_size({"hidden_size": 768, "num_attention_heads": 12})
        64
        >>> head_size({"hidden_size": 768, "num_heads": [3, 6, 12, 24]})
    """

    def first(*names: str) -> Any:
        value = next((config[name] for name in names if config.get(name)), None)
        return value if isinstance(value, int) else None  # some have a list, an entry for each stage

    size, heads = first("hidden_size", "n_embd", "d_model"), first("num_attention_heads", "n_head", "num_heads")
    return first("head_dim", "d_kv") or (size // heads if size and heads else None)
