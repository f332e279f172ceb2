"""Differences on grids: shifts, second differences, gradients and convection, on ordinary and on quantised modes.

On a grid of `2**L` points, numbered in binary, a shift by one point is an addition with carries, which a train of L
modes of size 2 does with ranks 2: at each bond it is known whether a carry comes from below. The other operators are
sums of shifts. Source: Kazeev & Khoromskij 2012, "Low-rank explicit QTT representation of the Laplace operator and its
inverse".
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.memory import check_memory
from ttnet.operators.building import finish, identity_cores, kronecker_sum
from ttnet.trains.chain import check_scalar, check_shape
from ttnet.trains.tt_matrix import TTMatrix

BOUNDARIES = ("dirichlet", "neumann", "periodic")
MATRICES = 6  # of a mode, that are there at a time when an operator is made


def laplace(
    shape: Sequence[int],
    *,
    boundary: str | Sequence[str] = "dirichlet",
    quantised: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TTMatrix:
    """Give the negative Laplacian: the sum of the unscaled second differences, 2 on the diagonal and -1 beside it.

    Divide by the square of the grid's spacing for the derivative. Ranks are 2 on ordinary modes; on quantised ones
    they are 2 between dimensions and at most 4 within (3 in the first) for Dirichlet's and periodic boundaries, 6 (5 in
    the first) for Neumann's. Source: Kazeev & Khoromskij 2012, "Low-rank explicit QTT representation of the Laplace
    operator and its inverse".

    Args:
        shape: The number of grid points in each dimension, at least 1.
        boundary: "dirichlet", zero one step beyond the ends; "neumann", equal to the value at the ends there, which
            puts 1 into the corners; "periodic"; or one of these for each dimension.
        quantised: Take each dimension, of a power of two points, apart into modes of size 2, the most significant one
            first, as `ttnet.quantize` does.
        dtype: A floating or complex dtype; None for float64.
        device: The device; None for torch's default.

    Returns:
        The TT-matrix, symmetric and positive semidefinite; definite if one of the boundaries is Dirichlet's.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If there are no modes, or a size is below 1 or, if quantised, no power of two above 1.
        TTValueError: If there is no such boundary, or an ordinary mode's matrix is larger than this machine's memory.

    Example:
        >>> laplace((3,)).full()
        tensor([[ 2., -1.,  0.],
                [-1.,  2., -1.],
                [ 0., -1.,  2.]], dtype=torch.float64)
        >>> laplace((1024, 1024), quantised=True).ranks[:4], max(laplace((64, 64, 64)).ranks)
        ((1, 3, 3, 3), 2)
    """
    sizes, kinds = _check(shape, boundary, quantised)
    chains = []
    for size, kind in zip(sizes, kinds, strict=True):
        there, back = _shifted(size, 1, kind, quantised), _shifted(size, -1, kind, quantised)
        unit = identity_cores(there)
        chains.append(_add([(2.0, unit), (-1.0, there), (-1.0, back)]))
    return finish(kronecker_sum(chains), dtype, device)


def gradient(
    shape: Sequence[int],
    *,
    boundary: str | Sequence[str] = "dirichlet",
    scheme: str = "central",
    quantised: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> tuple[TTMatrix, ...]:
    """Give the first differences along each dimension, for a spacing of one.

    Ranks are 1 on ordinary modes; on quantised ones at most 3 ("central"; 5 for Neumann's boundaries) or 2 (3 for
    Neumann's) within the dimension, and 1 elsewhere.

    Args:
        shape: The number of grid points in each dimension, at least 1.
        boundary: What lies one step beyond the ends, as for `laplace`.
        scheme: "central", `(x[i + 1] - x[i - 1]) / 2`; "forward", `x[i + 1] - x[i]`; "backward", `x[i] - x[i - 1]`.
        quantised: Take each dimension apart into modes of size 2.
        dtype: A floating or complex dtype; None for float64.
        device: The device; None for torch's default.

    Returns:
        One TT-matrix for each dimension.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If there are no modes, or a size is below 1 or, if quantised, no power of two above 1.
        TTValueError: If there is no such boundary or scheme.

    Example:
        >>> gradient((3, 2))[0].ranks
        (1, 1, 1)
        >>> gradient((3,), boundary="periodic", scheme="forward")[0].full()
        tensor([[-1.,  1.,  0.],
                [ 0., -1.,  1.],
                [ 1.,  0., -1.]], dtype=torch.float64)
    """
    sizes, kinds = _check(shape, boundary, quantised)
    chains = [_difference(size, kind, scheme, quantised) for size, kind in zip(sizes, kinds, strict=True)]
    units = [identity_cores(chain) for chain in chains]
    return tuple(
        finish([core for j, unit in enumerate(units) for core in (chains[k] if j == k else unit)], dtype, device)
        for k in range(len(chains))
    )


def convection(
    shape: Sequence[int],
    velocity: Sequence[float] | Tensor | npt.NDArray[Any],  # (d,)
    *,
    boundary: str | Sequence[str] = "dirichlet",
    scheme: str = "central",
    quantised: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TTMatrix:
    """Give the derivative in one direction, `sum of velocity[k] * d/dx_k`, for a spacing of one.

    Ranks are 2 on ordinary modes; on quantised ones 2 between dimensions and at most one more within than `gradient`
    has.

    Args:
        shape: The number of grid points in each dimension, at least 1.
        velocity: A real number for each dimension; divide it by the spacing.
        boundary: What lies one step beyond the ends, as for `laplace`.
        scheme: "central"; or "upwind", which looks to where the flow comes from, and so keeps solutions free of
            wiggles at any velocity.
        quantised: Take each dimension apart into modes of size 2.
        dtype: A floating or complex dtype; None for float64.
        device: The device; None for torch's default.

    Returns:
        The TT-matrix.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If there are no modes, or sizes or lengths do not fit.
        TTValueError: If there is no such boundary or scheme, or a velocity is not finite.

    Example:
        >>> convection((3,), [2.0], scheme="upwind").full()
        tensor([[ 2.,  0.,  0.],
                [-2.,  2.,  0.],
                [ 0., -2.,  2.]], dtype=torch.float64)
    """
    sizes, kinds = _check(shape, boundary, quantised)
    if isinstance(velocity, Tensor | np.ndarray):
        velocity = velocity.tolist()
    if isinstance(velocity, str) or not isinstance(velocity, Sequence):
        raise TTTypeError(f"velocity is {velocity!r}; expected a sequence of one real number for each dimension.")
    if len(velocity) != len(sizes):
        raise TTShapeError(f"velocity has {len(velocity)} entries; expected {len(sizes)}, one for each dimension.")
    if scheme not in ("central", "upwind"):
        raise TTValueError(f"scheme is {scheme!r}; expected 'central' or 'upwind'.")
    chains = []
    for size, kind, given in zip(sizes, kinds, velocity, strict=True):
        scalar = check_scalar(given)
        scalar = scalar.item() if isinstance(scalar, Tensor) else scalar
        if scalar is None or isinstance(scalar, complex):
            raise TTTypeError(f"velocity holds {given!r}; expected real numbers.")
        speed = float(scalar)
        if not math.isfinite(speed):
            raise TTValueError(f"velocity holds {speed}; expected finite numbers.")
        way = scheme if scheme == "central" else ("backward" if speed >= 0 else "forward")
        chains.append(_add([(speed, _difference(size, kind, way, quantised))]))
    return finish(kronecker_sum(chains), dtype, device)


def shift(
    shape: Sequence[int],
    steps: int | Sequence[int] = 1,
    *,
    periodic: bool = False,
    quantised: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TTMatrix:
    """Give the operator that moves values along the grid: `y[i] = x[i - steps]`, zero where there is no such point.

    Ranks are 1 on ordinary modes, and at most 2 within the dimensions on quantised ones, for any number of steps.

    Args:
        shape: The number of grid points in each dimension, at least 1.
        steps: By how many points, of either sign, for all dimensions or one int for each.
        periodic: Whether what leaves at one end comes back at the other.
        quantised: Take each dimension apart into modes of size 2.
        dtype: A floating or complex dtype; None for float64.
        device: The device; None for torch's default.

    Returns:
        The TT-matrix.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If there are no modes, or sizes or lengths do not fit.

    Example:
        >>> import ttnet
        >>> x = ttnet.arange((4,), dtype=torch.float64)
        >>> (shift((4,)) @ x).full(), (shift((4,), -1, periodic=True) @ x).full()
        (tensor([0., 0., 1., 2.], dtype=torch.float64), tensor([1., 2., 3., 0.], dtype=torch.float64))
    """
    kind = "periodic" if periodic else "dirichlet"
    sizes, kinds = _check(shape, kind, quantised)
    counts: Sequence[int] = (
        [int(steps)] * len(sizes)
        if isinstance(steps, numbers.Integral) and not isinstance(steps, bool)
        else cast("Sequence[int]", steps)
    )
    if not isinstance(counts, Sequence) or any(
        isinstance(s, bool) or not isinstance(s, numbers.Integral) for s in counts
    ):
        raise TTTypeError(f"steps is {steps!r}; expected an int, or one for each dimension.")
    if len(counts) != len(sizes):
        raise TTShapeError(f"steps has {len(counts)} entries; expected {len(sizes)}, one for each dimension.")
    chains = [
        _shifted(size, -int(step), kind, quantised) for size, kind, step in zip(sizes, kinds, counts, strict=True)
    ]
    return finish([core for chain in chains for core in chain], dtype, device)


def _check(
    shape: Sequence[int], boundary: str | Sequence[str], quantised: bool
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    sizes = check_shape(shape, "shape")
    if not sizes:
        raise TTShapeError("shape is (); expected at least one dimension.")
    if not isinstance(boundary, str | Sequence):
        raise TTTypeError(
            f"boundary is {boundary!r}; expected one of {', '.join(map(repr, BOUNDARIES))}, or a sequence."
        )
    kinds = (boundary,) * len(sizes) if isinstance(boundary, str) else tuple(boundary)
    if len(kinds) != len(sizes):
        raise TTShapeError(f"boundary has {len(kinds)} entries; expected {len(sizes)}, one for each dimension.")
    for kind in kinds:
        if kind not in BOUNDARIES:
            raise TTValueError(f"boundary is {kind!r}; expected {' or '.join(map(repr, BOUNDARIES))}.")
    for size in sizes:
        if not quantised:
            check_memory(
                MATRICES * size * size,
                torch.float64,
                torch.device("cpu"),
                what=f"the operator of a dimension of {size} points, made of {MATRICES} dense matrices,",
                advice="take modes of size 2 instead (quantised=True), for which the number of points has to be a "
                "power of two.",
            )
        if quantised and (size < 2 or size & (size - 1)):
            raise TTShapeError(f"shape is {sizes}; expected powers of two above 1 where modes are quantised.")
    return sizes, kinds


def _difference(size: int, boundary: str, scheme: str, quantised: bool) -> list[Tensor]:
    """Give the cores of a first difference in one dimension."""
    unit = identity_cores(_shifted(size, 0, "dirichlet", quantised))
    after, before = _shifted(size, 1, boundary, quantised), _shifted(size, -1, boundary, quantised)
    schemes = {
        "central": [(0.5, after), (-0.5, before)],
        "forward": [(1.0, after), (-1.0, unit)],
        "backward": [(1.0, unit), (-1.0, before)],
    }
    if scheme not in schemes:
        raise TTValueError(f"scheme is {scheme!r}; expected {' or '.join(map(repr, schemes))}.")
    return _add(schemes[scheme])


def _shifted(size: int, step: int, boundary: str, quantised: bool) -> list[Tensor]:
    """Give the cores of `y[i] = x[i + step]`, where x goes on beyond its ends as the boundary says."""
    if not quantised:
        return [_shift_matrix(size, step, boundary)[None, :, :, None]]
    digits = size.bit_length() - 1
    cores = _digit_cores(step % size, digits)
    if boundary != "periodic":
        # A number that leaves the range carries into a digit above, which has to stay as it is: 0 going up; going
        # down, `step % size - size` is added, so 1 has to be carried.
        carried = 0 if 0 <= step < size else 1 if -size <= step < 0 else None
        cores[0] = torch.zeros_like(cores[0][:1]) if carried is None else cores[0][carried : carried + 1]
    else:
        cores[0] = cores[0].sum(0, keepdim=True)
    if boundary == "neumann" and step:  # here by one step alone: the end stands for what lies beyond it
        digit = 1 if step > 0 else 0
        end = torch.zeros(1, 2, 2, 1, dtype=torch.float64)
        end[0, digit, digit, 0] = 1
        return _add([(1.0, cores), (1.0, [end] * digits)])
    return cores


def _shift_matrix(size: int, step: int, boundary: str) -> Tensor:
    # Steps may be of any size, beyond what a tensor of indices holds.
    step = step % size if boundary == "periodic" else max(-size, min(step, size))
    rows = torch.arange(size)
    columns = rows + step
    matrix = torch.zeros(size, size, dtype=torch.float64)
    if boundary == "periodic":
        columns = columns % size
    elif boundary == "neumann":
        columns = columns.clamp(0, size - 1)
    inside = (columns >= 0) & (columns < size)
    matrix[rows[inside], columns[inside]] = 1
    return matrix


def _digit_cores(step: int, digits: int) -> list[Tensor]:
    """Give the cores of adding `step` in binary; a bond's states are the carries 0 and 1, which come from its right.

    The first core's left index is the carry beyond the most significant digit.
    """
    cores = []
    for k in range(digits):
        own = (step >> (digits - 1 - k)) & 1
        core = torch.zeros(2, 2, 2, 2, dtype=torch.float64)  # (carry out, row, column, carry in)
        for row in (0, 1):
            for carry in (0, 1):
                total = row + own + carry
                core[total // 2, row, total % 2, carry] = 1
        cores.append(core)
    cores[-1] = cores[-1][..., :1]
    return cores


def _add(terms: Sequence[tuple[float, Sequence[Tensor]]]) -> list[Tensor]:
    """Add up operators on the same modes: cores side by side."""
    if len(terms[0][1]) == 1:
        return [sum((weight * chain[0] for weight, chain in terms), torch.zeros(()))]
    cores = []
    last = len(terms[0][1]) - 1
    for k in range(last + 1):
        parts = [chain[k] * weight if k == 0 else chain[k] for weight, chain in terms]
        if k in (0, last):
            cores.append(torch.cat(parts, 3 if k == 0 else 0))
            continue
        rows, columns = (sum(part.shape[axis] for part in parts) for axis in (0, 3))
        block = parts[0].new_zeros(rows, *parts[0].shape[1:3], columns)
        row = column = 0
        for part in parts:
            block[row : row + part.shape[0], ..., column : column + part.shape[3]] = part
            row, column = row + part.shape[0], column + part.shape[3]
        cores.append(block)
    return cores
