"""Speed and memory of `TTLinear` and `TTEmbedding` against dense layers, tltorch's and torchTT's.

All layers of a row have the same modes and ranks and take the same input in turn, so that whatever else the machine
does falls on all of them; what counts is the ratio of each round's times to ours. Memory is the peak of what a call
allocates, counted allocation by allocation. Packages that are not installed are left out.
"""

import argparse
import importlib.metadata
import math
import statistics
import time
import warnings
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import processor, today
from ttnet.nn import TTEmbedding, TTLinear, kernels, orders

RESULTS = Path(__file__).parent / "results" / "layers.md"
TOKENS = (1, 16, 128, 1024, 4096)
_MOST = 4096 * 8  # tokens times rank, for layers that keep all intermediates of a sweep core by core
# Input modes, output modes, rank.
LINEAR = [((8, 8, 12), (16, 12, 16), 8), ((8, 8, 12), (16, 12, 16), 32), ((24, 32), (48, 64), 64)]
TABLE = [((32, 32, 30), (6, 8, 8), 8), ((32, 32, 30), (6, 8, 8), 32)]


class Allocations(TorchDispatchMode):
    """Counts the bytes of all tensors alive that were made inside; `there` are those that were made before."""

    def __init__(self, there: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen = {tensor.untyped_storage()._cdata for tensor in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def peak_bytes(run: Callable[[], object], layer: nn.Module, x: torch.Tensor) -> int:
    run()
    with Allocations([x, *layer.state_dict().values()]) as allocations:
        run()
    return allocations.peak


def clock() -> float:
    """On one thread the time that this thread had, which others on the machine change least."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def measure(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Time all runs in turn, round after round, for about so long and at least six rounds."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    names, begin = list(runs), time.perf_counter()
    number = 0
    while number < 7 or time.perf_counter() - begin < seconds:
        shift = number % len(names)  # no layer always follows the same one
        for name in names[shift:] + names[:shift]:
            start = clock()
            runs[name]()
            if number >= 1:
                times[name].append(clock() - start)
        number += 1
    return times


def forward(layer: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    with torch.no_grad():
        layer(x)


def training(layer: nn.Module, x: torch.Tensor) -> None:
    x = x.requires_grad_() if x.is_floating_point() else x
    layer(x).sum().backward()
    x.grad = None
    for parameter in layer.parameters():
        parameter.grad = None


class Fixed(nn.Module):
    """Our layer held to one order: the dense weight, or core by core."""

    def __init__(self, layer: TTLinear, *, whole: bool) -> None:
        super().__init__()
        self.layer, self.whole = layer, whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tt = self.layer.tt
        with torch.no_grad():
            order = fixed_order(tt.layout.pair_shapes, self.whole)
            return kernels.product(x, order, self.layer.bias, tt._pairs(False))


def fixed_order(shapes: Any, whole: bool) -> orders.Order:
    d = len(shapes)
    bounds = [(0, d)] if whole else [(k, k + 1) for k in range(d)]
    groups = []
    for start, stop in bounds:
        tree, _ = orders.merge_tree(shapes[start:stop], start, orders.MACHINES["cpu"])
        step = orders._step(shapes, "left", start, stop)
        groups.append(orders._group(shapes, "left", start, stop, tree, step))
    largest = max((g.step.batch * g.step.outer * g.step.free for g in groups[:-1]), default=0)
    return orders.Order(shapes, "left", tuple(groups), 0.0, 0, largest, 0, 0.0, math.prod(s[2] for s in shapes))


def linear_layers(rows: tuple[int, ...], cols: tuple[int, ...], rank: int) -> dict[str, nn.Module]:
    ranks = [rank] * (len(rows) - 1)
    ours = TTLinear(math.prod(rows), math.prod(cols), ranks=ranks, modes=(rows, cols))
    layers: dict[str, nn.Module] = {"ttnet": ours, "dense": nn.Linear(math.prod(rows), math.prod(cols))}
    try:
        import tltorch

        for implementation in ("factorized", "reconstructed"):
            layer = tltorch.FactorizedLinear(
                rows, cols, factorization="blocktt", rank=(1, *ranks, 1), implementation=implementation
            )
            torch.nn.init.normal_(layer.bias)
            for factor in layer.weight.parameters():
                torch.nn.init.normal_(factor, std=0.1)
            layers[f"tltorch, {implementation}"] = layer
    except ImportError:
        print("tltorch is not installed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchtt

        layers["torchTT"] = nn.Sequential(
            nn.Unflatten(-1, rows),
            torchtt.nn.LinearLayerTT(list(rows), list(cols), [1, *ranks, 1]),
            nn.Flatten(-len(cols)),
        )
    except ImportError:
        print("torchTT is not installed")
    return layers


def tables(rows: tuple[int, ...], cols: tuple[int, ...], rank: int) -> dict[str, nn.Module]:
    ranks = [rank] * (len(rows) - 1)
    size, width = math.prod(rows), math.prod(cols)
    layers: dict[str, nn.Module] = {
        "ttnet": TTEmbedding(size, width, ranks=ranks, modes=(rows, cols)),
        "dense": nn.Embedding(size, width),
    }
    try:
        import tltorch

        layers["tltorch"] = tltorch.FactorizedEmbedding(
            size,
            width,
            auto_tensorize=False,
            tensorized_num_embeddings=rows,
            tensorized_embedding_dim=cols,
            factorization="blocktt",
            rank=(1, *ranks, 1),
        )
    except ImportError:
        print("tltorch is not installed")
    return layers


def compare(title: str, layers: dict[str, nn.Module], x: torch.Tensor, seconds: float) -> list[str]:
    lines = []
    for mode, run in (("forward", forward), ("forward + backward", training)):
        runs = {name: partial(run, layer, x) for name, layer in layers.items()}
        if mode == "forward" and isinstance(ours := layers["ttnet"], TTLinear):
            fixed = {"ours, dense weight": Fixed(ours, whole=True), "ours, core by core": Fixed(ours, whole=False)}
            runs |= {name: partial(forward, layer, x) for name, layer in fixed.items()}
        times = measure(runs, seconds)
        peaks = {name: peak_bytes(run, layers.get(name, layers["ttnet"]), x) for name, run in runs.items()}
        base = statistics.median(times["ttnet"])
        cells = []
        for name in list(runs)[1:]:
            ratios = [a / b for a, b in zip(times[name], times["ttnet"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            memory = peaks[name] / max(peaks["ttnet"], 1)
            cells.append(
                f"| {title} | {len(x)} | {mode} | {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {memory:.2f} |"
            )
        print(f"{title}, {len(x)} tokens, {mode}: ours {base * 1e3:.3f} ms")
        print("\n".join(cells), flush=True)
        lines += cells
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row")
    args = parser.parse_args([] if __name__ != "__main__" else None)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    lines = []
    for rows, cols, rank in LINEAR:
        title = f"linear {'x'.join(map(str, rows))} to {'x'.join(map(str, cols))}, rank {rank}"
        layers = linear_layers(rows, cols, rank)
        for tokens in TOKENS:
            if tokens * rank > _MOST and "torchTT" in layers:
                del layers["torchTT"]  # which would hold more than ten gigabytes for a backward pass
            lines += compare(title, layers, torch.randn(tokens, math.prod(rows)), args.seconds)
    for rows, cols, rank in TABLE:
        title = f"table {'x'.join(map(str, rows))} by {'x'.join(map(str, cols))}, rank {rank}"
        layers = tables(rows, cols, rank)
        for tokens in TOKENS:
            # Word frequencies fall off like 1 / rank.
            ids = (math.prod(rows) ** torch.rand(tokens)).long() - 1
            lines += compare(title, layers, ids, args.seconds)
    names = [name for name in ("torch", "tensorly-torch", "torchTT") if _installed(name)]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    if len(names) < 3:
        print(f"{RESULTS.name} stays as it is, as it compares with packages that are not installed")
        return
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        "# Layers\n\n"
        "How many times longer, and how many times more memory, other layers of the same modes and ranks take than "
        "ours: above 1, ours is ahead. Processor time of one thread (wall time for more): median and quartiles "
        "of the ratios of interleaved rounds. Memory is the peak of "
        "what a call allocates. The last two of a forward row are ours held to one order of contraction.\n\n"
        f"{args.threads} thread(s), {processor()}, {today()}, seed 0, float32, {versions}. "
        f"Repeat: `python -m benchmarks.layers --threads {args.threads} --seconds {args.seconds:g}`\n\n"
        "| layer | tokens | | against | time | quartiles | memory |\n|---|---:|---|---|---:|---|---:|\n"
        + "\n".join(lines)
        + "\n"
    )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
