"""Trains made from nothing but a shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ttnet.chain import check_shape
from ttnet.errors import TTTypeError, TTValueError
from ttnet.tensor_train import TensorTrain
from ttnet.truncation import check_ranks


def random(
    shape: Sequence[int],
    rank: int | Sequence[int] = 1,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> TensorTrain:
    """Draw a train whose dense entries have mean 0 and variance 1, whatever its order and ranks.

    Core entries are independent normal numbers of variance `1 / sqrt(r_{k-1} r_k)`: an entry of the tensor is a sum of
    `r_1 ... r_{d-1}` products, and the variances of one product multiply to the inverse of that number.

    Args:
        shape: The mode sizes, each at least 1.
        rank: The inner ranks, one int for all or one per inner bond, taken as they are; each at least 1.
        dtype: A floating or complex dtype; None for torch's default. Complex entries have `E |x|^2 = 1`.
        device: The device; None for torch's default.
        seed: A seed of its own, for a result that does not depend on what was drawn before.
        generator: A generator on the same device, instead of a seed. Without either, torch's global one draws.

    Returns:
        The train.

    Raises:
        TTTypeError: If the dtype is neither floating nor complex, or a size is not an int.
        TTShapeError: If a size is below 1, or `rank` has the wrong number of entries.
        TTValueError: If a rank is below 1, or both a seed and a generator are given.

    Example:
        >>> x = random((4, 4, 4), 2, seed=0)
        >>> x
        TensorTrain(shape=(4, 4, 4), ranks=(1, 2, 2, 1), dtype=torch.float32)
    """
    shape = check_shape(shape, "shape")
    dtype = _check_dtype(dtype)
    inner = check_ranks(rank, max(0, len(shape) - 1), "rank")
    if seed is not None and generator is not None:
        raise TTValueError("seed and generator are both given; give one of them, or neither.")
    if seed is not None:
        generator = torch.Generator(device or torch.get_default_device()).manual_seed(seed)
    ranks = [1, *inner, 1] if shape else [1, 1]
    cores = []
    for k, sizes in enumerate([[size] for size in shape] or [[]]):
        left, right = ranks[k], ranks[k + 1]
        core = torch.randn((left, *sizes, right), dtype=dtype, device=device, generator=generator)
        cores.append(core * (left * right) ** -0.25)
    return TensorTrain(cores)


def zeros(
    shape: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TensorTrain:
    """Give the train of zeros, of ranks 1.

    Args:
        shape: The mode sizes, each at least 1.
        dtype: A floating or complex dtype; None for torch's default.
        device: The device; None for torch's default.

    Returns:
        The train.

    Raises:
        TTTypeError: If the dtype is neither floating nor complex, or a size is not an int.
        TTShapeError: If a size is below 1.

    Example:
        >>> zeros((2, 3)).norm()
        tensor(0.)
    """
    return _constant(0.0, shape, dtype, device)


def ones(
    shape: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TensorTrain:
    """Give the train of ones, of ranks 1.

    Args:
        shape: The mode sizes, each at least 1.
        dtype: A floating or complex dtype; None for torch's default.
        device: The device; None for torch's default.

    Returns:
        The train.

    Raises:
        TTTypeError: If the dtype is neither floating nor complex, or a size is not an int.
        TTShapeError: If a size is below 1.

    Example:
        >>> ones((2, 3)).full()
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    return _constant(1.0, shape, dtype, device)


def _constant(
    value: float, shape: Sequence[int], dtype: torch.dtype | None, device: torch.device | str | None
) -> TensorTrain:
    shape = check_shape(shape, "shape")
    dtype = _check_dtype(dtype)
    modes = [[size] for size in shape] or [[]]
    return TensorTrain(torch.full((1, *sizes, 1), value, dtype=dtype, device=device) for sizes in modes)


def _check_dtype(dtype: torch.dtype | None) -> torch.dtype:
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not (dtype.is_floating_point or dtype.is_complex):
        raise TTTypeError(f"dtype is {dtype}; expected a floating or complex torch.dtype.")
    return dtype
