"""Solvers: time and memory of linear systems and eigenproblems beside other libraries, at residuals that we compute.

All contenders solve the same problems in turn, so that whatever else the machine does falls on all of them; what counts
is the ratio of each round's times, which are the processor's, of one thread. Memory is that of a child process at its
largest, less what it began with, imports and operands. Other libraries take part where they can be imported: `make
peers` makes an environment that has them, and `.venv-peers/bin/python -m benchmarks.solvers` runs there. ttpy is left
out, as it needs a Fortran compiler, and scikit-tt, which is on no package index. Writes benchmarks/results/solvers.md
and docs/images/solvers_cost.png.
"""

import argparse
import ctypes
import importlib.metadata
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import ttnet
from benchmarks import processor, today
from ttnet import TensorTrain, TTMatrix, operators, solvers

RESULTS = Path(__file__).parent / "results" / "solvers.md"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "solvers_cost.png"
PEERS = {"torchtt": "torchTT", "quimb": "quimb"}
TOL = 1e-8
SLOW = 3  # times as long as ttnet: what is run once only


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
            start = time.process_time()
            answers[name] = contenders[name].run()
            seconds[name].append(time.process_time() - start)
        if not round_:
            names = [name for name in names if seconds[name][0] <= SLOW * seconds["ttnet"][0]]
    for name in names:
        del seconds[name][0]  # which warmed up
    return seconds, answers


def peak(run: Callable[[], object]) -> float:
    """Give the MiB that a child process holds at most while it runs, beyond what it holds before."""
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        with os.fdopen(reader) as answer:
            found = float(answer.read())
        os.waitpid(child, 0)
        return found

    def high_water() -> int:  # KiB
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else what earlier runs have freed would be taken again unseen
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = high_water()
    run()
    with os.fdopen(writer, "w") as answer:
        answer.write(str((high_water() - before) / 1024))
    os._exit(0)


def table(
    contenders: dict[str, Contender], rounds: int, look: Callable[[TensorTrain], list[str]], columns: list[str]
) -> str:
    memory = {name: peak(contender.run) for name, contender in contenders.items()}
    seconds, answers = measure(contenders, rounds)
    lines = [
        f"| | ms | this / ttnet | range | MiB | largest rank | {' | '.join(columns)} |",
        "|---|---:|---:|---|---:|---:" + "|---:" * len(columns) + "|",
    ]
    for name, times in seconds.items():
        ratios = [mine / ours for mine, ours in zip(times, seconds["ttnet"], strict=False)]
        x = contenders[name].train(answers[name])
        lines.append(
            f"| {name} | {1e3 * statistics.median(times):.0f} | {statistics.median(ratios):.2f} "
            f"| {min(ratios):.2f} to {max(ratios):.2f} | {memory[name]:.0f} | {max(x.ranks)} | {' | '.join(look(x))} |"
        )
    text = "\n".join(lines)
    print(text, flush=True)
    return text


@dataclass
class Curve:
    """What solving costs as one size of the problem grows."""

    label: str
    sizes: list[int]
    seconds: list[float]
    mebibytes: list[float]
    table: str

    @classmethod
    def measured(cls, label: str, problems: dict[int, tuple[TTMatrix, TensorTrain]]) -> "Curve":
        lines = [f"| {label} | ms | MiB | sweeps | largest rank | residual |", "|---:|---:|---:|---:|---:|---:|"]
        seconds, mebibytes = [], []
        for size, (a, b) in problems.items():
            mebibytes.append(peak(lambda a=a, b=b: solvers.solve(a, b, TOL)))
            start = time.process_time()
            result = solvers.solve(a, b, TOL)
            seconds.append(time.process_time() - start)
            rank, residual = max(result.value.ranks), residual_of_system(a, b, result.value)
            cells = f"{1e3 * seconds[-1]:.0f} | {mebibytes[-1]:.0f} | {result.sweeps} | {rank} | {residual:.1e}"
            lines.append(f"| {size} | {cells} |")
            print(lines[-1], flush=True)
        return cls(label, list(problems), seconds, mebibytes, "\n".join(lines))


def draw(curves: list[Curve]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(3.2 * len(curves), 2.8), layout="constrained")
    for axis, curve in zip(axes, curves, strict=True):
        axis.loglog(curve.sizes, curve.seconds, "o-", color="#2a6fbb", label="seconds")
        axis.loglog(curve.sizes, [each / 1024 for each in curve.mebibytes], "s--", color="#c8553d", label="GiB")
        axis.set_xlabel(curve.label)
        axis.set_xticks(curve.sizes, [str(size) for size in curve.sizes])
        axis.minorticks_off()
    axes[0].legend()
    figure.savefig(PICTURE, dpi=130)


def curves() -> list[Curve]:
    """Poisson's equation of growing order, mode size and, on quantised modes, rank; and random right-hand sides."""
    ones = {d: ttnet.ones((16,) * d, dtype=torch.float64) for d in (4, 8, 16, 32)}
    sizes = {n: ttnet.ones((n,) * 3, dtype=torch.float64) for n in (16, 64, 256)}
    levels = {3 * k: ttnet.ones((2,) * (3 * k), dtype=torch.float64) for k in (4, 5, 6, 7)}
    draws = {r: ttnet.random((16,) * 6, r, dtype=torch.float64, seed=0) for r in (1, 2, 4, 8)}
    return [
        Curve.measured("dimensions, 16 points each", {d: (operators.laplace((16,) * d), b) for d, b in ones.items()}),
        Curve.measured(
            "points in each of 3 dimensions", {n: (operators.laplace((n,) * 3), b) for n, b in sizes.items()}
        ),
        Curve.measured(
            "quantised modes, 3 dimensions",
            {d: (operators.laplace((2 ** (d // 3),) * 3, quantised=True), b) for d, b in levels.items()},
        ),
        Curve.measured("rank of the right-hand side", {r: (operators.laplace((16,) * 6), b) for r, b in draws.items()}),
    ]


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
    found = curves()
    draw(found)
    parts.append(
        "## Cost\n\nOne run each of ttnet, Poisson's equation. On quantised modes ranks grow with the points.\n\n"
        + "\n\n".join(curve.table for curve in found)
    )
    versions = [f"torch {torch.__version__}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for module, name in PEERS.items() if has(module)]
    command = f"python -m benchmarks.solvers --threads {args.threads} --rounds {args.rounds}"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        "# Solvers\n\n"
        f"Medians over {args.rounds} interleaved rounds ({max(1, args.rounds // 2)} for ground states) after one that "
        "is not counted; a ratio is that of the same round's times, and above 1 ttnet is faster. Residuals are "
        "computed from the answers by ttnet's arithmetic, not taken from any solver. Times are the processor's; MiB is "
        f"what a child process holds at most, less what it began with. What takes over {SLOW} times as long as ttnet "
        "in the round that is not counted is not run again, and that one counts.\n\n"
        f"{args.threads} thread(s), pinned to as many cores; {processor()}, {today()}, "
        f"{', '.join(versions)}. Repeat: `{command}`\n\n" + "\n\n".join(parts) + "\n"
    )


if __name__ == "__main__":
    main()
