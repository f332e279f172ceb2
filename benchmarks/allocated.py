"""Compare allocated ranks with uniform and with random ones of equal size, on tasks of one folder each, by seeds.

    python -m benchmarks.allocated MODEL sst2 mrpc --data DIR --output benchmarks/results/allocated

A task's folder in DIR holds `train*.parquet` and `validation*.parquet`. Every seed trains MELoRA with n=1, which is
LoRA, by r=8 on all linear layers, shares a quarter of that out, and trains the three choices anew for as long.
"""

from __future__ import annotations

import json
import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ttnet_llm.files import write_text
from ttnet_llm.lora.checkpoint import exactly
from ttnet_llm.search import Allocation
from ttnet_llm.search.allocating import allocate_finetuning
from ttnet_llm.training import FinetuneSettings, finetune
from ttnet_llm.training.report import markdown_table

RANK, ALPHA = 8, 16
COLUMNS = {"sst2": ("sentence",), "mrpc": ("sentence1", "sentence2")}


def random_ranks(allocation: Allocation, budget: int, seed: int) -> dict[str, int]:
    """Give modules in a random order a random rank that is left, until none fits."""
    rng, ranks = random.Random(seed), {}
    for name in rng.sample(list(allocation.costs), len(allocation.costs)):
        if fits := [rank for rank, cost in allocation.costs[name].items() if cost <= budget]:
            ranks[name] = rng.choice(fits)
            budget -= allocation.costs[name][ranks[name]]
    return ranks


def main(
    model: str,
    tasks: list[str],
    data: Annotated[Path, typer.Option()],
    output: Annotated[Path, typer.Option()],
    seeds: int = 3,
    epochs: float = 1.0,
    limit: int | None = None,
) -> None:
    scores: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, int] = {}
    for task in tasks:
        for seed in range(seeds):
            place = output / f"{task}-{seed}"
            wide = FinetuneSettings(
                model=model,
                output=str(place / "allocation"),
                train=str(next((data / task).glob("train*"))),
                validation=str(next((data / task).glob("validation*"))),
                text_columns=COLUMNS.get(task),
                label_column="label",
                method="melora",
                method_options={"n": 1, "r": RANK, "alpha": ALPHA, "target_modules": "all-linear"},
                epochs=epochs,
                limit=limit,
                seed=seed,
            )
            uniform = replace(wide, method_options=wide.method_options | {"r": RANK // 4, "alpha": ALPHA // 4})
            runs = {"uniform": uniform}
            fitted = finetune(replace(uniform, output=str(place / "uniform")))
            budget = fitted.parameters.adapter
            found = allocate_finetuning(wide, budget)
            runs["allocated"] = found.settings
            for k in range(3):
                ranks = random_ranks(found.allocation, budget, 3 * seed + k)
                pattern = {exactly(name): {"r": r, "alpha": ALPHA * r / RANK} for name, r in ranks.items()}
                options = wide.method_options | {"target_modules": list(ranks), "rank_pattern": pattern}
                runs[f"random {k}"] = replace(wide, method_options=options)
            for name, settings in runs.items():
                result = fitted if name == "uniform" else finetune(replace(settings, output=str(place / name)))
                way, measure = name.split()[0], next(iter(result.after))
                scores.setdefault(way, {}).setdefault(task, []).append(result.after[measure])
                sizes[way] = max(sizes.get(way, 0), result.parameters.adapter)
            wide_score = next(iter(found.wide.after.values()))
            scores.setdefault(f"r={RANK} everywhere", {}).setdefault(task, []).append(wide_score)
            sizes[f"r={RANK} everywhere"] = found.wide.parameters.adapter
    rows = [
        [way, f"{sizes[way]:,}", *(f"{statistics.fmean(each):.4f} ({len(each)} runs)" for each in by_task.values())]
        for way, by_task in scores.items()
    ]
    write_text(output / "scores.json", json.dumps(scores, indent=1) + "\n")
    write_text(output / "table.md", markdown_table(["ranks", "parameters at most", *tasks], rows) + "\n")
    print((output / "table.md").read_text())


if __name__ == "__main__":
    typer.run(main)
