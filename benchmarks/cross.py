"""Cross approximation: the time outside of the function and its evaluations, to one error, beside teneva and torchTT.

Every contender runs with several tolerances of its own, and what counts for it is its cheapest run whose error, on
fresh entries, is at most the one asked for; those are then run in turn. Time outside is the processor's without that
in the function, on one thread: other work on the machine counts for less in it than in the clock's.
Peers take part where they can be imported: `make peers` makes an environment that has them, and
`.venv-peers/bin/python -m benchmarks.cross` runs there.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

import ttnet
from benchmarks import run_on

RESULTS = Path(__file__).parent / "results" / "cross.md"
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
CHECKED = 20_000  # entries

Evaluate = Callable[[Tensor], Tensor]


def grid(size: int, start: float = 0.0, stop: float = 1.0) -> Tensor:
    return torch.linspace(start, stop, size, dtype=torch.float64)


def ackley(x: Tensor) -> Tensor:
    root, wave = x.square().mean(1).sqrt(), torch.cos(2 * torch.pi * x).mean(1)
    return 20 * (1 - torch.exp(-0.2 * root)) + torch.e - torch.exp(wave)


@dataclass
class Case:
    title: str
    shape: tuple[int, ...]
    function: Evaluate
    error: float


CASES = [
    Case("1 / (1 + sum)", (20,) * 10, lambda i: 1 / (1 + grid(20)[i].sum(1)), 1e-4),
    Case("1 / (1 + sum)", (20,) * 10, lambda i: 1 / (1 + grid(20)[i].sum(1)), 1e-6),
    Case("root of the sum of squares", (30,) * 8, lambda i: grid(30, 0.1)[i].square().sum(1).sqrt(), 1e-5),
    Case("sine of the sum", (16,) * 20, lambda i: grid(16)[i].sum(1).sin(), 1e-6),
    Case("Ackley's function", (24,) * 6, lambda i: ackley(grid(24, -4.0, 4.5)[i]), 1e-5),
    Case("exponential of minus the norm", (2,) * 24, lambda i: torch.exp(-digits(i)), 1e-6),
]


def digits(i: Tensor) -> Tensor:
    """The distance from (0.3, 0.4, 0.5) of points whose coordinates have eight binary digits each."""
    points = (i.view(-1, 3, 8) * 2 ** torch.arange(7, -1, -1)).sum(2) / 256
    return (points - torch.tensor([0.3, 0.4, 0.5])).double().square().sum(1).add(0.01).sqrt()


class Counted:
    """A function that counts its evaluations and their time."""

    def __init__(self, function: Evaluate) -> None:
        self.function, self.count, self.seconds = function, 0, 0.0

    def __call__(self, indices: Tensor) -> Tensor:
        start = time.process_time()
        values = self.function(indices)
        self.seconds += time.process_time() - start
        self.count += len(values)
        return values


def ours(f: Evaluate, shape: tuple[int, ...], tolerance: float) -> Evaluate:
    found = ttnet.tt_cross(f, shape, eps=tolerance).value
    return lambda at: ttnet.evaluate(found, at)


def teneva_cross(f: Evaluate, shape: tuple[int, ...], tolerance: float) -> Evaluate:
    import teneva

    start = teneva.rand(shape, 2, seed=0)
    found = teneva.cross(lambda i: f(torch.from_numpy(i)).numpy(), start, e=tolerance, nswp=20, dr_max=2)
    found = teneva.truncate(found, tolerance)
    return lambda at: torch.from_numpy(teneva.get_many(found, at.numpy()))


def torchtt_cross(f: Evaluate, shape: tuple[int, ...], tolerance: float) -> Evaluate:
    import torchtt

    torch.manual_seed(0)
    found = torchtt.interpolate.dmrg_cross(f, list(shape), eps=tolerance, nswp=20)
    train = ttnet.TensorTrain(found.cores)
    return lambda at: ttnet.evaluate(train, at)


CONTENDERS = {"ttnet": ours, "teneva": teneva_cross, "torchTT": torchtt_cross}


@dataclass
class Outcome:
    error: float
    evaluations: int
    outside: float


def run(contender: str, case: Case, tolerance: float) -> Outcome:
    f = Counted(case.function)
    start = time.process_time()
    found = CONTENDERS[contender](f, case.shape, tolerance)
    seconds = time.process_time() - start
    generator = torch.Generator().manual_seed(7)
    at = torch.stack([torch.randint(size, (CHECKED,), generator=generator) for size in case.shape], 1)
    expected = case.function(at)
    error = float((found(at) - expected).norm() / expected.norm())
    return Outcome(error, f.count, seconds - f.seconds)


def cheapest(contender: str, case: Case) -> tuple[float, Outcome] | None:
    """The tolerance with which the error asked for takes the least time, and what it comes to."""
    runs = [(tolerance, run(contender, case, tolerance)) for tolerance in TOLERANCES]
    good = [(tolerance, outcome) for tolerance, outcome in runs if outcome.error <= case.error]

    def seconds(each: tuple[float, Outcome]) -> float:  # of three, lest what else the machine did decide
        return min(each[1].outside, *(run(contender, case, each[0]).outside for _ in range(2)))

    return min(good, key=seconds, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="write the table to benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    modules = {"ttnet": "ttnet", "teneva": "teneva", "torchTT": "torchtt"}
    names = [name for name in CONTENDERS if importlib.util.find_spec(modules[name])]
    lines = [
        "| function | shape | asked for | library | its tolerance | error | evaluations | ms outside | beside ttnet |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for case in CASES:
        chosen = {name: cheapest(name, case) for name in names}
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name in names:
                best = chosen[name]
                if best is not None:
                    seconds[name].append(run(name, case, best[0]).outside)
        for name in names:
            shape = f"{case.shape[0]}^{len(case.shape)}"
            best = chosen[name]
            if best is None:
                lines.append(f"| {case.title} | {shape} | {case.error:.0e} | {name} | none is enough | | | | |")
                continue
            ratios = [a / b for a, b in zip(seconds[name], seconds["ttnet"], strict=False)] or [float("nan")]
            tolerance, outcome = best
            lines.append(
                f"| {case.title} | {shape} | {case.error:.0e} | {name} | {tolerance:.0e} | {outcome.error:.1e} "
                f"| {outcome.evaluations:,} | {1e3 * statistics.median(seconds[name]):.0f} "
                f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
            )
        print("\n".join(lines[-len(names) :]), flush=True)
    if args.keep:
        versions = ", ".join(f"{name} {version(name)}" for name in names if name != "ttnet")
        RESULTS.write_text(
            "# Cross approximation\n\n"
            f"{args.rounds} rounds in turn, processor time of one thread; medians, and the range of the rounds' "
            "ratios. Each library at the tolerance of its own, of seven from 1e-3 to 1e-9, with which the error asked "
            f"for takes it the least time. torch {torch.__version__}, {versions}, {run_on()}. "
            "Repeat: `.venv-peers/bin/python -m benchmarks.cross --keep`\n\n" + "\n".join(lines) + "\n"
        )


if __name__ == "__main__":
    main()
