"""`tt_svd_batch` beside a loop over `tt_svd`: many small tensors, one thread, interleaved rounds.

    python -m benchmarks.tt_svd_batch

Prints a table of medians and quartiles of the ratios of the rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import typer
from rich.console import Console

import ttnet
from ttnet_llm.training.report import markdown_table

SHAPES = ((16,) * 3, (8,) * 4, (4,) * 6, (2,) * 12)
BOUNDS = ((torch.float64, 1e-6), (torch.float32, 1e-3), (torch.float64, 1e-12))


def seconds(run: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main(
    count: int = typer.Option(200, help="Tensors in a batch."),
    rounds: int = typer.Option(5, help="Of every case.", min=2),
) -> None:
    """Measure every case."""
    torch.set_num_threads(1)
    rows = []
    for shape in SHAPES:
        for dtype, eps in BOUNDS:
            noise = torch.Generator().manual_seed(0)
            items = [ttnet.random(shape, 3, dtype=dtype, seed=k).full() for k in range(count)]
            x = torch.stack([item + 1e-9 * torch.randn(shape, dtype=dtype, generator=noise) for item in items])

            def loop(x: torch.Tensor = x, eps: float = eps) -> object:
                return [ttnet.tt_svd(item, eps=eps) for item in x]

            def batch(x: torch.Tensor = x, eps: float = eps) -> object:
                return ttnet.tt_svd_batch(x, eps=eps)

            loop(), batch()
            times = [(seconds(loop), seconds(batch)) for _ in range(rounds)]
            low, middle, high = statistics.quantiles([one / other for one, other in times], n=4)
            each = 1e6 * statistics.median(other for _, other in times) / count
            name = str(dtype).removeprefix("torch.")
            rows.append(
                [f"{shape}, rank 3", name, f"{eps:g}", f"{each:.0f}", f"{middle:.1f} ({low:.1f} to {high:.1f})"]
            )
    header = ["tensors", "dtype", "eps", "microseconds each", "times faster than a loop"]
    Console().print(markdown_table(header, rows), soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
