"""What the finished passes over a large array have come to, in a folder, so that an interrupted run can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ttnet.errors import TTFileError
from ttnet.io import write_atomically

_STATE = "passes.safetensors"
Look = tuple[Tensor, float]
"""What a first pass finds: a Gram matrix or a triangle, and the sum of all squares."""


class PassesFile:
    """A folder with the state after the last finished pass; it is replaced as a whole after each.

    Args:
        folder: The folder, which is made if there is none.
        fingerprint: What the decomposition is one of: a run with another one cannot go on.

    Raises:
        TTFileError: If the folder cannot be used, or holds the passes of another decomposition.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     PassesFile(Path(name), {"eps": 0.1}).numbers
        {}
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder = folder
        self._fingerprint = dict(fingerprint)
        self.numbers: dict[str, Any] = {}
        self.left: list[Tensor] = []
        self.right: list[Tensor] = []
        self.rest: Any = None
        self._looks: dict[str, Look] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TTFileError(f"Cannot use the folder '{folder}' as checkpoint: {error.strerror}.") from error
        if (folder / _STATE).exists():
            self._read()

    def look(self, key: str) -> Look | tuple[None, None]:
        """Give what a finished first pass of a step has found, if there was one.

        Args:
            key: The kernel, side and modes of the pass.

        Returns:
            The matrix, and the sum of all squares.
        """
        return self._looks.get(key, (None, None))

    def write(
        self,
        *,
        left: Sequence[Tensor],
        right: Sequence[Tensor],
        looks: Mapping[str, Look],
        rest: Any,
        numbers: Mapping[str, Any],
    ) -> None:
        """Replace the state.

        Args:
            left: The cores that are done on the left.
            right: Those on the right.
            looks: What this step's first passes have found; what is already there stays until the next step.
            rest: What is left to decompose, an array in memory or a memory map in the folder; None for the input.
            numbers: What else is to be kept, as JSON knows it.
        """
        same_step = self.numbers.get("step") == numbers["step"]
        self._looks = {**(self._looks if same_step else {}), **looks}
        rest_name = self._store(rest, numbers["step"])
        tensors = {f"left.{k}": core for k, core in enumerate(left)}
        tensors |= {f"right.{k}": core for k, core in enumerate(right)}
        tensors |= {f"look.{key}": matrix for key, (matrix, _) in self._looks.items()}
        stored = {
            name: torch.view_as_real(t.resolve_conj()).clone() if t.is_complex() else t.clone()
            for name, t in ((name, t.contiguous()) for name, t in tensors.items())
        }
        state = {
            "fingerprint": self._fingerprint,
            "numbers": dict(numbers),
            "rest": rest_name,
            "squares": {key: squares for key, (_, squares) in self._looks.items()},
            "complex": [name for name, tensor in tensors.items() if tensor.is_complex()],
        }
        data = safetensors.torch.save(stored, {"state": json.dumps(state)})
        write_atomically(self.folder / _STATE, lambda stream: stream.write(data))
        self.numbers = dict(numbers)
        for old in self.folder.glob("rest.*.npy"):
            if old.name != rest_name:
                old.unlink()

    def _store(self, rest: Any, step: int) -> str | None:
        if rest is None:
            return None
        if isinstance(rest, np.memmap):
            rest.flush()
            return Path(os.fspath(rest.filename or "")).name

        name = f"rest.{step}.npy"
        if not (self.folder / name).exists():
            write_atomically(self.folder / name, lambda stream: np.save(stream, rest))
        return name

    def _read(self) -> None:
        path = self.folder / _STATE
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                state = json.loads((file.metadata() or {})["state"])
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (no mapping)
            rest = None if state["rest"] is None else np.load(self.folder / state["rest"], mmap_mode="r")
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            raise TTFileError(
                f"'{self.folder}' does not hold the passes of a decomposition: {error}; give another folder as "
                "checkpoint, or remove it to begin anew."
            ) from error
        if state["fingerprint"] != self._fingerprint:
            ours, theirs = self._fingerprint, state["fingerprint"]
            differing = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
            raise TTFileError(
                f"'{self.folder}' holds the passes of another decomposition, which differs in "
                f"{' and '.join(differing)}; give another folder as checkpoint, or remove it to begin anew."
            )
        tensors |= {name: torch.view_as_complex(tensors[name]) for name in state["complex"]}
        self.numbers, self.rest = state["numbers"], rest
        self.left = [tensors[f"left.{k}"] for k in range(sum(name.startswith("left.") for name in tensors))]
        self.right = [tensors[f"right.{k}"] for k in range(sum(name.startswith("right.") for name in tensors))]
        looks = {name.removeprefix("look."): t for name, t in tensors.items() if name.startswith("look.")}
        told = state.get("squares", {})  # not in files of earlier versions
        self._looks = {
            key: (matrix, told[key] if key in told else _squares(key, matrix)) for key, matrix in looks.items()
        }

    def discard(self) -> None:
        """Remove what is in the folder, and the folder if nothing else is in it."""
        for path in [self.folder / _STATE, *self.folder.glob("rest.*.npy")]:
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _squares(key: str, matrix: Tensor) -> float:
    """Give the sum of all squares as far as a Gram matrix or a triangle tells."""
    return float(matrix.diagonal().real.sum() if key.startswith("gram") else matrix.abs().square().sum())
