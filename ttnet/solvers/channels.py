"""Interfaces and local products that leave out what is known of an operator: its zeros, and where it is the identity.

Sums of local terms have a channel for what has not begun, and one for what has ended. What orthonormal bases see of
these is a multiple of the identity, so interfaces need not hold them: they hold the other channels, the open ones. An
interface may also take in the core beside it before anything is multiplied by it, as in the superblocks of White 1992,
"Density matrix formulation for quantum renormalization groups"; terms that end there are then one channel together, and
those that begin there act on that core alone. All else that a product does is one small matrix on the modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


class Channels:
    """The channels of an operator's bonds, as they are met from its first core on.

    The bases that interfaces belong to are orthonormal, and the same on both sides of the operator.

    Args:
        cores: The operator's cores, each (a, n, n, b).

    Attributes:
        known: For each bond, the channels where all before it is a multiple of the identity, and that multiple.
        open: For each bond, the channels that interfaces there have, in order: all others.

    Example:
        >>> from ttnet import operators
        >>> channels = Channels(operators.heisenberg(4).cores)
        >>> channels.known[2], channels.open[2]
        ({0: 1.0}, [1, 2, 3, 4])
    """

    def __init__(
        self,
        cores: Sequence[Tensor],  # each (a, n, n, b)
    ) -> None:
        self._cores = [core.numpy(force=True) for core in cores]
        self._like = cores[0]
        self.known: list[dict[int, complex]] = [dict.fromkeys(range(cores[0].shape[0]), 1.0)]
        kinds: dict[tuple[object, ...], int] = {}  # most operators repeat themselves, and all about them
        self._kinds: list[int] = []  # for each core, the first one that is the same and has the same before it
        for k, core in enumerate(self._cores):
            kind = kinds.setdefault((core.shape, core.tobytes(), *self.known[-1].items()), k)
            self._kinds.append(kind)
            self.known.append(_known_beyond(self.known[-1], core) if kind == k else self.known[kind + 1])
        widths = [cores[0].shape[0], *(core.shape[3] for core in self._cores)]
        self.open = [[c for c in range(b) if c not in known] for b, known in zip(widths, self.known, strict=True)]
        self._sides: dict[tuple[int, bool], Side] = {}

    def side(self, k: int, *, with_core: bool) -> Side:
        """Give what a product needs to know of all before core k.

        Args:
            k: A core, or its bond on the left.
            with_core: Whether core k itself belongs to it.

        Returns:
            The side.

        Example:
            >>> from ttnet import operators
            >>> channels = Channels(operators.heisenberg(4).cores)
            >>> channels.side(2, with_core=True).width, channels.side(2, with_core=False).width
            (1, 4)
        """
        k = self._kinds[k]
        key = k, with_core
        if key not in self._sides:
            known, width = self.known[k], len(self.known[k]) + len(self.open[k])
            core = self._cores[k] if with_core else np.eye(width, dtype=self._cores[0].dtype).reshape(width, 1, 1, -1)
            self._sides[key] = Side(known, core, self.open[k + with_core], self._like)
        return self._sides[key]

    def first(self) -> Tensor:
        """Give the interface before the first core.

        Returns:
            The interface, without open channels.

        Example:
            >>> Channels([torch.eye(2)[None, :, :, None]]).first().shape
            torch.Size([1, 0, 1])
        """
        return self._like.new_empty(1, 0, 1)

    def advance(
        self,
        k: int,
        interface: Tensor,  # (i, a, i)
        core: Tensor,  # (i, n, j)
    ) -> Tensor:  # (j, b, j)
        """Take an interface over one more core.

        Args:
            k: Which core.
            interface: The interface before it, of open channels.
            core: The train's core, left-orthogonal.

        Returns:
            The interface after it.

        Example:
            >>> channels = Channels([torch.ones(1, 2, 2, 3)])
            >>> channels.advance(0, channels.first(), torch.eye(2)[None]).shape
            torch.Size([2, 3, 2])
        """
        side = self.side(k, with_core=True)
        return interface_after(core, side.through(side.rows(interface), core))


def interface_after(
    core: Tensor,  # (i, n, j)
    seen: Tensor,  # (i, n, b, j)
) -> Tensor:  # (j, b, j)
    """Give the interface after a core from what the operator makes of that core.

    Args:
        core: The train's core, left-orthogonal.
        seen: What the operator makes of it, as `Side.through` gives it.

    Returns:
        The interface.

    Example:
        >>> interface_after(torch.ones(2, 3, 4), torch.ones(2, 3, 5, 4)).shape
        torch.Size([4, 5, 4])
    """
    i, n, b, j = seen.shape
    return (core.reshape(i * n, j).mH @ seen.reshape(i * n, b * j)).view(j, b, j)


class Side:
    """All of an operator before a bond, or what products need to know of it.

    Args:
        known: The channels of the interface that are multiples of the identity, and these.
        core: The operator's core beyond the interface, (a, n, n, c).
        open_channels: The channels beyond that core that are no multiples of the identity.
        like: A tensor of the dtype and device of interfaces.

    Attributes:
        width: How many channels have to be multiplied by.
        goes_on: Whether any of them is multiplied by in a channel beyond the core.
        takes_core: Whether the interface takes in the core, so that products are with both at once.
        on_mode: What the mode makes of these products, after what it makes of the identity: (1 + width, n, n, c).

    Example:
        >>> Side({0: 1.0}, np.ones((2, 3, 3, 4)), [0, 1, 2, 3], torch.ones(())).on_mode.shape
        (2, 3, 3, 4)
    """

    def __init__(
        self,
        known: dict[int, complex],
        core: np.ndarray,  # (a, n, n, c)
        open_channels: Sequence[int],
        like: Tensor,
    ) -> None:
        a, n, _, c = core.shape
        self._open, self._like = list(open_channels), like
        inside = [x for x in range(a) if x not in known]
        # Where many terms end, one product with all of them on the core, too, is less than one with each.
        outside = [int(x) for x in np.flatnonzero(core[inside].any(axis=(0, 1, 2)))]
        self.goes_on = bool(outside)
        self.takes_core = n > 1 and n * len(outside) <= len(inside)
        self.width = len(outside if self.takes_core else inside)
        self.on_mode = np.zeros((1 + self.width, n, n, c), core.dtype)
        for x, factor in known.items():
            self.on_mode[0] += core[x] * factor
        if self.takes_core:
            for x, channel in enumerate(outside, start=1):
                self.on_mode[x, :, :, channel] = np.eye(n)
            matrix = core[inside][..., outside].transpose(3, 1, 2, 0).reshape(self.width * n * n, len(inside))
            self._core = as_tensor(matrix, like)
        else:
            self.on_mode[1:] = core[inside]

    def blocks(
        self,
        interface: Tensor,  # (i, a, i)
    ) -> Tensor:  # (i, width, n, n, i), or (i, width, 1, 1, i) where the core is not taken in
        """Give the matrices to multiply by, rows first.

        Args:
            interface: The interface, of open channels.

        Returns:
            The matrices.

        Example:
            >>> Side({}, np.ones((2, 3, 3, 4)), [], torch.ones(())).blocks(torch.ones(5, 2, 5)).shape
            torch.Size([5, 2, 1, 1, 5])
        """
        i, n = interface.shape[0], self.on_mode.shape[1]
        if self.takes_core:
            return (self._core @ interface).view(i, self.width, n, n, i)
        return interface.view(i, self.width, 1, 1, i)

    def rows(
        self,
        interface: Tensor,  # (i, a, i)
    ) -> Tensor:  # (i width, i), or (i width n, i n)
        """Give the matrices to multiply by in one, for vectors whose first index is the bond.

        Args:
            interface: The interface, of open channels.

        Returns:
            The matrix.

        Example:
            >>> Side({}, np.ones((2, 3, 3, 4)), [], torch.ones(())).rows(torch.ones(5, 2, 5)).shape
            torch.Size([10, 5])
        """
        blocks = self.blocks(interface)
        i, width, n, _, _ = blocks.shape
        return blocks.transpose(3, 4).reshape(i * width * n, i * n)

    def columns(
        self,
        interface: Tensor,  # (i, a, i)
    ) -> Tensor:  # (width i, i), or (width n i, n i)
        """Give the matrices to multiply by in one, for vectors whose last index is the bond.

        Args:
            interface: The interface, of open channels.

        Returns:
            The matrix, to be multiplied by from the left.

        Example:
            >>> Side({}, np.ones((2, 3, 3, 4)), [], torch.ones(())).columns(torch.ones(5, 2, 5)).shape
            torch.Size([10, 5])
        """
        blocks = self.blocks(interface)
        i, _, n, _, _ = blocks.shape
        return blocks.permute(2, 0, 1, 3, 4).reshape(n * i, -1).mT

    def matrices(
        self,
        interface: Tensor,  # (i, a, i)
    ) -> Tensor:  # (c, i n, i n)
        """Form what there is of the operator up to the core, a matrix for each channel beyond it.

        Args:
            interface: The interface, of open channels.

        Returns:
            The matrices.

        Example:
            >>> Side({}, np.ones((2, 3, 3, 4)), [], torch.ones(())).matrices(torch.ones(5, 2, 5)).shape
            torch.Size([4, 15, 15])
        """
        i, (_, _, n, c) = interface.shape[0], self.on_mode.shape
        on_mode = as_tensor(self.on_mode, interface)
        eye = torch.eye(i, dtype=interface.dtype, device=interface.device)
        found = torch.einsum("ik,mnc->cimkn", eye, on_mode[0])
        # A core that is taken in is part of the blocks, and the other factor, the identity, tells their channels.
        blocks = self.blocks(interface)
        if self.takes_core:
            found = found + torch.einsum("ixmnk,xc->cimkn", blocks, on_mode[1:, 0, 0])
        else:
            found = found + torch.einsum("ixk,xmnc->cimkn", blocks[:, :, 0, 0], on_mode[1:])
        return found.reshape(c, i * n, i * n)

    def through(
        self,
        rows: Tensor,  # (i width, i), or (i width n, i n), as `rows` gives it
        core: Tensor,  # (i, n, j)
        *,
        every: bool = False,
    ) -> Tensor:  # (i, n, c, j)
        """Multiply an interface and the operator's core by one of the train.

        Args:
            rows: The interface's matrices.
            core: The train's core.
            every: Give the channels that are known, too.

        Returns:
            What is open: the bond, the mode, the operator's channels that are open, the train's bond.

        Example:
            >>> side = Side({0: 1.0}, np.ones((2, 3, 3, 4)), [1, 2], torch.ones(()))
            >>> side.through(side.rows(torch.ones(5, 1, 5)), torch.ones(5, 3, 6)).shape
            torch.Size([5, 3, 2, 6])
        """
        i, n, j = core.shape
        stack = core
        if self.width:
            stack = torch.cat([core, (rows @ core.reshape(rows.shape[1], -1)).view(i, -1, j)], 1)
        matrix = self._whole if every else self._opened
        return torch.bmm(matrix.expand(i, -1, -1), stack).view(i, n, matrix.shape[0] // n, j)

    @cached_property
    def _opened(self) -> Tensor:  # (n b, width n)
        return self._for_stacks(self.on_mode[..., self._open])

    @cached_property
    def _whole(self) -> Tensor:  # (n c, width n)
        return self._for_stacks(self.on_mode)

    def _for_stacks(self, on_mode: np.ndarray) -> Tensor:
        width, n, _, c = on_mode.shape
        return as_tensor(on_mode.transpose(1, 3, 0, 2).reshape(n * c, width * n), self._like)


def _known_beyond(
    known: dict[int, complex],
    core: np.ndarray,  # (a, n, n, b)
) -> dict[int, complex]:
    """Give the channels beyond a core where all before them is a multiple of the identity, zero included."""
    closed = np.flatnonzero(~core[[x for x in range(len(core)) if x not in known]].any(axis=(0, 1, 2)))
    if not len(closed):
        return {}
    sums = np.zeros((*core.shape[1:3], len(closed)), core.dtype)
    for x, factor in known.items():
        sums += core[x][..., closed] * factor
    is_multiple = ~(sums - sums[0, 0] * np.eye(len(sums))[..., None]).any(axis=(0, 1))
    return {c: sums[0, 0, k].item() for k, c in enumerate(closed.tolist()) if is_multiple[k]}


def as_tensor(array: np.ndarray, like: Tensor) -> Tensor:
    """Give a tensor of the dtype and device of another.

    Args:
        array: Its entries.
        like: The other tensor.

    Returns:
        The tensor.

    Example:
        >>> as_tensor(np.ones(2), torch.ones(()))
        tensor([1., 1.])
    """
    return torch.from_numpy(np.ascontiguousarray(array)).to(like)
