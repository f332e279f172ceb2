"""Completion: the time to one and the same held-out error, beside teneva's alternating least squares.

Contenders take turns, so that whatever else the machine does falls on all of them. teneva searches for no ranks: it is
run with several, from its usual start. All stop at the same error on a held-out tenth; what counts is the error on
fresh entries. teneva takes part where it can be imported: `make peers` makes an environment that has it, and
`.venv-peers/bin/python -m benchmarks.completion` runs there.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import ttnet
from benchmarks import run_on, versions
from ttnet import solvers

RESULTS = Path(__file__).parent / "results" / "completion.md"
ROUNDS = 15
RANKS = (2, 3, 4)  # that teneva may try


Found = Callable[[Tensor], Tensor]


def grid(size: int) -> Tensor:
    return torch.linspace(0, 1, size, dtype=torch.float64)


CASES: list[tuple[str, Callable[[Tensor], Tensor], tuple[int, ...], int, float]] = [
    ("sin of the sum, 12^8, 8,000 entries", lambda i: grid(12)[i].sum(1).sin(), (12,) * 8, 8000, 1e-4),
    ("sin of the sum, 12^8, 8,000 entries", lambda i: grid(12)[i].sum(1).sin(), (12,) * 8, 8000, 1e-6),
    ("1 / (1 + sum), 12^5, 5 % of the entries", lambda i: 1 / (1 + grid(12)[i].sum(1)), (12,) * 5, 12**5 // 20, 1e-2),
    ("1 / (1 + sum), 12^5, 5 % of the entries", lambda i: 1 / (1 + grid(12)[i].sum(1)), (12,) * 5, 12**5 // 20, 1e-3),
]


def draw(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (count,), generator=generator) for size in shape], 1)


def ours(
    indices: Tensor, values: Tensor, shape: tuple[int, ...], tol: float, method: str
) -> Callable[[Tensor], Tensor]:
    result = solvers.complete(indices, values, shape, tol, method=method)
    return lambda at: ttnet.evaluate(result.value, at)


def theirs(indices: Tensor, values: Tensor, tol: float, rank: int) -> Found:
    import teneva

    held = len(values) // 10
    i, y, i_held, y_held = (part.numpy() for part in (indices[held:], values[held:], indices[:held], values[:held]))
    start = teneva.anova(i, y, rank)
    found = teneva.als(i, y, start, nswp=200, e=1e-14, I_vld=i_held, y_vld=y_held, e_vld=tol, lamb=1e-10)
    return lambda at: torch.from_numpy(teneva.get_many(found, at.numpy()))


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        "| tensor | held-out error to reach | contender | ms | error on fresh entries |",
        "|---|---|---|---|---|",
    ]
    for name, f, shape, count, tol in CASES:
        contenders: dict[str, Callable[[Tensor, Tensor], Found]] = {
            f"ttnet, {method}": lambda i, y, m=method, s=shape, t=tol: ours(i, y, s, t, m) for method in ("rcg", "als")
        }
        if importlib.util.find_spec("teneva") is not None:
            for rank in RANKS:
                contenders[f"teneva, als, rank {rank}"] = lambda i, y, r=rank, t=tol: theirs(i, y, t, r)
        times: dict[str, list[float]] = {each: [] for each in contenders}
        errors: dict[str, list[float]] = {each: [] for each in contenders}
        for seed in range(ROUNDS):
            indices, fresh = draw(shape, count, seed), draw(shape, 10_000, 1000 + seed)
            values, expected = f(indices), f(fresh)
            for each, run in contenders.items():
                begin = time.process_time()
                found = run(indices, values)
                times[each].append(time.process_time() - begin)
                errors[each].append(float((found(fresh) - expected).norm() / expected.norm()))
        for each in contenders:
            low, middle, high = statistics.quantiles([1e3 * seconds for seconds in times[each]], n=4)
            error = max(errors[each])
            reached = "" if error <= 10 * tol else ", not reached"
            spread = f"{middle:.1f} ({low:.1f} to {high:.1f})"
            lines.append(f"| {name} | {tol:.0e} | {each} | {spread} | {error:.1e}{reached} |")
            print(lines[-1], flush=True)
    peers = ["teneva"] if importlib.util.find_spec("teneva") is not None else []
    text = (
        "# Completion beside teneva\n\nMedians of 15 draws of entries (seeds 0 to 14), with quartiles, contenders in "
        "turn, processor time of one core; errors are the largest of the 15, on 10,000 fresh entries.\nttnet finds the "
        "ranks, teneva is told them.\n\n"
        f"{versions('ttnet-torch', 'torch', *peers)}, {run_on()}. Repeat: `python -m benchmarks.completion`\n\n"
    )
    RESULTS.write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
