"""The time of an adapter's update `y = x @ W`, W a train of in-modes then out-modes, against a LoRA of its rank.

TT-LoRA is measured, whose update is that train. The LoRA is written with `F.linear`, which is the fast way: `x @ A`
with A of shape (in, 8) takes up to four times as long. Beside it stand the ways of others: forming the dense update and
multiplying by it (the authors of LoRETTA), and contracting the tokens core by core (tensorly-torch), of which the
faster of two ways to write it counts; and "plain", which is `(x @ L) @ R` whatever the number of tokens and the storage
of L.

All contestants take the same tokens in turn, so that whatever else the machine does falls on all of them, and the times
are CPU times of the one thread. What counts is the ratio of each round's times.
"""

import argparse
import gc
import importlib.metadata
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import Tensor, nn

from benchmarks import processor, today
from ttnet.contraction import plan_chain
from ttnet_llm import TTLoraConfig, hold_factors
from ttnet_llm.matrices.aligned import AlignedMatrix
from ttnet_llm.matrices.thin import times_thin

RESULTS = Path(__file__).parent / "results" / "tt_maps.md"
SIZES = [(4096, 64), (768, 768), (4096, 4096)]
RANKS = [5, 16]
DTYPES = [torch.float32, torch.bfloat16]
TOKENS = [1, 8, 32, 128, 256, 1024, 4096]
SCALE = 2.0
SLOW = 12.0  # times LoRA: who takes longer than that is measured three times only
Run = Callable[[Tensor], Tensor]


class Ratio(NamedTuple):
    """Median and quartiles of the ratios of each round's times."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"


class Lora(nn.Module):
    """A linear layer with a LoRA, as fast as it can be written."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.A = nn.Parameter(torch.randn(rank, base.in_features, dtype=base.weight.dtype))
        self.B = nn.Parameter(torch.randn(base.out_features, rank, dtype=base.weight.dtype))

    def update(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.A) * SCALE, self.B)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.update(x)


def update(layer: Any, x: Tensor) -> Tensor:
    """What the layer adds to the base layer's output."""
    network = layer.networks["default"]
    if not layer._held and len(x) <= network.few_tokens:
        return network.multiply(x) * SCALE
    return times_thin(x, *layer.factors("default"), SCALE)


def ways_of_others(matrix: AlignedMatrix) -> dict[str, Run]:
    cut = matrix.layout.split_core + 1
    whole = plan_chain(matrix.layout.core_shapes)

    def dense(x: Tensor) -> Tensor:
        delta = whole(*matrix.cores).view(matrix.layout.rows, matrix.layout.cols)
        return F.linear(x, delta.T) * SCALE

    def by_tensordot(x: Tensor) -> Tensor:
        state = x.view(len(x), 1, -1)  # (tokens, r, modes to come)
        for core in list(matrix.cores)[:cut]:
            state = state.reshape(len(x), core.shape[0], core.shape[1], -1)
            state = torch.tensordot(state, core, ([1, 2], [0, 1])).transpose(1, 2)
        state = state.reshape(len(x), -1)
        for core in list(matrix.cores)[cut:]:
            state = torch.tensordot(state, core, ([-1], [0]))
        return state.reshape(len(x), -1) * SCALE

    def plain(x: Tensor) -> Tensor:
        left, right = matrix.factors()
        return (x @ left) @ (right * SCALE)

    return {
        "dense": dense,
        "tensordot": by_tensordot,
        "bmm": lambda x: matrix.multiply(x) * SCALE,
        "plain": plain,
    }


