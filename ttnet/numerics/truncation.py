"""How much each bond of a train may lose: from `eps` and `max_rank` to the cut of every single matrix."""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.linalg import truncated_svd
from ttnet.numerics.scales import compute_dtype


def check_method(method: str, methods: Sequence[str]) -> None:
    """Refuse a method that does not exist.

    Args:
        method: What the user asked for.
        methods: The names of those that exist.

    Raises:
        TTValueError: For any other value.

    Example:
        >>> check_method("svd", ("auto", "svd"))
    """
    if method not in methods:
        choices = " or ".join(repr(name) for name in methods)
        raise TTValueError(f"method is {method!r}; expected {choices}.")


def check_eps(eps: float | None) -> float:
    """Give the relative error bound as a float: 0.0 for None.

    Args:
        eps: A relative Frobenius error, at least 0, or None.

    Returns:
        The bound.

    Raises:
        TTTypeError: If `eps` is not a real number.
        TTValueError: If it is negative or NaN.

    Example:
        >>> check_eps(None), check_eps(1e-3)
        (0.0, 0.001)
    """
    if eps is None:
        return 0.0
    if isinstance(eps, bool) or not isinstance(eps, numbers.Real):
        raise TTTypeError(f"eps is a {type(eps).__name__}; expected a real number >= 0, or None for no error bound.")
    if not eps >= 0:  # not "< 0", which lets NaN pass
        raise TTValueError(f"eps is {eps}; expected a relative error >= 0, or None for no error bound.")
    try:
        return float(eps)
    except OverflowError:  # an int of hundreds of digits
        return math.inf


def check_ranks(ranks: object, bonds: int, name: str) -> list[int]:
    """Give one rank per inner bond.

    Args:
        ranks: An int >= 1 for all bonds, or one such int per inner bond.
        bonds: The number of inner bonds, one less than the order.
        name: What the caller calls the argument, for the messages.

    Returns:
        A list of length `bonds`.

    Raises:
        TTTypeError: If `ranks` holds something other than ints.
        TTValueError: If a rank is below 1.
        TTShapeError: If it is a sequence of another length.

    Example:
        >>> check_ranks(3, 2, "rank"), check_ranks([2, 4], 2, "rank")
        ([3, 3], [2, 4])
    """
    if isinstance(ranks, str) or not isinstance(ranks, numbers.Integral | Sequence):
        raise TTTypeError(f"{name} is a {type(ranks).__name__}; expected an int or one int per inner bond.")
    values: list[int] = []
    for rank in [ranks] if isinstance(ranks, numbers.Integral) else ranks:
        if isinstance(rank, bool) or not isinstance(rank, numbers.Integral):
            raise TTTypeError(f"{name} holds {rank!r}; expected ints >= 1.")
        if rank < 1:
            raise TTValueError(f"{name} holds {rank}; every rank must be at least 1.")
        values.append(int(rank))
    if isinstance(ranks, numbers.Integral):
        return values * bonds
    if len(values) != bonds:
        raise TTShapeError(
            f"{name} has {len(values)} entries; expected {bonds}, one per inner bond (one less than the order)."
        )
    return values


def check_max_rank(max_rank: int | Sequence[int] | None, bonds: int) -> list[int | None]:
    """Give one largest rank per inner bond.

    Args:
        max_rank: An int >= 1 for all bonds, one such int per inner bond, or None for no bound.
        bonds: The number of inner bonds, one less than the order.

    Returns:
        A list of length `bonds`.

    Raises:
        TTTypeError: If `max_rank` holds something other than ints.
        TTValueError: If a rank is below 1.
        TTShapeError: If it is a sequence of another length.

    Example:
        >>> check_max_rank(3, 2), check_max_rank(None, 1)
        ([3, 3], [None])
    """
    if max_rank is None:
        return [None] * bonds
    return [*check_ranks(max_rank, bonds, "max_rank")]


