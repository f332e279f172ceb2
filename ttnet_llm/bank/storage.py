"""The numbers of all adapters, in blocks of rows that come from the disk when they are first asked for."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ttnet.errors import TTFileError, TTValueError

BLOCK = 256  # rows


class Block:
    """Some rows of numbers, in memory or in a file.

    Args:
        size: Of a row.
        dtype: Of the numbers.
        device: Where they are once they are in memory.
        file: Where they are now; `None` for new ones, all 0.
        holds: Names of the adapters in the file, for messages.
    """

    def __init__(
        self,
        size: int,
        dtype: torch.dtype,
        device: torch.device,
        file: Path | None = None,
        holds: tuple[str, ...] = (),
    ) -> None:
        self._size, self._dtype, self._device = size, dtype, device
        self.file, self._holds = file, holds
        self._rows: Tensor | None = None
        self.damage: str | None = None if file is None else _look(file, size)
        self.changed = file is None

    @property
    def rows(self) -> Tensor:  # (BLOCK, size)
        """The rows.

        Raises:
            TTFileError: If their file cannot be read.
        """
        if self._rows is None:
            rows = torch.zeros(BLOCK, self._size, dtype=self._dtype, device=self._device)
            if self.file is not None:
                damage = self.damage
                if damage is None:
                    try:
                        with safe_open(self.file, framework="pt") as opened:
                            saved = opened.get_tensor("rows")
                        rows[: len(saved)] = saved.to(rows)
                    except (SafetensorError, OSError) as error:
                        damage = str(error)
                if damage is not None:
                    self.damage = damage
                    raise TTFileError(self.complaint)
            self._rows = rows
        return self._rows

    @property
    def complaint(self) -> str:
        """What is wrong with the file, and whom it concerns."""
        return (
            f"{str(self.file)!r} cannot be read: {self.damage}; it held {', '.join(self._holds) or 'none'}. Remove "
            "and add these again; all others are still there."
        )


def _look(file: Path, size: int) -> str | None:
    """Say what is wrong with a file, as far as its header tells."""
    try:
        with safe_open(file, framework="pt") as opened:
            shape = opened.get_slice("rows").get_shape()
    except (SafetensorError, OSError) as error:
        return str(error)
    if len(shape) != 2 or shape[0] > BLOCK or shape[1] != size:
        return f"its rows have the shape {tuple(shape)}, and {size} numbers were expected in each of at most {BLOCK}"
    return None


class Storage:
    """Rows by number: taken, given back, and used again.

    Args:
        size: Of a row.
        dtype: Of the numbers.
        device: Where they are.
    """

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.size, self.dtype, self.device = size, dtype, device
        self.blocks: list[Block] = []
        self._free: list[int] = []  # a heap, so that blocks fill up from the front

    def open_block(self, file: Path | None, holds: tuple[str, ...]) -> Block:
        """Add a block that is in a file.

        Args:
            file: The file; `None` for a block without adapters.
            holds: The names of the adapters in it.

        Returns:
            The block.
        """
        block = Block(self.size, self.dtype, self.device, file, holds)
        self.blocks.append(block)
        return block

    def set_free(self, taken: set[int]) -> None:
        """Say which rows are taken, of the blocks that there are.

        Args:
            taken: Their numbers.
        """
        self._free = [number for number in range(len(self.blocks) * BLOCK) if number not in taken]

    def give_back(self, taken: set[int]) -> None:
        """Let go of blocks in which no row is taken, wherever their numbers are.

        Args:
            taken: The numbers of the rows that are.
        """
        used = {number // BLOCK for number in taken}
        del self.blocks[max(used, default=-1) + 1 :]
        for place, block in enumerate(self.blocks):
            if place not in used and block.file is not None:
                self.blocks[place] = Block(self.size, self.dtype, self.device)
        self.set_free(taken)

    def put(
        self,
        row: Tensor,  # (size,)
    ) -> int:
        """Keep a row.

        Args:
            row: Shape `(size,)`, of any floating dtype.

        Returns:
            Its number.

        Raises:
            TTValueError: If it has infinite numbers in the storage's dtype.
        """
        row = row.to(self.device, self.dtype)
        if not bool(torch.isfinite(row).all()):
            raise TTValueError(
                f"The adapter has numbers that {self.dtype} does not reach; give the bank a wider dtype."
            )
        while self._free:
            number = heapq.heappop(self._free)
            if self.blocks[number // BLOCK].damage is None:
                break
        else:
            number = len(self.blocks) * BLOCK
            self.blocks.append(Block(self.size, self.dtype, self.device))
            self._free += range(number + 1, number + BLOCK)
        self[number].copy_(row)
        self.touch(number)
        return number

    def touch(self, number: int) -> None:
        """Note that a row is no longer what its file has.

        Args:
            number: Its number.
        """
        self.blocks[number // BLOCK].changed = True

    def drop(self, number: int) -> None:
        """Give a row back.

        Args:
            number: Its number.
        """
        heapq.heappush(self._free, number)

    def __getitem__(self, number: int) -> Tensor:  # (size,)
        """Give a row, as a view."""
        return self.blocks[number // BLOCK].rows[number % BLOCK]

    def bytes_in_memory(self) -> Iterator[int]:
        """Give the bytes of every block that is in memory."""
        for block in self.blocks:
            if block._rows is not None:
                yield block._rows.numel() * block._rows.element_size()
