"""Solvers: the time of linear systems and eigenproblems beside that of other libraries, at residuals that we compute.

All contenders solve the same problems in turn, so that whatever else the machine does falls on all of them; what counts
is the ratio of each round's times. Other libraries take part where they can be imported: `make peers` makes an
environment that has them, and `.venv-peers/bin/python -m benchmarks.solvers` runs there.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import ttnet
from ttnet import TensorTrain, TTMatrix, operators, solvers

RESULTS = Path(__file__).parent / "results" / "solvers.md"
PEERS = {"torchtt": "torchTT", "quimb": "quimb"}
TOL = 1e-8


@dataclass
class Contender:
    """Something that solves: `run` is timed, `train` turns its answer into one of ours."""

    run: Callable[[], object]
    train: Callable[[object], TensorTrain]


def has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def systems() -> dict[str, tuple[TTMatrix, TensorTrain]]:
    ones = ttnet.ones((64,) * 3, dtype=torch.float64)
    flow = operators.laplace((64,) * 3) * 65.0 + operators.convection((64,) * 3, [10.0, 5.0, 2.0])
    swirl = operators.laplace((64,) * 3, quantised=True) * 65.0
    swirl = (swirl + operators.convection((64,) * 3, [10.0, 5.0, 2.0], quantised=True)).round(eps=1e-14)
    return {
        "Poisson, 64 points a side": (operators.laplace((64,) * 3), ones),
        "Poisson, 64 points a side, quantised": (
            operators.laplace((64,) * 3, quantised=True),
            ttnet.ones((2,) * 18, dtype=torch.float64),
        ),
        "Convection and diffusion, 64 points a side": (flow, ones),
        "Convection and diffusion, 64 points a side, quantised": (swirl, ttnet.ones((2,) * 18, dtype=torch.float64)),
        "Poisson in 16 dimensions, 16 points a side": (
            operators.laplace((16,) * 16),
            ttnet.ones((16,) * 16, dtype=torch.float64),
        ),
    }


def solve_contenders(a: TTMatrix, b: TensorTrain) -> dict[str, Contender]:
    contenders = {"ttnet": Contender(lambda: solvers.solve(a, b, TOL), lambda result: result.value)}
    if has("torchtt"):
        import torchtt

        given, right = (torchtt.TT([core.clone() for core in value.cores]) for value in (a, b))
        for cpp in (True, False):
            for preconditioner in (None, "c"):
                name = f"torchTT, {'C++' if cpp else 'Python'}{', preconditioned' if preconditioner else ''}"
                contenders[name] = Contender(
                    lambda cpp=cpp, preconditioner=preconditioner: torchtt.solvers.amen_solve(
                        given, right, nswp=50, eps=TOL, use_cpp=cpp, preconditioner=preconditioner, verbose=False
                    ),
                    lambda x: TensorTrain([core.reshape(len(core), core.shape[1], -1) for core in x.cores]),
                )
    return contenders


def eigen_contenders(h: TTMatrix) -> dict[str, Contender]:
    contenders = {"ttnet": Contender(lambda: solvers.eigsh(h), lambda result: result.vectors[0])}
    if has("quimb"):
        import quimb.tensor as qtn

        arrays = [core.permute(0, 3, 1, 2).numpy() for core in h.cores]
        mpo = qtn.MatrixProductOperator([arrays[0][0], *arrays[1:-1], arrays[-1][:, 0]], shape="lrud")

        def run():
            search = qtn.DMRG2(mpo, bond_dims=[10, 20, 50, 100, 200], cutoffs=1e-12)
            search.solve(tol=1e-9, verbosity=0)
            return search.state

        def train(state):
            state.permute_arrays("lpr")
            first, *middle, last = (torch.from_numpy(array.copy()) for array in state.arrays)
            return TensorTrain([first[None], *middle, last[..., None]])

        contenders["quimb, DMRG2"] = Contender(run, train)
    return contenders


def residual_of_system(a: TTMatrix, b: TensorTrain, x: TensorTrain) -> float:
    return float((b - a @ x).norm() / b.norm())


def residual_of_pair(h: TTMatrix, v: TensorTrain) -> tuple[float, float]:
    v = v / v.norm()
    image = h @ v
    energy = float(v.dot(image))
    return float((image - v * energy).norm()) / abs(energy), energy


def measure(contenders: dict[str, Contender], rounds: int) -> tuple[dict[str, list[float]], dict[str, object]]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    answers: dict[str, object] = {}
    names = list(contenders)
    for round_ in range(rounds + 1):
        shift = round_ % len(names)  # nobody always follows the same one
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            answers[name] = contenders[name].run()
            elapsed = time.perf_counter() - start
            if round_:  # the first round warms up
                seconds[name].append(elapsed)
    return seconds, answers


def table(
    contenders: dict[str, Contender], rounds: int, look: Callable[[TensorTrain], list[str]], columns: list[str]
) -> str:
    seconds, answers = measure(contenders, rounds)
    lines = [
        f"| | ms | this / ttnet | range | largest rank | {' | '.join(columns)} |",
        "|---|---:|---:|---|---:" + "|---:" * len(columns) + "|",
    ]
    for name, times in seconds.items():
        ratios = [mine / ours for mine, ours in zip(times, seconds["ttnet"], strict=True)]
        x = contenders[name].train(answers[name])
        lines.append(
            f"| {name} | {1e3 * statistics.median(times):.0f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} | {max(x.ranks)} | {' | '.join(look(x))} |"
        )
    text = "\n".join(lines)
    print(text, flush=True)
    return text


def curve(name: str, problems: dict[object, tuple[TTMatrix, TensorTrain]]) -> str:
    lines = [f"| {name} | ms | sweeps | largest rank | residual |", "|---:|---:|---:|---:|---:|"]
    for value, (a, b) in problems.items():
        start = time.perf_counter()
        result = solvers.solve(a, b, TOL)
        elapsed = time.perf_counter() - start
        residual = residual_of_system(a, b, result.value)
        rank = max(result.value.ranks)
        lines.append(f"| {value} | {1e3 * elapsed:.0f} | {result.sweeps} | {rank} | {residual:.1e} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args([] if __name__ != "__main__" else None)
    torch.set_num_threads(args.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.threads :])

    parts = [f"## Linear systems\n\nFloat64, a right-hand side of ones, a relative residual of {TOL:.0e} asked for."]
    for name, (a, b) in systems().items():
        print(name, flush=True)

        def look(x: TensorTrain, a: TTMatrix = a, b: TensorTrain = b) -> list[str]:
            return [f"{residual_of_system(a, b, x):.1e}"]

        parts.append(f"{name}.\n\n" + table(solve_contenders(a, b), args.rounds, look, ["residual"]))
    parts.append("## Ground states\n\nFloat64, open chains; ttnet's `tol` is 1e-6, quimb's 1e-9 with cutoffs of 1e-12.")
    chains = {"Ising at criticality, 40 spins": operators.ising(40), "Heisenberg, 20 spins": operators.heisenberg(20)}
    for name, h in chains.items():
        print(name, flush=True)

        def look(v: TensorTrain, h: TTMatrix = h) -> list[str]:
            residual, energy = residual_of_pair(h, v)
            return [f"{residual:.1e}", f"{energy:.10f}"]

        rounds = max(1, args.rounds // 2)
        parts.append(f"{name}.\n\n" + table(eigen_contenders(h), rounds, look, ["residual", "energy"]))
    ones = {d: ttnet.ones((16,) * d, dtype=torch.float64) for d in (4, 8, 16, 32)}
    sizes = {n: ttnet.ones((n,) * 3, dtype=torch.float64) for n in (16, 64, 256, 1024)}
    levels = {3 * k: ttnet.ones((2,) * (3 * k), dtype=torch.float64) for k in (4, 5, 6, 7, 8)}
    parts.append(
        "## Cost\n\nOne run each of ttnet, Poisson's equation. On quantised modes ranks grow with the points.\n\n"
        + curve("dimensions, 16 points each", {d: (operators.laplace((16,) * d), b) for d, b in ones.items()})
        + "\n\n"
        + curve("points in each of 3 dimensions", {n: (operators.laplace((n,) * 3), b) for n, b in sizes.items()})
        + "\n\n"
        + curve(
            "quantised modes for 3 dimensions",
            {d: (operators.laplace((2 ** (d // 3),) * 3, quantised=True), b) for d, b in levels.items()},
        )
    )
    versions = [f"torch {torch.__version__}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for module, name in PEERS.items() if has(module)]
    command = f"python -m benchmarks.solvers --threads {args.threads} --rounds {args.rounds}"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        "# Solvers\n\n"
        f"Medians over {args.rounds} interleaved rounds ({max(1, args.rounds // 2)} for ground states) after one that "
        "is not counted; a ratio is that of the same round's times, and above 1 ttnet is faster. Residuals are "
        "computed from the answers by ttnet's arithmetic, not taken from any solver.\n\n"
        f"{args.threads} thread(s), pinned to as many cores; {platform.processor() or platform.machine()}, "
        f"{', '.join(versions)}. Repeat: `{command}`\n\n" + "\n\n".join(parts) + "\n"
    )


if __name__ == "__main__":
    main()
