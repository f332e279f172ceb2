"""What counts as a dense tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ttnet.errors import TTTypeError


def as_dense(x: object, name: str = "x") -> Tensor:
    """Take a tensor or numpy array of floating, complex, integer or bool entries.

    Args:
        x: The tensor or array.
        name: What the caller calls the argument, for the messages.

    Returns:
        A tensor: floating and complex ones as they are, others in float64. It shares storage with `x` where it can.

    Raises:
        TTTypeError: If `x` or its dtype is of another kind, or it is sparse or on the meta device.

    Example:
        >>> as_dense(np.arange(3))
        tensor([0., 1., 2.], dtype=torch.float64)
    """
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise TTTypeError(f"{name} has masked entries, {int(x.mask.sum())}; expected an array, as its filled() gives.")
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "biufc" or x.dtype.itemsize > (16 if x.dtype.kind == "c" else 8):
            raise TTTypeError(f"{name} has dtype {x.dtype}; expected a floating, complex, integer or bool dtype.")
        # torch takes neither foreign byte orders nor negative strides nor read-only memory.
        x = torch.from_numpy(np.require(x, x.dtype.newbyteorder("="), ["C", "W", "E"]))
    if not isinstance(x, Tensor):
        raise TTTypeError(f"{name} is a {type(x).__name__}; expected a torch.Tensor or a numpy.ndarray.")
    if x.is_nested:
        raise TTTypeError(f"{name} is a nested tensor; expected one of a single shape.")
    if x.layout != torch.strided:
        raise TTTypeError(f"{name} has the layout {x.layout}; expected a dense tensor, as its to_dense() gives.")
    if x.is_meta:
        raise TTTypeError(f"{name} is on the meta device, where tensors have no entries; expected another device.")
    if x.is_complex() or x.dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        return x
    if x.is_floating_point() or x.is_quantized:
        raise TTTypeError(
            f"{name} has dtype {x.dtype}; expected float64, float32, bfloat16, float16, complex or integers."
        )
    return x.to(torch.float64)
