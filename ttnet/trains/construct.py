"""Trains and TT-matrices made from nothing but a shape, or from the coordinates of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTValueError
from ttnet.numerics.dense import as_dense
from ttnet.numerics.memory import check_memory
from ttnet.numerics.truncation import check_ranks
from ttnet.trains.chain import check_dtype, check_shape
from ttnet.trains.habits import in_other_words
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


@in_other_words(beyond="random((4, 4)), with the sizes in one tuple")
def random(
    shape: Sequence[int],
    rank: int | Sequence[int] = 1,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    ranks: int | Sequence[int] | None = None,
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
        ranks: Another name of `rank`, which goes before it.

    Returns:
        The train.

    Raises:
        TTTypeError: If the dtype is neither floating nor complex, or a size is not an int.
        TTShapeError: If a size is below 1, or `rank` has the wrong number of entries.
        TTValueError: If a rank is below 1, or both a seed and a generator are given.

    Example:
        >>> x = random((4, 4, 4), 2, seed=0)
        >>> x
        TensorTrain([4]-2-[4]-2-[4], float32)
    """
    shape = check_shape(shape, "shape")
    dtype = check_dtype(dtype)
    given = ("rank", rank) if ranks is None else ("ranks", ranks)
    inner = check_ranks(given[1], max(0, len(shape) - 1), given[0])
    if seed is not None and generator is not None:
        raise TTValueError("seed and generator are both given; give one of them, or neither.")
    if seed is not None:
        where = torch.empty(0, device=device).device
        # On the meta device there is nothing to draw.
        generator = None if where.type == "meta" else torch.Generator(where).manual_seed(seed)
    bonds = [1, *inner, 1] if shape else [1, 1]
    cores = []
    for k, sizes in enumerate([[size] for size in shape] or [[]]):
        left, right = bonds[k], bonds[k + 1]
        core = torch.randn((left, *sizes, right), dtype=dtype, device=device, generator=generator)
        cores.append(core * (left * right) ** -0.25)
    return TensorTrain(cores)


@in_other_words(beyond="zeros((4, 4)), with the sizes in one tuple")
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


@in_other_words(beyond="ones((4, 4)), with the sizes in one tuple")
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


@in_other_words(beyond="eye((4, 4)), with the sizes of the modes in one tuple")
def eye(
    shape: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TTMatrix:
    """Give the identity, of ranks 1.

    Args:
        shape: The mode sizes of its rows, which are those of its columns: at least one, each at least 1.
        dtype: A floating or complex dtype; None for torch's default.
        device: The device; None for torch's default.

    Returns:
        The TT-matrix of as many rows and columns as `shape` has entries.

    Raises:
        TTTypeError: If the dtype is neither floating nor complex, or a size is not an int.
        TTShapeError: If there are no modes, or a size is below 1.
        TTValueError: If a core would be more than this machine's memory holds.

    Example:
        >>> eye((2, 3))
        TTMatrix([2x2]-1-[3x3], float32)
    """
    shape = check_shape(shape, "shape")
    dtype = check_dtype(dtype)
    if not shape:
        raise TTShapeError("shape is (); expected at least one mode.")
    where = torch.empty(0, device=device).device
    advice = "take the mode apart into smaller ones."
    check_memory(max(shape) ** 2, dtype, where, what="the largest core of the identity", advice=advice)
    return TTMatrix([torch.eye(size, dtype=dtype, device=device)[None, :, :, None] for size in shape])


@in_other_words(beyond="arange((4, 4)), with the sizes in one tuple")
def arange(
    shape: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TensorTrain:
    """Number the entries, last index fastest: the train of `torch.arange(numel).reshape(shape)`, of ranks 2.

    The cores hold small numbers, exactly, whatever the order: by Horner's rule, entry `(i_1, ..., i_d)` has the number
    `(... (i_1 n_2 + i_2) n_3 + ...) n_d + i_d`.

    Args:
        shape: The mode sizes, each at least 1.
        dtype: A floating or complex dtype; None for torch's default.
        device: The device; None for torch's default.

    Returns:
        The train. A grid of any bounds is a multiple of it plus a multiple of `ones`.

    Raises:
        TTTypeError: If the dtype is neither floating nor complex, or a size is not an int.
        TTShapeError: If a size is below 1.

    Example:
        >>> arange((2, 3)).full()
        tensor([[0., 1., 2.],
                [3., 4., 5.]])
    """
    shape = check_shape(shape, "shape")
    if not shape:
        return zeros(shape, dtype=dtype, device=device)
    cores = []
    for size in shape:  # the row vector (1, number so far) goes from core to core
        core = torch.zeros(2, size, 2, dtype=check_dtype(dtype), device=device)
        core[0, :, 0] = 1
        core[0, :, 1] = torch.arange(size, device=device)
        core[1, :, 1] = size
        cores.append(core)
    cores[0] = cores[0][:1]
    cores[-1] = cores[-1][:, :, 1:]
    return TensorTrain(cores)


def meshgrid(*vectors: Tensor | npt.NDArray[Any]) -> tuple[TensorTrain, ...]:
    """Give the coordinates of a grid as trains of ranks 1, as `torch.meshgrid` with `indexing="ij"` does as tensors.

    Args:
        *vectors: The points on each axis, tensors or numpy arrays of shape (n_k,), on one device. Dtypes promote;
            integers and bools are taken as float64. They are kept as they are where they can, so gradients flow to
            them.

    Returns:
        One train of shape `(n_1, ..., n_d)` for each vector, whose entry at `(i_1, ..., i_d)` is `vectors[k][i_k]`.

    Raises:
        TTTypeError: If an argument is neither a tensor nor an array.
        TTShapeError: If there are none, or one is not a vector or empty.
        TTValueError: If the devices differ.

    Example:
        >>> x, y = meshgrid(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0]))
        >>> (x + y).full()
        tensor([[11., 21.],
                [12., 22.]])
    """
    points = [as_dense(vector, f"vectors[{k}]") for k, vector in enumerate(vectors)]
    if not points:
        raise TTShapeError("meshgrid got no vectors; expected at least one.")
    for k, vector in enumerate(points):
        if vector.ndim != 1 or not vector.numel():
            raise TTShapeError(f"vectors[{k}] has shape {tuple(vector.shape)}; expected (n,) with n >= 1.")
        if vector.device != points[0].device:
            raise TTValueError(
                f"vectors[{k}] is on {vector.device} but vectors[0] is on {points[0].device}; move them to one device."
            )
    dtype = reduce(torch.promote_types, [vector.dtype for vector in points])
    coordinates = [vector.to(dtype)[None, :, None] for vector in points]
    constant = [torch.ones_like(core.detach()) for core in coordinates]
    return tuple(TensorTrain([*constant[:k], core, *constant[k + 1 :]]) for k, core in enumerate(coordinates))


def _constant(
    value: float, shape: Sequence[int], dtype: torch.dtype | None, device: torch.device | str | None
) -> TensorTrain:
    shape = check_shape(shape, "shape")
    dtype = check_dtype(dtype)
    modes = [[size] for size in shape] or [[]]
    return TensorTrain([torch.full((1, *sizes, 1), value, dtype=dtype, device=device) for sizes in modes])