def check_readable(
    x: Tensor,  # (...)
    name: str,
) -> None:
    """Refuse a tensor whose numbers cannot be read, where they are to say which ranks are needed.

    Args:
        x: A tensor of at least one entry.
        name: What the caller calls the argument, for the message.

    Raises:
        TTValueError: If it is on the meta device or under a transform of `torch.func`, which shows no numbers or would
            lose derivatives. Under `torch.compile` it passes: there the compiler leaves the graph.

    Example:
        >>> check_readable(torch.ones(2), "x")
    """
    if torch.compiler.is_compiling():
        return
    try:
        x.data_ptr()  # which what stands for many tensors, or is to be differentiated by torch.func, has not
        is_plain = not x.is_meta and unpack_dual(x).tangent is None
    except RuntimeError:
        is_plain = False
    if not is_plain:
        raise TTValueError(
            f"{name} has no plain numbers (it is on the meta device or under a transform of torch.func); expected "
            "some, since ranks depend on them: call this outside, and differentiate by backward()."
        )


def dtype_for_bound(dtype: torch.dtype, eps: float, order: int) -> torch.dtype:
    """Give the dtype in which a train can keep an error bound.

    Casting cores to half precision costs up to half a machine epsilon each, which a bound has to leave room for.

    Args:
        dtype: The dtype of the entries.
        eps: The relative error bound; 0 asks for none beyond the precision of the entries.
        order: The number of cores.

    Returns:
        `dtype`, or single precision if that is half precision and the bound at most `order` halves of its epsilon.

    Example:
        >>> dtype_for_bound(torch.float16, 1e-2, 4), dtype_for_bound(torch.float16, 1e-3, 4)
        (torch.float16, torch.float32)
    """
    wide = compute_dtype(dtype)
    is_tight = order > 1 and 0 < eps <= order * torch.finfo(dtype).eps / 2
    return wide if is_tight and wide != dtype else dtype


