"""Cases: linear systems and lowest eigenvalues, and what becomes of those that have no answer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.behaviours.judging import DOUBLE, SOLVERS, behaviour, close, random_cores, refused, require
from benchmarks.behaviours.libraries import Library


def laplacian(*shape: int, periodic: bool = False) -> tuple[list[Tensor], Tensor]:
    """The Laplacian's cores, (r, m, n, r'), and its matrix: 2 on the diagonal, -1 beside it, summed over the modes."""
    cores, matrix = [], torch.zeros(1, 1, dtype=DOUBLE)
    for k, n in enumerate(shape):
        d = 2 * torch.eye(n, dtype=DOUBLE)
        d -= torch.eye(n, dtype=DOUBLE).roll(1, 0) + torch.eye(n, dtype=DOUBLE).roll(-1, 0)
        if not periodic and n > 1:
            d[0, -1] = d[-1, 0] = -1.0 if n == 2 else 0.0
        d = torch.full((1, 1), 2.0, dtype=DOUBLE) if n == 1 else d
        unit = torch.eye(n, dtype=DOUBLE)
        core = torch.stack([torch.stack([unit, d], -1), torch.stack([0 * unit, unit], -1)])  # (2, n, n, 2)
        core = core[:1] if k == 0 else core
        cores.append(core[..., 1:] if k == len(shape) - 1 else core)
        matrix = torch.kron(matrix, unit) + torch.kron(torch.eye(len(matrix), dtype=DOUBLE), d)
    return cores, matrix


def solved(lib: Library, *shape: int) -> str:
    cores, matrix = laplacian(*shape)
    b = random_cores(shape, 2)
    x, _ = lib.solve(cores, lib.build(b), 1e-8)
    rhs = lib.dense(lib.build(b))
    return close(matrix @ torch.as_tensor(lib.dense(x)).reshape(-1), torch.as_tensor(rhs).reshape(-1), 1e-7)


@behaviour(SOLVERS, "A Laplacian on `8**3` points, to a residual of 1e-8: below 1e-7")
def solver_plain(lib: Library) -> str:
    return solved(lib, 8, 8, 8)


@behaviour(SOLVERS, "... of order 1")
def solver_order_1(lib: Library) -> str:
    return solved(lib, 8)


@behaviour(SOLVERS, "... with a mode of size 1")
def solver_mode_of_one(lib: Library) -> str:
    return solved(lib, 6, 1, 6)


@behaviour(SOLVERS, "A right-hand side of zeros has the solution zero")
def solver_zero(lib: Library) -> None:
    cores, _ = laplacian(6, 6)
    x, _ = lib.solve(cores, lib.build([0 * core for core in random_cores((6, 6), 2)]), 1e-8)
    found = torch.as_tensor(lib.dense(x))
    require(bool((found == 0).all()), f"norm {float(found.norm()):.1e}")


@behaviour(SOLVERS, "A singular operator, and a right-hand side out of its range: told or refused")
def solver_singular(lib: Library) -> str:
    cores, _ = laplacian(6, 6, periodic=True)
    ones = lib.build([torch.ones(1, 6, 1, dtype=DOUBLE)] * 2)
    try:
        _, converged = lib.solve(cores, ones, 1e-8)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        return type(error).__name__
    require(converged is False, "given as solved")
    return "told"


@behaviour(SOLVERS, "A right-hand side with NaN is refused")
def solver_nan(lib: Library) -> str:
    cores, _ = laplacian(6, 6)
    b = random_cores((6, 6), 2)
    b[1][0, 0, 0] = math.nan
    return refused(lambda: lib.solve(cores, lib.build(b), 1e-8))


@behaviour(SOLVERS, "A tolerance of 1e-20 is refused, or told that it was not reached")
def solver_precision(lib: Library) -> str:
    cores, _ = laplacian(6, 6)
    try:
        _, converged = lib.solve(cores, lib.build(random_cores((6, 6), 2)), 1e-20)
    except (RuntimeError, ValueError) as error:
        return type(error).__name__
    require(converged is False, "given as reached")
    return "told"


def lowest(lib: Library, *shape: int) -> str:
    cores, matrix = laplacian(*shape)
    value, _ = lib.lowest(cores, 1e-6)
    return close(torch.tensor(float(value), dtype=DOUBLE), torch.linalg.eigvalsh(matrix)[0], 1e-8)


@behaviour(SOLVERS, "The lowest eigenvalue of a Laplacian on `4**4` points: error below 1e-8")
def solver_lowest(lib: Library) -> str:
    return lowest(lib, 4, 4, 4, 4)


@behaviour(SOLVERS, "... of order 1")
def solver_lowest_order_1(lib: Library) -> str:
    return lowest(lib, 8)


@behaviour(SOLVERS, "... with a mode of size 1")
def solver_lowest_mode_of_one(lib: Library) -> str:
    return lowest(lib, 4, 1, 4)


@behaviour(SOLVERS, "The lowest eigenvalue of an operator that is not Hermitian: refused or told")
def solver_not_hermitian(lib: Library) -> str:
    cores, _ = laplacian(4, 4, 4)
    cores[1] = cores[1] + torch.triu(torch.ones(4, 4, dtype=DOUBLE), 1)[None, :, :, None]
    try:
        _, converged = lib.lowest(cores, 1e-6)
    except (RuntimeError, ValueError) as error:
        return type(error).__name__
    require(converged is False, "given as found")
    return "told"


@behaviour(SOLVERS, "The lowest eigenvalue of an operator with NaN is refused")
def solver_lowest_nan(lib: Library) -> str:
    cores, _ = laplacian(4, 4, 4)
    cores[1][0, 0, 0, 0] = math.nan
    return refused(lambda: lib.lowest(cores, 1e-6))
