"""One adapter a library: its documented way to do each operation on trains.

Trains are the library's own objects. Dense tensors and cores, of shape (r, n, r'), are torch tensors, which all five
libraries take. An operation that a library lacks is one that its adapter leaves to the base class.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Absent(Exception):
    """The library has no such operation."""


class Library:
    name: str
    distribution: str
    title = ""  # of its columns, where that is not the distribution's name

    def __init__(self) -> None:
        self.version = importlib.metadata.version(self.distribution)
        self.module: Any = importlib.import_module(self.name)

    def variants(self) -> list[Library]:
        """The ways of using it, of which every case takes the better."""
        return [self]

    def decompose(self, x: Any, *, eps: float | None = None, max_rank: int | None = None) -> Any:
        """Dense to train, to a relative Frobenius error or to a largest rank."""
        raise Absent

    def decompose_exactly(self, x: Any) -> Any:
        """Dense to train, to about machine precision."""
        return self.decompose(x, eps=1e-13)

    def round(self, train: Any, *, eps: float) -> Any:
        raise Absent

    def build(self, cores: Sequence[Tensor]) -> Any:
        """A train of cores, which the library may keep or copy."""
        raise Absent

    def cores(self, train: Any) -> list[Tensor]:
        raise Absent

    def dense(self, train: Any) -> Any:
        raise Absent

    def add(self, a: Any, b: Any) -> Any:
        return a + b

    def subtract(self, a: Any, b: Any) -> Any:
        return a - b

    def multiply(self, a: Any, b: Any) -> Any:
        """Entry by entry."""
        raise Absent

    def scale(self, train: Any, factor: float) -> Any:
        return factor * train

    def dot(self, a: Any, b: Any) -> Any:
        raise Absent

    def norm(self, train: Any) -> Any:
        raise Absent

    def log_norm(self, train: Any) -> float:
        raise Absent

    def select(self, train: Any, axis: int, index: int) -> Any:
        raise Absent

    def permute(self, train: Any, axes: Sequence[int]) -> Any:
        raise Absent

    def reshape(self, train: Any, shape: Sequence[int]) -> Any:
        raise Absent

    def outer(self, a: Any, b: Any) -> Any:
        """The train whose modes are those of both."""
        raise Absent

    def concatenate(self, a: Any, b: Any, axis: int) -> Any:
        raise Absent

    def apply(self, matrix_cores: Sequence[Tensor], train: Any) -> Any:
        """A TT-matrix of cores (r, m, n, r') times a train."""
        raise Absent

    def cross(self, f: Callable[[Tensor], Tensor], shape: Sequence[int], eps: float) -> Any:
        """A train from a function of int64 indices of shape (batch, order)."""
        raise Absent

    def solve(self, matrix_cores: Sequence[Tensor], b: Any, tol: float) -> tuple[Any, bool | None]:
        """A linear system with a TT-matrix; the solution, and whether the library says that it converged."""
        raise Absent

    def lowest(self, matrix_cores: Sequence[Tensor], tol: float) -> tuple[Any, bool | None]:
        """The lowest eigenvalue of a Hermitian TT-matrix, and whether the library says that it converged."""
        raise Absent

    def save(self, train: Any, path: str) -> None:
        raise Absent

    def load(self, path: str) -> Any:
        raise Absent


class Ttnet(Library):
    name, distribution, title = "ttnet", "ttnet-torch", "ttnet"

    def decompose(self, x: Any, *, eps: float | None = None, max_rank: int | None = None) -> Any:
        return self.module.tt_svd(x, eps=eps, max_rank=max_rank)

    def decompose_exactly(self, x: Any) -> Any:
        return self.module.tt_svd(x)

    def round(self, train: Any, *, eps: float) -> Any:
        return train.round(eps=eps)

    def build(self, cores: Sequence[Tensor]) -> Any:
        return self.module.TensorTrain(cores)

    def cores(self, train: Any) -> list[Tensor]:
        return list(train.cores)

    def dense(self, train: Any) -> Any:
        return train.full()

    def multiply(self, a: Any, b: Any) -> Any:
        return a * b

    def dot(self, a: Any, b: Any) -> Any:
        return a.dot(b)

    def norm(self, train: Any) -> Any:
        return train.norm()

    def log_norm(self, train: Any) -> float:
        return float(train.log_norm())

    def select(self, train: Any, axis: int, index: int) -> Any:
        return train[(slice(None),) * axis + (index,)]

    def permute(self, train: Any, axes: Sequence[int]) -> Any:
        return self.module.permute(train, axes)

    def reshape(self, train: Any, shape: Sequence[int]) -> Any:
        return self.module.reshape(train, shape)

    def outer(self, a: Any, b: Any) -> Any:
        return self.module.outer(a, b)

    def concatenate(self, a: Any, b: Any, axis: int) -> Any:
        return self.module.cat([a, b], axis)

    def apply(self, matrix_cores: Sequence[Tensor], train: Any) -> Any:
        return self.module.TTMatrix(matrix_cores) @ train

    def cross(self, f: Callable[[Tensor], Tensor], shape: Sequence[int], eps: float) -> Any:
        return self.module.tt_cross(f, shape, eps=eps).value

    def solve(self, matrix_cores: Sequence[Tensor], b: Any, tol: float) -> tuple[Any, bool | None]:
        result = self.module.solvers.solve(self.module.TTMatrix(matrix_cores), b, tol)
        return result.value, result.converged

    def lowest(self, matrix_cores: Sequence[Tensor], tol: float) -> tuple[Any, bool | None]:
        result = self.module.solvers.eigsh(self.module.TTMatrix(matrix_cores), tol=tol)
        return result.values[0], result.converged

    def save(self, train: Any, path: str) -> None:
        train.save(path)

    def load(self, path: str) -> Any:
        return self.module.load(path)


class TorchTT(Library):
    name, distribution = "torchtt", "torchTT"

    def decompose(self, x: Any, *, eps: float | None = None, max_rank: int | None = None) -> Any:
        bounds = {"eps": eps, "rmax": max_rank}
        return self.module.TT(x, **{name: bound for name, bound in bounds.items() if bound is not None})

    def round(self, train: Any, *, eps: float) -> Any:
        return train.round(eps)

    def build(self, cores: Sequence[Tensor]) -> Any:
        return self.module.TT(list(cores))

    def cores(self, train: Any) -> list[Tensor]:
        return list(train.cores)

    def dense(self, train: Any) -> Any:
        return train.full()

    def multiply(self, a: Any, b: Any) -> Any:
        return a * b

    def dot(self, a: Any, b: Any) -> Any:
        return self.module.dot(b, a)  # it conjugates the second one

    def norm(self, train: Any) -> Any:
        return train.norm()

    def select(self, train: Any, axis: int, index: int) -> Any:
        order = len(train.N)
        return train[tuple(index if k == axis else slice(None) for k in range(order))]

    def permute(self, train: Any, axes: Sequence[int]) -> Any:
        return self.module.permute(train, list(axes))

    def reshape(self, train: Any, shape: Sequence[int]) -> Any:
        return self.module.reshape(train, list(shape))

    def outer(self, a: Any, b: Any) -> Any:
        return self.module.kron(a, b)

    def concatenate(self, a: Any, b: Any, axis: int) -> Any:
        return self.module.cat((a, b), axis)

    def apply(self, matrix_cores: Sequence[Tensor], train: Any) -> Any:
        return self.module.TT(list(matrix_cores)) @ train

    def cross(self, f: Callable[[Tensor], Tensor], shape: Sequence[int], eps: float) -> Any:
        return self.module.interpolate.dmrg_cross(f, list(shape), eps=eps)

    def solve(self, matrix_cores: Sequence[Tensor], b: Any, tol: float) -> tuple[Any, bool | None]:
        return self.module.solvers.amen_solve(self.module.TT(list(matrix_cores)), b, eps=tol), None

    def save(self, train: Any, path: str) -> None:
        self.module.save(train, path)

    def load(self, path: str) -> Any:
        return self.module.load(path)


class Tntorch(Library):
    name = distribution = "tntorch"

    def __init__(self) -> None:
        super().__init__()
        torch.set_default_dtype(torch.float64)  # it makes tensors of the default dtype, and its users set this one

    def decompose(self, x: Any, *, eps: float | None = None, max_rank: int | None = None) -> Any:
        # Its constructor's own `eps` gives trains with Tucker factors; rounding the exact train gives plain ones.
        train = self.module.Tensor(x)
        return self.module.round_tt(train, **{"rmax": max_rank} if eps is None else {"eps": eps})

    def round(self, train: Any, *, eps: float) -> Any:
        return self.module.round_tt(train, eps=eps)

    def build(self, cores: Sequence[Tensor]) -> Any:
        return self.module.Tensor(list(cores))

    def cores(self, train: Any) -> list[Tensor]:
        return list(train.cores)

    def dense(self, train: Any) -> Any:
        return train.torch()

    def multiply(self, a: Any, b: Any) -> Any:
        return a * b

    def dot(self, a: Any, b: Any) -> Any:
        return self.module.dot(a, b)

    def norm(self, train: Any) -> Any:
        return self.module.norm(train)

    def select(self, train: Any, axis: int, index: int) -> Any:
        return train[(slice(None),) * axis + (index,)]

    def concatenate(self, a: Any, b: Any, axis: int) -> Any:
        return self.module.cat(a, b, dim=axis)

    def cross(self, f: Callable[[Tensor], Tensor], shape: Sequence[int], eps: float) -> Any:
        domain = [torch.arange(size, dtype=torch.float64) for size in shape]
        return self.module.cross(
            function=lambda x: f(x.long()), domain=domain, function_arg="matrix", eps=eps, verbose=False
        )


class Tensorly(Library):
    name = distribution = "tensorly"

    def __init__(self) -> None:
        super().__init__()
        self.module.set_backend("pytorch")
        self.decomposition = importlib.import_module("tensorly.decomposition")
        self.trains = importlib.import_module("tensorly.tt_tensor")
        self.matrices = importlib.import_module("tensorly.tt_matrix")

    def decompose(self, x: Any, *, eps: float | None = None, max_rank: int | None = None) -> Any:
        if max_rank is None:
            raise Absent  # it truncates to ranks alone
        with self.module.backend_context("pytorch" if isinstance(x, Tensor) else "numpy"):
            return self.decomposition.tensor_train(x, max_rank)

    def decompose_exactly(self, x: Any) -> Any:
        return self.decomposition.tensor_train(x, max(1, x.numel()))

    def build(self, cores: Sequence[Tensor]) -> Any:
        return self.trains.TTTensor(list(cores))

    def cores(self, train: Any) -> list[Tensor]:
        return list(train.factors)

    def dense(self, train: Any) -> Any:
        with self.module.backend_context("pytorch" if isinstance(train[0], Tensor) else "numpy"):
            return train.to_tensor()

    def norm(self, train: Any) -> Any:
        return train.norm()

    def add(self, a: Any, b: Any) -> Any:
        raise Absent

    def subtract(self, a: Any, b: Any) -> Any:
        raise Absent

    def scale(self, train: Any, factor: float) -> Any:
        raise Absent


class Quimb(Library):
    name = distribution = "quimb"

    def __init__(self) -> None:
        super().__init__()
        self.networks = importlib.import_module("quimb.tensor")
        self.mode = "rel"

    def variants(self) -> list[Library]:
        """It bounds what single bonds lose, in one of several modes, of which the case takes the better."""
        other = copy.copy(self)
        other.mode = "rsum2"
        return [self, other]

    def _cutoff(self, sides: Sequence[int], eps: float) -> dict[str, Any]:
        """What keeps the whole error within eps; `sides` are the largest ranks that the bonds may need."""
        if self.mode == "rel":  # of single values, relative to the largest
            return {"cutoff": eps / math.sqrt(max(1, sum(sides))), "cutoff_mode": self.mode}
        # Of the sum of squares, relative to the sum of all.
        return {"cutoff": eps * abs(eps) / max(1, len(sides)), "cutoff_mode": self.mode}

    def decompose(self, x: Any, *, eps: float | None = None, max_rank: int | None = None) -> Any:
        shape = list(x.shape)
        sides = [min(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(1, len(shape))]
        bounds = {"max_bond": max_rank, "cutoff": 0.0} if eps is None else self._cutoff(sides, eps)
        return self.networks.MatrixProductState.from_dense(x, shape, **bounds)

    def round(self, train: Any, *, eps: float) -> Any:
        rounded = train.copy()
        rounded.compress(**self._cutoff(train.bond_sizes(), eps))
        return rounded

    def build(self, cores: Sequence[Tensor]) -> Any:
        arrays = list(cores)
        arrays[0] = arrays[0][0]
        arrays[-1] = arrays[-1][..., 0]
        return self.networks.MatrixProductState(arrays, shape="lpr")

    def cores(self, train: Any) -> list[Tensor]:
        ordered = train.copy()
        ordered.permute_arrays("lpr")
        arrays = [torch.as_tensor(array) for array in ordered.arrays]
        arrays[0] = arrays[0][None]
        arrays[-1] = arrays[-1][..., None]
        return arrays

    def dense(self, train: Any) -> Any:
        left = train.outer_inds()
        return train.to_dense([index for index in map(train.site_ind, train.sites) if index in left])

    def dot(self, a: Any, b: Any) -> Any:
        return a.overlap(b).conj()  # it conjugates the second one

    def norm(self, train: Any) -> Any:
        return train.norm()

    def log_norm(self, train: Any) -> float:
        mantissa, exponent = train.norm(strip_exponent=True)
        return float(torch.as_tensor(mantissa).log() + exponent * torch.tensor(10.0).double().log())

    def select(self, train: Any, axis: int, index: int) -> Any:
        return train.isel({train.site_ind(axis): index})

    def apply(self, matrix_cores: Sequence[Tensor], train: Any) -> Any:
        arrays = list(matrix_cores)
        arrays[0] = arrays[0][0]
        arrays[-1] = arrays[-1][..., 0]
        return self.networks.MatrixProductOperator(arrays, shape="ludr").apply(train)

    def lowest(self, matrix_cores: Sequence[Tensor], tol: float) -> tuple[Any, bool | None]:
        arrays = [core.numpy() for core in matrix_cores]
        arrays[0] = arrays[0][0]
        arrays[-1] = arrays[-1][..., 0]
        search = self.networks.DMRG2(self.networks.MatrixProductOperator(arrays, shape="ludr"), cutoffs=1e-12)
        converged = search.solve(tol=tol * abs(tol), max_sweeps=50)
        return search.energy, bool(converged)

    def save(self, train: Any, path: str) -> None:
        self.module.save_to_disk(train, path)

    def load(self, path: str) -> Any:
        return self.module.load_from_disk(path)


LIBRARIES: dict[str, type[Library]] = {kind.name: kind for kind in (Ttnet, TorchTT, Tntorch, Tensorly, Quimb)}