class ErrorBudget:
    """The squared error that is left, shared out evenly among the bonds still to come.

    A bond seldom needs all of its share, since singular values come in steps. What it leaves goes to the later ones
    (Oseledets 2011, "Tensor-Train Decomposition", Theorem 2.2, bounds the squared error by the sum over the bonds), so
    ranks come out as small as the whole budget allows.

    Below the precision of the numbers there is nothing to keep but rounding noise, so every bond may cut that much.
    Rounding has its part of the budget set aside, so that the bound holds for the result as computed.

    Args:
        norm: The Frobenius norm of the train or tensor.
        eps: The relative error bound, at least 0; from 1 on, every rank is 1.
        max_ranks: The largest rank of each inner bond.
        dtype: The dtype of the result, which sets its precision.
        arithmetic: A wider dtype if the computation is in one, which spares all noise but that of the numbers as they
            are handed over and, between steps, kept.

    Example:
        >>> budget = ErrorBudget(norm=3.0, eps=0.5, max_ranks=[None], dtype=torch.float64)
        >>> u, w = budget.cut(torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)))
        >>> u.shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        *,
        norm: float,
        eps: float,
        max_ranks: Sequence[int | None],
        dtype: torch.dtype,
        arithmetic: torch.dtype | None = None,
    ) -> None:
        order = len(max_ranks) + 1
        self._norm = norm
        # The zero train is already within an error of 1, so the best train of ranks 1 is, too.
        self._max_ranks = [1 if eps >= 1 else rank for rank in max_ranks]
        kept = compute_dtype(dtype)
        self._compute_eps = torch.finfo(arithmetic or kept).eps
        # Numbers handed over in half precision carry its rounding error, and the result is cast back to it.
        half_noise = torch.finfo(dtype).eps / 2 if dtype != kept else 0.0
        if self._compute_eps < torch.finfo(kept).eps:
            # The rounding of independent numbers: at most eps / 2 of the norm, once a step, and twice that for a floor.
            kept_noise = torch.finfo(kept).eps
            self._storage_noise = max(half_noise, 2 * kept_noise)
            rounding = math.sqrt(order) * kept_noise / 2
        else:
            self._storage_noise = half_noise
            rounding = math.sqrt(order) * self.noise(1)
        rounding += order * half_noise
        self._left = (max(0.0, eps - rounding) * norm) ** 2
        self.spent: tuple[float, ...] = ()  # what each bond so far was cut by
        self.least_kept = math.inf  # of the singular values that they have kept

    @property
    def left(self) -> float:
        """The norm of the error that is left to the bonds still to come."""
        return math.sqrt(self._left)

    @property
    def allows_more(self) -> bool:
        """Whether a bond that was cut already may lose another singular value to what is left.

        Cuts at other bonds have made it smaller since, but by no more than all of them together have lost.
        """
        return self.least_kept <= self.left + math.hypot(*self.spent)

    def noise(self, size: int) -> float:
        """Give the relative Frobenius norm of rounding noise in a matrix.

        Args:
            size: Its shorter side.

        Returns:
            What every bond may cut, whatever is left.

        Example:
            >>> ErrorBudget(norm=3.0, eps=0.0, max_ranks=[None], dtype=torch.float64).noise(4) < 1e-14
            True
        """
        return max(self._storage_noise, self._compute_eps * (8 + 2 * math.sqrt(size)))

    def for_norm(self, norm: float) -> ErrorBudget:
        """Give the budget of a tensor of another norm, of which as large a part is left.

        Args:
            norm: How many times larger the norm is.

        Returns:
            The budget.

        Example:
            >>> ErrorBudget(norm=1.0, eps=0.5, max_ranks=[3], dtype=torch.float64).for_norm(2.0).allowance(4)
            (0.99..., 3)
        """
        budget = copy.copy(self)
        budget._norm *= norm
        budget._left *= norm**2
        budget.least_kept *= norm
        budget.spent = tuple(tail * norm for tail in self.spent)
        return budget

    def cut(
        self,
        matrix: Tensor,  # (m, n): the unfolding at the next bond, the rest of the train being orthonormal
    ) -> tuple[Tensor, Tensor]:
        """Cut the next bond by a truncated SVD.

        Args:
            matrix: The unfolding at that bond, of a dtype that LAPACK knows.

        Returns:
            `u` of shape (m, r), with orthonormal columns, and `w` of shape (r, n), the rank as small as allowed.

        Example:
            >>> budget = ErrorBudget(norm=1.0, eps=0.0, max_ranks=[None], dtype=torch.float32)
            >>> budget.cut(torch.ones(4, 5) / 20**0.5)[0].shape
            torch.Size([4, 1])
        """
        allowed, max_rank = self.allowance(min(matrix.shape))
        u, w, tail = truncated_svd(matrix, allowed, max_rank)
        self.spend(tail)
        return u, w

    def allowance(self, size: int, bond: int | None = None) -> tuple[float, int | None]:
        """Say how far the next bond may be cut.

        Args:
            size: The shorter side of the unfolding there.
            bond: Its place among the inner bonds, for a sweep that does not go from left to right.

        Returns:
            The largest Frobenius norm of what is cut off, and the largest rank or None.

        Example:
            >>> ErrorBudget(norm=2.0, eps=0.5, max_ranks=[3], dtype=torch.float64).allowance(4)
            (0.99..., 3)
        """
        share = math.sqrt(self._left / (len(self._max_ranks) - len(self.spent)))
        max_rank = self._max_ranks[len(self.spent) if bond is None else bond]
        return max(share, self.noise(size) * self._norm), max_rank

    def spend(self, tail: float, least_kept: float = 0.0) -> None:
        """Note what the next bond was cut by, and go on to the one after it.

        Args:
            tail: The Frobenius norm of what was cut off.
            least_kept: The smallest singular value that was kept, or what it is at least.

        Example:
            >>> budget = ErrorBudget(norm=2.0, eps=0.5, max_ranks=[3, 3], dtype=torch.float64)
            >>> budget.spend(0.0)
            >>> budget.allowance(4)
            (0.99..., 3)
        """
        self._left = max(0.0, self._left - tail**2)
        self.least_kept = min(self.least_kept, least_kept)
        self.spent = (*self.spent, tail)
