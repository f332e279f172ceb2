"""The adapters' contribution made weaker or stronger for a while."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.tuner.layer import AdapterLayer


@contextmanager
def rescale_adapter_scale(model: nn.Module, multiplier: float) -> Iterator[None]:
    """Multiply the contribution of all adapters of a model by a factor within a `with` block.

    `peft.helpers.rescale_adapter_scale` does this for LoRA, and knows LoRA's layers only.

    Args:
        model: A model with adapters of any method of this package, none of them merged.
        multiplier: The factor, a finite number; 0 gives the base model's output.

    Raises:
        TTTypeError: If the model has no such adapters, or the factor is not a number.
        TTValueError: If the factor is not finite, or an adapter is merged.

    Example:
        >>> import torch
        >>> from peft import get_peft_model
        >>> from ttnet_llm import TTLoraConfig
        >>> base = nn.Sequential(nn.Linear(8, 8))
        >>> x, expected = torch.ones(1, 8), base(torch.ones(1, 8))
        >>> model = get_peft_model(base, TTLoraConfig(target_modules=["0"], init_weights=False))
        >>> with rescale_adapter_scale(model, 0.0):
        ...     torch.equal(model(x), expected)
        True
    """
    if isinstance(multiplier, bool) or not isinstance(multiplier, int | float):
        raise TTTypeError(f"multiplier is a {type(multiplier).__name__}; expected a number.")
    if not math.isfinite(multiplier):
        raise TTValueError(f"multiplier is {multiplier}; expected a finite number.")
    layers = [module for module in model.modules() if isinstance(module, AdapterLayer)]
    if not layers:
        raise TTTypeError(f"the {type(model).__name__} has no adapters of this package; add one with get_peft_model.")
    if any(layer.merged for layer in layers):
        raise TTValueError("an adapter is merged, so that its scale is part of the weights; call `unmerge_adapter()`.")
    before = [dict(layer.scalings) for layer in layers]
    try:
        for layer in layers:
            layer.scalings.update({name: scale * multiplier for name, scale in layer.scalings.items()})
        yield
    finally:
        for layer, scalings in zip(layers, before, strict=True):
            layer.scalings.update(scalings)
