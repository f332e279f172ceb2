"""Gradients through quantised layers whose kernels pass none on.

Where torchao quantises activations too, a layer computes with integers, and autograd is told nothing of it: adapters
before it would be trained wrongly, or not at all, and no error would say so.
"""

from typing import Any

import torch
from torch import Tensor, nn


def pass_gradients(model: nn.Module) -> None:
    """Let the quantised layers of a model that pass no gradient on give that of their dequantised weight.

    The quantisation of their inputs counts as the identity, as usual (the straight-through estimator).

    Args:
        model: The model.
    """
    cut: dict[Any, bool] = {}  # by kind of layer
    for module in model.modules():
        weight: Any = getattr(module._parameters.get("weight"), "data", None)
        if weight is None or weight.is_meta or not _is_quantised(weight):
            continue
        kind = type(module), type(weight), str(weight.__tensor_flatten__()[1])
        if kind not in cut:
            cut[kind] = isinstance(module, nn.Linear) and _cuts_gradients(module)
        if cut[kind] and _pass_on not in module._forward_hooks.values():
            module.register_forward_hook(_pass_on)


def _is_quantised(weight: Tensor) -> bool:
    return type(weight).dequantize is not Tensor.dequantize and hasattr(weight, "__tensor_flatten__")


def _cuts_gradients(layer: nn.Linear) -> bool:
    x = torch.ones(32, layer.in_features, device=layer.weight.device, dtype=layer.weight.dtype, requires_grad=True)
    try:
        with torch.enable_grad():
            result = layer(x)
            return not result.requires_grad or torch.autograd.grad(result.sum(), x, allow_unused=True)[0] is None
    except (RuntimeError, NotImplementedError, TypeError):  # it says so itself, or wants other inputs
        return False


def _pass_on(layer: nn.Linear, args: tuple[Tensor], result: Tensor) -> Tensor | None:
    if not (torch.is_grad_enabled() and args[0].requires_grad):
        return None
    return _StraightThrough.apply(args[0], result, layer.weight)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, result: Tensor, weight: Any) -> Tensor:
        ctx.weight = weight
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradients[0] @ ctx.weight.dequantize().to(gradients[0].dtype), gradients[0], None
