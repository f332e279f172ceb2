"""Exact samples of the distribution that a train is, index by index.

The sum over all later indices is a vector at each bond, so the distribution of one index given all before it takes one
product with a core, whatever the order. Of the square of a train, which is never formed, that vector is not even
needed: with the cores right of a bond orthonormal in their rows, the norm of what lies left is that of the whole.

Source: Dolgov, Anaya-Izquierdo, Fox & Scheichl 2020, "Approximation and sampling of multivariate probability
distributions in the tensor train decomposition", Algorithm 1; Ferris & Vidal 2012, "Perfect sampling with unitary
tensor networks", for squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ttnet.errors import TTIndexError, TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.scales import compute_dtype, split_row_scales, split_scale
from ttnet.numerics.train_scales import split_scales
from ttnet.solvers.arguments import check_count, check_seed, check_train
from ttnet.trains.construct import ones
from ttnet.trains.evaluation import scaled_slices
from ttnet.trains.orthogonal import right_orthogonalise
from ttnet.trains.tensor_train import TensorTrain

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
CHUNK = 2**22  # entries of one intermediate result


@dataclass(frozen=True, repr=False)
class Samples:
    """Samples of the distribution that a train is.

    Attributes:
        indices: Of shape (n, d), int64.
        log_probabilities: Of shape (n,), float64: the natural logarithms of the probabilities with which they were
            drawn, given what was fixed.
        negative: The largest share of a conditional distribution that was negative and counted as zero; 0 for squares.

    Example:
        >>> import ttnet
        >>> samples = sample(ttnet.ones((2, 4)), 1000, seed=0)
        >>> samples
        Samples(1000 of order 2, negative=0.0e+00)
        >>> samples.log_probabilities.exp().unique()
        tensor([0.1250], dtype=torch.float64)
    """

    indices: Tensor
    log_probabilities: Tensor
    negative: float

    def __repr__(self) -> str:
        count, order = self.indices.shape
        return f"{type(self).__name__}({count} of order {order}, negative={self.negative:.1e})"


def sample(
    train: TensorTrain,
    n: int,
    *,
    squared: bool = False,
    given: Tensor | Sequence[int] | None = None,
    tol: float = 1e-3,
    seed: int = 0,
) -> Samples:
    """Draw independent samples, with probabilities in proportion to a train's entries or to their squares.

    The samples are exact: no Markov chain, nothing to warm up. Source: Dolgov et al. 2020, "Approximation and sampling
    of multivariate probability distributions in the tensor train decomposition", Algorithm 1.

    Args:
        train: The train, of order d, real and non-negative, or of any kind if `squared`. It need not sum to one.
        n: How many samples, at least 1.
        squared: Whether the probabilities are in proportion to the squares of the entries' sizes.
        given: The first k indices, which are not drawn: k ints, or an int tensor of shape (n, k), one row per sample.
        tol: How much of a conditional distribution may be negative, as entries that ought to be zero are after
            rounding, from 0 to 1. It counts as zero, and `Samples.negative` tells of it.
        seed: The seed of the random numbers; torch's own generator is left alone.

    Returns:
        The samples with the logarithms of their probabilities, given what is `given`.

    Raises:
        TTTypeError: If an argument is of the wrong type, or a complex train is not `squared`.
        TTShapeError: If `given` has another shape.
        TTIndexError: If it holds an index beyond its mode.
        TTValueError: If the train sums to zero, has more negative entries than `tol` allows, or a core has entries that
            are NaN or infinite; or an argument is out of range.

    Example:
        >>> x = torch.linspace(-3, 3, 61, dtype=torch.float64)
        >>> bell = (-x * x / 2).exp()
        >>> samples = sample(TensorTrain([bell[None, :, None]] * 3), 10_000, seed=0)
        >>> points = x[samples.indices]
        >>> points.shape, bool((points.mean(0).abs() < 0.05).all())
        (torch.Size([10000, 3]), True)
    """
    chain = _Chain(train, squared)
    n = check_count(n, "n")
    generator = check_seed(seed)
    if isinstance(tol, bool) or not isinstance(tol, int | float) or not 0 <= tol <= 1:
        raise TTValueError(f"tol is {tol!r}; expected a share from 0 to 1.")
    heads = torch.empty(1, 0, dtype=torch.int64) if given is None else _check_heads(given, train, "given")
    if len(heads) not in (1, n):
        raise TTShapeError(f"given has {len(heads)} rows; expected one for each of the {n} samples, or one for all.")
    first = heads.shape[1]
    uniforms = torch.rand(n, train.ndim - first, dtype=torch.float64, generator=generator, device="cpu")
    widest = max(core.shape[1] * core.shape[2] for core in chain.cores)
    parts = []
    with torch.no_grad():
        fixed = heads.to(train.device).expand(n, -1)
        for rows, numbers in zip(
            *(x.split(max(1, CHUNK // widest)) for x in (fixed, uniforms.to(train.device))), strict=True
        ):
            parts.append(_draw(chain, rows, numbers, tol))
    indices, logs, negatives = zip(*parts, strict=True)
    return Samples(torch.cat(indices), torch.cat(logs), max(negatives))


def _draw(
    chain: _Chain,
    heads: Tensor,  # (b, k)
    uniforms: Tensor,  # (b, d - k)
    tol: float,
) -> tuple[Tensor, Tensor, float]:
    """Draw the other indices, one after the other."""
    vectors, logs, most = chain.start(heads), uniforms.new_zeros(len(heads)), 0.0
    for k, numbers in enumerate(uniforms.T, start=heads.shape[1]):
        products, shares, negative = chain.step(vectors, k)
        worst = float(negative.max())
        if worst > tol:
            raise TTValueError(
                f"train has negative entries: they are {worst:.1e} of the distribution of index {k} for some sample, "
                f"and tol is {tol:.1e}; pass squared=True if the squares are meant, or raise tol."
            )
        most = max(most, worst)
        sums = shares.cumsum(1)
        # Strictly below the whole, so that nothing of probability zero is ever drawn.
        marks = torch.minimum(numbers * sums[:, -1], torch.nextafter(sums[:, -1], torch.zeros_like(numbers)))
        drawn = (sums <= marks[:, None]).sum(1)
        rows = torch.arange(len(drawn), device=drawn.device)
        logs = logs + shares[rows, drawn].log()
        vectors = split_row_scales(products[rows, drawn])[0]
        heads = torch.cat([heads, drawn[:, None]], dim=1)
    return heads, logs, most


def conditionals(
    train: TensorTrain,
    heads: Tensor | Sequence[int],
    *,
    squared: bool = False,
) -> Tensor:
    """Give the distribution of index k, given the first k, all later ones being summed over.

    Source: Dolgov et al. 2020, "Approximation and sampling of multivariate probability distributions in the tensor
    train decomposition", eq. 12.

    Args:
        train: The train, of order d, as for `sample`.
        heads: The first k indices, from none to d - 1: k ints, or an int tensor of shape (batch, k).
        squared: Whether the probabilities are in proportion to the squares of the entries' sizes.

    Returns:
        The probabilities, of shape (batch, n_k) and float64, with negative ones as zero; rows sum to one.

    Raises:
        TTTypeError: If an argument is of the wrong type, or a complex train is not `squared`.
        TTShapeError: If `heads` has another shape.
        TTIndexError: If it holds an index beyond its mode.
        TTValueError: If the heads have a probability of zero, or a core has entries that are NaN or infinite.

    Example:
        >>> import ttnet
        >>> joint = ttnet.tt_svd(torch.tensor([[0.1, 0.1], [0.2, 0.6]], dtype=torch.float64))
        >>> conditionals(joint, []), conditionals(joint, [1])
        (tensor([[0.2000, 0.8000]], dtype=torch.float64), tensor([[0.2500, 0.7500]], dtype=torch.float64))
    """
    chain = _Chain(train, squared)
    fixed = _check_heads(heads, train, "heads")
    k = fixed.shape[1]
    if k == train.ndim:
        raise TTShapeError(f"heads has {k} indices a row, all there are; expected at most {k - 1}, to leave one open.")
    with torch.no_grad():
        return chain.step(chain.start(fixed.to(train.device)), k)[1]


def log_probabilities(
    train: TensorTrain,
    indices: Tensor,  # (batch, d)
    *,
    squared: bool = False,
) -> Tensor:
    """Give the natural logarithms of the probabilities of entries, as a loss to train on.

    Args:
        train: The train, of order d, as for `sample`.
        indices: An int tensor of shape (batch, d).
        squared: Whether the probabilities are in proportion to the squares of the entries' sizes.

    Returns:
        Of shape (batch,), real, minus infinity where an entry is zero, or negative and not `squared`. Gradients flow to
        the cores.

    Raises:
        TTTypeError: If an argument is of the wrong type, or a complex train is not `squared`.
        TTShapeError: If `indices` has another shape.
        TTIndexError: If it holds an index beyond its mode.
        TTValueError: If the train sums to zero or less, or a core has entries that are NaN or infinite.

    Example:
        >>> import ttnet
        >>> joint = ttnet.tt_svd(torch.tensor([[0.2, 0.2], [0.4, 1.2]], dtype=torch.float64))
        >>> log_probabilities(joint, torch.tensor([[1, 1], [0, 0]])).exp()
        tensor([0.6000, 0.1000], dtype=torch.float64)
    """
    _check_kind(train, squared)
    rows = _check_heads(indices, train, "indices")
    if rows.shape[1] != train.ndim:
        raise TTShapeError(f"indices has {rows.shape[1]} indices a row; expected {train.ndim}, one per mode.")
    values, logs = _log_sizes(train, rows.to(train.device))
    if squared:
        return 2 * (values.abs().log() + logs - train.log_norm())
    sign, log_sum = train.slogdot(ones(train.shape, dtype=train.dtype, device=train.device))
    if not float(sign.detach()) > 0:
        raise TTValueError("train sums to zero or less; expected a non-negative one, or pass squared=True.")
    positive = values > 0
    return torch.where(positive, torch.where(positive, values, 1).log() + logs, -math.inf) - log_sum


def _log_sizes(
    train: TensorTrain,
    indices: Tensor,  # (batch, d)
) -> tuple[Tensor, Tensor]:
    """Give entries as numbers of a middling size, and the logarithms of what these are to be multiplied by."""
    values = indices.new_ones(len(indices), 1).to(compute_dtype(train.dtype))
    exponents = torch.zeros(len(indices), dtype=torch.int64, device=indices.device)
    places = indices if train.ndim else indices.new_zeros(len(indices), 1)
    for (scaled, steps), index in zip(scaled_slices(train), places.T, strict=True):
        values, step = split_row_scales((values[:, None] @ scaled[index])[:, 0])
        exponents = exponents + step + steps[index]
    return values[:, 0], exponents.double() * math.log(2)


class _Chain:
    """A train ready to be drawn from, in double precision."""

    def __init__(self, train: TensorTrain, squared: bool) -> None:
        _check_kind(train, squared)
        wide = torch.complex128 if train.dtype.is_complex else torch.float64
        self._squared = squared
        cores = [core.detach().to(wide) for core in train.cores]
        self.cores = [core if train.ndim else core[:, None] for core in cores]
        if squared:
            self.cores = right_orthogonalise(self.cores)[0]
        else:
            self.cores = split_scales(self.cores, wide)[0]
        right = self.cores[-1].new_ones(1)
        self._rights = [right]  # the sum over all that comes after a core
        for core in reversed(self.cores[1:] * (not squared)):
            right = split_scale(core.sum(1) @ right)[0]
            self._rights.insert(0, right)
        if not self._total(torch.tensordot(self.cores[0], self._rights[0], 1)):
            raise TTValueError(
                "train sums to zero or less; expected a non-negative one that is not zero, or pass squared=True."
                if not squared
                else "train is zero; expected some entry other than that."
            )

    def _total(
        self,
        x: Tensor,  # (1, n, ...)
    ) -> bool:
        return bool(self.cores[0].any()) if self._squared else float(x.sum()) > 0

    def start(
        self,
        heads: Tensor,  # (b, k)
    ) -> Tensor:  # (b, r_k)
        """Give what the first k indices make of the cores, each row of a size near one."""
        vectors = self.cores[0].new_ones(len(heads), 1)
        for k, index in enumerate(heads.T):
            vectors, _ = split_row_scales((vectors[:, None] @ self.cores[k].transpose(0, 1)[index])[:, 0])
        return vectors

    def step(
        self,
        vectors: Tensor,  # (b, r_k)
        k: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give the vectors of all that index k can be (b, n, r), probabilities (b, n) and negative shares (b,)."""
        products = torch.tensordot(vectors, self.cores[k], 1)
        if self._squared:
            weights = torch.linalg.vector_norm(split_row_scales(products)[0], dim=2) ** 2
        else:
            weights = split_row_scales(products @ self._rights[k])[0]
        positive = weights.clamp(min=0)
        negative = (positive - weights).sum(1)
        total = positive.sum(1)
        if not bool((total > 0).all()):
            row = int((total <= 0).nonzero()[0])
            raise TTValueError(
                f"row {row} of what is given has a probability of zero, so nothing can be said of index {k}; expected "
                f"indices that can occur."
            )
        return products, positive / total[:, None], negative / total


