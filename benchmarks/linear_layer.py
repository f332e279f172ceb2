"""The cost of one adapted linear layer, for every linear method, against PEFT's LoRA of the same effective rank.

All methods adapt a copy of the same 4096 x 4096 layer and take the same input in turn, so that whatever else the
machine does falls on all of them; what counts is the ratio of each round's times. At 512 tokens the forward pass of
training is timed; at one token that of decoding, with the factors held.
"""

import argparse
import copy
import importlib.metadata
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn

import ttnet_llm
from benchmarks import processor, today

RESULTS = Path(__file__).parent / "results" / "linear_layer.md"
SIZE = 4096
CONFIGS: dict[str, PeftConfig] = {
    "LoRETTA_rep": ttnet_llm.LorettaRepConfig(),
    "LoRETTA_rep, interleaved": ttnet_llm.LorettaRepConfig(layout="interleaved"),
    "TT-LoRA": ttnet_llm.TTLoraConfig(),
    "LoRTA": ttnet_llm.LortaConfig(r=8),
    "LoTR": ttnet_llm.LotrConfig(r=8),
    "MetaTT": ttnet_llm.MetaTTConfig(),
    "MELoRA": ttnet_llm.MeloraConfig(r=4, n=2),
}


def adapt(base: nn.Module, config: PeftConfig) -> nn.Module:
    config = copy.deepcopy(config)
    config.target_modules = {"0"}
    config.init_weights = False
    return get_peft_model(copy.deepcopy(base), config)


def lora(base: nn.Module, rank: int) -> nn.Module:
    return get_peft_model(copy.deepcopy(base), LoraConfig(target_modules=["0"], r=rank, init_lora_weights=False))


def measure(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for round_ in range(rounds + 3):
        shift = round_ % len(names)  # no method always follows the same one
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            runs[name]()
            if round_ >= 3:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args([] if __name__ != "__main__" else None)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(SIZE, SIZE, bias=False))
    rows = []
    for tokens in (512, 1):
        x = torch.randn(tokens, SIZE)
        for name, config in CONFIGS.items():
            ours = adapt(base, config)
            rank = ours.base_model.model[0].factors("default")[0].shape[1]
            theirs = lora(base, rank)
            if tokens == 1:
                ours.eval(), theirs.eval()
                ttnet_llm.hold_factors(ours)
            with torch.inference_mode(tokens == 1):
                seconds = measure({"ours": partial(ours, x), "lora": partial(theirs, x)}, args.rounds)
            ratios = [a / b for a, b in zip(seconds["ours"], seconds["lora"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            rows.append(
                f"| {tokens} | {name} | {rank} | {statistics.median(seconds['ours']) * 1e3:.2f} "
                f"| {statistics.median(seconds['lora']) * 1e3:.2f} | {middle:.3f} | {low:.3f} to {high:.3f} |"
            )
            print(rows[-1], flush=True)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "peft"))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        "# Time of one adapted linear layer\n\n"
        f"Forward pass of a {SIZE} x {SIZE} layer in float32 with one adapter: at 512 tokens as in training, at one "
        "token as in decoding, with the factors held. LoRA has the rank of the other's factors. Medians over "
        f"{args.rounds} interleaved rounds; the ratio is that of the same round's times.\n\n"
        f"{args.threads} thread(s), {processor()}, {today()}, {versions}. "
        f"Repeat: `python -m benchmarks.linear_layer --threads {args.threads} --rounds {args.rounds}`\n\n"
        "| tokens | method | rank | ms | LoRA, ms | ratio | quartiles of the ratio |\n"
        "|---:|---|---:|---:|---:|---:|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main()
