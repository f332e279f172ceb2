"""The linear system of a single core, given what a sweep sees of the operator, solved in the way that suits its size.

Small ones are factorised. Others are solved by conjugate gradients or GMRES with a preconditioner, and factorised after
all where that does not come to an end at less cost.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ttnet.numerics.linalg import thin_svd
from ttnet.solvers.interfaces import OperatorCore, middle_of_product
from ttnet.solvers.krylov import Product, conjugate_gradients, gmres
from ttnet.solvers.preconditioners import block_inverse, kronecker_sum_inverse

DENSE_SIZE = 300  # up to here a factorisation is quicker than anything else
LARGEST_DENSE_SIZE = 4000  # beyond this one no matrix is formed
MAX_STEPS = 400  # of an iteration that has no factorisation to fall back on


class LocalSystem:
    """`B v = f` with `B = sum over a, b of left[:, a, :] x core[a, :, :, b] x right[:, b, :]`.

    Args:
        left: The operator's interface from the left.
        core: The operator's core.
        right: The operator's interface from the right.
        hermitian: Whether the operator is Hermitian.

    Example:
        >>> eye = OperatorCore(torch.eye(3)[None, :, :, None])
        >>> system = LocalSystem(torch.eye(2)[:, None], eye, torch.eye(2)[:, None], hermitian=True)
        >>> v, residual = system.solve(torch.ones(2, 3, 2), torch.zeros(2, 3, 2), tol=1e-6)
        >>> torch.allclose(v, torch.ones(2, 3, 2)), residual < 1e-6
        (True, True)
    """

    def __init__(
        self,
        left: Tensor,  # (i, a, i)
        core: OperatorCore,  # (a, n, n, b)
        right: Tensor,  # (j, b, j)
        *,
        hermitian: bool,
    ) -> None:
        self.left, self.core, self.right, self.hermitian = left, core, right, hermitian
        self.shape = (left.shape[0], core.shape[1], right.shape[0])
        self.size = math.prod(self.shape)
        self.is_singular = False  # as far as has been seen

    def apply(
        self,
        v: Tensor,  # (i, n, j)
    ) -> Tensor:
        """Multiply by the matrix.

        Args:
            v: A core.

        Returns:
            The product, of the same shape.

        Example:
            >>> eye = OperatorCore(torch.eye(3)[None, :, :, None])
            >>> system = LocalSystem(torch.eye(2)[:, None], eye, torch.eye(2)[:, None], hermitian=True)
            >>> float(system.apply(torch.ones(2, 3, 2)).sum())
            12.0
        """
        return middle_of_product(self.left, self.core, self.right, v)

    def matrix(self) -> Tensor:
        """Form the matrix.

        Returns:
            The matrix, of shape (i n j, i n j).

        Example:
            >>> eye = OperatorCore(torch.eye(3)[None, :, :, None])
            >>> LocalSystem(torch.eye(2)[:, None], eye, torch.eye(2)[:, None], hermitian=True).matrix().diag().sum()
            tensor(12.)
        """
        i, n, j = self.shape
        b = self.core.shape[3]
        blocks = self._left_blocks().reshape(-1, b) @ self.right.transpose(0, 1).reshape(b, j * j)
        return blocks.reshape(i * n, i * n, j, j).transpose(1, 2).reshape(self.size, self.size)

    def _left_blocks(self) -> Tensor:  # (i, n, i, n, b): the left interface and the core, rows before columns
        i, n, _ = self.shape
        a, _, _, b = self.core.shape
        blocks = self.left.transpose(1, 2).reshape(i * i, a) @ self.core.core.reshape(a, n * n * b)
        return blocks.reshape(i, i, n, n, b).transpose(1, 2)

    def solve(
        self,
        f: Tensor,  # (i, n, j)
        v: Tensor,  # (i, n, j)
        *,
        tol: float,
    ) -> tuple[Tensor, float]:
        """Solve the system.

        Args:
            f: The right-hand side, not zero.
            v: Where an iteration begins.
            tol: The residual to reach, relative to the norm of `f`.

        Returns:
            The solution and its relative residual. Where the matrix is singular this is the best there is.

        Example:
            >>> two = OperatorCore(2 * torch.eye(3)[None, :, :, None])
            >>> system = LocalSystem(torch.eye(2)[:, None], two, torch.eye(2)[:, None], hermitian=False)
            >>> system.solve(torch.ones(2, 3, 2), torch.zeros(2, 3, 2), tol=1e-6)[0].unique()
            tensor([0.5000])
        """
        size = float(torch.linalg.vector_norm(f))
        if self.size <= DENSE_SIZE:
            v = self._factorise(f)
            return v, self.residual(f, v)
        can_form = self.size <= LARGEST_DENSE_SIZE
        inverse = kronecker_sum_inverse(self.left, self.core, self.right, hermitian=self.hermitian)
        steps = self._affordable_steps() if can_form else MAX_STEPS
        found, residual = v, math.inf
        if steps > 3:
            precondition = inverse or block_inverse(self.left, self.core.core, self.right)
            found, left = self._iterate(f.flatten(), v.flatten(), tol * size, steps, precondition)
            found, residual = found.reshape(self.shape), left / size
        if residual > tol and can_form:
            direct = self._factorise(f)
            left = self.residual(f, direct)
            if left < residual or not math.isfinite(residual):
                found, residual = direct, left
        return found, residual

    def residual(
        self,
        f: Tensor,  # (i, n, j)
        v: Tensor,  # (i, n, j)
    ) -> float:
        """Give the residual of a core, relative to the right-hand side.

        Args:
            f: The right-hand side, not zero.
            v: The core.

        Returns:
            The relative residual; infinite if `v` is not finite.

        Example:
            >>> eye = OperatorCore(torch.eye(3)[None, :, :, None])
            >>> system = LocalSystem(torch.eye(2)[:, None], eye, torch.eye(2)[:, None], hermitian=True)
            >>> system.residual(torch.ones(2, 3, 2), torch.zeros(2, 3, 2))
            1.0
        """
        value = float(torch.linalg.vector_norm(f - self.apply(v)) / torch.linalg.vector_norm(f))
        return value if math.isfinite(value) else math.inf

    def _affordable_steps(self) -> int:
        """Say how many products cost as much as a factorisation."""
        i, n, j = self.shape
        a, _, _, b = self.core.shape
        product = 2 * (i * i * a * n * j + i * a * n * n * b * j + i * n * j * j * b)
        factorisation = self.size**3 / (3 if self.hermitian else 1.5)
        # A product runs at less of the machine's speed than a factorisation, and so does its preconditioner.
        return int(min(MAX_STEPS, factorisation / (3 * product)))

    def _iterate(self, f: Tensor, v: Tensor, bound: float, steps: int, precondition: Product) -> tuple[Tensor, float]:
        def product(x: Tensor) -> Tensor:
            return self.apply(x.reshape(self.shape)).flatten()

        if self.hermitian:
            found, left, is_definite = conjugate_gradients(
                product, f, v, bound=bound, steps=steps, precondition=precondition
            )
            if is_definite:
                return found, left
        return gmres(product, f, v, bound=bound, steps=steps, precondition=precondition)

    def _factorise(self, f: Tensor) -> Tensor:
        """Solve by Cholesky's factorisation where it exists, by LU otherwise, in the least-squares sense at last."""
        matrix = self.matrix()
        rhs = f.reshape(-1, 1)
        least = 10 * len(matrix) * torch.finfo(f.dtype).eps  # of a pivot, relative to the largest
        if self.hermitian:
            factor, info = torch.linalg.cholesky_ex(matrix)
            pivots = factor.diagonal().real ** 2
            if not int(info) and float(pivots.min()) > least * float(pivots.max()):
                return torch.cholesky_solve(rhs, factor).reshape(self.shape)
        factor, places, info = torch.linalg.lu_factor_ex(matrix)
        pivots = factor.diagonal().abs()
        if not int(info) and float(pivots.min()) > least * float(pivots.max()):
            return torch.linalg.lu_solve(factor, places, rhs).reshape(self.shape)
        self.is_singular = True
        # The smallest of the best solutions.
        u, s, vh = thin_svd(matrix)
        kept = s > least * s[0]
        inverse = torch.where(kept, 1 / s.where(kept, torch.ones_like(s)), torch.zeros_like(s))
        return (vh.mH @ (inverse[:, None] * (u.mH @ rhs))).reshape(self.shape)
