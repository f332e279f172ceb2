"""Orthogonal cores and the spectra that they lay bare.

A core is left-orthogonal if its unfolding (r n, r') has orthonormal columns, right-orthogonal if its unfolding
(r, n r') has orthonormal rows. With the former left of a core and the latter right of it, that core alone has the norm
and, reshaped, the singular values of the whole tensor (Oseledets 2011, "Tensor-Train Decomposition", section 3;
Schollwöck 2011, "The density-matrix renormalization group in the age of matrix product states", section 4.4).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from ttnet.errors import TTIndexError, TTTypeError
from ttnet.numerics.linalg import qr, r_factor, wide
from ttnet.numerics.scales import Exponent, compute_dtype, real_dtype, split_scale, times_power_of_two
from ttnet.numerics.train_scales import join_scale, split_scales
from ttnet.trains.checks import expect_train
from ttnet.trains.sweeps import carry_centre, check_finite
from ttnet.trains.tensor_train import TensorTrain


def orthogonalise(tt: TensorTrain, centre: int) -> TensorTrain:
    """Write a train with one core that holds its norm, the cores around it being orthogonal towards it.

    Args:
        tt: A train of order 1 or more. Its cores may be of any scale.
        centre: The number of that core, from -order to order - 1.

    Returns:
        The same tensor: the cores left of `centre` left-orthogonal, those right of it right-orthogonal. A rank comes
        down where it is larger than the unfolding of a core beside it. If the norm is no number of the dtype, powers of
        two are spread evenly over all cores. Gradients are right for losses that depend on the tensor alone, if the
        unfoldings have full rank, and finite otherwise.

    Raises:
        TTTypeError: If `tt` is not a train, or `centre` not an int.
        TTIndexError: If there is no such core.
        TTValueError: If a core has entries that are NaN or infinite.

    Example:
        >>> import ttnet
        >>> x = ttnet.orthogonalise(ttnet.random((4, 5, 6), 3, seed=0), 1)
        >>> bool(torch.isclose(x.cores[1].norm(), x.norm()))
        True
        >>> torch.allclose(x.cores[0].flatten(0, 1).T @ x.cores[0].flatten(0, 1), torch.eye(3), atol=1e-6)
        True
    """
    _check(tt)
    try:
        place = operator.index(centre)
    except TypeError:
        raise TTTypeError(f"centre is a {type(centre).__name__}; expected an int.") from None
    if not -tt.ndim <= place < tt.ndim:
        raise TTIndexError(
            f"centre is {place}; expected {-tt.ndim} to {tt.ndim - 1}, a core of a train of order {tt.ndim}."
            if tt.ndim
            else "tt is a scalar, of order 0, which has no core to be the centre; expected order 1 or more."
        )
    place %= tt.ndim
    cores, exponent = _orthogonalise(tt.cores, place)
    # The scale goes into the last of the cores, so the centre takes its turn as that.
    *around, middle = join_scale([*cores[:place], *cores[place + 1 :], cores[place]], exponent, tt.dtype)
    return TensorTrain([*around[:place], middle, *around[place:]])


def right_orthogonalise(
    cores: Sequence[Tensor],  # each (r, n, r')
) -> tuple[list[Tensor], Exponent]:
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
    return _orthogonalise(cores, 0)


def _orthogonalise(cores: Sequence[Tensor], centre: int) -> tuple[list[Tensor], Exponent]:
    done, exponent = split_scales(cores, compute_dtype(cores[0].dtype))
    for k in range(centre):
        carry_centre(done, k)
        done[k + 1], step = split_scale(done[k + 1])
        exponent = exponent + step
    for k in range(len(done) - 1, centre, -1):
        _, size, right = done[k].shape
        q, r = qr(done[k].flatten(1).mT)  # (n r', s), (s, r)
        done[k] = q.mT.reshape(-1, size, right)
        done[k - 1], step = split_scale(torch.tensordot(done[k - 1], r.mT, 1))
        exponent = exponent + step
    return done, exponent


def singular_values(tt: TensorTrain, *, normalised: bool = False) -> list[Tensor]:
    """Compute the singular values of every unfolding, without truncation.

    At each bond, QR factorisations from either end leave a product of two small matrices with the same singular values:
    O(order * n * r**3) for all of them.

    Args:
        tt: The train. Its cores may be of any scale.
        normalised: Divide them by the norm of the train, so that their squares sum to one. That serves for plots, and
            where the norm is no number of the dtype: there they would be infinite or zero.

    Returns:
        order - 1 real tensors, one for each inner bond from left to right, of at most as many entries as its rank, in
        descending order. All zero for a zero train. Gradients are right where the values differ from zero and each
        other.

    Raises:
        TTTypeError: If `tt` is not a train.
        TTValueError: If a core has entries that are NaN or infinite.

    Example:
        >>> import ttnet
        >>> x = ttnet.tt_svd(torch.diag(torch.tensor([3.0, 4.0])))
        >>> ttnet.singular_values(x)
        [tensor([4., 3.])]
        >>> ttnet.singular_values(x, normalised=True)
        [tensor([0.8000, 0.6000])]
    """
    _check(tt)
    spectra = _normalised_spectra(tt) if normalised else _spectra(tt)
    return [times_power_of_two(values, exponent).to(real_dtype(tt.dtype)) for values, exponent in spectra]


def entropies(tt: TensorTrain) -> Tensor:
    """Compute how much the two sides of each bond have to do with each other: the entanglement entropy.

    With p the squared singular values of the unfolding at a bond, divided by their sum, it is -sum(p log p), from 0 for
    a product of two tensors to log(rank). Its exponential is the number of singular values that count. Source:
    Schollwöck 2011, "The density-matrix renormalization group in the age of matrix product states", section 4.2.

    Args:
        tt: The train. Its cores may be of any scale.

    Returns:
        A real tensor of shape (order - 1,), in nats; of zeros for a zero train.

    Raises:
        TTTypeError: If `tt` is not a train.
        TTValueError: If a core has entries that are NaN or infinite.

    Example:
        >>> import ttnet
        >>> ttnet.entropies(ttnet.tt_svd(torch.eye(4)))  # log(4)
        tensor([1.3863])
    """
    _check(tt)
    squares = [values.square() for values, _ in _normalised_spectra(tt)]
    # At 0 the slope of -p log p is infinite, at 1 it is not, and both values are 0.
    sums = [torch.special.entr(torch.where(p > 0, p, 1)).sum() for p in squares]
    return (torch.stack(sums) if sums else tt.cores[0].new_zeros(0)).to(real_dtype(tt.dtype))


def _spectra(tt: TensorTrain) -> list[tuple[Tensor, Exponent]]:
    """Give the singular values at each bond, and an exponent: the true ones are these times 2**exponent."""
    if tt.ndim < 2:
        return []
    cores, total = split_scales(tt.cores, compute_dtype(tt.dtype))
    exponent: Exponent = 0
    right = cores[0].new_ones(1, 1)  # (r, s): a factor of what lies right of the bond
    rights = []
    for core in cores[:0:-1]:
        unfolding = torch.tensordot(core, right, 1).flatten(1)  # (r, n s)
        right, step = split_scale(r_factor(unfolding.mH).mH if len(unfolding) < unfolding.shape[1] else unfolding)
        exponent = exponent + step
        rights.append((right, exponent))
    left, exponent = cores[0].new_ones(1, 1), total  # (s, r): a factor of what lies left of it
    spectra = []
    for core, (right, right_exponent) in zip(cores, reversed(rights), strict=False):
        left, step = split_scale(r_factor(torch.tensordot(left, core, 1).flatten(0, 1)))
        exponent = exponent + step
        product, step = split_scale(left @ right)
        values = torch.linalg.svdvals(wide(product)).to(product.real.dtype)
        spectra.append((values, exponent + right_exponent + step))
    return spectra


def _normalised_spectra(tt: TensorTrain) -> list[tuple[Tensor, Exponent]]:
    spectra: list[tuple[Tensor, Exponent]] = []
    for values, _ in _spectra(tt):
        norm = torch.linalg.vector_norm(values)
        spectra.append((values / torch.where(norm > 0, norm, 1), 0))
    return spectra


def _check(tt: TensorTrain) -> None:
    expect_train(tt, "tt")
    check_finite(tt.cores)
