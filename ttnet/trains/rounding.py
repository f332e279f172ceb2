"""Rank truncation of trains and of sums of trains; how it is done is in `ttnet.rounding`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.scales import count_nonfinite
from ttnet.numerics.truncation import check_eps, check_max_rank, check_method
from ttnet.rounding.methods import METHODS, round_cores
from ttnet.rounding.sums import NotFiniteError, largest_part
from ttnet.trains.arithmetic import scaled_dtype
from ttnet.trains.chain import check_scalar, shorten
from ttnet.trains.checks import expect_train
from ttnet.trains.habits import ROUNDS_INSTEAD, in_other_words
from ttnet.trains.tensor_train import TensorTrain


@in_other_words(**ROUNDS_INSTEAD)
def round(
    tt: TensorTrain,
    eps: float | None = None,
    *,
    max_rank: int | Sequence[int] | None = None,
    method: str = "auto",
) -> TensorTrain:
    """Approximate a train by one of smaller ranks, `||tt - result|| <= eps ||tt||`.

    All methods keep the bound, and cost O(order * n * r**3), with different factors:

    - "svd": QR factorisations from the right, truncated SVDs from the left. The only one that gradients flow through,
      so it takes the place of the others wherever they have to. Source: Oseledets 2011, "Tensor-Train Decomposition",
      Algorithm 2; here what one bond leaves of the error budget goes to the later ones.
    - "gram": eigenvalues of Gram matrices instead, in double precision. Where that has too few digits to keep the bound
      or to tell ranks from noise, which it notices, it falls back to "svd"; so always for an `eps` much below 1e-6
      that `max_rank` does not overrule. Source: Al Daas, Ballard, Manning 2022, "Parallel tensor train
      rounding using Gram SVD".
    - "randomized": products with random columns, for ranks that come down a lot. With an `eps`, an independent check
      confirms the bound, wrongly with a probability below 1e-10; where it does not, this falls back to "auto". With
      `max_rank` alone, the error is some two times the others'. The same call gives the same result, and the global
      random state is left alone. Source: Al Daas et al. 2023, "Randomized algorithms for rounding in the tensor-train
      format".
    - "auto": "gram" for float64 and complex128 if the largest rank is at least 32, no gradient is asked for, and `eps`
      is at least 1e-6 or `max_rank` at most half of the largest rank; otherwise "svd".

    Args:
        tt: The train. Its cores may be of any scale, and its norm outside the range of its dtype.
        eps: Bound on the relative Frobenius error, at least 0. None or 0 cuts only what is rounding noise, as does any
            bound below the precision of the dtype: some ten times its machine epsilon, growing with the order's and
            the ranks' square roots. From 1 on, all ranks are 1. For bfloat16 and float16, computed in float32, casting
            the result back costs about `order * machine epsilon / 2`, and a bound below that cannot hold.
        max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.
        method: "auto", "svd", "gram" or "randomized".

    Returns:
        A train of the same shape, dtype and device, left-orthogonal if its norm is a number of its dtype, and up to
        evenly spread powers of two if not. It shares no memory with `tt`. Gradients are right for losses that depend on
        the tensor alone, not on the choice of its cores, if the input's unfoldings have full rank, and finite
        otherwise.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If `max_rank` has the wrong number of entries.
        TTValueError: If an argument is out of range, or a core has entries that are NaN or infinite.

    Example:
        >>> import ttnet
        >>> x = ttnet.random((4, 5, 6), 3, seed=0)
        >>> y = ttnet.round(x + x, eps=1e-3)
        >>> y.ranks
        (1, 3, 3, 1)
        >>> bool((y - 2 * x).norm() <= 1e-3 * (2 * x).norm())
        True
    """
    expect_train(tt, "tt")
    check_method(method, METHODS)
    bound = check_eps(eps)
    if isinstance(eps, numbers.Integral) and eps > 0:  # as of `round(2)`, which is asked for two digits elsewhere
        raise TTValueError(
            f"eps is {eps}, an error as large as the tensor; expected a relative error, such as 1e-8. Entries are not "
            "rounded to digits."
        )
    max_ranks = check_max_rank(max_rank, max(0, tt.ndim - 1))
    _check_readable(tt, "cores")
    if tt.ndim < 2:
        _check_finite(tt, "cores")
        return tt.clone()
    try:
        cores = round_cores([tt.cores], None, dtype=tt.dtype, eps=bound, max_ranks=max_ranks, method=method)
    except NotFiniteError:  # which is seen on the way, so that nothing is read twice
        _check_finite(tt, "cores")
        raise
    return TensorTrain(cores)


def round_sum(
    trains: Iterable[TensorTrain],
    *,
    coefficients: Iterable[complex | Tensor] | None = None,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "auto",
) -> TensorTrain:
    """Round a linear combination of trains without forming it, `||sum - result|| <= eps ||sum||`.

    The core of a sum is block-diagonal. Here each block is multiplied on its own, and the blocks of zeros, which are
    most of a long sum, cost nothing.

    Args:
        trains: At least one train, all of one shape and on one device.
        coefficients: A number or tensor of shape () for each train; ones if None.
        eps: Bound on the relative Frobenius error of the sum, at least 0; see `round`. Where large summands cancel,
            what is left of their rounding errors counts as part of the sum.
        max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.
        method: As for `round`, the ranks being those of the sum.

    Returns:
        A train of the promoted dtype, as `round` gives it; of order 0 or 1, the sum itself.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If the shapes differ, or `coefficients` or `max_rank` has the wrong number of entries.
        TTValueError: If an argument is out of range, the devices differ, or there are entries that are NaN or infinite.

    Example:
        >>> import ttnet
        >>> x, y = (ttnet.random((4, 5, 6), 2, seed=seed) for seed in (0, 1))
        >>> z = ttnet.round_sum([x, y, x], coefficients=[1, -2, 3], eps=1e-3)
        >>> z.ranks
        (1, 4, 4, 1)
        >>> bool((z - (4 * x - 2 * y)).norm() <= 1e-3 * (4 * x - 2 * y).norm())
        True
    """
    terms = _check_terms(trains)
    first = terms[0]
    check_method(method, METHODS)
    bound = check_eps(eps)
    max_ranks = check_max_rank(max_rank, max(0, first.ndim - 1))
    dtype = first.dtype
    for term in terms[1:]:
        dtype = torch.promote_types(dtype, term.dtype)
    weights = None
    if coefficients is not None:
        weights, dtype = _check_coefficients(coefficients, len(terms), dtype, first.device)
    for i, term in enumerate(terms):
        _check_readable(term, f"trains[{i}].cores")
        _check_finite(term, f"trains[{i}].cores")
    summands = [term.cores if term.ndim else [term.cores[0][:, None]] for term in terms]  # a scalar as a mode of size 1
    cores = round_cores(summands, weights, dtype=dtype, eps=bound, max_ranks=max_ranks, method=method)
    return TensorTrain(cores if first.ndim else [cores[0].reshape(1, 1)])


def _check_terms(trains: Iterable[TensorTrain]) -> list[TensorTrain]:
    if isinstance(trains, TensorTrain) or not isinstance(trains, Iterable):
        raise TTTypeError(f"trains is a {type(trains).__name__}; expected a list of TensorTrains.")
    terms = list(trains)
    if not terms:
        raise TTValueError("trains is empty; expected at least one train, which sets the shape of the sum.")
    for i, term in enumerate(terms):
        expect_train(term, f"trains[{i}]")
        if term.shape != terms[0].shape:
            raise TTShapeError(
                f"trains[{i}] has shape {shorten(term.shape)} but trains[0] has {shorten(terms[0].shape)}; expected "
                "the same shape."
            )
        if term.device != terms[0].device:
            raise TTValueError(
                f"trains[{i}] is on {term.device} but trains[0] is on {terms[0].device}; move them to one device."
            )
    return terms


def _check_coefficients(
    coefficients: Iterable[complex | Tensor], count: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, torch.dtype]:
    """Give the coefficients in double precision, and the dtype that they promote `dtype` to."""
    if isinstance(coefficients, str) or not isinstance(coefficients, Iterable):
        raise TTTypeError(f"coefficients is a {type(coefficients).__name__}; expected one number for each train.")
    values = list(coefficients)
    if len(values) != count:
        raise TTShapeError(f"coefficients has {len(values)} entries; expected {count}, one for each train.")
    weights = []
    for i, value in enumerate(values):
        scalar = check_scalar(value)
        if scalar is None:
            raise TTTypeError(f"coefficients[{i}] is {value!r}; expected a number or a tensor of shape ().")
        try:
            weight = scalar if isinstance(scalar, Tensor) else complex(scalar) * torch.ones((), dtype=torch.complex128)
        except OverflowError:  # an int beyond every float
            weight = torch.tensor(math.inf)
        dtype = scaled_dtype(dtype, scalar)
        if not bool(torch.isfinite(weight)):
            raise TTValueError(f"coefficients[{i}] is {value!r}; expected a finite number.")
        weights.append(weight.to(torch.complex128))
    stacked = torch.stack(weights).to(device)
    return stacked if dtype.is_complex else stacked.real, dtype


def _check_readable(train: TensorTrain, name: str) -> None:
    for k, core in enumerate(train.cores):
        if not _is_readable(core):
            raise TTValueError(
                f"{name}[{k}] has no plain numbers (it is on the meta device or under a transform of torch.func); "
                "expected some, since ranks depend on them: round outside, and differentiate by backward()."
            )


def _check_finite(train: TensorTrain, name: str) -> None:
    for k, core in enumerate(train.cores):
        if not math.isfinite(largest_part(core)):
            raise TTValueError(
                f"{name}[{k}] holds NaN or infinite entries, {count_nonfinite(core)} of {core.numel()}; expected "
                "finite numbers."
            ) from None


def _is_readable(core: Tensor) -> bool:
    try:
        core.data_ptr()  # which what stands for many tensors, or is to be differentiated by torch.func, has not
    except RuntimeError:
        return False
    # A forward-mode derivative would be lost.
    return not core.is_meta and unpack_dual(core).tangent is None
