"""TT-SVD: the time of every method beside that of other libraries, with errors, ranks and memory.

All contenders decompose the same tensor in turn, so that whatever else the machine does falls on all of them; times are
those of the processor, which waiting for it does not lengthen. Other libraries take part where they can be imported:
`make peers` makes an environment that has them, and `.venv-peers/bin/python -m benchmarks.tt_svd` runs there. What it
measures is kept case by case, so that a long run can be made in parts (`--only`), and contenders that take minutes are
not run again (`--again` does). `--short` takes small tensors and compares its ratios with those it recorded last.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ttnet
from benchmarks import processor, today
from ttnet import TensorTrain
from ttnet.numerics.blas import matmul_for, torch_threads

RESULTS = Path(__file__).parent / "results"
PEERS = {"tensorly": "tensorly", "torchtt": "torchTT", "tntorch": "tntorch"}
EXACT = ("tensorly", "torchTT", "tntorch, svd")  # whose decompositions hold at any accuracy
METHODS = ("auto", "gram", "qr", "randomized")
NO_EPS = 1e-14  # torchTT's: it knows no None
SLOW_SECONDS = 1.5  # a contender that takes longer runs once only
SHORT_LEAST = 0.8  # of a recorded ratio
MOST_SECONDS = 60.0  # and is given up after so long, as soon as its library returns


@dataclass
class Case:
    title: str
    make: Callable[[bool], Tensor]  # takes whether to be short; gives float64
    eps: float | None = None
    max_rank: int | None = None


@dataclass
class Outcome:
    error: float | None  # None if it was given up
    ranks: Sequence[int]
    memory: float | None  # extra bytes at the peak over those of the tensor; None where it cannot be read
    seconds: list[float] = field(default_factory=list)


# --- tensors -------------------------------------------------------------------------------------


def noise(shape: Sequence[int], seed: int = 0) -> Tensor:
    return torch.randn(tuple(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reciprocal_sums(short: bool) -> Tensor:
    grid = torch.linspace(0, 1, 10 if short else 20, dtype=torch.float64)
    total = grid
    for _ in range(5):
        total = total[..., None] + grid
    return (1 + total).reciprocal_()


def low_rank(short: bool, noise_norm: float, rank: int = 10) -> Tensor:
    shape = (32 if short else 64,) * 4
    x = ttnet.random(shape, rank, dtype=torch.float64, seed=0).full()
    x /= x.norm()
    return x.add_(noise(shape), alpha=noise_norm / x.numel() ** 0.5)


def video(short: bool, noise_size: float) -> Tensor:
    """A bright spot that wanders over a rippled background in three colours."""
    size, frames = (128, 32) if short else (256, 64)
    i, t = (torch.linspace(0, 1, n, dtype=torch.float64) for n in (size, frames))
    x, y = i[:, None, None, None], i[:, None, None]
    colour = torch.tensor([1.0, 0.7, 0.4], dtype=torch.float64)[:, None]
    spot = (-40 * ((x - 0.3 - 0.4 * t) ** 2 + (y - 0.5 - 0.2 * torch.sin(6 * t)) ** 2)).exp() * colour
    frame = spot + 0.5 * torch.sin(9 * x + 5 * y * y) * (1 - 0.3 * colour) + 0.3
    return frame.add_(noise(frame.shape), alpha=noise_size)


CASES = [
    Case("(2,) * 26, random, max_rank 16", lambda short: noise((2,) * (20 if short else 26)), max_rank=16),
    Case("(20,) * 6, 1 / (1 + sum of grids), eps 1e-6", reciprocal_sums, eps=1e-6),
    Case("(64,) * 4, rank 10 + 1e-8 noise, eps 1e-6", lambda short: low_rank(short, 1e-8), eps=1e-6),
    Case("4096 x 4096 as (16,) * 6, random, max_rank 16", lambda short: noise((8 if short else 16,) * 6), max_rank=16),
    Case("256 x 256 x 3 x 64 video, eps 1e-2", lambda short: video(short, 1e-3), eps=1e-2),
]
TIGHT_CASES = [
    Case("(20,) * 6, 1 / (1 + sum of grids), eps 1e-12", reciprocal_sums, eps=1e-12),
    Case("(64,) * 4, rank 10, eps 1e-12", lambda short: low_rank(short, 0.0), eps=1e-12),
    Case("256 x 256 x 3 x 64 video without noise, eps 1e-12", lambda short: video(short, 0.0), eps=1e-12),
]
UNBOUNDED_CASES = [
    Case("(64,) * 4, rank 10, no eps", lambda short: low_rank(short, 0.0)),
    Case("256 x 256 x 3 x 64 video without noise, no eps", lambda short: video(short, 0.0)),
]


def every_case() -> Iterator[tuple[str, Case, torch.dtype]]:
    for case in [*CASES, *TIGHT_CASES, *UNBOUNDED_CASES]:
        for dtype in (torch.float64,) if case in TIGHT_CASES else (torch.float64, torch.float32):
            yield f"{case.title}, {str(dtype)[6:]}", case, dtype


# --- contenders ----------------------------------------------------------------------------------


def has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def contenders(
    x: Tensor, *, eps: float | None = None, max_rank: int | None = None, methods: Sequence[str] = METHODS
) -> dict[str, Callable[[], Sequence[Tensor]]]:
    """Functions that decompose `x` and give the cores."""
    bounds: dict[str, Any] = {"eps": eps, "max_rank": max_rank}
    runs: dict[str, Callable[[], Sequence[Tensor]]] = {
        f"ttnet, {method}": lambda method=method: ttnet.tt_svd(x, method=method, **bounds).cores for method in methods
    }
    if has("torchtt"):
        import torchtt

        limit = {} if max_rank is None else {"rmax": max_rank}
        runs["torchTT"] = lambda: torchtt.TT(x, eps=eps or NO_EPS, **limit).cores
    if has("tntorch") and not (eps is None and max_rank is None):  # without either it keeps all there is
        import tntorch

        def rounded(algorithm: str) -> Sequence[Tensor]:
            if max_rank is not None:
                return tntorch.Tensor(x, algorithm=algorithm, ranks_tt=max_rank).cores
            train = tntorch.Tensor(x)  # its constructor would give a bound to a Tucker decomposition, too
            train.round_tt(eps=eps, algorithm=algorithm)
            return train.cores

        for algorithm in ("svd", "eig"):
            runs[f"tntorch, {algorithm}"] = lambda algorithm=algorithm: rounded(algorithm)
    if has("tensorly"):
        import tensorly
        from tensorly.decomposition import tensor_train

        tensorly.set_backend("pytorch")
        # It knows no eps: it is given the ranks that the bound takes.
        ranks = list(ttnet.tt_svd(x, **bounds).ranks)
        runs["tensorly"] = lambda: list(tensor_train(x, list(ranks)))
        runs["tensorly, randomised"] = lambda: list(tensor_train(x, list(ranks), svd="randomized_svd", random_state=0))
    return runs


# --- measuring -----------------------------------------------------------------------------------


def memory_now(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
    except OSError:
        return None


class GivenUp(Exception):
    pass


def give_up(*_: object) -> None:
    raise GivenUp


def timed(run: Callable[[], Sequence[Tensor]]) -> tuple[float, Sequence[Tensor]]:
    start = time.process_time()
    cores = run()
    return time.process_time() - start, cores


def first_run(x: Tensor, run: Callable[[], Sequence[Tensor]]) -> tuple[float, Outcome]:
    before = memory_now("VmRSS")
    if before is not None:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        seconds, cores = timed(run)
    except GivenUp:
        return MOST_SECONDS, Outcome(None, (), None)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    peak = memory_now("VmHWM")
    extra = None if before is None or peak is None else (peak - before) / (x.numel() * x.itemsize)
    y = TensorTrain(core.to(torch.float64) for core in cores)
    difference = y.full().sub_(x)
    norms = [float(torch.linalg.vector_norm(value, dtype=torch.float64)) for value in (difference, x)]
    return seconds, Outcome(norms[0] / norms[1], y.ranks, extra)


def measure(
    x: Tensor, runs: dict[str, Callable[[], Sequence[Tensor]]], rounds: int, known: dict[str, Outcome]
) -> dict[str, Outcome]:
    outcomes, often = {}, []
    for name, run in runs.items():
        if name in known:
            outcomes[name] = known[name]
            continue
        seconds, outcomes[name] = first_run(x, run)
        if seconds < SLOW_SECONDS:
            often.append(name)
        else:
            outcomes[name].seconds.append(seconds)
        print(f"  {name}: {seconds:.3f} s, error {outcomes[name].error}", flush=True)
    for round_ in range(rounds):
        shift = round_ % len(often) if often else 0  # nobody always follows the same one
        for name in often[shift:] + often[:shift]:
            outcomes[name].seconds.append(timed(runs[name])[0])
    return outcomes


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def median(outcomes: dict[str, Outcome], name: str) -> float:
    return statistics.median(outcomes[name].seconds)


def fastest_exact(outcomes: dict[str, Outcome]) -> str | None:
    """The fastest exact decomposition of another library; without any, our own one if it takes part."""
    names = [name for name in EXACT if name in outcomes] or [name for name in ("ttnet, svd",) if name in outcomes]
    return min(names, key=lambda name: median(outcomes, name), default=None)


def speedup(outcomes: dict[str, Outcome], name: str = "ttnet, auto") -> float:
    """How many times longer the fastest exact decomposition takes; NaN without any."""
    exact = fastest_exact(outcomes)
    return float("nan") if exact is None else median(outcomes, exact) / median(outcomes, name)


# --- what comes out ------------------------------------------------------------------------------


def table(outcomes: dict[str, Outcome]) -> str:
    lines = [
        "| | ms | quartiles | runs | fastest exact peer / this | largest rank | sum of ranks | error | extra memory |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, outcome in outcomes.items():
        if outcome.error is None:
            lines.append(f"| {name} | given up after {1e3 * MOST_SECONDS:,.0f} | | 1 | | | | | |")
            continue
        low, middle, high = (1e3 * value for value in quartiles(outcome.seconds))
        memory = "" if outcome.memory is None else f"{outcome.memory:.2f}"
        lines.append(
            f"| {name} | {middle:,.0f} | {low:,.0f} to {high:,.0f} | {len(outcome.seconds)} "
            f"| {speedup(outcomes, name):.3g} | {max(outcome.ranks)} | {sum(outcome.ranks)} "
            f"| {outcome.error:.6g} | {memory} |"
        )
    return "\n".join(lines)


def summary(record: dict[str, dict[str, Outcome]]) -> str:
    """One line a case: "auto" against every peer."""
    peers = ("torchTT", "tntorch, svd", "tntorch, eig", "tensorly", "tensorly, randomised")
    lines = [
        "| case | ttnet, auto, ms | extra memory | " + " | ".join(peers) + " |",
        "|---|---:|---:|" + "---:|" * len(peers),
    ]
    for title, outcomes in record.items():
        mine = median(outcomes, "ttnet, auto")
        cells = []
        for peer in peers:
            more = "over " if peer in outcomes and outcomes[peer].error is None else ""
            cells.append(f"{more}{median(outcomes, peer) / mine:.3g}" if peer in outcomes else "")
        memory = outcomes["ttnet, auto"].memory
        extra = "" if memory is None else f"{memory:.2f}"
        lines.append(f"| {title} | {1e3 * mine:.0f} | {extra} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def load() -> dict[str, dict[str, Outcome]]:
    path = RESULTS / "tt_svd.json"
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    return {title: {name: Outcome(**each) for name, each in case.items()} for title, case in record.items()}


def save(record: dict[str, dict[str, Outcome]], threads: int) -> None:
    plain = {title: {name: asdict(each) for name, each in case.items()} for title, case in record.items()}
    (RESULTS / "tt_svd.json").write_text(json.dumps(plain, indent=1) + "\n")
    titles = [title for title, _, _ in every_case() if "ttnet, auto" in record.get(title, {})]
    record = {title: record[title] for title in titles}
    versions = [f"torch {torch.__version__}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for module, name in PEERS.items() if has(module)]
    blas = {dtype: matmul_for(torch.device("cpu"), dtype).__name__[1:6] for dtype in (torch.float64, torch.float32)}
    (RESULTS / "tt_svd.md").write_text(
        "# TT-SVD\n\n"
        "Every method of `tt_svd` and other libraries on the same tensors, with equal bounds; tensorly, which knows no "
        "`eps`, is given the ranks that `tt_svd` found. Medians of the processor's time over interleaved rounds, as "
        "many as the column of runs says, after a first run that is not timed; what takes more than "
        f"{SLOW_SECONDS:g} seconds runs once, and is "
        "kept from an earlier run on the same machine if there is one; what takes "
        f"more than {MOST_SECONDS:.0f} may be given up. "
        '"Exact peers" are tensorly, torchTT and tntorch by SVD. Errors are relative. Extra memory is what the process '
        "held at its peak beyond what it had before, over the size of the tensor, in the first run.\n\n"
        f"{threads} thread, pinned to one core; {processor()}, {today()}, {', '.join(versions)}. "
        f"Products by {blas[torch.float64]} in float64 and {blas[torch.float32]} in float32. Repeat: "
        f"`OMP_NUM_THREADS={threads} .venv-peers/bin/python -m benchmarks.tt_svd --threads {threads} --again`\n\n"
        "## How many times longer others take than `auto`\n\n"
        f"{summary(record)}\n\n" + "\n\n".join(f"## {title}\n\n{table(case)}" for title, case in record.items()) + "\n"
    )


def compare_with_record(ratios: dict[str, float], record: bool) -> None:
    path = RESULTS / "tt_svd_short.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    group = ", ".join(name for module, name in PEERS.items() if has(module)) or "ttnet alone"
    if record or group not in kept:
        path.write_text(
            json.dumps(kept | {group: {title: round(x, 2) for title, x in ratios.items()}}, indent=1) + "\n"
        )
        print(f"recorded in {path}")
        return
    slower = []
    for title, before in kept[group].items():
        now = ratios.get(title, float("nan"))
        if now < SHORT_LEAST * before:
            slower.append(title)
        verdict = "SLOWER than recorded" if title in slower else "as recorded"
        print(f"{title}: {now:.1f} times the fastest exact one, {before:.1f} recorded: {verdict}")
    if slower:
        raise SystemExit(f"{len(slower)} of {len(kept[group])} ratios fell by more than {1 - SHORT_LEAST:.0%}.")


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="9, or 3 with --short")
    parser.add_argument("--only", default="", help="run the cases whose title holds this text")
    parser.add_argument("--again", action="store_true", help="run those again, too, that took long and are recorded")
    parser.add_argument("--short", action="store_true", help="small tensors; compare with what was recorded last")
    parser.add_argument("--record", action="store_true", help="with --short: record the ratios")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.threads :])
    missing = [name for module, name in PEERS.items() if not has(module)]
    if missing:
        print(f"Without {', '.join(missing)}, which `make peers` installs elsewhere: tables are printed, not kept.")
    record, ratios = load(), {}
    for title, case, dtype in every_case():
        if args.only in title:
            print(title, flush=True)
            x = case.make(args.short).to(dtype)
            known = {} if args.again or args.short else record.get(title, {})
            known = {name: each for name, each in known.items() if each.seconds[0] > SLOW_SECONDS}
            with torch_threads():
                runs = contenders(
                    x, eps=case.eps, max_rank=case.max_rank, methods=("auto", "svd") if args.short else METHODS
                )
                if args.short:
                    runs = {name: run for name, run in runs.items() if name.startswith("ttnet") or name in EXACT[:2]}
                outcomes = measure(x, runs, args.rounds or (3 if args.short else 9), known)
            ratios[title] = speedup(outcomes)
            print(table(outcomes), flush=True)
            if not missing and not args.short:
                record[title] = outcomes
                save(record, args.threads)
    if args.short:
        compare_with_record(ratios, args.record)


if __name__ == "__main__":
    main(sys.argv[1:])
