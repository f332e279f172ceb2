"""Extreme eigenpairs of Hermitian operators: two-site DMRG with subspace expansion, for several vectors at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ttnet.errors import TTConvergenceError, TTValueError
from ttnet.numerics.linalg import plain_qr
from ttnet.numerics.scales import times_power_of_two
from ttnet.solvers.amen import solve
from ttnet.solvers.arguments import (
    check_bounds,
    check_callback,
    check_count,
    check_fit,
    check_operator,
    check_seed,
    check_tol,
    check_train,
    solver_dtype,
)
from ttnet.solvers.dmrg_sweep import BlockState
from ttnet.solvers.implicit import differentiable
from ttnet.solvers.interfaces import (
    mirrored,
    prepare_operator,
    prepare_train,
    trim,
)
from ttnet.solvers.residuals import SYMMETRY, antihermitian_part, eigen_residual
from ttnet.solvers.result import SolverProgress, SolverResult, SolverStatus, handing_back
from ttnet.solvers.sampled import attainable
from ttnet.trains.construct import eye
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

LARGEST_PAIR = 100  # the largest product of two modes that are solved for together, unless told otherwise
EARLY = 1e3  # times tol**2: the change of values at which a residual is worth looking at,
EXPECTED = 3.0  # and the next change that may be expected
LOOSE = 5e-4  # what a bond may lose, times the root of the last change of values: about what vectors still lack
FIRST = 1e-2  # the most that this change counts for, as before it is known
EXPLORING = 2  # sweeps from a given train that look beyond what A makes of it
PATIENCE = 6  # how many sweeps may pass before the residual must be lower by a quarter


@dataclass(frozen=True, repr=False)
class EigenResult(SolverResult[tuple[TensorTrain, ...]]):
    """Eigenpairs, and how good they are.

    Attributes:
        value: The eigenvectors, of norm one and orthogonal to each other up to the residual.
        values: The eigenvalues, a real tensor of shape (k,): ascending for "SA", descending for "LA".
        residuals: `||A v - value v||` of each pair, relative to the larger of `|value|` and A's root mean square
            singular value. The error of an eigenvalue is of the order of the square of this, over the relative gap to
            the others.

    Example:
        >>> from ttnet import operators, solvers
        >>> result = solvers.eigsh(operators.heisenberg(4), k=1)
        >>> result.values, result.vectors
        (tensor([-1.6160], dtype=torch.float64), (TensorTrain([2]-2-[2]-4-[2]-2-[2], float64),))
    """

    values: Tensor
    residuals: Tensor

    @property
    def vectors(self) -> tuple[TensorTrain, ...]:
        """The eigenvectors, one train for each eigenvalue."""
        return self.value

    def __str__(self) -> str:
        first, *rest = super().__str__().split("\n")
        return "\n".join([first, f"eigenvalues: {', '.join(f'{value:.12g}' for value in self.values.tolist())}", *rest])


def eigsh(
    A: TTMatrix,
    k: int = 1,
    which: str = "SA",
    tol: float = 1e-6,
    *,
    max_sweeps: int = 50,
    max_rank: int | Sequence[int] | None = None,
    x0: TensorTrain | None = None,
    sites: int | None = None,
    seed: int = 0,
    callback: Callable[[SolverProgress], object] | None = None,
) -> EigenResult:
    """Find the lowest or highest eigenpairs of a Hermitian TT-matrix.

    Sweeps go over the bonds, there and back in turn, and solve the eigenproblem of two cores at a time (DMRG); the k
    vectors share all cores but one (block format). Bases are expanded by a few directions of `A v`, so that sweeps do
    not settle in a poor space. Sources: Schollwöck 2011, "The density-matrix renormalization group in the age of matrix
    product states", section 6; Dolgov et al. 2014, "Computation of extreme eigenvalues in higher dimensions using block
    tensor train format"; Hubig et al. 2015, "Strictly single-site DMRG algorithm with subspace expansion".

    Args:
        A: The operator.
        k: How many eigenpairs, at least 1.
        which: "SA" for the lowest (smallest algebraic), "LA" for the highest eigenvalues.
        tol: The residual `||A v - value v||` to reach, relative as `EigenResult.residuals` says, at least 4 machine
            epsilons. Errors of the eigenvalues go with its square.
        max_sweeps: The largest number of sweeps over all bonds, in either direction; at least 1.
        max_rank: Bound on the ranks that all vectors share, an int or one int per inner bond.
        x0: A train whose bases to begin with; None for random ones. The first two sweeps add random directions to them,
            so that one that is another eigenvector is left.
        sites: How many cores to solve for at a time, 1 or 2; None for 2 unless modes are large.
        seed: The seed of all random choices.
        callback: Called with a `SolverProgress` after each sweep, whose `residual` is the relative change of the
            eigenvalues until the true one is computed; if it returns True, the search stops.

    Returns:
        The result, with `values`, `vectors` and `residuals`. Where A's cores require gradients, `values` have some
        (Hellmann and Feynman), and so have `vectors`, as those of `solve` have; they are right where an eigenvalue is
        simple. That it has converged says that these are eigenpairs, by their residuals; that there are none beyond
        them is not proved. An exception on the way carries the best result so far in its attribute `result`.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If A is not square, or the modes of x0 are not those of A.
        TTValueError: If A is not Hermitian, an argument is out of range, `tol` is below the precision of the dtype,
            `max_rank` leaves no room for k vectors, or a core has entries that are NaN or infinite.

    Example:
        >>> from ttnet import operators, solvers
        >>> result = solvers.eigsh(operators.ising(12), k=2)
        >>> result.converged, result.values
        (True, tensor([-14.9260, -14.6748], dtype=torch.float64))
    """
    check_operator(A, "A")
    dtype = solver_dtype(A) if x0 is None else solver_dtype(A, check_train(x0, "x0"))
    if x0 is not None:
        check_fit(A, x0, "x0")
    bound = check_tol(tol, dtype)
    if which not in ("SA", "LA"):
        raise TTValueError(f"which is {which!r}; expected 'SA' (lowest) or 'LA' (highest).")
    count = check_count(k, "k")
    if count > A.shape[0]:
        raise TTValueError(f"k is {count}; expected at most {A.shape[0]}, the number of rows of A.")
    sweeps = check_count(max_sweeps, "max_sweeps")
    max_ranks = check_bounds(max_rank, len(A.cores))
    if sites is not None and check_count(sites, "sites") > 2:
        raise TTValueError(f"sites is {sites}; expected 1, 2 or None.")
    generator = check_seed(seed)
    check_callback(callback)
    with torch.no_grad():
        search = _Search(A, x0, dtype, bound, count, which, max_ranks, sites, generator)
        result = search.run(sweeps, callback)
    if not torch.is_grad_enabled() or not any(core.requires_grad for core in A.cores):
        return result
    quotients = torch.stack([v.dot(A @ v).real for v in result.vectors])
    vectors = tuple(
        _differentiable_vector(A, v, float(value), tol)
        for v, value in zip(result.vectors, result.values.tolist(), strict=True)
    )
    return replace(result, values=quotients, value=vectors)


def _differentiable_vector(a: TTMatrix, v: TensorTrain, value: float, tol: float) -> TensorTrain:
    """Give an eigenvector with gradients to the operator's cores.

    It changes by `-(A - value)**+ dA v`, so a loss with gradient g changes by `-<(A - value)**+ g, dA v>`. With v v.H
    added the matrix has an inverse, which is the pseudoinverse on what is orthogonal to v.
    """
    plain = a.detach()
    projector = TTMatrix([torch.einsum("rns,pmq->rpnmsq", c, c.conj()).flatten(4, 5).flatten(0, 1) for c in v.cores])
    shift = eye(a.col_shape, dtype=a.dtype, device=a.device) * value
    scale = max(1.0, abs(value))

    def adjoint(gradient: TensorTrain) -> TensorTrain:
        across = gradient - v * v.dot(gradient)
        found = solve(plain - shift + projector * scale, across, max(tol, 1e-12))
        if not found.converged:
            raise TTConvergenceError(
                f"The gradient of the eigenvector of {value:.6g} is not known: its adjoint system was solved to "
                f"{found.residual:.1e} only, as where other eigenvalues are as good as equal to it, and vectors turn "
                "into each other. Use functions of `values` alone, or add a small term to A that tells them apart.",
                found,
            )
        return found.value - v * v.dot(found.value)

    def pairing(multiplier: TensorTrain, cores: list[Tensor]) -> Tensor:
        return -multiplier.dot(TTMatrix(cores) @ v).real

    return differentiable(v, a.cores, adjoint=adjoint, pairing=pairing)


class _Search:
    """One search: the operator near scale one, the block of vectors, and what the sweeps have shown so far."""

    def __init__(
        self,
        a: TTMatrix,
        x0: TensorTrain | None,
        dtype: torch.dtype,
        tol: float,
        count: int,
        which: str,
        max_ranks: list[int | None],
        sites: int | None,
        generator: torch.Generator,
    ) -> None:
        self._whole_shape = a.col_shape
        cores, self._exponent = prepare_operator(a, dtype)
        precision = torch.finfo(dtype).eps
        if (part := antihermitian_part(cores)) > SYMMETRY * precision:
            raise TTValueError(
                f"A is not Hermitian: the norm of A - A.H is {part:.1e} of that of A; expected at most "
                f"{SYMMETRY * precision:.1e}. Give (A + A.H) / 2 if the difference is an error of rounding."
            )
        self._dtype, self._precision = dtype, precision
        self._sign = 1.0 if which == "SA" else -1.0
        # Modes of size one would leave no room for vectors beside each other.
        self._a, bounds = _squeezed([cores[0] * self._sign, *cores[1:]], max_ranks)
        self._tol, self._count, self._max_ranks = tol, count, bounds
        shape, order = [core.shape[1] for core in self._a], len(self._a)
        pairs = [m * n for m, n in itertools.pairwise(shape)]
        self._sites = min(order, sites or (2 if max(pairs, default=0) <= LARGEST_PAIR else 1))
        full = _full_ranks(shape)
        most = [min(rank, bound or rank) for rank, bound in zip(full, [None, *bounds, None], strict=True)]
        room = min(
            most[k] * math.prod(shape[k : k + self._sites]) * most[k + self._sites]
            for k in range(order - self._sites + 1)
        )
        if room < count:
            raise TTValueError(
                f"k is {count}, but there is room for {room} vectors at most beside each other; raise max_rank or "
                "sites, or lower k."
            )
        self._given = x0 is not None
        if x0 is None:
            ranks = [1, *attainable([min(rank, 2 * count) for rank in most[1:-1]], shape), 1]
            sizes = [(ranks[k], n, ranks[k + 1]) for k, n in enumerate(shape)]
            draws = [torch.randn(r, n * s, dtype=dtype, generator=generator).to(a.device) for r, n, s in sizes]
            x = [plain_qr(draw.mH)[0].mH.reshape(size) for draw, size in zip(draws, sizes, strict=True)]
        else:
            x0 = TensorTrain(_squeezed(prepare_train(x0, dtype)[0], max_ranks)[0])
            x0 = x0.round(max_rank=most[1:-1]) if any(bounds) else x0
            x = prepare_train(x0, dtype)[0]
        # The block has one vector to begin with; the first local problem finds the others.
        self._block = BlockState(self._a, x, count, bounds, self._sites, generator)
        self._cut = tol / 2
        self._best: tuple[Tensor, list[list[Tensor]], Tensor] | None = None
        self._history: list[SolverProgress] = []

    def run(self, max_sweeps: int, callback: Callable[[SolverProgress], object] | None) -> EigenResult:
        """Sweep until residuals are small enough or there is no hope for it."""
        with handing_back(lambda: self._result(SolverStatus.INTERRUPTED) if self._history else None):
            status = self._sweeps(max_sweeps, callback)
        return self._result(status)

    def _sweeps(self, max_sweeps: int, callback: Callable[[SolverProgress], object] | None) -> SolverStatus:
        before: Tensor | None = None
        residuals: list[float] = []
        changes: list[float] = []
        change = math.inf
        for sweep in range(1, max_sweeps + 1):
            explore = self._given and sweep <= EXPLORING
            cut = self._cut if explore else max(self._cut, LOOSE * math.sqrt(min(change, FIRST)))
            values = self._block.sweep(cut=cut, explore=explore)
            self._block.turn()
            # In the middle of the next sweep, which may be broken off, the block has no vectors.
            self._found = values, self._block.vectors(), self._block.is_mirrored
            self._best = None
            scale = max(1.0, float(values.abs().max()))
            change = float((values - before).abs().max()) / scale if before is not None else math.inf
            before = values
            residual = change
            # Errors of values go with the square of the residual: a sweep that changes them by less has little to gain.
            settled = change <= max(self._tol**2, 4 * self._precision) or len(self._a) <= self._sites
            expected = change * min(1.0, change / changes[-1]) if len(changes) > 1 else change
            changes.append(change)
            # Ranks that are cut to max_rank may keep them from settling.
            settled = settled or (len(changes) > PATIENCE and min(changes[-3:]) > 0.3 * min(changes[:-3]))
            near = change <= EARLY * self._tol**2 or expected <= EXPECTED * self._tol**2
            if settled or near or sweep == max_sweeps:
                residual = self._look()
                residuals.append(residual)
            whole = _unsqueezed(self._found[1][0], self._whole_shape)
            ranks = (1, *(core.shape[2] for core in whole))
            self._history.append(SolverProgress(sweep, ranks, residual=residual, change=change))
            stopped = callback is not None and bool(callback(self._history[-1]))
            if self._best is not None and residual <= self._tol:
                return SolverStatus.CONVERGED
            if stopped:
                return SolverStatus.STOPPED
            if settled:
                inner = self._block.ranks[1:-1]
                if any(rank == most for rank, most in zip(inner, self._max_ranks, strict=True)):
                    return SolverStatus.MAX_RANK
                if len(residuals) > PATIENCE and min(residuals[-PATIENCE:]) > 0.75 * min(residuals[:-PATIENCE]):
                    return SolverStatus.STALLED
                self._cut = max(self._cut * min(0.5, 0.5 * self._tol / residual), self._precision)
        return SolverStatus.MAX_SWEEPS

    def _look(self) -> float:
        """Take the vectors apart, and compute their residuals."""
        values, vectors, is_mirrored = self._found
        # With the norm in the first core, bases on the right are orthonormal, which spares half of the work.
        a = [core.transpose(0, 3) for core in reversed(self._a)] if is_mirrored else self._a
        trains = map(mirrored, vectors) if is_mirrored else vectors
        found = [eigen_residual(a, v, float(value)) for v, value in zip(trains, values, strict=True)]
        scales = values.abs().clamp_min(1.0).cpu()
        residuals = torch.tensor(found, dtype=scales.dtype) / scales
        self._best = values, vectors, residuals
        return float(residuals.max())

    def _result(self, status: SolverStatus) -> EigenResult:
        if self._best is None:
            self._look()
        assert self._best is not None
        values, vectors, residuals = self._best
        return EigenResult(
            value=tuple(TensorTrain(_unsqueezed(cores, self._whole_shape)) for cores in map(self._trimmed, vectors)),
            status=status,
            residual=float(residuals.max()),
            sweeps=len(self._history),
            history=tuple(self._history),
            values=times_power_of_two(self._sign * values, self._exponent),
            residuals=residuals,
        )

    def _trimmed(self, cores: list[Tensor]) -> list[Tensor]:
        """Take noise out of the bonds of a vector whose centre is where the next sweep begins."""
        if self._found[2]:
            return mirrored(trim(mirrored(cores), is_orthogonal=True))
        return trim(cores, is_orthogonal=True)


def _squeezed(
    cores: Sequence[Tensor],  # each (r, n, r') or (a, n, n, b)
    max_ranks: Sequence[int | None],
) -> tuple[list[Tensor], list[int | None]]:
    """Take modes of size one into their neighbours, one core being left at least; give bounds for what bonds remain."""
    found = [cores[0]]
    bounds: list[int | None] = []
    narrow: list[int] = []  # what the bonds beside modes of size one bear
    for core, most in zip(cores[1:], max_ranks, strict=True):
        narrow += [] if most is None else [most]
        if 1 not in (core.shape[1], found[-1].shape[1]):
            found.append(core)
            bounds.append(min(narrow, default=None))
            narrow = []
            continue
        both = torch.tensordot(found[-1], core, 1)  # (r, n, n', r') or (a, m, n, m', n', b)
        found[-1] = both.flatten(1, 2) if both.ndim == 4 else both.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return found, bounds


def _unsqueezed(
    cores: Sequence[Tensor],  # each (r, n, r')
    shape: Sequence[int],
) -> list[Tensor]:
    """Put modes of size one back."""
    rest = iter(cores)
    found: list[Tensor] = []
    for k, size in enumerate(shape):
        if size > 1 or (k == 0 and max(shape) == 1):
            found.append(next(rest))
            continue
        rank = found[-1].shape[2] if found else 1
        found.append(torch.eye(rank, dtype=cores[0].dtype, device=cores[0].device)[:, None])
    return found


def _full_ranks(shape: Sequence[int]) -> list[int]:
    """Give the largest ranks that tensors of a shape have, the outer ones included."""
    heads, tails = [1], [1]
    for size in shape:
        heads.append(min(heads[-1] * size, 2**40))
    for size in reversed(shape):
        tails.append(min(tails[-1] * size, 2**40))
    return [min(head, tail) for head, tail in zip(heads, reversed(tails), strict=True)]
