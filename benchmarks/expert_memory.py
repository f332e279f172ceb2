"""Memory and time of a training step with adapters on a model's experts: trains over experts against PEFT's LoRA.

All methods adapt copies of the same model and step on the same batch in turn. Of memory counts what torch's allocator
has given out at most in a step above what lies in it between steps, which is the same in every run; of time the
processor's, as ratios to that of LoRA in the same round.
"""

import argparse
import copy
import gc
import importlib.metadata
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.utils import logging as transformers_logging

from benchmarks import processor, today
from ttnet_llm import LorettaRepConfig, TTLoraConfig

RESULTS = Path(__file__).parent / "results" / "expert_memory.md"
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
METHODS: dict[str, Callable[[], PeftConfig]] = {
    "LoRA r=8": lambda: LoraConfig(r=8, target_modules=[], target_parameters=EXPERTS),
    "TT-LoRA": lambda: TTLoraConfig(target_modules=[], target_parameters=EXPERTS),
    "LoRETTA_rep": lambda: LorettaRepConfig(target_modules=[], target_parameters=EXPERTS),
    "not on experts": lambda: LoraConfig(r=8, target_modules=["q_proj", "v_proj"]),
}
BASELINE, WITHOUT = "LoRA r=8", "not on experts"
COMMON = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 512,
}
MODELS = {
    "Mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(**COMMON, intermediate_size=1792, num_local_experts=8, num_experts_per_tok=2)
    ),
    "Qwen3-MoE": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**COMMON, head_dim=64, moe_intermediate_size=384, num_experts=16, num_experts_per_tok=4)
    ),
}
IMPLEMENTATIONS = ("grouped_mm", "eager")


def make_step(base: nn.Module, config: PeftConfig, ids: torch.Tensor) -> tuple[Callable[[], None], int]:
    torch.manual_seed(0)
    model = get_peft_model(copy.deepcopy(base), config).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, model.get_nb_trainable_parameters()[0]


def peak_of(step: Callable[[], None]) -> int:
    """Give the most bytes that are allocated at a time in a step, above those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = (event for event in found.profiler.kineto_results.events() if event.name() == "[memory]")
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def seconds_of(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for round_ in range(rounds):
        shift = round_ % len(names)  # no method always follows the same one
        for name in names[shift:] + names[:shift]:
            start = time.process_time()
            steps[name]()
            seconds[name].append(time.process_time() - start)
    return seconds


def measure(model: str, implementation: str, tokens: int, rounds: int) -> list[str]:
    torch.manual_seed(0)
    base = MODELS[model]()
    base.set_experts_implementation(implementation)
    ids = torch.randint(0, COMMON["vocab_size"], (4, tokens // 4))
    made = {name: make_step(base, config(), ids) for name, config in METHODS.items()}
    steps = {name: step for name, (step, _) in made.items()}
    for step in steps.values():
        step()  # makes the optimiser's state
    gc.collect()
    gc.disable()
    peaks = {name: peak_of(step) for name, step in steps.items()}
    seconds = seconds_of(steps, rounds)
    gc.enable()
    rows = []
    for name, times in seconds.items():
        low, middle, high = statistics.quantiles(
            [t / b for t, b in zip(times, seconds[BASELINE], strict=True)], n=4, method="inclusive"
        )
        added = (peaks[name] - peaks[WITHOUT]) / (peaks[BASELINE] - peaks[WITHOUT])
        rows.append(
            f"| {model}, {implementation} | {name} | {made[name][1]:,} | {peaks[name] / 2**20:.0f} "
            f"| {peaks[name] / peaks[BASELINE]:.2f} | {added:.2f} | {statistics.median(times):.2f} "
            f"| {middle:.2f} | {low:.2f} to {high:.2f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=1024)
    args = parser.parse_args([] if __name__ != "__main__" else None)
    torch.set_num_threads(args.threads)
    transformers_logging.set_verbosity_error()
    rows = []
    for model in MODELS:
        for implementation in IMPLEMENTATIONS:
            rows += measure(model, implementation, args.tokens, args.rounds)
            print(*rows[-len(METHODS) :], sep="\n", flush=True)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        "# Memory and time of a training step with adapters on experts\n\n"
        f"Forward, backward and AdamW on {args.tokens} tokens, in float32: 4 layers of hidden size 512, with 8 experts "
        "of 1792, 2 for each token (Mixtral), or 16 of 384, 4 for each (Qwen3-MoE), whose products are grouped or "
        "taken one expert after the other (`eager`). Trained are `gate_up_proj` and `down_proj` of all experts, by "
        "PEFT's LoRA with `target_parameters` or as one train over inputs, experts and outputs; the last row of each "
        "group has LoRA on query and value instead. Memory is the most that torch's allocator gave out in a step "
        "above what lay in it before (the same in every run), its ratio that to LoRA on the experts, of all of it and "
        "of what adapting the experts adds to the last row. Time is the processor's, the median over "
        f"{args.rounds} interleaved rounds; its ratio is that of the same round's times.\n\n"
        f"{args.threads} thread(s), {processor()}, {today()}, seed 0, {versions}. Repeat: `python -m "
        f"benchmarks.expert_memory --threads {args.threads} --rounds {args.rounds} --tokens {args.tokens}`\n\n"
        "| model | adapter | parameters | MiB | ratio | ratio of what is added | s | ratio | quartiles of the ratio |\n"
        "|---|---|---:|---:|---:|---:|---:|---:|---|\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main()
