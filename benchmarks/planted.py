"""Ranks planted in two of twelve modules: which ways to choose modules and ranks find them.

    python -m benchmarks.planted

A teacher differs from the model in two modules by matrices of rank 4. Every way may spend nine ranks of LoRA over all
modules, and is then trained anew on what the teacher says, as long as the others; the loss is shown beside that of the
untouched model. `allocate`, the gates and AdaLoRA have a training of 400 steps to choose in.
"""

from __future__ import annotations

import copy
import random
import statistics
from typing import Any

import torch
import typer
from peft import AdaLoraConfig, PeftConfig, PeftModel, get_peft_model
from rich.console import Console
from torch import Tensor, nn

from benchmarks.gates import gate_scores
from ttnet_llm import MeloraConfig
from ttnet_llm.search import allocate
from ttnet_llm.search.fill import fill
from ttnet_llm.training.report import markdown_table

FEATURES, CANDIDATES = 48, (1, 2, 4, 8)
PLANTED = {"2.up": 4, "4.down": 4}
BUDGET = 9 * 2 * FEATURES + 4  # nine ranks, and a rest
STEPS_TO_CHOOSE, STEPS = 400, 300
WIDE = MeloraConfig(r=8, n=1, alpha=8, target_modules=["up", "down"])

Batches = list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:  # (*, FEATURES) -> the same
        return x + 0.3 * self.down(torch.relu(self.up(x)))


def plant(seed: int) -> tuple[nn.Module, Batches]:
    """Make a model, and batches of one that differs from it in two modules, by matrices of rank 4."""
    torch.manual_seed(seed)
    base = nn.Sequential(*[Block() for _ in range(6)])
    teacher = copy.deepcopy(base)
    for name, rank in PLANTED.items():
        change = 1.2 * torch.randn(FEATURES, rank) @ torch.randn(rank, FEATURES) / FEATURES**0.5
        teacher.get_submodule(name).weight.data += change  # type: ignore[operator]
    inputs = [torch.randn(64, FEATURES) for _ in range(16)]
    return base, [(x, teacher(x).detach()) for x in inputs]


def train(base: nn.Module, config: PeftConfig, batches: Batches, steps: int) -> tuple[PeftModel, float]:
    """Train an adapter, and give the model and its loss."""
    torch.manual_seed(0)
    model: Any = get_peft_model(copy.deepcopy(base), copy.deepcopy(config))
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    choose = getattr(model.base_model, "update_and_allocate", None)  # AdaLoRA's
    for step in range(steps):
        x, y = batches[step % len(batches)]
        nn.functional.mse_loss(model(x), y).backward()
        optimiser.step()
        if choose is not None:
            choose(step)
        optimiser.zero_grad()
    return model, loss_of(model, batches)


@torch.no_grad()
def loss_of(model: nn.Module, batches: Batches) -> float:
    """Give the mean loss over all batches."""
    return sum(nn.functional.mse_loss(model(x), y).item() for x, y in batches) / len(batches)


def by_ranks(ranks: dict[str, int]) -> MeloraConfig:
    """Make a LoRA of these modules and ranks, scaled as the wide one is."""
    config = copy.deepcopy(WIDE)
    config.target_modules = set(ranks)
    config.rank_pattern = {name: {"r": rank, "alpha": rank} for name, rank in ranks.items()}
    return config


def drawn(names: list[str], seed: int) -> dict[str, int]:
    """Draw modules and ranks until the nine are spent."""
    rng, ranks, left = random.Random(seed), {}, BUDGET // (2 * FEATURES)
    for name in rng.sample(names, len(names)):
        if fits := [rank for rank in CANDIDATES if rank <= left]:
            ranks[name] = rng.choice(fits)
            left -= ranks[name]
    return ranks


def by_gates(base: nn.Module, batches: Batches, costs: dict[str, dict[int, int]], seed: int) -> dict[str, int]:
    """Choose as BIPEFT does, the two halves of the batches being its two halves of the data."""
    model: Any = get_peft_model(copy.deepcopy(base), copy.deepcopy(WIDE))
    half = len(batches) // 2

    def loss(step: int, of_gates: bool) -> Tensor:
        x, y = batches[half * of_gates + step % half]
        return nn.functional.mse_loss(model(x), y)

    return fill(
        gate_scores(model, loss, steps=STEPS_TO_CHOOSE, candidates=CANDIDATES, rate=1e-2, seed=seed), costs, BUDGET
    )


def by_adalora(base: nn.Module, batches: Batches) -> dict[str, int]:
    """Let AdaLoRA choose among eight directions of each module, and give the ranks that it has kept."""
    config = AdaLoraConfig(
        init_r=8,
        target_r=1,  # of twelve modules, so that it has twelve ranks and not nine: its budget is whole ranks a module
        lora_alpha=8,
        target_modules=["up", "down"],
        total_step=STEPS_TO_CHOOSE,
        tinit=STEPS_TO_CHOOSE // 10,
        tfinal=STEPS_TO_CHOOSE // 2,
        deltaT=5,
    )
    model, _ = train(base, config, batches, STEPS_TO_CHOOSE)
    sizes = {
        n.split(".lora_E")[0].removeprefix("base_model.model."): p for n, p in model.named_parameters() if "lora_E" in n
    }
    return {name: int(p.count_nonzero()) for name, p in sizes.items() if p.count_nonzero()}


def main(seeds: int = typer.Option(5, min=2, help="How many models and teachers.")) -> None:
    """Compare, and print a table."""
    torch.set_num_threads(1)
    shares: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for seed in range(seeds):
        base, batches = plant(seed)
        wide, _ = train(base, WIDE, batches, STEPS_TO_CHOOSE)
        found = allocate(wide, BUDGET, candidates=CANDIDATES)
        names = list(found.scores)
        ways = {
            "allocate": found.ranks,
            "gates (BIPEFT)": by_gates(base, batches, found.costs, seed),
            "AdaLoRA, 12 ranks": by_adalora(base, batches),
            "drawn at random": drawn(names, seed),
            "rank 1 of nine modules": dict.fromkeys(random.Random(seed).sample(names, 9), 1),
        }
        untouched = loss_of(base, batches)
        for way, ranks in ways.items():
            right = sum(min(ranks.get(name, 0), rank) for name, rank in PLANTED.items())
            shares.setdefault(way, []).append(right / sum(PLANTED.values()))
            left = train(base, by_ranks(ranks), batches, STEPS)[1] / untouched
            losses.setdefault(way, []).append(left)
    header = ["modules and ranks", "of the planted ranks, found", "loss, share of the untouched model's"]
    rows = [[way, _spread(shares[way]), _spread(losses[way])] for way in shares]
    Console().print(markdown_table(header, rows), soft_wrap=True)


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    typer.run(main)
