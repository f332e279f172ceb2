"""The local matrix of a sweep as a function of vectors, for two cores that a bond parts or for one beside it.

Each side of it multiplies by the channels of its interface that are open, and one small matrix on the modes does the
rest between these products.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ttnet.solvers.channels import Side, as_tensor


class Coupling:
    """What two sides make of a core between them, or of the two that they share.

    Args:
        left: The side on the left.
        right: The side on the right, met from the right.
        like: A tensor of the dtype and device of interfaces.

    Attributes:
        left: The side on the left.
        right: The side on the right.
        modes: The sizes of the two modes, one for a side that has no core.
        inner: What becomes of the core and of products with the left side at once.
        outer: What becomes of these before products with the right side.

    Example:
        >>> side = Side({0: 1.0}, np.ones((1, 2, 2, 1)), [], torch.ones(()))
        >>> Coupling(side, side, torch.ones(())).modes
        (2, 2)
    """

    def __init__(self, left: Side, right: Side, like: Tensor) -> None:
        self.left, self.right = left, right
        both = np.tensordot(left.on_mode, right.on_mode, ([3], [3]))  # (x, m, m', y, n, n')
        self.modes = both.shape[1], both.shape[4]
        # Products with the right side sum over its channels and over what it takes in, which so stand last.
        order = (1, 3, 4, 0, 2, 5) if right.takes_core else (1, 4, 3, 0, 2, 5)

        def mixing(x: slice, y: slice) -> Mixing:
            block = both[x, :, :, y].transpose(order)
            return Mixing(block.reshape(math.prod(block.shape[:3]), math.prod(block.shape[3:])), like)

        first, others = slice(1), slice(1, None)
        self.inner = mixing(first, first), mixing(others, first)  # of the core, and of products with the left side
        self.outer = mixing(first, others), mixing(others, others)  # the same, for products with the right side


class LocalProduct:
    """What a sweep sees of an operator at one core or two, as a function of vectors.

    Args:
        coupling: What belongs to any interfaces.
        left: The interface on the left.
        right: The interface on the right.

    Attributes:
        shape: Of a vector: the bond on the left, the two modes, the bond on the right.
        size: How many entries a vector has.
        left: The matrices of the left interface, as `Side.rows` gives them.

    Example:
        >>> side = Side({0: 1.0}, np.ones((1, 2, 2, 1)), [], torch.ones(()))
        >>> LocalProduct(Coupling(side, side, torch.ones(())), torch.ones(3, 0, 3), torch.ones(1, 0, 1)).size
        12
    """

    def __init__(
        self,
        coupling: Coupling,
        left: Tensor,  # (i, a, i)
        right: Tensor,  # (j, b, j)
    ) -> None:
        self._coupling = coupling
        self.shape = (left.shape[0], *coupling.modes, right.shape[0])
        self.size = math.prod(self.shape)
        self._sides, self._interfaces = (coupling.left, coupling.right), (left, right)
        self.left = coupling.left.rows(left)
        self._right = coupling.right.columns(right)

    def __call__(
        self,
        rows: Tensor,  # (k, size)
    ) -> Tensor:
        """Multiply vectors by the matrix.

        Args:
            rows: The vectors.

        Returns:
            The products.

        Example:
            >>> side = Side({0: 1.0}, np.ones((1, 2, 2, 1)), [], torch.ones(()))
            >>> interface = torch.ones(3, 0, 3)
            >>> LocalProduct(Coupling(side, side, torch.ones(())), interface, interface)(torch.ones(2, 36)).shape
            torch.Size([2, 36])
        """
        count, i, j = rows.shape[0], self.shape[0], self.shape[-1]
        x, products = rows.view(count * i, -1, j), None
        if self._coupling.left.width:
            stack = rows.view(count, self.left.shape[1], -1)
            products = (self.left @ (stack[0] if count == 1 else stack)).view(count * i, -1, j)
        (inner, inner_products), (outer, outer_products) = self._coupling.inner, self._coupling.outer
        found = inner.add(inner_products.add(None, products), x)
        # Only these are left to be multiplied by the right side.
        rest = outer.add(outer_products.add(None, products), x) if self._coupling.right.width else None
        if rest is not None:
            rest = rest.reshape(-1, self._right.shape[0])
            found = rest @ self._right if found is None else found.view(rest.shape[0], -1).addmm(rest, self._right)
        return torch.zeros_like(rows) if found is None else found.reshape(rows.shape)

    def matrix(self) -> Tensor:
        """Form the matrix.

        Returns:
            The matrix, (size, size).

        Example:
            >>> side = Side({0: 1.0}, np.eye(2).reshape(1, 2, 2, 1), [], torch.ones(()))
            >>> interface = torch.ones(1, 0, 1)
            >>> LocalProduct(Coupling(side, side, torch.ones(())), interface, interface).matrix().shape
            torch.Size([4, 4])
        """
        i, m, n, j = self.shape
        left, right = (
            side.matrices(interface).view(-1, bond, mode, bond, mode)
            for side, interface, bond, mode in zip(self._sides, self._interfaces, (i, j), (m, n), strict=True)
        )
        both = left.flatten(1).mT @ right.flatten(1)  # (i m i' m', j n j' n')
        both = both.view(i, m, i, m, j, n, j, n).permute(0, 1, 5, 4, 2, 3, 7, 6)
        return both.reshape(self.size, self.size)


class Mixing:
    """A matrix for the middle one of three indices; one that is zero or the identity costs nothing.

    Args:
        matrix: The matrix.
        like: A tensor of the dtype and device of what it is for.

    Example:
        >>> Mixing(np.ones((3, 2)), torch.ones(())).add(None, torch.ones(4, 2, 5)).shape
        torch.Size([4, 3, 5])
    """

    def __init__(
        self,
        matrix: np.ndarray,  # (m, n)
        like: Tensor,
    ) -> None:
        self._is_zero = not matrix.any()
        is_identity = matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix)))
        self._matrix = None if self._is_zero or is_identity else as_tensor(matrix, like)

    def add(
        self,
        onto: Tensor | None,  # (i, m, j)
        x: Tensor | None,  # (i, n, j)
    ) -> Tensor | None:
        """Add a product to another tensor.

        Args:
            onto: The other; None for zero.
            x: What to multiply by; None for zero.

        Returns:
            The sum; None for zero.

        Example:
            >>> Mixing(np.zeros((3, 2)), torch.ones(())).add(None, torch.ones(4, 2, 5)) is None
            True
        """
        if x is None or self._is_zero:
            return onto
        if self._matrix is None:
            return x if onto is None else onto + x
        matrix = self._matrix.expand(x.shape[0], -1, -1)
        return torch.bmm(matrix, x) if onto is None else torch.baddbmm(onto, matrix, x)
