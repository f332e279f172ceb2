"""Cases: zeros and nonsense, odd shapes and types, and whether values stay what they are."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import torch

from benchmarks.behaviours.judging import (
    NONSENSE,
    SAFETY,
    SHAPES,
    Wrong,
    behaviour,
    close,
    contract,
    hilbert,
    normal,
    random_cores,
    ranks_of,
    refused,
    require,
    wide,
)
from benchmarks.behaviours.libraries import Library


@behaviour(NONSENSE, "TT-SVD of zeros to 1e-6: ranks 1, all finite")
def zeros(lib: Library) -> str | None:
    train = lib.decompose(torch.zeros(4, 5, 6, dtype=torch.float64), eps=1e-6)
    close(lib.dense(train), torch.zeros(4, 5, 6), 0.0)
    require(ranks_of(lib, train) == [1, 1], f"ranks {ranks_of(lib, train)}")
    return None


@behaviour(NONSENSE, "Rounding x - x: finite, and zero beside x")
def rounded_zero(lib: Library) -> str:
    cores = random_cores((4, 5, 6), 3)
    train = lib.build(cores)
    rounded = wide(lib.dense(lib.round(lib.subtract(train, train), eps=1e-6)))
    require(bool(rounded.isfinite().all()), "not finite")
    ratio = float(rounded.norm() / contract(cores).norm())
    require(ratio < 1e-12, f"{ratio:.1e}")
    return f"{ratio:.1e}"


@behaviour(NONSENSE, "NaN in the tensor is refused")
def nan(lib: Library) -> str:
    x = normal(4, 5, 6)
    x[1, 2, 3] = float("nan")
    return refused(lambda: lib.decompose_exactly(x))


@behaviour(NONSENSE, "Infinity in the tensor is refused")
def infinity(lib: Library) -> str:
    x = normal(4, 5, 6)
    x[1, 2, 3] = float("inf")
    return refused(lambda: lib.decompose_exactly(x))


@behaviour(NONSENSE, "A negative eps is refused")
def negative_eps(lib: Library) -> str:
    return refused(lambda: lib.decompose(normal(4, 5, 6), eps=-1e-3))


@behaviour(NONSENSE, "A max_rank of 0 is refused")
def no_rank(lib: Library) -> str:
    return refused(lambda: lib.decompose(normal(4, 5, 6), max_rank=0))


@behaviour(NONSENSE, "Cores that do not chain up are refused")
def broken_chain(lib: Library) -> str:
    return refused(lambda: lib.dense(lib.build([normal(1, 4, 3), normal(2, 5, 1)])))


@behaviour(NONSENSE, "The sum of shapes (4, 5) and (4, 6) is refused")
def mismatched_sum(lib: Library) -> str:
    a, b = lib.build(random_cores((4, 5), 2)), lib.build(random_cores((4, 6), 2))
    return refused(lambda: lib.dense(lib.add(a, b)))


@behaviour(NONSENSE, "The inner product of shapes (4, 5) and (4, 6) is refused")
def mismatched_dot(lib: Library) -> str:
    a, b = lib.build(random_cores((4, 5), 2)), lib.build(random_cores((4, 6), 2))
    return refused(lambda: lib.dot(a, b))


@behaviour(SHAPES, "Order 0: a scalar")
def order_0(lib: Library) -> str:
    x = torch.tensor(3.0, dtype=torch.float64)
    return close(lib.dense(lib.decompose_exactly(x)), x, 1e-12)


@behaviour(SHAPES, "Order 1: decomposed, rounded, its norm")
def order_1(lib: Library) -> str:
    x = normal(7)
    train = lib.decompose_exactly(x)
    close(lib.norm(train), x.norm(), 1e-12)
    return close(lib.dense(lib.round(train, eps=1e-12)), x, 1e-12)


@behaviour(SHAPES, "Modes of size 1")
def modes_of_one(lib: Library) -> str:
    x = normal(1, 4, 1, 5, 1)
    train = lib.decompose_exactly(x)
    return close(lib.dense(lib.round(lib.add(train, train), eps=1e-12)), 2 * x, 1e-11)


@behaviour(SHAPES, "A transposed view, not contiguous")
def strides(lib: Library) -> str:
    x = normal(6, 5, 4).permute(2, 0, 1)
    return close(lib.dense(lib.decompose_exactly(x)), x, 1e-12)


@behaviour(SHAPES, "Integers")
def integers(lib: Library) -> str:
    x = torch.arange(60).reshape(3, 4, 5) ** 3
    return close(lib.dense(lib.decompose_exactly(x)), x, 1e-6)


@behaviour(SHAPES, "A numpy array")
def numpy_array(lib: Library) -> str:
    x = normal(3, 4, 5)
    return close(lib.dense(lib.decompose(x.numpy(), max_rank=15)), x, 1e-12)


@behaviour(SHAPES, "bfloat16")
def bfloat16(lib: Library) -> str:
    x = hilbert(5, 5, 5, dtype=torch.bfloat16)
    return close(lib.dense(lib.decompose(x, max_rank=25)), x, 0.02)


def apart(lib: Library, *shape: int) -> None:
    x = normal(*shape)
    copy = x.clone()
    train = lib.decompose_exactly(x)
    require(bool((x == copy).all()), "changes its input")
    if any(_overlap(core, x) for core in lib.cores(train)):
        raise Wrong("shares memory")


@behaviour(SAFETY, "TT-SVD leaves its input alone and shares no memory with it")
def svd_does_not_share(lib: Library) -> None:
    apart(lib, 3, 4, 5)


@behaviour(SAFETY, "... at order 1, too")
def svd_does_not_share_at_order_1(lib: Library) -> None:
    apart(lib, 6)


@behaviour(SAFETY, "Rounding leaves its input alone and shares no memory with it")
def rounding_does_not_share(lib: Library) -> str | None:
    train = lib.build(random_cores((4, 5, 6), 5))
    before = [core.clone() for core in lib.cores(train)]
    rounded = lib.round(train, eps=1e-3)
    for core, copy in zip(lib.cores(train), before, strict=True):
        require(core.shape == copy.shape and bool((core == copy).all()), "changes its input")
    if any(_overlap(a, b) for a in lib.cores(rounded) for b in lib.cores(train)):
        raise Wrong("shares memory")
    return None


@behaviour(SAFETY, "A sum leaves its operands alone")
def sum_leaves_alone(lib: Library) -> str | None:
    a, b = lib.build(random_cores((4, 5, 6), 3)), lib.build(random_cores((4, 5, 6), 2, seed=1))
    before = wide(lib.dense(a)).clone(), wide(lib.dense(b)).clone()
    lib.add(a, b)
    require(torch.equal(wide(lib.dense(a)), before[0]) and torch.equal(wide(lib.dense(b)), before[1]), "changes them")
    return None


@behaviour(SAFETY, "What is saved is loaded again")
def round_trip(lib: Library) -> str:
    cores = random_cores((4, 5, 6), 3)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "train"))
        lib.save(lib.build(cores), path)
        return close(lib.dense(lib.load(path)), contract(cores), 1e-15)


class _Bomb:
    """Pickled, it writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@behaviour(SAFETY, "Loading a file cannot run code that hides in it")
def safe_loading(lib: Library) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path, trace = Path(folder, "train"), Path(folder, "trace")
        lib.save(lib.build(random_cores((4, 5), 2)), str(path))  # so that a library without files is absent
        kinds = []
        for write in (_write_pickle, _write_torch):
            write(path, _Bomb(trace))
            try:
                kinds.append(refused(lambda: lib.load(str(path))))
            except Wrong:
                kinds.append("accepted")
            require(not trace.exists(), "it ran")
        return kinds[0]


@behaviour(SAFETY, "A file cut short is refused")
def cut_file(lib: Library) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train")
        lib.save(lib.build(random_cores((4, 5, 6), 3)), str(path))
        data = path.read_bytes()
        path.write_bytes(data[: 2 * len(data) // 3])
        return refused(lambda: lib.load(str(path)))


def _write_pickle(path: Path, value: object) -> None:
    path.write_bytes(pickle.dumps(value))


def _write_torch(path: Path, value: object) -> None:
    torch.save(value, path)


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.as_tensor(a).untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
