"""Run the demo: train, ask before and after, save, load, export, compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

# Before anything that reads them: the demo needs no network, and forked tokenizers warn.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

import ttnet_llm
from demo.chat.pirate import ASKED, chats
from demo.chat.report import Answers, Checks, answers_table, methods_table, row, write_report
from demo.report import name_the_final_place
from ttnet.errors import TTFileError
from ttnet_llm.command_line.console import one_sentence_errors
from ttnet_llm.files import write_text
from ttnet_llm.folders import atomic_folder
from ttnet_llm.inference import Generation, generate
from ttnet_llm.training import FinetuneResult, FinetuneSettings, finetune
from ttnet_llm.training.progress import RichProgress, quiet_libraries

console = Console()

# Method, options, learning rate; the first is the one that is asked and exported.
RUNS: dict[str, tuple[str, dict[str, Any], float]] = {
    "loretta-rep": ("loretta-rep", {"tt_rank": 2}, 1e-2),
    "neuron-lora": ("neuron-lora", {"r": 1, "neurons": 384}, 3e-2),
    "lora-1": ("lora", {"r": 1, "lora_alpha": 2}, 1e-2),
    "lora-8": ("lora", {"r": 8, "lora_alpha": 16}, 3e-3),
}
EPOCHS, BATCH_SIZE, MAX_LENGTH, ANSWER = 3, 4, 128, 40


def main(
    model: Annotated[Path, typer.Option(help="Folder of the chat model, as examples/get_smollm2.py makes it.")] = Path(
        ".models/smollm2"
    ),
    output: Annotated[Path, typer.Option(help="Folder for the report; new, or an earlier one.")] = Path("runs/demo-lm"),
    seed: Annotated[int, typer.Option(help="Of the adapters' start, and of the order of the chats.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A few steps, to see that all works.")] = False,
) -> None:
    """Teach SmolLM2 to speak as a pirate with a LoRETTA adapter of some kilobytes, beside LoRA."""
    with one_sentence_errors(quiet=True):
        if not (model / "config.json").is_file():
            raise TTFileError(f"There is no model in {str(model)!r}; run `make demo-lm`, or examples/get_smollm2.py.")
        with atomic_folder(output, kind="demo-lm", reads=[model]) as working:
            _run(model, working, output, seed, quick)
        console.print(
            f"\nReport: [bold]{output / 'report.md'}[/]; of each run: {output / next(iter(RUNS))}/report.html"
        )


def _run(model: Path, working: Path, output: Path, seed: int, quick: bool) -> None:
    quiet_libraries()
    train, held_out = chats(20 if quick else None)
    for name, rows in (("train", train), ("held_out", held_out)):
        write_text(working / f"{name}.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
    console.print(f"[bold]{len(train)}[/] chats to learn from, [bold]{len(held_out)}[/] held out, for instance:")
    for turn in train[0]["messages"]:
        console.print(f"  [dim]{turn['role']}:[/] {escape(turn['content'])}", highlight=False)
    console.print()
    results = []
    for name, (method, options, rate) in RUNS.items():
        settings = FinetuneSettings(
            model=str(model),
            output=str(working / name),
            kind="causal",
            method=method,
            method_options=options,
            train=str(working / "train.jsonl"),
            validation=str(working / "held_out.jsonl"),
            epochs=1 if quick else EPOCHS,
            learning_rate=rate,
            batch_size=BATCH_SIZE,
            max_length=MAX_LENGTH,
            seed=seed,
        )
        progress = RichProgress(name, console=console)
        try:
            results.append(finetune(settings, callbacks=[progress]))
        finally:
            progress.close()
    with console.status("Asking before and after"):
        answers = Answers(ASKED, _ask(model), _ask(working / next(iter(RUNS))))
    with console.status("Loading what was saved in fresh processes"):
        checks = _check(results[0], answers, model, working)
    console.print()
    console.print(methods_table(results))
    console.print(f"[bold]{row(results[0])[0]}[/], {results[0].parameters.trainable:,} parameters:")
    console.print(answers_table(answers))
    for sentence in checks.sentences():
        console.print(f"[green]✓[/] {sentence}")
    write_report(results, answers, checks, working)
    name_the_final_place(working, output)


def _ask(model: Path) -> list[str]:
    """Ask the questions of a model, or of one with an adapter."""
    asked: list[Any] = [[{"role": "user", "content": question}] for question in ASKED]
    return generate(*ttnet_llm.load(model), asked, Generation(max_new_tokens=ANSWER))


def _check(result: FinetuneResult, answers: Answers, model: Path, working: Path) -> Checks:
    """Compare the trained model's losses with those of a fresh process, and its answers with those of plain PEFT."""
    run, losses = Path(result.adapter).parent, working / "losses.npy"
    command = [sys.executable, "-m", "demo.reload", result.adapter, str(working / "held_out.jsonl"), str(losses)]
    subprocess.run(command, check=True)
    apart = float(np.abs(np.load(losses) - np.load(run / "losses.npy")).max())
    losses.unlink()
    adapted, _ = ttnet_llm.load(result.adapter)
    lora = working / "lora"
    report = ttnet_llm.export_lora(adapted, lora)
    command = [sys.executable, "-m", "demo.chat.plain", str(lora), str(model), str(ANSWER), *ASKED]
    plain = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    same = sum(one == other for one, other in zip(plain, answers.after, strict=True))
    size = sum(file.stat().st_size for file in lora.glob("*.safetensors"))
    return Checks(apart, report.rank, size, same, len(ASKED))


if __name__ == "__main__":
    typer.run(main)
