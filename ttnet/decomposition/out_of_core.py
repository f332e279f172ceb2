"""TT-SVD of arrays larger than memory: the sweep of `sweep`, with its first steps as passes over slabs.

A step reads the array twice: once for the Gram matrix of an unfolding (or its triangle, where a bound is too tight for
that), once for the projection on what is kept. What is left then is smaller by the ratio of rank to columns. As soon as
it fits into memory, the sweep goes on there; as long as it does not, it is kept in a file.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttnet.decomposition import plan
from ttnet.decomposition.array_source import (
    PassProgress,
    Source,
    plan_slabs,
    slab_gram,
    slab_projection,
    slab_size,
    slab_triangle,
)
from ttnet.decomposition.bonds import basis_of, cut_bonds, identities, mirrored
from ttnet.decomposition.compiled_passes import threads_of_passes
from ttnet.decomposition.in_memory import dense_cores
from ttnet.decomposition.passes_file import PassesFile
from ttnet.decomposition.plan import Step
from ttnet.decomposition.spectrum import Spectrum, of_gram, of_triangle
from ttnet.decomposition.storage import ArrayLike, read, read_raw, release
from ttnet.decomposition.sweep import Sweep
from ttnet.decomposition.unfolding import double
from ttnet.errors import TTValueError
from ttnet.numerics.linalg import triangular_factor
from ttnet.numerics.scales import compute_dtype
from ttnet.numerics.truncation import ErrorBudget

_EXPECTED_RANK = 8
# The tightest bound for which Gram matrices are tried: they resolve no smaller loss of 64 columns.
_GRAM_EPS = 3e-7


class ArraySweep:
    """The decomposition of an array, pass by pass.

    Args:
        array: The array as `opened` gives it, of order 2 or more.
        entries: The dtype of its entries.
        dtype: The dtype of the train.
        eps: The relative error bound.
        max_ranks: The largest rank of each inner bond.
        method: "auto", "gram", "qr", "svd" or "randomized". "svd" is done as "qr", "randomized" as "gram".
        memory: The bytes to use at most, apart from what the process has already.
        checkpoint: A folder for the results of finished passes, or None.
        is_mirrored: Whether the modes of the array are those of the user's in reverse order.
        callback: Called with a `PassProgress` after every slab, or None.

    Example:
        >>> x, dtypes = np.ones((64, 64, 64)), {"entries": torch.float64, "dtype": torch.float64}
        >>> sweep = ArraySweep(x, **dtypes, eps=1e-3, max_ranks=[None, None], method="auto", memory=2**20)
        >>> [tuple(core.shape) for core in sweep.run()[0]]
        [(1, 64, 1), (1, 64, 1), (1, 64, 1)]
    """

    def __init__(
        self,
        array: ArrayLike,
        *,
        entries: torch.dtype,
        dtype: torch.dtype,
        eps: float,
        max_ranks: Sequence[int | None],
        method: str,
        memory: int,
        checkpoint: str | os.PathLike[str] | None = None,
        is_mirrored: bool = False,
        callback: Callable[[PassProgress], object] | None = None,
    ) -> None:
        self._kept = dtype
        self._dtype = compute_dtype(dtype)
        self._eps, self._max_ranks = eps, list(max_ranks)
        tight = eps < _GRAM_EPS * math.sqrt(len(self._max_ranks)) and None in self._max_ranks
        self._kernel = "qr" if method in ("qr", "svd") or (tight and eps < 1) else "gram"
        self._method, self._memory, self._callback = method, memory, callback
        self._array = array
        self._source = Source(array, entries, memory)
        self._exponent = 0
        self._norm = -1.0  # that of what is left; not known before the first pass
        self._budget: ErrorBudget | None = None
        self._left: list[Tensor] = []
        self._right: list[Tensor] = []
        self._rank = _EXPECTED_RANK
        self._step = 1
        self._file: PassesFile | None = None
        if checkpoint is not None:
            fingerprint = {
                "shape": list(self._source.storage.shape),
                "dtype": str(entries).removeprefix("torch."),
                "eps": eps,
                "max_ranks": self._max_ranks,
                "kernel": self._kernel,
                "entries": _some_entries(array),
            }
            if is_mirrored:  # where a symmetric shape and the same entries would not tell
                fingerprint["order of modes"] = "reversed"
            self._file = PassesFile(Path(checkpoint), fingerprint)
        self._scratch: Path | None = None

    def run(self) -> tuple[list[Tensor], int]:
        """Make all passes, or those that are left to make.

        Returns:
            The cores, left-orthogonal, in double precision, and an exponent: the train is theirs times 2**exponent.
        """
        try:
            if self._file is not None:
                self._restore(self._file)
            if self._is_whole and self._is_large() and self._source.storage.is_one_piece:
                self._unpack()
            with threads_of_passes():
                while self._is_large() and len(self._source.shape) > 3 and self._norm != 0:
                    self._take()
                cores = self._in_memory()
        finally:
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)
        if self._file is not None:
            self._file.discard()
        return cores, self._exponent

    @property
    def _is_whole(self) -> bool:
        """Whether nothing has been projected yet."""
        return self._source.array is self._array

    @property
    def _pending(self) -> int:
        """The exponent by which what is read has to be scaled still."""
        return self._exponent if self._is_whole else 0

    def _is_large(self) -> bool:
        # What is left is copied in double precision, and projected.
        return 3 * self._source.numel * double(self._dtype).itemsize > self._memory

    def _in_memory(self) -> list[Tensor]:
        if self._norm == 0:
            return []
        rest = self._source.read()
        budget = self._budget
        if budget is None:  # the whole array
            ranks = [self._source.numel if rank is None else rank for rank in self._max_ranks]
            return dense_cores(rest[0, ..., 0], eps=self._eps, max_rank=ranks, method=self._method)
        method = "qr" if self._kernel == "qr" else "auto"
        done = {"left": self._left, "right": self._right}
        return Sweep(rest.to(self._dtype), self._dtype, self._pending, self._norm, budget, method, **done).run()

    def _unpack(self) -> None:
        """Read once what no part of can be read alone: into memory, or into a file of which any part can."""
        storage, itemsize = self._source.storage, self._source.dtype.itemsize
        fits = 4 * self._source.numel * itemsize <= self._memory
        whole: Any = None
        for ranges in plan_slabs(storage, range(0), self._source.numel if fits else self._memory // (4 * itemsize)):
            block = read_raw(self._array, ranges)
            block = block.to(self._dtype).numpy() if isinstance(block, Tensor) else block
            if fits:
                whole = block
                break
            if whole is None:
                file = self._temporary_folder() / "whole.npy"
                whole = np.lib.format.open_memmap(file, "w+", block.dtype, storage.shape)
            whole[ranges] = block
            release(whole)
        self._array = whole
        self._source = Source(whole, self._source.dtype, self._memory)

    # --- steps --------------------------------------------------------------------------------

    def _take(self) -> None:
        """Cut the bonds of one step."""
        step = self._plan()
        left, count = step.side == "left", step.modes
        shape, bonds = self._seen(left, count)
        for kernel in ("gram", "qr") if step.method == "gram" else ("qr",):
            spectrum = self._look(kernel, step, left)
            if spectrum is None:
                return  # all zeros
            assert self._budget is not None
            budget = copy.copy(self._budget)
            v = mirrored(spectrum.v.mT, shape[::-1]).mT if left else spectrum.v
            cores = cut_bonds(spectrum, v, shape, bonds, budget)
            if cores is not None:
                break
        else:
            raise AssertionError("a triangle certifies every cut")
        self._budget = budget
        if cores:
            self._project(basis_of(cores, shape, left), step, left)
        else:
            cores = identities(shape, left, double(self._dtype), torch.device("cpu"))
            self._source = self._source.merged(count, left=left)
        self._rank = max(_EXPECTED_RANK, len(cores[0]))
        if left:
            self._left += [core.permute(2, 1, 0) for core in reversed(cores)]
        else:
            self._right = cores + self._right
        self._step += 1
        self._save()

    def _plan(self) -> Step:
        outer, *shape, inner = self._source.shape
        # A Gram matrix, its copy and its eigenvectors; the triangles of blocks are as large.
        most = math.isqrt(self._memory // (4 * double(self._dtype).itemsize))
        step = plan.next_step(
            shape, (outer, inner), self._expected_rank, self._kernel, self._dtype.itemsize, most_columns=most
        )
        if step is None:
            raise TTValueError(
                f"memory is {self._memory} bytes, which hold the Gram matrix of {most} columns, but what is left to "
                f"decompose has shape {self._source.shape}; raise memory, or split the modes at its ends by a reshape."
            )
        return step

    def _expected_rank(self, k: int) -> int:
        max_rank = self._max_ranks[len(self._left) + k - 1]
        if max_rank is not None and (self._eps == 0 or max_rank <= 4 * self._rank):
            return max_rank
        return self._rank

    def _seen(self, left: bool, count: int) -> tuple[Sequence[int], range]:
        """Give the modes of a step and the rank behind them, and the bonds before each, as `Sweep` sees them."""
        shape = self._source.shape
        if left:
            return shape[count::-1], range(len(self._left) + count - 1, len(self._left) - 1, -1)
        first = len(self._left) + len(shape) - 3 - count
        return shape[-count - 1 :], range(first, first + count)

    def _look(self, kernel: str, step: Step, left: bool) -> Spectrum | None:
        """Make the pass that tells the spectrum, unless it was made before."""
        key = f"{kernel}.{step.side}.{step.modes}"
        found, squares = (None, None) if self._file is None else self._file.look(key)
        if found is None or squares is None:
            found, squares = self._summed(kernel, step.modes, left)
        if self._norm < 0:
            found, squares = self._measured(found, squares, kernel, step.modes, left)
        if self._file is not None:
            self._save(looks={key: (found, squares)})
        if self._norm == 0:
            return None
        rank = min(step.rows, step.columns)
        if kernel == "gram":
            lost = max(0.0, squares - float(found.diagonal().real.sum()))
            return of_gram(found, rank, self._norm, double(self._dtype), lost)
        return of_triangle(found, rank)

    def _summed(self, kernel: str, modes: int, left: bool) -> tuple[Tensor, float]:
        """Add up what slabs tell; give the sum of all squares, too."""
        axes = self._source.columns(modes, left=left)
        function = slab_gram if kernel == "gram" else slab_triangle
        total: Tensor | None = None
        squares: list[float] = []
        for part, sum_of_squares in self._pass(
            "gram" if kernel == "gram" else "triangle",
            partial(function, axes=axes, left=left, dtype=self._dtype, exponent=self._pending),
            axes,
            left,
        ):
            matrix = torch.from_numpy(part)
            squares.append(sum_of_squares)
            if total is None:
                total = matrix
            elif kernel == "gram":
                total += matrix
            else:
                total = triangular_factor(torch.cat([total, matrix]))
        assert total is not None
        with contextlib.suppress(OverflowError):
            return total, math.fsum(squares)
        return total, math.inf

    def _measured(self, found: Tensor, squares: float, kernel: str, modes: int, left: bool) -> tuple[Tensor, float]:
        """Read the norm off the first pass; if numbers leave the range there, scale them and make it again."""
        if not (squares / self._source.numel > 1e-24 and squares < 1e24):
            axes = self._source.columns(modes, left=left)
            sizes = list(self._pass("scale", slab_size, axes, left))
            if count := sum(count for count, _ in sizes):
                raise TTValueError(
                    f"x holds NaN or infinite entries, {count} of {self._source.numel}; expected finite numbers."
                )
            self._exponent = max(exponent for _, exponent in sizes)
            found, squares = self._summed(kernel, modes, left)
        self._norm = math.sqrt(squares)
        self._budget = ErrorBudget(norm=self._norm, eps=self._eps, max_ranks=self._max_ranks, dtype=self._kept)
        return found, squares

    def _project(
        self,
        basis: Tensor,  # (rank, columns)
        step: Step,
        left: bool,
    ) -> None:
        """Replace the array by its coordinates in the space of a basis, in memory or in a file."""
        axes = self._source.columns(step.modes, left=left)
        sizes = self._source.storage.shape
        rank = len(basis)
        rows = sizes[axes:] if left else sizes[: len(sizes) - axes]
        shape = (rank, *rows) if left else (*rows, rank)
        target = self._target(shape)
        squares = 0.0
        function = partial(
            slab_projection,
            axes=axes,
            left=left,
            dtype=self._dtype,
            exponent=self._pending,
            basis=basis.resolve_conj().numpy(),
        )
        for ranges, (product, part) in self._slabs("projection", function, axes, left):
            place = (slice(None), *ranges[axes:]) if left else (*ranges[: len(sizes) - axes], slice(None))
            target[place] = product
            release(target)
            squares += part
        self._norm = math.sqrt(squares)
        ends = (1, self._source.right) if left else (self._source.left, 1)
        self._source = Source(target, self._dtype, self._memory, *ends)

    def _target(self, shape: tuple[int, ...]) -> Any:
        dtype = _NUMPY[self._dtype]
        if 3 * math.prod(shape) * double(self._dtype).itemsize <= self._memory:
            return np.empty(shape, dtype)
        folder = self._temporary_folder() if self._file is None else self._file.folder
        return np.lib.format.open_memmap(folder / f"rest.{self._step}.npy", "w+", dtype, shape)

    def _temporary_folder(self) -> Path:
        if self._scratch is None:
            self._scratch = Path(
                tempfile.mkdtemp(prefix="ttnet-", dir=None if self._file is None else self._file.folder)
            )
        return self._scratch

    # --- passes -------------------------------------------------------------------------------

    def _pass(self, name: str, function: Callable[..., Any], axes: int, left: bool) -> Iterator[Any]:
        return (result for _, result in self._slabs(name, function, axes, left))

    def _slabs(self, name: str, function: Callable[..., Any], axes: int, left: bool) -> Iterator[tuple[Any, Any]]:
        done, total = 0, self._source.numel
        for ranges, result in self._source.over_slabs(function, axes, left):
            yield ranges, result
            done += math.prod(part.stop - part.start for part in ranges)
            if self._callback is not None:
                self._callback(PassProgress(name, self._step, done, total))

    # --- resuming -----------------------------------------------------------------------------

    def _save(self, looks: dict[str, tuple[Tensor, float]] | None = None) -> None:
        if self._file is None or self._budget is None:
            return
        self._file.write(
            left=self._left,
            right=self._right,
            looks=looks or {},
            rest=None if self._is_whole else self._source.array,
            numbers={
                "norm": self._norm,
                "whole_norm": self._norm if self._step == 1 else self._file.numbers["whole_norm"],
                "exponent": self._exponent,
                "spent": list(self._budget.spent),
                "least_kept": self._budget.least_kept,
                "rank": self._rank,
                "step": self._step,
                "ends": [self._source.left, self._source.right],
            },
        )

    def _restore(self, file: PassesFile) -> None:
        if not file.numbers:
            return
        found = file.numbers
        self._norm, self._exponent = found["norm"], found["exponent"]
        self._rank, self._step = found["rank"], found["step"]
        self._left, self._right = list(file.left), list(file.right)
        self._budget = ErrorBudget(norm=found["whole_norm"], eps=self._eps, max_ranks=self._max_ranks, dtype=self._kept)
        for tail in found["spent"]:
            self._budget.spend(tail, found.get("least_kept", 0.0))
        array, dtype = (self._array, self._source.dtype) if file.rest is None else (file.rest, self._dtype)
        self._source = Source(array, dtype, self._memory, *found["ends"])


_NUMPY = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
}


def _some_entries(array: ArrayLike) -> list[str]:
    """Read three entries, by which another array of the same shape will hardly be taken for this one."""
    places = [[0] * len(array.shape), [size // 2 for size in array.shape], [size - 1 for size in array.shape]]
    return [str(read(array, tuple(slice(k, k + 1) for k in place)).reshape(()).item()) for place in places]
