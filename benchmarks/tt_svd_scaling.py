"""How the time of TT-SVD grows with the size, the ranks and the order of a tensor, beside other libraries; a picture.

A contender that takes longer than `--limit` is not run on what is larger. `python -m benchmarks.tt_svd_scaling` writes
`benchmarks/results/tt_svd_scaling.md` and `docs/images/tt_svd.png`, from an environment that has the other libraries.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ttnet
from benchmarks import run_on
from benchmarks.tt_svd import RESULTS, contenders, low_rank, noise, timed

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "tt_svd.png"
COLOURS = {
    "ttnet, auto": "#0b6e4f",
    "ttnet, qr": "#6bbf9c",
    "torchTT": "#c8553d",
    "tensorly": "#3d5a80",
    "tntorch, eig": "#9a8c98",
}
Curves = dict[str, list[tuple[int, float]]]  # contender: where, seconds


def by_size() -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
    for order in range(16, 29, 2):
        yield 2**order, noise((2,) * order), {"max_rank": 16}


def by_small_size() -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
    for order in range(5, 11):
        shape = (4,) * order
        x = ttnet.random(shape, 5, dtype=torch.float64, seed=0).full()
        yield 4**order, x / x.norm() + 1e-5 * noise(shape) / x.numel() ** 0.5, {"eps": 1e-3}


def by_rank() -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
    for rank in (2, 4, 8, 16, 32, 64):
        yield rank, low_rank(True, 1e-8, rank), {"eps": 1e-6}


def by_order() -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
    for order in (2, 4, 5, 10, 20):
        yield order, noise((2 ** (20 // order),) * order), {"max_rank": 16}


GROUPS = {
    "entries of (4,) * d, rank 5 + noise, eps 1e-3": by_small_size,
    "entries of (2,) * d, random, max_rank 16": by_size,
    "rank of (32,) * 4 with 1e-8 noise, eps 1e-6": by_rank,
    "order at 2^20 entries, random, max_rank 16": by_order,
}


def curves(tensors: Iterator[tuple[int, Tensor, dict[str, Any]]], limit: float) -> Curves:
    found: Curves = {name: [] for name in COLOURS}
    dropped = set()
    for where, x, bounds in tensors:
        for name, run in contenders(x, **bounds, methods=("auto", "qr")).items():
            if name not in COLOURS or name in dropped:
                continue
            seconds = timed(run)[0]
            if seconds < 1:
                seconds = min(timed(run)[0] for _ in range(3 if seconds > 0.02 else 20))
            if seconds > limit:
                dropped.add(name)
            found[name].append((where, seconds))
            print(f"{where}: {name} {seconds:.4f} s", flush=True)
    return {name: curve for name, curve in found.items() if curve}


def table(title: str, found: Curves) -> str:
    places = sorted({where for curve in found.values() for where, _ in curve})
    lines = [f"| {title} | " + " | ".join(map(str, places)) + " |", "|---|" + "---:|" * len(places)]
    for name, curve in found.items():
        times = dict(curve)
        cells = [f"{1e3 * times[where]:,.1f}" if where in times else "" for where in places]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(groups: dict[str, Curves]) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(groups), figsize=(14, 3.8), sharey=True, layout="constrained")
    for panel, (title, found) in zip(panels, groups.items(), strict=True):
        for name, curve in found.items():
            panel.plot(*zip(*curve, strict=True), "o-", color=COLOURS[name], label=name, markersize=4)
        panel.set(yscale="log", xlabel=title)
        panel.set_xscale("log", base=2)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds, one core")
    panels[0].legend(frameon=False)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds after which a contender drops out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.threads :])
    groups = {title: curves(tensors(), args.limit) for title, tensors in GROUPS.items()}
    draw(groups)
    (RESULTS / "tt_svd_scaling.md").write_text(
        "# TT-SVD: how times grow\n\n"
        "Milliseconds of processor time in float64, the shortest of three runs after a first one (of twenty if "
        "that takes less than 20 ms), or one run if that takes a second. Who took more than "
        f"{args.limit:.0f} seconds is not run on what is larger. "
        f"{args.threads} thread, pinned to one core; torch {torch.__version__}, {run_on()}. Repeat: "
        f"`OMP_NUM_THREADS={args.threads} .venv-peers/bin/python -m benchmarks.tt_svd_scaling --limit {args.limit:g}`"
        "\n\n" + "\n\n".join(table(title, found) for title, found in groups.items()) + "\n"
    )


if __name__ == "__main__":
    main()
