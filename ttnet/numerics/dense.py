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
        TTTypeError: If `x` or its dtype is of another kind, entries are masked, or it is sparse or on the meta device.

    Example:
        >>> as_dense(np.arange(3))
        tensor([0., 1., 2.], dtype=torch.float64)
    """
    check_unmasked(x, name)
    if isinstance(x, np.ndarray):
        if x.dtype.kind not in "biufc" or x.dtype.itemsize > (16 if x.dtype.kind == "c" else 8):
            raise TTTypeError(f"{name} has dtype {x.dtype}; expected a floating, complex, integer or bool dtype.")
        # torch takes neither foreign byte orders nor negative strides nor read-only memory.
        is_fortran = x.flags.f_contiguous and not x.flags.c_contiguous
        native = x.dtype.newbyteorder("=")
        x = np.require(x, native, ["F", "W", "E"]) if is_fortran else np.require(x, native, ["C", "W", "E"])
        x = torch.from_numpy(x)
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


def check_unmasked(x: object, name: str) -> None:
    """Refuse an array with masked entries: what stands in their place would be taken for numbers.

    Args:
        x: Anything; an array with a `mask`, as numpy's masked ones, is looked at.
        name: What the caller calls it, for the message.

    Raises:
        TTTypeError: If entries are masked, or it is a masked tensor of torch.

    Example:
        >>> check_unmasked(np.ma.masked_array([1.0, 2.0], mask=[False, False]), "x")
    """
    if isinstance(x, torch.masked.MaskedTensor):
        raise TTTypeError(f"{name} is a MaskedTensor; expected a plain tensor, as its to_tensor(value) gives.")
    mask = getattr(x, "mask", None) if isinstance(x, np.ndarray) else None
    if isinstance(mask, np.ndarray | np.bool_) and mask.dtype == np.bool_ and (count := np.count_nonzero(mask)):
        raise TTTypeError(
            f"{name} has masked entries, {count} of {mask.size}; expected none: fill them before, as filled() of a "
            "masked array does."
        )
