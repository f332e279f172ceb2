"""How much a method's score depends on its learning rate: ETHER and LoRA on GLUE with MiniLM; run by hand.

    python -m benchmarks.rate_study --data DIR

DIR holds a folder for each task with `train-*.parquet` and `validation-*.parquet`. Every run is one JSON file, so that
several processes may share the work (`--tasks`, `--methods`), and an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import typer

from benchmarks.glue_study import Cell, cell_settings, run_cell
from ttnet_llm.files import write_text
from ttnet_llm.training.progress import quiet_libraries
from ttnet_llm.training.report import markdown_table

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA r=1": ("lora", {"r": 1, "lora_alpha": 2}),
    "LoRA r=8": ("lora", {}),
    "ETHER, input side": ("ether", {"plus": False, "sides": "input", "init_weights": False}),
    "ETHER+, input side": ("ether", {"sides": "input"}),
    "ETHER+, both sides": ("ether", {}),
}
RATES = (3e-3, 1e-2, 3e-2)
SEEDS = (0, 1, 2)


def main(
    data: Annotated[Path, typer.Option(help="Folder with a folder of parquet files for each task.")],
    tasks: Annotated[list[str], typer.Option(help="GLUE tasks; repeat for several.")] = ["sst2", "mrpc"],  # noqa: B006
    methods: Annotated[list[str], typer.Option(help="Rows of the table; repeat for several.")] = list(METHODS),  # noqa: B006
    examples: Annotated[int, typer.Option(help="Training examples, drawn by the seed.")] = 3000,
    epochs: Annotated[float, typer.Option(help="Passes over them.")] = 1.0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the runs; the report is OUTPUT.md.")] = Path(
        "docs/results/learning_rates"
    ),
) -> None:
    """Run what is missing, and write the report."""
    torch.set_num_threads(threads)
    quiet_libraries()
    groups: dict[tuple[str, str], dict[float, list[Cell]]] = {}
    for task, seed, title, rate in product(tasks, SEEDS, methods, RATES):
        method, options = METHODS[title]
        settings = replace(
            cell_settings(data, task, method, seed, examples, epochs, rate, None), method_options=options
        )
        name = "".join(c if c.isalnum() else "-" for c in title.lower())
        cell = run_cell(settings, task, output / f"{task}-{name}-{rate:g}-{seed}.json", threads)
        groups.setdefault((task, title), {}).setdefault(rate, []).append(cell)
    write_text(output.with_suffix(".md"), report(groups, examples, epochs, threads))


def report(groups: dict[tuple[str, str], dict[float, list[Cell]]], examples: int, epochs: float, threads: int) -> str:
    """Write the study's page: a row for each task and method, a column for each rate."""
    rows = []
    for (task, title), by_rate in groups.items():
        scores = {rate: [cell["after"]["accuracy"] for cell in cells] for rate, cells in by_rate.items()}
        means = [statistics.mean(values) for values in scores.values()]
        cells = [f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}" for values in scores.values()]
        adapter = next(iter(by_rate.values()))[0]["adapter"]
        rows.append([task, title, f"{adapter:,}", *cells, f"{max(means) - min(means):.3f}"])
    first = next(iter(next(iter(groups.values())).values()))[0]
    versions = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    tasks = " ".join(f"--tasks {task}" for task in dict.fromkeys(task for task, _ in groups))
    header = ["task", "method", "adapter", *(f"{rate:g}" for rate in RATES), "best - worst"]
    return f"""# Learning rates of ETHER and LoRA

all-MiniLM-L6-v2 (6 layers, hidden size 384), {examples:,} training examples drawn by the seed, {epochs:g} epoch(s),
batches of {first["asked"]["batch_size"]}, query and value projections. The score is the accuracy on the validation
split as mean ± standard deviation over the seeds {", ".join(map(str, SEEDS))}, for each learning rate of adapter and
head; none was chosen by it. The last column is what the choice of the rate is worth. The rates lie around ETHER's own
default; LoRA's is 0.001.

{markdown_table(header, rows)}

{versions}; {threads} CPU thread(s). Repeat:

    python -m benchmarks.rate_study --data DIR {tasks} --examples {examples} --epochs {epochs:g} --threads {threads}
"""


if __name__ == "__main__":
    typer.run(main)
