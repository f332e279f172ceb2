"""The time of one training step of methods that turn, on a layer of LLaMA-2-7B: PEFT's HRA forms its d x d matrices.

Everything else is as in `benchmarks.step_time`: all methods step on the same batch in turn, and what counts is the
ratio of each round's times.
"""

import argparse
import importlib.metadata
import statistics
from pathlib import Path

import torch
from peft import HRAConfig, LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import processor, today
from benchmarks.step_time import measure, quartiles
from ttnet_llm import EtherConfig, TTEtherConfig

RESULTS = Path(__file__).parent / "results" / "turning.md"
BASELINE = "PEFT's HRA r=8"
QUERY_VALUE = ["q_proj", "v_proj"]
TOKENS = (256, 1024)

TASK = "CAUSAL_LM"
METHODS = {
    BASELINE: lambda: HRAConfig(task_type=TASK, r=8, target_modules=QUERY_VALUE),
    "LoRA r=8": lambda: LoraConfig(task_type=TASK, r=8, target_modules=QUERY_VALUE),
    "ETHER+, input side": lambda: EtherConfig(task_type=TASK, sides="input", target_modules=QUERY_VALUE),
    "ETHER+, both sides": lambda: EtherConfig(task_type=TASK, target_modules=QUERY_VALUE),
    "TT-ETHER r=4": lambda: TTEtherConfig(task_type=TASK, target_modules=QUERY_VALUE),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args([] if __name__ != "__main__" else None)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
    base = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, vocab_size=256, **sizes))
    rows = []
    for tokens in TOKENS:
        ids = torch.randint(0, 256, (1, tokens))
        seconds = measure(base, {"input_ids": ids, "labels": ids}, METHODS, args.rounds)
        for name, times in seconds.items():
            low, middle, high = quartiles([t / b for t, b in zip(times, seconds[BASELINE], strict=True)])
            rows.append(
                f"| {tokens} | {name} | {statistics.median(times):.2f} | {middle:.3f} | {low:.3f} to {high:.3f} |"
            )
            print(rows[-1], flush=True)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    RESULTS.write_text(
        "# Time of one training step of methods that turn\n\n"
        "Forward, backward and AdamW, query and value projections adapted in one layer of LLaMA-2-7B's shape (hidden "
        "size 4096, float32, a vocabulary of 256). "
        f"Medians over {args.rounds} interleaved rounds; the ratio is that of the same round's times.\n\n"
        f"{args.threads} thread(s), {processor()}, {today()}, {versions}. "
        f"Repeat: `python -m benchmarks.turning --threads {args.threads} --rounds {args.rounds}`\n\n"
        "| tokens | method | s | ratio to HRA | quartiles of the ratio |\n"
        "|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main()
