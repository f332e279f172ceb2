"""Weights that a library has offloaded: taken back by modules that are never called, or read one at a time."""

from __future__ import annotations

from torch import Tensor, nn


def bring_back(module: nn.Module) -> None:
    """Load the weights of a module that are offloaded, and keep them where they are used from then on.

    accelerate offloads weights to the CPU or the disk, leaves tensors without entries in their place, and loads them in
    a hook around the call of the module that holds them. The cores of a train are held by a list, which nobody calls:
    they are few, so they are loaded once and stay. A module that has no such hook is left alone.

    Args:
        module: The module, with those inside of it.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> bring_back(layer)
    """
    for part in module.modules():
        hook = part.__dict__.get("_hf_hook")
        if hook is None:
            continue
        hook.pre_forward(part)
        del part._hf_hook
        if part.__dict__.pop("_old_forward", None) is not None:
            part.__dict__.pop("forward", None)  # the class's own again


def read_parameter(module: nn.Module, name: str) -> Tensor | None:
    """Read a small parameter of a module whose weights may be offloaded, and leave the others where they are.

    Args:
        module: The module.
        name: The parameter's name in it.

    Returns:
        The parameter; a copy on the device where the module is computed if it is offloaded; `None` if the module has
        none.

    Example:
        >>> read_parameter(nn.Linear(2, 3), "bias").shape, read_parameter(nn.Linear(2, 2, bias=False), "bias")
        (torch.Size([3]), None)
    """
    value: Tensor | None = getattr(module, name, None)
    hook = module.__dict__.get("_hf_hook")
    if value is None or not value.is_meta or hook is None:
        return value
    part = next(part for part in getattr(hook, "hooks", (hook,)) if getattr(part, "weights_map", None) is not None)
    stored: Tensor = part.weights_map[name]
    return stored.to(part.execution_device)
