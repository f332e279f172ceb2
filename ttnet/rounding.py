"""Rank truncation of a train: bring the ranks down to what an error bound needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.errors import TTTypeError, TTValueError
from ttnet.linalg import qr
from ttnet.scales import compute_dtype, count_nonfinite, join_scale, split_scale, split_scales
from ttnet.tensor_train import TensorTrain
from ttnet.truncation import ErrorBudget, check_eps, check_max_rank, check_method

METHODS = ("auto", "svd")


def round(
    tt: TensorTrain,
    *,
    eps: float | None = None,
    max_rank: int | Sequence[int] | None = None,
    method: str = "auto",
) -> TensorTrain:
    """Approximate a train by one of smaller ranks, `||tt - result|| <= eps ||tt||`.

    One sweep of QR factorisations from the right, then one of truncated SVDs from the left: O(order * n * r**3), with
    no Gram matrices and so no loss of half the digits. Source: Oseledets 2011, "Tensor-Train Decomposition",
    Algorithm 2; here what one bond leaves of the error budget goes to the later ones.

    Args:
        tt: The train. Its cores may be of any scale, and its norm outside the range of its dtype.
        eps: Bound on the relative Frobenius error, at least 0. None or 0 cuts only what is rounding noise, as does any
            bound below the precision of the dtype: some ten times its machine epsilon, growing with the order's and
            the ranks' square roots. For bfloat16 and float16, computed in float32, casting the result back costs about
            `order * machine epsilon / 2`, and a bound below that cannot hold.
        max_rank: Bound on the ranks, an int or one int per inner bond; it goes before `eps`.
        method: "auto" or "svd", which are the same today.

    Returns:
        A train of the same shape, dtype and device, left-orthogonal if its norm is a number of its dtype, and up to
        evenly spread powers of two if not. Gradients are right for losses that depend on the tensor alone, not on
        the choice of its cores, if the input's unfoldings have full rank, and finite otherwise.

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
    if not isinstance(tt, TensorTrain):
        raise TTTypeError(f"tt is a {type(tt).__name__}; expected a TensorTrain.")
    check_method(method, METHODS)
    bound = check_eps(eps)
    max_ranks = check_max_rank(max_rank, max(0, tt.ndim - 1))
    for k, core in enumerate(tt.cores):
        if count := count_nonfinite(core):
            raise TTValueError(
                f"cores[{k}] holds NaN or infinite entries, {count} of {core.numel()}; expected finite numbers."
            )
    if tt.ndim < 2:
        return tt
    cores, exponent = right_orthogonalise(tt.cores)
    norm = float(torch.linalg.vector_norm(cores[0].detach()))
    budget = ErrorBudget(norm=norm, eps=bound, max_ranks=max_ranks, dtype=tt.dtype)
    for k in range(tt.ndim - 1):
        rank, size, _ = cores[k].shape
        u, w = budget.cut(cores[k].flatten(0, 1))
        cores[k] = u.reshape(rank, size, -1)
        cores[k + 1] = torch.tensordot(w, cores[k + 1], 1)
    return TensorTrain(join_scale(cores, exponent, tt.dtype))


def right_orthogonalise(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> tuple[list[Tensor], int]:
    """Make every core but the first one orthonormal in its rows, by QR factorisations from the right.

    Args:
        cores: The cores of a train of order 1 or more, of finite entries.

    Returns:
        The new cores, in single precision at least, the first of entries of size at most one, and an exponent: the
        train is theirs times 2**exponent.

    Example:
        >>> cores, exponent = right_orthogonalise([torch.ones(1, 2, 3), torch.eye(3)[:, :, None]])
        >>> torch.allclose(cores[1][:, :, 0] @ cores[1][:, :, 0].T, torch.eye(3))
        True
    """
    done, exponent = split_scales(cores, compute_dtype(cores[0].dtype))
    for k in range(len(done) - 1, 0, -1):
        size, right = done[k].shape[1:]
        q, r = qr(done[k].flatten(1).mT)  # (n r', s), (s, r)
        done[k] = q.mT.reshape(-1, size, right)
        done[k - 1], step = split_scale(torch.tensordot(done[k - 1], r.mT, 1))
        exponent += step
    return done, exponent
