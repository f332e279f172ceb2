"""TT-SVD with compiled passes beside the same with libraries' products, with one thread and with two, and tensorly.

Each contender is a process of its own, whose threads wait for nobody; they decompose the same tensor in turn, so that
whatever else the machine does falls on all of them. Times are those of the clock: run it on an idle machine. tensorly
takes part for shapes that no other benchmark has, if it is installed, and is given the ranks that `eps` takes here.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import processor, today

CONTENDERS = {"libraries": 1, "compiled": 1, "libraries, 2 threads": 2, "compiled, 2 threads": 2, "tensorly": 1}
ROUNDS = 7
PAUSE = 0.1  # seconds, after which the threads of the contender before have stopped looking for work


def held_out() -> list[Any]:
    """Shapes on which nothing was tuned."""
    import torch

    from benchmarks.tt_svd import Case, noise

    def low_rank(shape: tuple[int, ...], rank: int, level: float) -> Callable[[bool], torch.Tensor]:
        def make(_: bool) -> torch.Tensor:
            import ttnet

            x = ttnet.random(shape, rank, dtype=torch.float64, seed=1).full()
            return (x / x.norm()).add_(noise(shape), alpha=level / math.prod(shape) ** 0.5)

        return make

    def waves(_: bool) -> torch.Tensor:
        grid = torch.linspace(0, 3, 27, dtype=torch.float64)
        total = grid
        for _ in range(4):
            total = total[..., None] + grid
        return total.sin_()

    def field(_: bool) -> torch.Tensor:
        x, y, z, t = (torch.linspace(0, 1, n, dtype=torch.float64) for n in (120, 120, 120, 8))
        return 1 / (0.1 + (x[:, None, None, None] - t) ** 2 + (y[:, None, None] - 0.5) ** 2 + (z[:, None] * t) ** 2)

    return [
        Case("(48,) * 4, rank 8 + 1e-8 noise, eps 1e-6", low_rank((48,) * 4, 8, 1e-8), eps=1e-6),
        Case("(44,) * 4, rank 30 + 1e-8 noise, eps 1e-6", low_rank((44,) * 4, 30, 1e-8), eps=1e-6),
        Case("60 x 40 x 35 x 25, rank 28 + 1e-7 noise, eps 1e-5", low_rank((60, 40, 35, 25), 28, 1e-7), eps=1e-5),
        Case("900 x 1200, rank 60 + 1e-3 noise, eps 1e-2", low_rank((900, 1200), 60, 1e-3), eps=1e-2),
        Case("(27,) * 5, sine of the sum of grids, eps 1e-5", waves, eps=1e-5),
        Case("120 x 120 x 120 x 8 field, eps 1e-3", field, eps=1e-3),
    ]


def serve(name: str, connection: Connection) -> None:
    """Decompose what is asked for, and answer with seconds."""
    import torch

    from benchmarks.tt_svd import CASES, TIGHT_CASES
    from ttnet.decomposition import compiled_passes

    torch.set_num_threads(CONTENDERS[name])
    if name.startswith("libraries"):
        compiled_passes.machine_code.is_available = lambda: False
    cases = {case.title: case for case in [*CASES, *TIGHT_CASES, *held_out()]}
    x, run = torch.empty(0), None
    for job, title, dtype in iter(connection.recv, None):
        if job == "make":
            case = cases[title]
            x = case.make(False).to(getattr(torch, dtype))
            run = decomposition(name, x, {"eps": case.eps, "max_rank": case.max_rank})
            connection.send(run().ranks if name != "tensorly" else run())  # the first run, not timed
            continue
        work = x.sum if job == "read" else run
        time.sleep(PAUSE)
        start = time.perf_counter()
        work()
        connection.send(time.perf_counter() - start)


def decomposition(name: str, x: Any, bounds: dict[str, Any]) -> Callable[[], Any]:
    import ttnet

    if name != "tensorly":
        return lambda: ttnet.tt_svd(x, **bounds)
    import tensorly
    from tensorly.decomposition import tensor_train

    tensorly.set_backend("pytorch")
    ranks = list(ttnet.tt_svd(x, **bounds).ranks)
    return lambda: len(tensor_train(x, list(ranks)).factors)


@contextmanager
def contenders(names: Sequence[str]) -> Any:
    context = multiprocessing.get_context("spawn")
    ends = {}
    for name in names:
        os.environ["OMP_NUM_THREADS"] = str(CONTENDERS[name])
        ends[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, theirs), daemon=True).start()
    try:
        yield ends
    finally:
        for end in ends.values():
            end.send(None)


def ask(end: Connection, *job: str) -> Any:
    end.send(job)
    return end.recv()


def measure(ends: dict[str, Connection], title: str, dtype: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, and of reading the tensor once."""
    ranks = {name: ask(end, "make", title, dtype) for name, end in ends.items()}
    mine = {str(found) for name, found in ranks.items() if name != "tensorly"}
    assert len(mine) == 1, f"{title}: ranks differ: {ranks}"
    seconds: dict[str, list[float]] = {name: [] for name in [*ends, "read"]}
    for _ in range(rounds):
        for name, end in ends.items():
            seconds[name].append(ask(end, "run", title, dtype))
        seconds["read"].append(ask(ends["compiled"], "read", title, dtype))
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> tuple[float, str]:
    """The ratio of medians, and its text with the quartiles of the rounds' ratios."""
    value = statistics.median(seconds[slow]) / statistics.median(seconds[fast])
    rounds = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
    low, _, high = statistics.quantiles(rounds, n=4) if len(rounds) > 1 else [rounds[0]] * 3
    return value, f"{value:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="cases whose title holds this text; the table is printed, not kept")
    args = parser.parse_args()
    from benchmarks.tt_svd import CASES, RESULTS, TIGHT_CASES, has

    jobs = [(case.title, dtype, "") for case in CASES for dtype in ("float64", "float32")]
    jobs += [(case.title, "float64", "tight") for case in TIGHT_CASES]
    jobs = [job for job in jobs if args.only in job[0]]
    lines = [
        "| case | dtype | compiled, ms | read once, ms | libraries / compiled | 1 thread / 2, compiled | libraries |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    groups: dict[str, list[float]] = {}
    with contenders([name for name in CONTENDERS if name != "tensorly"]) as ends:
        for title, dtype, group in jobs:
            seconds = measure(ends, title, dtype, args.rounds)
            value, text = ratio(seconds, "libraries", "compiled")
            groups.setdefault(f"{dtype}{', eps 1e-12' if group else ''}", []).append(value)
            threads = [ratio(seconds, way, f"{way}, 2 threads")[1] for way in ("compiled", "libraries")]
            ms = [1e3 * statistics.median(seconds[name]) for name in ("compiled", "read")]
            lines.append(f"| {title} | {dtype} | {ms[0]:.0f} | {ms[1]:.0f} | {text} | {threads[0]} | {threads[1]} |")
            print(lines[-1], flush=True)
    means = [f"{math.exp(statistics.fmean(map(math.log, each))):.2f} in {name}" for name, each in groups.items()]
    lines += ["", f"Geometric means of libraries / compiled: {', '.join(means)}."]
    if has("tensorly") and not args.only:
        lines += [
            "",
            "| shapes that were not tuned on | dtype | compiled, ms | libraries / compiled | tensorly / compiled |",
        ]
        lines += ["|---|---|---:|---:|---:|"]
        with contenders(["libraries", "compiled", "tensorly"]) as ends:
            for case in held_out():
                for dtype in ("float64", "float32"):
                    seconds = measure(ends, case.title, dtype, 3)
                    texts = [ratio(seconds, slow, "compiled")[1] for slow in ("libraries", "tensorly")]
                    ms = 1e3 * statistics.median(seconds["compiled"])
                    lines.append(f"| {case.title} | {dtype} | {ms:.0f} | {texts[0]} | {texts[1]} |")
                    print(lines[-1], flush=True)
    if not args.only:
        write(RESULTS / f"tt_svd_compiled_{maker()}.md", lines, args.rounds)


def write(path: Path, lines: Sequence[str], rounds: int) -> None:
    from importlib.metadata import version

    import torch

    path.write_text(
        "# TT-SVD with compiled passes\n\n"
        "The same decompositions with passes that are compiled (extra `fast`) and with libraries' products, to equal "
        f"ranks: medians of {rounds} rounds in turn, after one that is not timed, with the quartiles of the rounds' "
        "ratios; tensorly three rounds, to the ranks that `eps` takes here.\n\n"
        f"{processor()}, {today()}, torch {torch.__version__}, llvmlite {version('llvmlite')}; an idle machine of "
        f"{os.cpu_count()} cores. Repeat: `python -m benchmarks.tt_svd_compiled`\n\n" + "\n".join(lines) + "\n"
    )


def maker() -> str:
    """Of the processor, whose results are kept beside those of others."""
    return next((name.lower() for name in ("AMD", "Intel") if name in processor()), "other")


if __name__ == "__main__":
    main()
