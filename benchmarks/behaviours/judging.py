"""How a case tells what it saw, and the registry of all cases."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.behaviours.libraries import Absent, Library

DOUBLE = torch.float64

BOUNDS = "Error bounds"
SCALES = "Scales and orders"
DIGITS = "Digits"
NONSENSE = "Zeros and nonsense"
SHAPES = "Shapes and types"
SAFETY = "Values and files"
GRADIENTS = "Gradients and transforms"
CROSS = "Cross approximation of a function"
OPERATIONS = "Operations"
SOLVERS = "Linear systems and lowest eigenvalues"
GROUPS = (BOUNDS, SCALES, DIGITS, NONSENSE, SHAPES, SAFETY, GRADIENTS, CROSS, OPERATIONS, SOLVERS)


class Wrong(Exception):
    """What a library gave is not what was asked for; the text says what it is."""


@dataclass(frozen=True)
class Behaviour:
    group: str
    title: str
    check: Callable[[Library], str | None]  # raises Wrong or Absent, or gives a detail to show

    @property
    def name(self) -> str:
        return self.check.__name__


BEHAVIOURS: list[Behaviour] = []


def behaviour(group: str, title: str) -> Callable[[Callable[[Library], str | None]], Callable[[Library], str | None]]:
    """Register a case: a function of a library's adapter."""

    def register(check: Callable[[Library], str | None]) -> Callable[[Library], str | None]:
        BEHAVIOURS.append(Behaviour(group, title, check))
        return check

    return register


def wide(x: object) -> Tensor:
    """Anything a library gives as a dense array, in double precision."""
    x = torch.as_tensor(x).detach().resolve_conj()
    return x.to(torch.complex128 if x.is_complex() else DOUBLE)


def error_of(actual: object, expected: object) -> float:
    """The relative Frobenius error, at any scale."""
    actual, expected = wide(actual), wide(expected)
    if actual.numel() == expected.numel():
        actual = actual.reshape(expected.shape)
    if actual.shape != expected.shape:
        raise Wrong(f"shape {tuple(actual.shape)}")
    scale = float(expected.abs().max()) or 1.0
    norm = float((expected / scale).norm()) or 1.0
    return float((actual / scale - expected / scale).norm()) / norm


def close(actual: object, expected: object, tolerance: float) -> str:
    """Check a relative error; NaN is no less wrong than a large one."""
    error = error_of(actual, expected)
    if not error <= tolerance:
        raise Wrong(f"{error:.1e}")
    return f"{error:.1e}"


def require(condition: object, otherwise: str) -> None:
    if not condition:
        raise Wrong(otherwise)


def refused(action: Callable[[], object]) -> str:
    """Check that something is refused, by an error of whatever kind."""
    try:
        action()
    except (Absent, NotImplementedError):
        raise
    except Exception as error:
        return type(error).__name__
    raise Wrong("accepted")


def with_memory(action: Callable[[], Any]) -> tuple[Any, float]:
    """What an action gives, and by how many MiB it raised the memory that this process uses."""
    status = Path("/proc/self/status")

    def read(field: str) -> int:
        return int(re.search(rf"^{field}:\s+(\d+) kB", status.read_text(), re.MULTILINE)[1])

    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak until now
    before = read("VmRSS")
    result = action()
    return result, (read("VmHWM") - before) / 1024


def ranks_of(library: Library, train: object) -> list[int]:
    return [core.shape[-1] for core in library.cores(train)[:-1]]


def hilbert(*shape: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    """1 / (1 + i + j + ...): singular values that fall fast, at every unfolding."""
    total = torch.ones(shape, dtype=DOUBLE)
    for axis, size in enumerate(shape):
        total = total + torch.arange(size, dtype=DOUBLE).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return (1 / total).to(dtype)


def normal(*shape: int, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def rough(*shape: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    """A tensor whose unfoldings have slowly falling singular values, so that every bond is cut."""
    x = normal(*shape, dtype=dtype)
    for axis, size in enumerate(shape):
        decay = 10.0 ** (-4 * torch.arange(size, dtype=DOUBLE) / size)
        x = x * decay.to(dtype).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return x


def random_cores(shape: tuple[int, ...], rank: int, dtype: torch.dtype = DOUBLE, seed: int = 0) -> list[Tensor]:
    ranks = [1, *[rank] * (len(shape) - 1), 1]
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(r, n, s, dtype=dtype, generator=generator) for r, n, s in zip(ranks, shape, ranks[1:], strict=False)
    ]


def contract(cores: list[Tensor]) -> Tensor:
    """The dense tensor of cores, by definition."""
    result = torch.ones(1, 1, dtype=cores[0].dtype)
    for core in cores:
        result = (result @ core.flatten(1)).reshape(-1, core.shape[-1])
    return result.reshape([core.shape[1] for core in cores])
