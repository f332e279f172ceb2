"""Sums of terms that act on few modes: nearest neighbours, long ranges by sums of exponentials, any products."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.scales import count_nonfinite
from ttnet.operators.building import finish
from ttnet.trains.chain import check_shape
from ttnet.trains.checks import expect_train
from ttnet.trains.joining import diag
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


def diagonal(x: TensorTrain) -> TTMatrix:
    """Give the operator that multiplies by a train entry by entry, such as a potential; its ranks are the train's.

    Args:
        x: A train of order 1 or more.

    Returns:
        The TT-matrix, of the train's dtype.

    Raises:
        TTTypeError: If `x` is not a train.
        TTShapeError: If it is of order 0.

    Example:
        >>> import ttnet
        >>> diagonal(ttnet.arange((2, 2))).full().diag()
        tensor([0., 1., 2., 3.])
    """
    return diag(expect_train(x, "x"))


def local_sum(
    sites: int,
    *,
    single: Tensor | Sequence[Tensor] | None = None,  # (n, n), or one for each site
    pairs: Sequence[tuple[Tensor, Tensor]] = (),  # of (n, n) each
    decay: Sequence[tuple[float, float]] | None = None,
    periodic: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TTMatrix:
    """Give `sum of single[k] + sum over i < j of f(j - i) A[i] B[j]`, summed over all pairs (A, B).

    Without `decay`, f is 1 for neighbours and 0 otherwise. The ranks are 2 and one more for each pair and each
    exponential of `decay`, or less where pairs depend on each other or nothing is single. Source: McCulloch 2007, "From
    density-matrix renormalization group to matrix product states"; Pirvu et al. 2010, "Matrix product operator
    representations".

    Args:
        sites: The number of modes, all of one size n; at least 1.
        single: What acts on every site alone, a matrix or one for each site.
        pairs: Matrices (A, B), of which A acts on the left one of two sites, B on the right one.
        decay: Pairs (c, b) for a long range: `f(r) = sum of c * b**(r - 1)`; `exponentials` fits them to any f.
        periodic: Whether the last and the first site are neighbours too: B acts on the first, A on the last.
        dtype: A floating or complex dtype; None for float64, or complex128 where a matrix is complex.
        device: The device; None for torch's default.

    Returns:
        The TT-matrix.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If matrices are not square and of one size, or there are not as many as sites.
        TTValueError: If there is no site, no matrix, NaN or infinite entries, or `decay` holds anything but pairs of
            finite numbers, or goes with `periodic`.

    Example:
        >>> z = torch.diag(torch.tensor([1.0, -1.0]))
        >>> local_sum(3, pairs=[(z, z)]).full().diag()
        tensor([ 2.,  0., -2.,  0.,  0., -2.,  0.,  2.], dtype=torch.float64)
    """
    if isinstance(sites, bool) or not isinstance(sites, numbers.Integral):
        raise TTTypeError(f"sites is {sites!r}; expected an int >= 1.")
    if sites < 1:
        raise TTValueError(f"sites is {sites}; expected an int >= 1.")
    if periodic and decay is not None:
        raise TTValueError("periodic and decay are given both; expected one: a long range has no ends to join here.")
    many = isinstance(single, Sequence)
    singles = [] if single is None else list(single) if isinstance(single, Sequence) else [single]
    if many and len(singles) != sites:
        raise TTShapeError(f"single has {len(singles)} matrices; expected {sites}, one for each site.")
    for p, pair in enumerate(pairs):
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise TTTypeError(f"pairs[{p}] is no pair; expected two matrices (A, B), as in pairs=[(A, B)].")
    matrices = _check_matrices(
        {f"single[{k}]" if many else "single": matrix for k, matrix in enumerate(singles)}
        | {f"pairs[{p}][{side}]": matrix for p, pair in enumerate(pairs) for side, matrix in enumerate(pair)}
    )
    count = len(singles)
    zero = torch.zeros_like(matrices[0])
    alone = matrices[:count] if many else [matrices[0] if count else zero] * int(sites)
    terms = [(1.0, 0.0)] if decay is None else [_check_term(d, term) for d, term in enumerate(decay)]
    waiting = [
        (c * matrices[count + 2 * p], b, matrices[count + 2 * p + 1]) for p in range(len(pairs)) for c, b in terms
    ]
    cores = _machine(alone, waiting, periodic=periodic and sites > 2)
    return finish(cores, dtype, device)


def _check_term(d: int, term: Sequence[float]) -> tuple[float, float]:
    if not isinstance(term, Sequence) or len(term) != 2 or not all(map(is_finite_number, term)):
        raise TTValueError(f"decay[{d}] is {term!r}; expected a pair (c, b) of finite real numbers.")
    return float(term[0]), float(term[1])


def _check_matrices(matrices: Mapping[str, Tensor]) -> list[Tensor]:
    """Give matrices of one size in double precision, on the CPU."""
    if not matrices:
        raise TTValueError("single is None and pairs is empty; expected at least one matrix.")
    size: int | None = None
    for name, matrix in matrices.items():
        if not isinstance(matrix, Tensor):
            raise TTTypeError(f"{name} is a {type(matrix).__name__}; expected a torch.Tensor of shape (n, n).")
        size = matrix.shape[0] if size is None and matrix.ndim else size
        if tuple(matrix.shape) != (size, size) or size == 0:
            raise TTShapeError(f"{name} has shape {tuple(matrix.shape)}; expected (n, n), of one n for all matrices.")
        if count_nonfinite(matrix):
            raise TTValueError(f"{name} holds NaN or infinite entries; expected finite numbers.")
    is_complex = any(matrix.is_complex() for matrix in matrices.values())
    return [matrix.detach().cpu().to(torch.complex128 if is_complex else torch.float64) for matrix in matrices.values()]


def _machine(
    singles: Sequence[Tensor],  # (n, n), one for each site
    waiting: Sequence[tuple[Tensor, float, Tensor]],  # what opens a pair, its factor per site between, what closes it
    *,
    periodic: bool,
) -> list[Tensor]:
    """Give the cores of a finite-state machine: nothing yet, a pair that is open, done; and pairs across the ends."""
    size = len(singles[0])
    eye = torch.eye(size, dtype=singles[0].dtype)
    across = len(waiting) if periodic else 0
    states = 2 + len(waiting) + across
    done = states - 1
    cores = []
    for k, single in enumerate(singles):
        core = torch.zeros(states, size, size, states, dtype=single.dtype)
        core[0, ..., 0], core[done, ..., done], core[0, ..., done] = eye, eye, single
        for s, (opening, factor, closing) in enumerate(waiting, start=1):
            core[0, ..., s], core[s, ..., s], core[s, ..., done] = opening, factor * eye, closing
        for s in range(across):
            opening, _, closing = waiting[s]
            state = 1 + len(waiting) + s
            core[state, ..., state] = eye
            if k == 0:
                core[0, ..., state] = closing
            if k == len(singles) - 1:
                core[state, ..., done] = opening
        core = core[:1] if k == 0 else core
        cores.append(core[..., done:] if k == len(singles) - 1 else core)
    return cores


def exponentials(
    f: Callable[[Tensor], Tensor], reach: int, terms: int, *, points: int = 400
) -> tuple[list[tuple[float, float]], float]:
    """Fit a sum of exponentials `sum of c * b**(r - 1)` to a function of distances, for `local_sum`.

    The bases are the eigenvalues of a matrix pencil, and those that are not between -1 and 1, or come in complex
    pairs, are left out; the coefficients solve a least-squares problem. Source: Hua & Sarkar 1990, "Matrix pencil
    method for estimating parameters of exponentially damped/undamped sinusoids in noise".

    Args:
        f: A function of a float64 tensor of distances 1, 2, ..., which returns a real tensor of that shape.
        reach: The largest distance, one less than the number of sites; at least 1.
        terms: How many exponentials there may be; at least 1.
        points: The largest distance that bases are found from, where `reach` is more.

    Returns:
        The pairs (c, b), at most `terms`, and the largest error over all distances.

    Raises:
        TTTypeError: If a count is not an int, or the values are no real tensor.
        TTShapeError: If there is not a value for each distance.
        TTValueError: If a count is below 1, or a value is NaN or infinite.

    Example:
        >>> decay, error = exponentials(lambda r: r**-3, 50, 8)
        >>> len(decay), error < 1e-6
        (8, True)
    """
    for name, count in {"reach": reach, "terms": terms, "points": points}.items():
        if isinstance(count, bool) or not isinstance(count, numbers.Integral):
            raise TTTypeError(f"{name} is {count!r}; expected an int >= 1.")
        if count < 1:
            raise TTValueError(f"{name} is {count}; expected an int >= 1.")
    distances = torch.arange(1, reach + 1, dtype=torch.float64)
    values = f(distances)
    if not isinstance(values, Tensor) or values.is_complex():
        told = f"a {values.dtype} tensor" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise TTTypeError(f"f gives {told}; expected a real tensor of shape {tuple(distances.shape)}.")
    values = values.detach().to(distances)
    if values.shape != distances.shape:
        raise TTShapeError(f"f gives values of shape {tuple(values.shape)}; expected {tuple(distances.shape)}.")
    if count_nonfinite(values):
        raise TTValueError("f gives NaN or infinite values; expected finite numbers.")
    near = values[:points]
    half = len(near) // 2 + 1
    if half < 2:  # one value, which every base goes through
        bases = torch.zeros(1, dtype=torch.float64)
    else:
        hankel = near.unfold(0, half, 1)  # (m, half)
        _, singular, v = torch.linalg.svd(hankel, full_matrices=False)
        # n exponentials have 2n numbers, so they are told by 2n values or more.
        rank = max(1, min(int(terms), half - 1, int((singular > 1e-15 * singular[0]).sum())))
        v = v[:rank].mT  # (half, rank): shifting it by a row multiplies each exponential by its base
        poles = torch.linalg.eigvals(torch.linalg.lstsq(v[:-1], v[1:]).solution)
        bases = poles.real[poles.imag.abs() < 1e-9 * poles.abs().clamp_min(1e-300)]
    bases = bases[bases.abs() <= 1][:terms]
    powers = bases[None, :] ** (distances[:, None] - 1)
    if not len(bases):
        return [], float(values.abs().max())
    coefficients = torch.linalg.lstsq(powers, values[:, None], driver="gelsd").solution[:, 0]
    error = float((powers @ coefficients - values).abs().max())
    return list(zip(coefficients.tolist(), bases.tolist(), strict=True)), error


def product_sum(
    shape: Sequence[int],
    terms: Sequence[Mapping[int, Tensor]],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> TTMatrix:
    """Give a sum of products of matrices, each on a mode of its own, of the least ranks.

    Args:
        shape: The mode sizes.
        terms: For each product, its matrix (n_k, n_k) for each mode k that it acts on.
        dtype: A floating or complex dtype; None for float64, or complex128 where a matrix is complex.
        device: The device; None for torch's default.

    Returns:
        The TT-matrix, of ranks of at most the number of terms.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If there are no modes, or a matrix does not fit its mode.
        TTValueError: If there are no terms, a mode does not exist, or entries are NaN or infinite.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> product_sum((2, 2, 2), [{0: x, 2: x}, {1: x}]).ranks
        (1, 2, 2, 1)
    """
    sizes = check_shape(shape, "shape")
    if not sizes:
        raise TTShapeError("shape is (); expected at least one mode.")
    if not terms:
        raise TTValueError("terms is empty; expected at least one product.")
    is_complex = False
    for t, term in enumerate(terms):
        if not isinstance(term, Mapping):
            raise TTTypeError(f"terms[{t}] is a {type(term).__name__}; expected a dict from modes to matrices.")
        for k, matrix in term.items():
            if isinstance(k, bool) or not isinstance(k, numbers.Integral) or not 0 <= k < len(sizes):
                raise TTValueError(f"terms[{t}] acts on mode {k!r}; expected 0 to {len(sizes) - 1}.")
            if not isinstance(matrix, Tensor):
                raise TTTypeError(f"terms[{t}][{k}] is a {type(matrix).__name__}; expected a torch.Tensor.")
            if tuple(matrix.shape) != (sizes[k], sizes[k]):
                raise TTShapeError(
                    f"terms[{t}][{k}] has shape {tuple(matrix.shape)}; expected {(sizes[k], sizes[k])}, as mode {k}."
                )
            if count_nonfinite(matrix):
                raise TTValueError(f"terms[{t}][{k}] holds NaN or infinite entries; expected finite numbers.")
            is_complex = is_complex or matrix.is_complex()
    double = torch.complex128 if is_complex else torch.float64
    cores = []
    for k, size in enumerate(sizes):
        eye = torch.eye(size, dtype=double)
        own = [term[k].detach().cpu().to(double) if k in term else eye for term in terms]
        core = torch.zeros(len(terms), size, size, len(terms), dtype=double)
        for t, matrix in enumerate(own):
            core[t, ..., t] = matrix
        core = core.sum(0, keepdim=True) if k == 0 else core
        cores.append(core.sum(3, keepdim=True) if k == len(sizes) - 1 else core)
    return finish(cores, dtype, device)


def is_finite_number(value: object) -> bool:
    """Say whether something is a real number, neither NaN nor infinite.

    Args:
        value: Anything.

    Returns:
        Whether it is.

    Example:
        >>> is_finite_number(1.5), is_finite_number("1"), is_finite_number(math.nan)
        (True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
