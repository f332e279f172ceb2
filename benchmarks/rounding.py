"""Rounding: the time of every method beside that of other libraries, and what errors and ranks they come to.

All contenders round the same trains in turn, so that whatever else the machine does falls on all of them; what counts
is the ratio of each round's times. Other libraries take part where they can be imported: `make peers` makes an
environment that has them, and `.venv-peers/bin/python -m benchmarks.rounding` runs there.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import ttnet
from benchmarks import processor, today
from ttnet import TensorTrain
from ttnet.numerics.blas import matmul_for

RESULTS = Path(__file__).parent / "results" / "rounding.md"
PEERS = {"torchtt": "torchTT", "tntorch": "tntorch"}
# torchTT's eps where only max_rank is to count: it knows no None.
NO_EPS = 1e-14


@dataclass
class Contender:
    """Something that rounds: `prepare` is not timed, `run` is."""

    run: Callable[..., object]
    cores: Callable[[object], Sequence[torch.Tensor]]
    prepare: Callable[[], object] | None = None


def has(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def low_rank_plus_noise(shape: Sequence[int], rank: int, total: int, noise: float) -> TensorTrain:
    """A train of the given rank with noise of the rest, in a random orthogonal basis of every bond."""
    low, rest = (ttnet.random(shape, r, dtype=torch.float64, seed=r) for r in (rank, total - rank))
    return in_random_bases(low / low.norm() + rest * (noise / float(rest.norm())))


def with_spectrum(shape: Sequence[int], values: Sequence[float]) -> TensorTrain:
    """A train whose bonds all have about these singular values, in a random orthogonal basis of every bond."""
    cores = list(ttnet.random(shape, len(values), dtype=torch.float64, seed=0).orthogonalise(-1).cores)
    weights = torch.tensor(values, dtype=torch.float64)
    return in_random_bases(TensorTrain([*(c * weights[: c.shape[2]] for c in cores[:-1]), cores[-1]]))


def in_random_bases(x: TensorTrain) -> TensorTrain:
    generator = torch.Generator().manual_seed(0)
    cores = list(x.cores)
    for k in range(len(cores) - 1):
        size = cores[k].shape[2]
        basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
        cores[k] = torch.tensordot(cores[k], basis, 1)
        cores[k + 1] = torch.tensordot(basis.mT, cores[k + 1], 1)
    return TensorTrain(cores)


def ours(x: TensorTrain, methods: Sequence[str], **bounds: float) -> dict[str, Contender]:
    return {
        f"ttnet, {method}": Contender(lambda method=method: x.round(method=method, **bounds), lambda y: y.cores)
        for method in methods
    }


def theirs(x: TensorTrain, eps: float | None = None, max_rank: int | None = None) -> dict[str, Contender]:
    contenders = {}
    if has("torchtt"):
        import torchtt

        given = torchtt.TT([core.clone() for core in x.cores])
        bounds = [NO_EPS if eps is None else eps] + ([] if max_rank is None else [max_rank])
        contenders["torchTT"] = Contender(lambda: given.round(*bounds), lambda y: y.cores)
    if has("tntorch"):
        import tntorch

        for algorithm in ("svd", "eig"):

            def run(value, algorithm=algorithm):
                value.round_tt(eps=eps or 0, rmax=max_rank, algorithm=algorithm)
                return value

            contenders[f"tntorch, {algorithm}"] = Contender(
                run,
                lambda y: y.cores,
                prepare=lambda: tntorch.Tensor([core.clone() for core in x.cores]),  # it rounds in place
            )
    return contenders


def sums(terms: Sequence[TensorTrain], methods: Sequence[str], **bounds: float) -> dict[str, Contender]:
    whole = sum(terms[1:], terms[0])
    contenders = {}
    for method in methods:
        contenders[f"formed, {method}"] = Contender(
            lambda method=method: sum(terms[1:], terms[0]).round(method=method, **bounds), lambda y: y.cores
        )
        contenders[f"round_sum, {method}"] = Contender(
            lambda method=method: ttnet.round_sum(terms, method=method, **bounds), lambda y: y.cores
        )
    return contenders | {name: theirs_ for name, theirs_ in theirs(whole, **bounds).items() if name == "torchTT"}


def once(contender: Contender) -> tuple[float, object]:
    arguments = [contender.prepare()] if contender.prepare else []
    start = time.perf_counter()
    result = contender.run(*arguments)
    return time.perf_counter() - start, result


def error_and_rank(x: TensorTrain, contender: Contender) -> tuple[float, int]:
    y = TensorTrain(core.to(torch.float64) for core in contender.cores(once(contender)[1]))
    x = x.to(torch.float64)
    return float((y - x).norm() / x.norm()), max(y.ranks)


def measure(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for round_ in range(rounds + 2):
        shift = round_ % len(names)  # nobody always follows the same one
        for name in names[shift:] + names[:shift]:
            elapsed = once(contenders[name])[0]
            if round_ >= 2:
                seconds[name].append(elapsed)
    return seconds


def table(x: TensorTrain, contenders: dict[str, Contender], rounds: int, reference: str) -> str:
    outcomes = {name: error_and_rank(x, contender) for name, contender in contenders.items()}
    seconds = measure(contenders, rounds)
    lines = [
        f"| | ms | quartiles | {reference} / this | quartiles | largest rank | relative error |",
        "|---|---:|---|---:|---|---:|---:|",
    ]
    for name, times in seconds.items():
        low, middle, high = (1e3 * value for value in statistics.quantiles(times, n=4))
        ratios = [a / b for a, b in zip(seconds[reference], times, strict=True)]
        least, ratio, most = statistics.quantiles(ratios, n=4)
        error, rank = outcomes[name]
        lines.append(
            f"| {name} | {middle:.0f} | {low:.0f} to {high:.0f} | {ratio:.2f} | {least:.2f} to {most:.2f} "
            f"| {rank} | {error:.2e} |"
        )
    text = "\n".join(lines)
    print(text, flush=True)
    return text


def bounds_table(spectra: dict[str, TensorTrain]) -> str:
    lines = ["| spectrum | eps | | largest rank | error / eps |", "|---|---:|---|---:|---:|"]
    for spectrum, x in spectra.items():
        for eps in (1e-2, 1e-4, 1e-6, 1e-8):
            for name, contender in (ours(x, ("svd", "gram", "randomized"), eps=eps) | theirs(x, eps=eps)).items():
                error, rank = error_and_rank(x, contender)
                lines.append(f"| {spectrum} | {eps:.0e} | {name} | {rank} | {error / eps:.2f} |")
                print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args([] if __name__ != "__main__" else None)
    torch.set_num_threads(args.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.threads :])

    every = ("svd", "gram", "randomized")
    peer = "torchTT" if has("torchtt") else "ttnet, svd"
    wide = low_rank_plus_noise((50,) * 10, 30, 100, 1e-4)
    narrow = wide.to(torch.float32)
    slow = with_spectrum((20,) * 8, [1 / (1 + i) ** 2 for i in range(100)])
    gap = low_rank_plus_noise((20,) * 8, 20, 200, 1e-9)
    terms = [ttnet.random((50,) * 10, 10, dtype=torch.float64, seed=i) for i in range(10)]
    terms = [term * (0.3**i / float(term.norm())) for i, term in enumerate(terms)]
    whole = sum(terms[1:], terms[0])
    wide_text = "Float64, shape (50,) * 10: a train of rank 30 and norm 1, and noise of rank 70 and norm 1e-4."

    def timed(x: TensorTrain, **bounds: float) -> str:
        return table(x, ours(x, every, **bounds) | theirs(x, **bounds), args.rounds, peer)

    parts = [
        f"## Ranks from 100 to 30\n\n{wide_text} `max_rank` is 30.\n\n" + timed(wide, max_rank=30),
        "The same train with `eps=2e-4` in the place of `max_rank`.\n\n" + timed(wide, eps=2e-4),
        "The same train in float32, `max_rank` 30.\n\n" + timed(narrow, max_rank=30),
        "## A slow decay\n\nFloat64, shape (20,) * 8, rank 100, singular values falling as 1 / i**2, `eps=1e-3`.\n\n"
        + timed(slow, eps=1e-3),
        "## A gap\n\nFloat64, shape (20,) * 8: a train of rank 20 and norm 1, and noise of rank 180 and norm 1e-9; "
        "`eps=1e-7`.\n\n" + timed(gap, eps=1e-7),
        "## A sum of ten trains\n\nFloat64, shape (50,) * 10, rank 10 each, norms falling as 0.3**i, `max_rank` 30. "
        "Forming the sum is part of the time, except torchTT's.\n\n"
        + table(whole, sums(terms, every, max_rank=30), args.rounds, "formed, svd"),
        "## Errors and ranks\n\nFloat64, shape (12,) * 6, rank 48, by how the singular values fall.\n\n"
        + bounds_table(
            {
                "1 / i": with_spectrum((12,) * 6, [1 / (1 + i) for i in range(48)]),
                "1 / i**3": with_spectrum((12,) * 6, [1 / (1 + i) ** 3 for i in range(48)]),
                "0.6**i": with_spectrum((12,) * 6, [0.6**i for i in range(48)]),
                "6 ones, then 1e-13": with_spectrum((12,) * 6, [1.0] * 6 + [1e-13] * 42),
            }
        ),
    ]
    versions = [f"torch {torch.__version__}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for module, name in PEERS.items() if has(module)]
    blas = matmul_for(torch.device("cpu"), torch.float64).__name__
    command = f"python -m benchmarks.rounding --threads {args.threads} --rounds {args.rounds}"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        "# Rounding\n\n"
        f"Medians and quartiles over {args.rounds} interleaved rounds; a ratio is that of the same round's times, and "
        "larger is better. tntorch rounds in place; copying its input is not part of its time.\n\n"
        f"{args.threads} thread(s), pinned to as many cores; {processor()}, {today()}, "
        f"{', '.join(versions)}; ttnet multiplies in double precision by `{blas}`. Repeat: `{command}`\n\n"
        + "\n\n".join(parts)
        + "\n"
    )


if __name__ == "__main__":
    main()
