"""What this machine can hold: a refusal in time is better than a killed process."""

from __future__ import annotations

import os

import torch

from ttnet.errors import TTValueError, spell_count

# Bytes; None where the system does not tell.
_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None


def check_memory(count: int, dtype: torch.dtype, device: torch.device, *, what: str, advice: str) -> None:
    """Refuse to make a tensor that is larger than this machine's memory.

    Args:
        count: The number of its entries, of any size.
        dtype: Its dtype.
        device: Where it is to be made. Devices other than the CPU refuse by themselves; Linux kills the process.
        what: What the tensor is, for the message.
        advice: What to do instead, for the message.

    Raises:
        TTValueError: If it is larger.

    Example:
        >>> check_memory(10**6, torch.float32, torch.device("cpu"), what="the result", advice="take less.")
    """
    if _MEMORY is None or count * dtype.itemsize <= _MEMORY or device.type != "cpu":
        return
    raise TTValueError(
        f"{what} has {spell_count(count)} entries, more than this machine's memory of {_MEMORY / 2**30:.0f} GiB can "
        f"hold; {advice}"
    )


def check_product(largest: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a product of trains with a core that is larger than this machine's memory.

    Args:
        largest: The number of entries of the product's largest core.
        dtype: Its dtype.
        device: Where it is to be made.

    Raises:
        TTValueError: If it is larger.

    Example:
        >>> check_product(10**6, torch.float32, torch.device("cpu"))
    """
    advice = "ranks multiply in products, so round the operands first."
    check_memory(largest, dtype, device, what="the largest core of the product", advice=advice)
