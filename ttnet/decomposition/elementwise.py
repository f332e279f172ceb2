"""Functions of trains, entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ttnet.decomposition.tt_cross import tt_cross
from ttnet.errors import TTConvergenceError, TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.truncation import check_readable
from ttnet.trains.chain import shorten
from ttnet.trains.checks import expect_train
from ttnet.trains.evaluation import scaled_entries, scaled_slices
from ttnet.trains.tensor_train import TensorTrain


def apply(
    f: Callable[..., Any],
    *trains: TensorTrain,
    eps: float | None = 1e-6,
    max_rank: int | Sequence[int] | None = None,
    seed: int = 0,
    max_sweeps: int = 10,
    max_evaluations: int | None = None,
    samples: int = 1000,
    batch_size: int = 65536,
    dtype: torch.dtype | None = None,
) -> TensorTrain:
    """Apply a function to every entry of a train, or to corresponding entries of several, by cross approximation.

    No dense tensor is formed: `f` is given the trains' entries where `tt_cross` asks for them. The error is an
    estimate, as it is there. Sums and products need no approximation; `+` and `*` do them exactly.

    Args:
        f: The function. It is given one tensor of entries of shape (batch,) per train, each of its train's dtype, and
            returns a tensor or numpy array of that shape.
        *trains: At least one train, all of the same shape and on the same device.
        eps: The relative Frobenius error to aim at.
        max_rank: Bound on the ranks, an int or one int per inner bond.
        seed: The seed of all random choices.
        max_sweeps: The largest number of sweeps.
        max_evaluations: The largest number of entries that `f` is evaluated at; None for no bound.
        samples: How many fresh samples the result is compared with after each half sweep.
        batch_size: The largest batch that `f` is given.
        dtype: The dtype of the result; None for that of the values.

    Returns:
        A train of the same shape, on the same device. No gradients flow to it.

    Raises:
        TTConvergenceError: If the error estimate does not come down to `eps`; its `result` is what there is.
        TTTypeError: If an argument, or what `f` returns, is of the wrong type.
        TTShapeError: If the trains' shapes differ, or what `f` returns has the wrong shape.
        TTValueError: If an argument is out of range, no train is given, the devices differ, or a value of `f` is NaN,
            infinite or beyond the dtype's range.

    Example:
        >>> import ttnet
        >>> grid = torch.linspace(0, 1, 10, dtype=torch.float64)
        >>> x = ttnet.round(sum(ttnet.meshgrid(*[grid] * 6)))  # of ranks 2
        >>> y = apply(torch.exp, x)
        >>> y.ranks
        (1, 1, 1, 1, 1, 1, 1)
        >>> bool((apply(torch.log, y) - x).norm() < 1e-5 * x.norm())
        True
    """
    for k, train in enumerate(trains):
        expect_train(train, f"trains[{k}]")
        if train.shape != trains[0].shape:
            raise TTShapeError(
                f"trains[{k}] has shape {shorten(train.shape)} but trains[0] has {shorten(trains[0].shape)}; expected "
                f"the same shape."
            )
        if train.device != trains[0].device:
            raise TTValueError(
                f"trains[{k}] is on {train.device} but trains[0] is on {trains[0].device}; move them to one device."
            )
    if not trains:
        raise TTValueError("trains is empty; expected at least one train.")
    if not callable(f):
        raise TTTypeError(f"f is a {type(f).__name__}; expected a function of tensors of shape (batch,).")
    for k, train in enumerate(trains):
        check_readable(train.cores[0], f"trains[{k}].cores[0]")
    slices = [(scaled_slices(train.detach()), train.dtype) for train in trains]
    result = tt_cross(
        lambda indices: f(*(scaled_entries(each, indices).to(dtype) for each, dtype in slices)),
        trains[0].shape,
        eps=eps,
        max_rank=max_rank,
        seed=seed,
        max_sweeps=max_sweeps,
        max_evaluations=max_evaluations,
        samples=samples,
        batch_size=batch_size,
        dtype=dtype,
        device=trains[0].device,
    )
    if not result.converged:
        raise TTConvergenceError(
            f"f of the trains is known to a relative error of about {result.error_estimate:.1e} only, where eps is "
            f"{eps}. {result.status.value} The train is the error's `result.value`.",
            result,
        )
    return result.value
