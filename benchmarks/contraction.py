"""What a plan adds to the products it runs: a 3-core TT-linear map, planned once, against hand-written tensordots.

All contestants take the same tensors in turn, so that whatever else the machine does falls on all of them; what counts
is the ratio of each round's times. These are CPU times of the one thread, which other processes disturb least.
"""

import argparse
import gc
import importlib.metadata
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import ttnet
from benchmarks import processor, today

RESULTS = Path(__file__).parent / "results" / "contraction.md"
EQUATION = "bxyz,ixr,rjys,skz->bijk"
MAPS = {"768 x 768, rank 5": ((8, 8, 12), 5), "4096 x 4096, rank 5": ((16, 16, 16), 5)}
TOKENS = {1: 200, 32: 10, 512: 1}  # and the calls in one round
BASELINE = "tensordot"


def by_hand(
    x: Tensor,  # (tokens, n_1, n_2, n_3)
    a: Tensor,  # (m_1, n_1, r)
    b: Tensor,  # (r, m_2, n_2, r')
    c: Tensor,  # (r', m_3, n_3)
) -> Tensor:  # (tokens, m_1, m_2, m_3)
    y = torch.tensordot(x, a, ([1], [1]))  # (tokens, n_2, n_3, m_1, r)
    y = torch.tensordot(y, b, ([1, 4], [2, 0]))  # (tokens, n_3, m_1, m_2, r')
    return torch.tensordot(y, c, ([1, 4], [2, 0]))


def measure(runs: dict[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    gc.collect()
    gc.disable()
    for round_ in range(rounds + 3):
        shift = round_ % len(names)  # none always follows the same one
        for name in names[shift:] + names[:shift]:
            run = runs[name]
            start = time.thread_time()
            for _ in range(calls):
                run()
            if round_ >= 3:
                seconds[name].append((time.thread_time() - start) / calls)
    gc.enable()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args([] if __name__ != "__main__" else None)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, (modes, rank) in MAPS.items():
        (m1, m2, m3), (n1, n2, n3) = modes, modes
        cores = [torch.randn(m1, n1, rank), torch.randn(rank, m2, n2, rank), torch.randn(rank, m3, n3)]
        for tokens, calls in TOKENS.items():
            operands = [torch.randn(tokens, *modes), *cores]
            plan = ttnet.plan(EQUATION, *(operand.shape for operand in operands))
            torch.testing.assert_close(plan(*operands), by_hand(*operands), rtol=1e-3, atol=1e-2)
            runs = {
                BASELINE: partial(by_hand, *operands),
                "plan": partial(plan, *operands),
                "contract": partial(ttnet.contract, EQUATION, *operands),
                "torch.einsum": partial(torch.einsum, EQUATION, *operands),
            }
            seconds = measure(runs, args.rounds, calls)
            for contestant, times in seconds.items():
                ratios = [t / b for t, b in zip(times, seconds[BASELINE], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                rows.append(
                    f"| {name} | {tokens} | {contestant} | {statistics.median(times) * 1e6:,.1f} "
                    f"| {middle:.3f} | {low:.3f} to {high:.3f} |"
                )
                print(rows[-1], flush=True)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "opt_einsum"))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        "# Time of a planned contraction\n\n"
        "A TT-linear map of three cores on a batch of tokens, in float32: `tensordot` is three hand-written calls of "
        "`torch.tensordot` in the order that the plan found; `plan` calls a plan made beforehand, `contract` looks it "
        "up each time, `torch.einsum` searches its path each time. Medians of CPU time over "
        f"{args.rounds} interleaved rounds; the ratio is that of the same round's times.\n\n"
        f"1 thread, {processor()}, {today()}, {versions}. "
        f"Repeat: `python -m benchmarks.contraction --rounds {args.rounds}`\n\n"
        "| map | tokens | contestant | µs | ratio to tensordot | quartiles of the ratio |\n"
        "|---|---:|---|---:|---:|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main()
