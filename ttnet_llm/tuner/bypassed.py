"""Adapted layers that the model goes around: it reads their weight, and never calls them.

Fused kernels take weights, not layers: Mamba's mixers, WavLM's attention, torch's own `MultiheadAttention` and
`TransformerEncoderLayer`. An adapter around such a layer is trained and merged for nothing. What a module's code says
is told when the adapter is made, and what its first forward pass shows is told then.
"""

import ast
import inspect
import textwrap
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import nn
from torch.compiler import is_compiling

# What is read off a weight without reading its entries.
_ABOUT = {"dtype", "device", "shape", "size", "ndim", "dim", "numel", "requires_grad", "is_meta"}
_ASKING = {"isinstance", "getattr", "hasattr", "setattr"}
# Parts of a weight are read in variants, off by default, of modules that call the layer (BLOOM, DeBERTa).
_PARTS = {"chunk", "split"}


@cache
def weights_read(kind: type[nn.Module]) -> frozenset[str]:
    """Name the children whose whole weights the code of a class reads, rather than calling them.

    Args:
        kind: The class.

    Returns:
        Their attribute names; empty where the source is not to be had.

    Example:
        >>> sorted(weights_read(nn.MultiheadAttention))
        ['out_proj']
    """
    inherited = (base for base in kind.__mro__ if issubclass(base, nn.Module) and base is not nn.Module)
    methods = (item for base in inherited for item in vars(base).items() if callable(item[1]))
    found = (_weights_read_in(inspect.unwrap(method)) for name, method in methods if "init" not in name)
    return frozenset(name for names in found for name in names)


def _weights_read_in(method: Callable[..., Any]) -> Iterator[str]:
    if "weight" not in getattr(getattr(method, "__code__", None), "co_names", ()):
        return  # most methods, found out without their source
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, TypeError, SyntaxError):
        return
    for outer in ast.walk(tree):
        about = isinstance(outer, ast.Attribute) and (outer.attr in _ABOUT | _PARTS or isinstance(outer.ctx, ast.Store))
        asking = isinstance(outer, ast.Call) and isinstance(outer.func, ast.Name) and outer.func.id in _ASKING
        if about or asking or isinstance(outer, ast.Subscript):
            continue
        for node in ast.iter_child_nodes(outer):
            match node:
                case ast.Attribute(value=ast.Attribute(value=ast.Name(id="self"), attr=child), attr="weight") if (
                    isinstance(node.ctx, ast.Load)
                ):
                    yield child


def goes_around(model: nn.Module, name: str) -> bool:
    """Tell whether code of a model reads the whole weight of a layer, rather than calling it.

    Args:
        model: The model.
        name: The layer's full name.

    Returns:
        Whether the class of the module that holds the layer does, in some of its code or all. torch's encoder layers,
        that do so in evaluation, call their layers once those are adapted.

    Example:
        >>> goes_around(nn.Sequential(nn.MultiheadAttention(4, 2)), "0.out_proj")
        True
    """
    parent, _, child = name.rpartition(".")
    holder = model.get_submodule(parent)
    kind: Any = type(holder)
    return not isinstance(holder, nn.TransformerEncoderLayer) and child in weights_read(kind)


def watch(tuner: BaseTuner, layers: dict[str, nn.Module]) -> None:
    """Warn of adapted layers that the model reads the weight of, now and at their first forward pass.

    Args:
        tuner: The tuner of the model.
        layers: The newly adapted layers of the model, by name.
    """
    families: dict[str, dict[str, nn.Module]] = {}
    for name, layer in layers.items():
        family, _, child = name.rpartition(".")
        families.setdefault(family, {})[child] = layer
    read: dict[str, str] = {}
    said: set[tuple[type, str]] = set()
    for name, children in families.items():
        parent: nn.Module = tuner.model.get_submodule(name)
        for child in children:
            if goes_around(tuner.model, full := f"{name}.{child}".lstrip(".")):
                read[full] = f"{type(parent).__name__}'s {child}"
        if isinstance(parent, nn.TransformerEncoderLayer):
            for layer in children.values():
                layer.register_forward_pre_hook(_keep_from_fast_path)
            encoder = tuner.model.get_submodule(name.rpartition(".layers.")[0])
            if isinstance(encoder, nn.TransformerEncoder):
                encoder.use_nested_tensor = False  # made for the fast path only
        if not isinstance(parent, nn.ModuleList | nn.ModuleDict):  # those are never called
            # PEFT may call the model itself in the place of the tuner, or its forward method from there.
            FirstPass(name, [parent] if name else [parent, tuner], children, said)
    if read:
        layers_of = ", ".join(dict.fromkeys(read.values()))
        warnings.warn(
            f"Code of the model reads the weight of adapted layers rather than calling them ({layers_of}). Where that "
            f"code runs, such as in fused kernels, the adapters on these {len(read)} layers ({next(iter(read))} and "
            "the like) have no effect: they are trained and merged for nothing. Leave them out of target_modules, or "
            "put them into exclude_modules.",
            stacklevel=2,
        )


class FirstPass:
    """Finds out which adapted children a module does not call in its first forward pass, and is gone then.

    Args:
        name: The module's name.
        modules: The module, and what else has its children.
        children: Its adapted children, by attribute name.
        said: Kinds of children that a warning was given of, shared between modules.
    """

    def __init__(
        self, name: str, modules: list[nn.Module], children: dict[str, nn.Module], said: set[tuple[type, str]]
    ) -> None:
        self.name, self.said = name, said
        self.uncalled = {
            child: layer.register_forward_pre_hook(partial(self._called, child)) for child, layer in children.items()
        }
        self.layers, self.kind = children, type(modules[0])
        self.handles = [module.register_forward_hook(self._done) for module in modules]

    def _called(self, child: str, *_: Any) -> None:
        if not is_compiling() and (handle := self.uncalled.pop(child, None)) is not None:
            handle.remove()

    def _done(self, module: nn.Module, *_: Any) -> None:
        if is_compiling():
            return
        for handle in self.handles:
            handle.remove()
        while self.uncalled:
            child, handle = self.uncalled.popitem()
            handle.remove()
            # Not where the adapter was taken out before, or is wrapped by something that calls it in its own way.
            if getattr(module, child, None) is not self.layers[child] or (self.kind, child) in self.said:
                continue
            self.said.add((self.kind, child))
            warnings.warn(
                f"{self.name or 'The model'}, a {self.kind.__name__}, did not call its adapted layer {child!r} in "
                "its first forward pass. Where it reads the layer's weight instead, the adapter has no effect, and is "
                "trained and merged for nothing: leave it out of target_modules, or put it into exclude_modules.",
                stacklevel=2,
            )


def _keep_from_fast_path(*_: Any) -> None:
    """Do nothing; torch's encoder layers call their children, rather than read their weights, where there are hooks."""
