"""What all solvers are told, checked before any work is done."""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.scales import compute_dtype, count_nonfinite
from ttnet.numerics.truncation import check_max_rank
from ttnet.trains.chain import CoreChain, shorten
from ttnet.trains.checks import expect_train
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


def check_tol(tol: object, dtype: torch.dtype) -> float:
    """Give a tolerance as a float, if the precision of a dtype has a chance to reach it.

    Args:
        tol: A relative residual, above 0 and below 1.
        dtype: The dtype of the answer.

    Returns:
        The tolerance.

    Raises:
        TTTypeError: If it is not a real number.
        TTValueError: If it is not above 0 and below 1, or below 4 machine epsilons of the dtype.

    Example:
        >>> check_tol(1e-8, torch.float64)
        1e-08
    """
    if isinstance(tol, bool) or not isinstance(tol, numbers.Real):
        raise TTTypeError(f"tol is a {type(tol).__name__}; expected a real number above 0 and below 1.")
    value = float(tol)
    if not 0 < value < 1:
        raise TTValueError(
            f"tol is {tol}; expected a number above 0 and below 1, as residuals are relative: zero has one of 1."
        )
    least = 4 * torch.finfo(dtype).eps
    if value < least:
        raise TTValueError(
            f"tol is {tol}, below the precision of {str(dtype).removeprefix('torch.')}; expected at least {least:.1e}: "
            f"raise tol, or convert the trains to {'float64' if not dtype.is_complex else 'complex128'}."
        )
    return value


def check_count(count: object, name: str, least: int = 1) -> int:
    """Give a count as an int.

    Args:
        count: An int, at least `least`.
        name: What the caller calls it, for the messages.
        least: The smallest one that is allowed.

    Returns:
        The count.

    Raises:
        TTTypeError: If it is not an int.
        TTValueError: If it is too small.

    Example:
        >>> check_count(3, "max_sweeps")
        3
    """
    if isinstance(count, bool) or not isinstance(count, numbers.Integral):
        raise TTTypeError(f"{name} is {count!r}; expected an int >= {least}.")
    if count < least:
        raise TTValueError(f"{name} is {count}; expected an int >= {least}.")
    return int(count)


def check_seed(seed: object) -> torch.Generator:
    """Give the generator of all random choices of a solver, which leaves torch's own alone.

    Args:
        seed: An int from 0 to 2**63 - 1.

    Returns:
        A generator on the CPU.

    Raises:
        TTTypeError: If it is not an int.
        TTValueError: If it is out of range.

    Example:
        >>> check_seed(3).initial_seed()
        3
    """
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TTTypeError(f"seed is {seed!r}; expected an int.")
    if not 0 <= int(seed) < 2**63:
        raise TTValueError(f"seed is {seed}; expected an int from 0 to 2**63 - 1.")
    return torch.Generator("cpu").manual_seed(int(seed))


def check_callback(callback: object) -> None:
    """Refuse a callback that cannot be called.

    Args:
        callback: A function of a `SolverProgress`, or None.

    Raises:
        TTTypeError: If it is neither.

    Example:
        >>> check_callback(None)
    """
    if callback is not None and not callable(callback):
        raise TTTypeError(f"callback is a {type(callback).__name__}; expected a function of a SolverProgress, or None.")


def check_bounds(max_rank: int | Sequence[int] | None, order: int) -> list[int | None]:
    """Give one largest rank per inner bond.

    Args:
        max_rank: An int >= 1 for all bonds, one such int per inner bond, or None for no bound.
        order: The number of modes.

    Returns:
        A list of length `order - 1`, at least 0.

    Raises:
        TTTypeError: If `max_rank` holds something other than ints.
        TTValueError: If a rank is below 1.
        TTShapeError: If it is a sequence of another length.

    Example:
        >>> check_bounds(3, 3)
        [3, 3]
    """
    return check_max_rank(max_rank, max(0, order - 1))


def check_train(x: object, name: str) -> TensorTrain:
    """Give a train of finite numbers that a solver can compute with.

    Args:
        x: A train.
        name: What the caller calls it, for the messages.

    Returns:
        The train.

    Raises:
        TTTypeError: If it is something else.
        TTValueError: If a core has entries that are NaN or infinite.

    Example:
        >>> import ttnet
        >>> check_train(ttnet.ones((2, 3)), "b")
        TensorTrain([2]-1-[3], float32)
    """
    train = expect_train(x, name)
    _check_finite(train, name)
    return train


def check_operator(a: object, name: str, *, square: bool = True) -> TTMatrix:
    """Give an operator of finite numbers.

    Args:
        a: A TT-matrix.
        name: What the caller calls it, for the messages.
        square: Whether its row and column modes have to be the same.

    Returns:
        The TT-matrix.

    Raises:
        TTTypeError: If it is something else.
        TTShapeError: If a row mode and its column mode differ in size.
        TTValueError: If a core has entries that are NaN or infinite.

    Example:
        >>> import ttnet
        >>> check_operator(ttnet.eye((2, 3)), "A").shape
        (6, 6)
    """
    if not isinstance(a, TTMatrix):
        raise TTTypeError(f"{name} is a {type(a).__name__}; expected a TTMatrix.")
    if square and a.row_shape != a.col_shape:
        raise TTShapeError(
            f"{name} has row modes {shorten(a.row_shape)} and column modes {shorten(a.col_shape)}; expected the same: "
            "for a least-squares problem, solve A.H @ A x = A.H @ b."
        )
    _check_finite(a, name)
    return a


def check_fit(a: TTMatrix, x: TensorTrain, name: str) -> None:
    """Refuse a train that an operator cannot multiply.

    Args:
        a: The operator, square.
        x: The train.
        name: What the caller calls the train, for the messages.

    Raises:
        TTShapeError: If the modes differ.
        TTValueError: If the devices differ.

    Example:
        >>> import ttnet
        >>> check_fit(ttnet.eye((2, 3)), ttnet.ones((2, 3)), "b")
    """
    if x.shape != a.col_shape:
        raise TTShapeError(
            f"{name} has shape {shorten(x.shape)} but A has modes {shorten(a.col_shape)}; expected the same modes."
        )
    if x.device != a.device:
        raise TTValueError(f"A is on {a.device} and {name} on {x.device}; move them to one device.")


def solver_dtype(*values: CoreChain) -> torch.dtype:
    """Give the dtype that a solver computes in: that of all its operands together, in single precision at least.

    Args:
        values: Trains and TT-matrices.

    Returns:
        The dtype.

    Example:
        >>> import ttnet
        >>> solver_dtype(ttnet.ones((2,)), ttnet.eye((2,), dtype=torch.complex128))
        torch.complex128
    """
    dtype = values[0].dtype
    for value in values[1:]:
        dtype = torch.promote_types(dtype, value.dtype)
    return compute_dtype(dtype)


def _check_finite(value: CoreChain, name: str) -> None:
    for k, core in enumerate(value.cores):
        if count := count_nonfinite(core):
            raise TTValueError(
                f"{name}.cores[{k}] holds NaN or infinite entries, {count} of {core.numel()}; expected finite numbers."
            )