def measure(runs: dict[str, Callable[[], object]], budget: float) -> dict[str, list[float]]:
    """Seconds of every round, in as many rounds as the budget of seconds allows."""

    def clock(run: Callable[[], object], calls: int = 1) -> float:
        start = time.thread_time()
        for _ in range(calls):
            run()
        return (time.thread_time() - start) / calls

    first = {name: min(clock(run), clock(run)) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {}
    for name, run in runs.items():
        if first[name] > SLOW * first["lora"] and first[name] > 0.05:
            seconds[name] = [clock(run) for _ in range(3)]
    names = [name for name in runs if name not in seconds]
    once = sum(first[name] for name in names)
    calls = max(1, math.ceil(2e-3 * len(names) / once))
    seconds |= {name: [] for name in names}
    gc.collect()
    gc.disable()
    fewest = 7 if once < 1 else 3
    for round_ in range(min(100, max(fewest, int(budget / (once * calls))))):
        shift = round_ % len(names)  # none always follows the same one
        for name in names[shift:] + names[:shift]:
            seconds[name].append(clock(runs[name], calls))
    gc.enable()
    return seconds


def ratio(times: list[float], base: list[float]) -> Ratio:
    if len(times) == len(base):
        low, middle, high = statistics.quantiles([a / b for a, b in zip(times, base, strict=True)], n=4)
    else:
        low, middle, high = (t / statistics.median(base) for t in statistics.quantiles(times, n=4))
    return Ratio(middle, low, high)


def forward(run: Run, x: Tensor) -> Callable[[], object]:
    def call() -> None:
        with torch.no_grad():
            run(x)

    return call


def forward_and_backward(run: Run, x: Tensor, grad: Tensor) -> Callable[[], object]:
    x = x.clone().requires_grad_()
    return lambda: run(x).backward(grad)


def measure_case(rows: int, cols: int, rank: int, dtype: torch.dtype, tokens: int, budget: float) -> list[str]:
    torch.manual_seed(0)
    base = nn.Linear(rows, cols, bias=False, dtype=dtype).requires_grad_(False)
    config = TTLoraConfig(tt_rank=rank, alpha=SCALE, target_modules=["0"], init_weights=False)
    model = get_peft_model(nn.Sequential(base), config, autocast_adapter_dtype=False)
    layer = model.base_model.model[0]
    lora = Lora(base, layer.factors("default")[0].shape[1])
    x, grad = torch.randn(tokens, rows, dtype=dtype), torch.randn(tokens, cols, dtype=dtype)
    ways: dict[str, Run] = {"lora": lora.update, "ours": lambda x: update(layer, x)}
    ways |= ways_of_others(layer.networks["default"].delta)
    layers: dict[str, Run] = {"lora": lora, "ours": layer}

    alone = measure({name: forward(run, x) for name, run in ways.items()}, budget)
    both = measure({name: forward_and_backward(run, x, grad) for name, run in ways.items()}, budget)
    batch, batch_grad = x[None], grad[None]
    whole = measure({name: forward(run, batch) for name, run in layers.items()}, budget / 2)
    whole_both = measure(
        {name: forward_and_backward(run, batch, batch_grad) for name, run in layers.items()}, budget / 2
    )
    model.eval()
    hold_factors(model)
    held = measure({name: forward(run, x) for name, run in list(ways.items())[:2]}, budget / 2)

    def beside(times: dict[str, list[float]], *names: str) -> str:
        """The faster of others' ways, in times of ours."""
        return f"{min(ratio(times[name], times['ours']).middle for name in names):.2f}"

    return [
        str(tokens),
        f"{statistics.median(alone['lora']) * 1e3:.3f}",
        str(ratio(alone["ours"], alone["lora"])),
        str(ratio(both["ours"], both["lora"])),
        str(ratio(held["ours"], held["lora"])),
        *(f"{ratio(times['ours'], times['lora']).middle:.2f}" for times in (whole, whole_both)),
        *(beside(times, "plain") for times in (alone, both)),
        *(beside(times, "dense") for times in (alone, both)),
        *(beside(times, "tensordot", "bmm") for times in (alone, both)),
    ]


HEAD = (
    "| tokens | LoRA, ms | forward | and backward | forward, held | with base: forward | and backward "
    "| plain: forward | and backward | dense: forward | and backward | core by core: forward | and backward |\n"
    "|---:|" + "---:|" * 12 + "\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="a fifth of the rounds, nothing written")
    args = parser.parse_args([] if __name__ != "__main__" else None)
    torch.set_num_threads(1)
    budget = 0.15 if args.short else 0.8
    tables = []
    for rows, cols in SIZES:
        for rank in RANKS:
            for dtype in DTYPES:
                title = f"{rows} -> {cols}, rank {rank}, {str(dtype).removeprefix('torch.')}"
                print(title, flush=True)
                lines = []
                for tokens in TOKENS:
                    if args.short and tokens * rows * cols > 2**34:
                        continue
                    lines.append(f"| {' | '.join(measure_case(rows, cols, rank, dtype, tokens, budget))} |")
                    print(lines[-1], flush=True)
                tables.append(f"## {title}\n\n{HEAD}" + "\n".join(lines) + "\n")
    if args.short:
        return
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "peft"))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        "# Time of an adapter's update\n\n"
        f"{' '.join(__doc__.split())}\n\n"
        "Columns: the LoRA's time for its forward pass alone; ours over it, medians and quartiles, for the update "
        "alone: forward, forward and backward, and forward in eval mode with held factors; ours over it with the base "
        "layer. The last three pairs are others' times over ours, for the update alone: above 1 is slower than "
        f"ours.\n\n1 thread, {processor()}, {today()}, seed 0, {versions}. "
        "Repeat: `python -m benchmarks.tt_maps`\n\n" + "\n".join(tables)
    )


if __name__ == "__main__":
    main()