def _check_kind(train: object, squared: bool) -> None:
    if not isinstance(squared, bool):
        raise TTTypeError(f"squared is {squared!r}; expected True or False.")
    if check_train(train, "train").dtype.is_complex and not squared:
        raise TTTypeError("train is complex, which probabilities are not; pass squared=True for those of its squares.")


def _check_heads(heads: object, train: TensorTrain, name: str) -> Tensor:
    if isinstance(heads, np.ndarray | list | tuple):
        heads = torch.as_tensor(heads, dtype=None if len(heads) else torch.int64)
    if not isinstance(heads, Tensor) or heads.dtype not in INTEGERS:
        what = f"a tensor of {heads.dtype}" if isinstance(heads, Tensor) else f"a {type(heads).__name__}"
        raise TTTypeError(f"{name} is {what}; expected ints, or an int tensor of shape (batch, k).")
    heads = heads[None] if heads.ndim == 1 else heads
    if heads.ndim != 2 or heads.shape[1] > train.ndim:
        raise TTShapeError(
            f"{name} has shape {tuple(heads.shape)}; expected (batch, k), with k at most {train.ndim}, the order of "
            f"train."
        )
    sizes = torch.tensor(train.shape[: heads.shape[1]], dtype=torch.int64)
    heads = heads.to("cpu", torch.int64)
    outside = (heads < 0) | (heads >= sizes)
    if bool(outside.any()):
        row, mode = outside.nonzero()[0].tolist()
        raise TTIndexError(
            f"{name} holds {int(heads[row, mode])} in row {row} for mode {mode} of size {train.shape[mode]}; expected "
            f"0 to {train.shape[mode] - 1}."
        )
    return heads
