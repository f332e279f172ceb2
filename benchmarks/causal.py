"""Time and memory of training a language model as `ttnet-llm finetune --kind causal` does.

The steps are those of the command's own trainer. All methods take one on the same batch in turn, so that whatever else
the machine does falls on all of them, and what counts is the ratio of each round's times; they are CPU times of one
thread, which do not count what other programs take. The peak memory is that of a process in which nothing else is done,
and whose heap gives back what is freed: glibc's keeps some of it, which differs from method to method by chance.
"""

import argparse
import importlib.metadata
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import torch

from benchmarks import processor, today
from benchmarks.step_time import quartiles, take_turns
from demo.chat.pirate import FACTS
from ttnet_llm.attach import attach
from ttnet_llm.training import FinetuneSettings, make_config
from ttnet_llm.training.details import Columns, Details
from ttnet_llm.training.kinds import Task, find_kind
from ttnet_llm.training.kinds.causal import Passage
from ttnet_llm.training.kinds.kind import Examples
from ttnet_llm.training.methods import find_method
from ttnet_llm.training.progress import quiet_libraries
from ttnet_llm.training.trainer import parameter_groups, training_arguments

RESULTS = Path(__file__).parent / "results" / "causal.md"
METHODS = {"LoRA r=8": "lora", "LoRETTA_rep": "loretta-rep", "TT-ETHER r=4": "tt-ether", "Full fine-tuning": "full"}
OPTIONS = {"tt-ether": {"r": 4, "n": 4, "tied": False}}
BASELINE = "LoRA r=8"
BATCH, TOKENS = 4, 128
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def make_step(folder: str, method: str) -> Callable[[], None]:
    kind = find_kind("causal")
    torch.manual_seed(0)
    settings = FinetuneSettings(folder, mkdtemp(), method, train="-", kind="causal", device="cpu", batch_size=BATCH)
    base, tokenizer = kind.load(folder, kind.configure(folder, None), dtype=torch.float32)
    model = attach(base, make_config(method, OPTIONS.get(method, {}), kind.task_type))
    length = len(FACTS) // BATCH
    rows = Examples(Passage(None, FACTS[k * length : (k + 1) * length]) for k in range(BATCH))
    rate = find_method(method).learning_rate
    trainer = kind.trainer(
        model,
        tokenizer,
        Task(rows, rows, Details(Columns(text=("text",)), TOKENS, ("loss",), "causal"), ""),
        settings,
        training_arguments(
            settings, Path(settings.output), learning_rate=rate, batch_size=BATCH, examples=BATCH, measure="loss"
        ),
    )
    trainer.groups = lambda: parameter_groups(trainer.model, settings, rate)
    optimizer = trainer.create_optimizer()
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape == (BATCH, TOKENS)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1  # as the loop of `train` sets it

    def step() -> None:
        trainer.training_step(trainer.model, batch)
        optimizer.step()
        trainer.model.zero_grad()

    return step


def peak(folder: str, method: str | None) -> int:
    """Give the peak memory of a process of its own that takes three steps, or only imports, in bytes."""
    command = [sys.executable, "-m", "benchmarks.causal", "--model", folder, "--memory", method or "nothing"]
    environment = os.environ | GIVES_BACK
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=".models/smollm2", help="folder, as examples/get_smollm2.py makes it")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    quiet_libraries()
    if args.memory:
        step = make_step(args.model, args.memory) if args.memory != "nothing" else None
        for _ in range(3 if step else 0):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    bytes_ = {name: peak(args.model, method) for name, method in METHODS.items()}
    alone = peak(args.model, None)
    steps = {name: make_step(args.model, method) for name, method in METHODS.items()}
    seconds = take_turns(steps, args.rounds, time.process_time)
    rows = []
    for name, times in seconds.items():
        low, middle, high = quartiles([t / b for t, b in zip(times, seconds[BASELINE], strict=True)])
        rows.append(
            f"| {name} | {statistics.median(times):.2f} | {middle:.3f} | {low:.3f} to {high:.3f} "
            f"| {bytes_[name] / 1e6:,.0f} | {bytes_[name] / bytes_[BASELINE]:.3f} |"
        )
        print(rows[-1], flush=True)
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft", "trl")
    )
    RESULTS.write_text(
        "# Training a language model\n\n"
        "SmolLM2-135M-Instruct in float32, steps of the trainer of `ttnet-llm finetune --kind causal` on "
        f"{BATCH} texts of {TOKENS} tokens: forward, backward, AdamW; the methods with their defaults, so that LoRA "
        "adapts queries and values with rank 8, and LoRETTA_rep the same with trains.\n\n"
        f"Medians over {args.rounds} interleaved rounds of the CPU time of one thread; the ratio is that of the same "
        "round's times. Other programs ran on the machine at the same time. The memory is the peak of a process that "
        "loads the model and takes three steps, and whose heap gives back what is freed (glibc's keeps some of it by "
        f"chance, up to an eighth); {alone / 1e6:,.0f} MB of it are there once the libraries are imported.\n\n"
        f"{processor()}, {today()}, seed 0, {versions}. Repeat, after `make .models/smollm2`: "
        f"`python -m benchmarks.causal --rounds {args.rounds}`\n\n"
        "| method | s | ratio to LoRA | quartiles of the ratio | MB | ratio to LoRA |\n"
        "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main()
