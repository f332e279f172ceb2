"""The sweep of TT-SVD: take the modes from the two ends of a tensor inwards, by the kernels and in the order planned.

Every cut is an orthogonal projection, and each projects further into the space that those before it have left. So the
errors are orthogonal to each other and their squares add up, whichever end they come from (as in Oseledets 2011,
Theorem 2.2), and the squared error is at most the sum of what all cuts were certified to lose.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ttnet.decomposition import plan
from ttnet.decomposition.bonds import basis_of, cut_bonds, identities, mirrored
from ttnet.decomposition.compiled_passes import threads_of_passes
from ttnet.decomposition.plan import OVERSAMPLING, Step
from ttnet.decomposition.randomized import by_sample, by_sketch
from ttnet.decomposition.spectrum import Spectrum, by_gram, by_qr, check_range, gram_bound
from ttnet.decomposition.unfolding import Unfolding, double
from ttnet.decomposition.unfolding_kernels import project, sum_of_squares
from ttnet.numerics.linalg import qr, truncated_svd
from ttnet.numerics.scales import times_power_of_two
from ttnet.numerics.truncation import ErrorBudget

_FIRST_RANK = 8  # what is expected of a bond as long as nothing is known
# How many times the rank expected a largest rank may be and still be taken for what decides.
_FORCING = 4
# In how many units in the last place a loss is measured beside which that of a product is not seen.
_UNSEEN = 1000
_FREE_FLOPS = 1e8  # a tenth of a second at most


class Sweep:
    """A tensor on its way to a train: the cores that are done at both ends, and the rest between them.

    Args:
        x: The tensor, of any dtype and strides, of order 2 or more; it is only read.
        dtype: The dtype to compute in.
        exponent: The train is that of x times 2**-exponent.
        norm: The Frobenius norm of x times 2**-exponent, not 0; None to have the first pass find it, too.
        budget: What the bonds may lose, of a norm of 1 if that of x is not known.
        method: "auto", "gram", "qr" or "randomized".
        left: The cores that are done on the left, if x is what they and those on the right have left; its first and
            last axis are then the bonds to them.
        right: The cores that are done on the right.

    Example:
        >>> budget = ErrorBudget(norm=8**0.5, eps=0.1, max_ranks=[None, None], dtype=torch.float32)
        >>> sweep = Sweep(torch.ones(2, 2, 2), torch.float32, 0, 8**0.5, budget, "gram")
        >>> [tuple(core.shape) for core in sweep.run()]
        [(1, 2, 1), (1, 2, 1), (1, 2, 1)]
    """

    def __init__(
        self,
        x: Tensor,
        dtype: torch.dtype,
        exponent: int,
        norm: float | None,
        budget: ErrorBudget,
        method: str,
        *,
        left: Sequence[Tensor] = (),
        right: Sequence[Tensor] = (),
    ) -> None:
        self._rest = x if left or right else x[None, ..., None]  # (r, the modes that are left, r')
        self._dtype = dtype
        self._exponent = exponent
        self._norm = 1.0 if norm is None else norm  # that of the rest
        self._measured = norm is not None
        self._budget = budget
        self._method = method
        self._left = list(left)
        self._right = list(right)
        self._lost_before = math.hypot(*budget.spent)
        self._lost: dict[int, float] = {}  # at each bond since
        self._rank = _FIRST_RANK  # what is expected of the next bond
        self._sketches = method in ("auto", "randomized")
        # What is expected of the bonds where a sketch has failed: twice what it came to.
        self._beyond: dict[int, int] = {}
        # Precisions in which a Gram matrix did not resolve a cut that the largest rank was to force.
        self._too_coarse: set[torch.dtype] = set()
        self.steps: list[Step] = []

    def run(self) -> list[Tensor]:
        """Cut all bonds.

        Returns:
            The cores, left-orthogonal, in double precision.

        Raises:
            OutOfRange: If the norm was not known and the entries have to be scaled first.
        """
        few_rows = self._method == "auto" and self._rest.device.type == "cpu"
        with threads_of_passes(), np.errstate(over="ignore", invalid="ignore"):
            while self._rest.ndim > 3:
                outer, *shape, inner = self._rest.shape
                if plan.is_quickly_cut((outer, inner), shape, few_rows):
                    self._cut_first()
                    continue
                step = self._plan()
                if self._take(step):
                    self.steps.append(step)
                else:
                    taken = step.modes if step.side == "left" else self._rest.ndim - 2 - step.modes
                    more = step.columns if step.method == "sampled" else 2 * step.max_sketch
                    self._beyond[len(self._left) + taken - 1] = more
            self._to_double(copy=True)
        return self._finish()

    def _to_double(self, *, copy: bool = False) -> None:
        self._rest = times_power_of_two(self._rest.to(double(self._dtype), copy=copy), -self._exponent)
        self._dtype, self._exponent = self._rest.dtype, 0

    def _cut_first(self) -> None:
        """Cut the first bond by an SVD in double precision."""
        self._to_double()
        if not self._measured:
            norm = float(torch.linalg.vector_norm(self._rest))
            check_range(norm * norm, self._rest.numel())  # no power, which raises where a product is infinite
            self._adopt(norm)
        (rank, size, *_), bond = self._rest.shape, len(self._left)
        matrix = self._rest.reshape(rank * size, -1)
        u, w, tail = truncated_svd(matrix, *self._budget.allowance(min(matrix.shape), bond))
        self._budget.spend(tail, float(torch.linalg.vector_norm(w[-1])))
        self._lost[bond] = tail
        self._norm = max(0.0, self._norm**2 - tail**2) ** 0.5
        self._left.append(u.reshape(rank, size, -1))
        self._rest = w.reshape(-1, *self._rest.shape[2:])
        self._rank = max(_FIRST_RANK, len(self._rest))

    def _plan(self) -> Step:
        outer, *shape, inner = self._rest.shape
        beyond = [self._beyond.get(len(self._left) + k, 0) for k in range(len(shape) - 1)]
        for k in range(1, len(beyond)):  # a rank is at most its neighbour's times the mode between them
            beyond[k] = max(beyond[k], beyond[k - 1] // shape[k])
        for k in range(len(beyond) - 1, 0, -1):
            beyond[k - 1] = max(beyond[k - 1], beyond[k] // shape[k])

        def rank_of(k: int, method: str) -> int:
            forced = self._forced_rank(k)
            rank = self._rank if forced is None else forced
            # Only at a last bond is it certain that what a sketch failed at is left to the other kernel.
            return rank if method == base_method and len(shape) > 2 else max(rank, beyond[k - 1])

        base_method = self._base_method()
        methods = [base_method]
        if self._sketches:
            methods += ["randomized", "sampled"] if base_method == "gram" else ["randomized"]
        base, *others = (
            plan.next_step(shape, (outer, inner), partial(rank_of, method=method), method, self._dtype.itemsize)
            for method in methods
        )
        assert base is not None
        found = min((step for step in others if step is not None), key=lambda step: step.price, default=None)
        if found is None:
            return base
        if self._method == "randomized" or (self._forced_rank(1) is None and found.price < base.price):
            return replace(found, rival=base.price)
        return base

    def _forced_rank(self, k: int) -> int | None:
        """Give the largest rank of the bond before mode k of the rest, if it will decide there and not the error."""
        _, max_rank = self._budget.allowance(1, len(self._left) + k - 1)
        if max_rank is not None and (self._budget.left == 0 or max_rank <= _FORCING * self._rank):
            return max_rank
        return None

    def _base_method(self) -> str:
        """Give the kernel to use where no sketch is tried: "gram" if it may well tell what to cut."""
        if self._method == "qr":
            return "qr"
        allowed, max_rank = self._budget.allowance(1, len(self._left))
        resolves = gram_bound(64, self._norm, torch.float64) <= allowed**2 / 2
        hopes = max_rank is not None and torch.float64 not in self._too_coarse
        return "gram" if self._method == "gram" or resolves or hopes else "qr"

    def _spectra(self, u: Unfolding, step: Step, bond: int) -> Iterator[Spectrum]:
        """Look at an unfolding with one kernel after the other, each more exact than those before."""
        allowed, max_rank = self._budget.allowance(min(u.shape), bond)
        norm = self._norm if self._measured else None
        if step.method in ("randomized", "sampled"):
            dtype = self._products_for(allowed)
            if step.method == "sampled":
                found = by_sample(u, norm, allowed, step.max_sketch, dtype)
            else:
                found = by_sketch(u, norm, allowed, step.rank + OVERSAMPLING, step.max_sketch, dtype)
            if found is not None:
                yield found
            return
        columns = u.shape[1]
        if step.method == "gram":
            for precision in (torch.float32, torch.float64):
                allowed, max_rank = self._budget.allowance(min(u.shape), bond)
                resolves = gram_bound(columns, self._norm, precision) <= allowed**2 / 2
                hopes = max_rank is not None and max_rank < columns and precision not in self._too_coarse
                if resolves or hopes:
                    norm = self._norm if self._measured else None
                    yield by_gram(u, norm, precision.to_complex() if u.dtype.is_complex else precision)
                    self._too_coarse.add(precision)
        yield by_qr(u, measured=self._measured)

    def _products_for(self, loss: float) -> torch.dtype:
        """Give the precision in which products add nothing to a loss."""
        coarse = torch.finfo(self._dtype).eps
        return self._dtype if loss >= _UNSEEN * coarse * self._norm else double(self._dtype)

    def _adopt(self, norm: float) -> None:
        """Note the norm of the rest once a pass has found it."""
        if not self._measured:
            self._norm, self._budget, self._measured = norm, self._budget.for_norm(norm), True

    def _take(self, step: Step) -> bool:
        """Cut the bonds of a step; or say that its kernel cannot tell how, which only a sketch ever does."""
        left, count = step.side == "left", step.modes
        u = Unfolding(self._rest, count + 1, self._dtype, side=step.side, exponent=self._exponent)
        # The modes taken and the bond behind them, seen from the rest: a step from the left is one in a mirror.
        if left:
            shape = self._rest.shape[count::-1]
            bonds = range(len(self._left) + count - 1, len(self._left) - 1, -1)
        else:
            shape = self._rest.shape[-count - 1 :]
            first = len(self._left) + self._rest.ndim - 3 - count
            bonds = range(first, first + count)
        for spectrum in self._spectra(u, step, bonds[0]):
            self._adopt(spectrum.squares**0.5)
            budget = copy.copy(self._budget)
            v = mirrored(spectrum.v.mT, shape[::-1]).mT if left else spectrum.v
            cores = cut_bonds(spectrum, v, shape, bonds, budget)
            if cores is not None:
                break
        else:
            return False
        allowed, _ = self._budget.allowance(min(u.shape), bonds[0])
        order = (bonds[0], *bonds[:0:-1])
        self._lost |= dict(zip(order, budget.spent[len(self._budget.spent) :], strict=True))
        self._budget = budget
        if cores:
            self._beyond.clear()  # much of what made the singular values fall off slowly is gone
            self._project(u, spectrum, cores, shape, left, self._products_for(max(allowed, math.hypot(*budget.spent))))
        else:
            cores = self._merge(shape, left)
        self._rank = max(_FIRST_RANK, len(cores[0]))
        if left:
            self._left += [core.permute(2, 1, 0) for core in reversed(cores)]
        else:
            self._right = cores + self._right
        return True

    def _merge(self, shape: Sequence[int], left: bool) -> list[Tensor]:
        """Take modes that no bond is cut between by identities, which copies nothing of the rest."""
        columns, rows = math.prod(shape), self._rest.shape[len(shape) :] if left else self._rest.shape[: -len(shape)]
        self._rest = self._rest.reshape(columns, *rows) if left else self._rest.reshape(*rows, columns)
        return identities(shape, left, double(self._dtype), self._rest.device)

    def _project(
        self,
        u: Unfolding,
        spectrum: Spectrum,
        cores: Sequence[Tensor],
        shape: Sequence[int],
        left: bool,
        dtype: torch.dtype,
    ) -> None:
        """Replace the rest by its coordinates in the space that new cores span."""
        rank = len(cores[0])
        v, seen = spectrum.seen or (None, None)
        if seen is not None and v is spectrum.v and rank == v.shape[1] and len(cores) == 1:  # what is kept was seen
            product, squares = seen, max(0.0, spectrum.squares - spectrum.missed)
        else:
            basis, product = basis_of(cores, shape, left), u.new_product(rank)
            if v is None or seen is None:
                _, squares = project(u, basis.mH, product, dtype, measure="product")
            else:
                torch.mm(seen, (v.mH @ basis.mH).to(u.dtype), out=product)
                squares = sum_of_squares(Unfolding(product.mT if left else product, 1, u.dtype))
        self._norm = squares**0.5
        self._rest, self._exponent = u.fold(product), 0

    def _finish(self) -> list[Tensor]:
        """Make all cores left-orthogonal, and cut what the unspent part of the budget allows if that costs little.

        A cut here projects the modes left of its bond. That commutes with what the sweep did right of a bond further
        right or on the same place, and, being inside it, left of a bond further left; so these errors are orthogonal.
        With the sweep's other errors, of norm `apart` together, an error f here may add up to (apart + f)**2.
        """
        cores = [*self._left, self._rest, *self._right]
        centre = len(self._left)
        unspent = self._budget.left
        flops = sum(12 * core.numel() * max(core.shape[0], core.shape[2]) for core in cores)
        lost = [self._lost.get(bond, 0.0) for bond in range(len(cores) - 1)]
        by_left, by_right = lost[:centre], lost[centre:]  # what the sweep cut from either end
        is_cheap = flops <= max(_FREE_FLOPS, sum(step.cost for step in self.steps) / 4)
        spends = unspent > 0 and self._budget.allows_more and is_cheap
        first = 0 if spends else centre
        if spends:
            for k in range(centre, 0, -1):
                q, r = qr(cores[k].flatten(1).mT)  # (n r', s), (s, r)
                cores[k] = q.mT.reshape(-1, *cores[k].shape[1:])
                cores[k - 1] = torch.tensordot(cores[k - 1], r.mT, 1)
        for k in range(first, len(cores) - 1):
            matrix = cores[k].flatten(0, 1)
            if spends:
                apart = math.hypot(self._lost_before, *by_left[k + 1 :], *by_right[: max(0, k - centre)])
                u, w, tail = truncated_svd(matrix, math.hypot(unspent, apart) - apart, None)
                unspent = max(0.0, unspent**2 - tail * (tail + 2 * apart)) ** 0.5
            elif len(matrix) <= matrix.shape[1]:  # the bond is as large as it can be
                u, w = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device), matrix
            else:
                u, w = qr(matrix)
            cores[k] = u.reshape(*cores[k].shape[:2], -1)
            cores[k + 1] = torch.tensordot(w, cores[k + 1], 1)
        return cores
