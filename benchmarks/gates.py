"""BIPEFT's way to score modules and ranks (arXiv:2410.09079): gates that learn in turns with the weights they gate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def gate_scores(
    model: Any,
    loss: Callable[[int, bool], Tensor],
    *,
    steps: int,
    candidates: Sequence[int],
    rate: float,
    seed: int,
    head: Sequence[nn.Parameter] = (),
    head_rate: float = 0.0,
) -> dict[str, dict[int, float]]:
    """Score modules and ranks as BIPEFT does: gates and weights learn in turns, on two halves of the data.

    A module's two logits say whether it is there and its others how many of its directions, both drawn by
    straight-through Gumbel-softmax, of which one learns at a time. A direction's sensitivity is the mean of
    `|weight * gradient|`, averaged over the steps; it counts by the probability that its module is there.

    Args:
        model: A model with a LoRA of the largest rank (MELoRA with n=1) on every module in question.
        loss: Gives the loss of a step's batch, of the half that the gates learn from (`True`) or the weights.
        steps: Of each of the two.
        candidates: The ranks, ascending.
        rate: The learning rate of the weights; the gates have the paper's own, 0.01.
        seed: Of the draws.
        head: What learns along.
        head_rate: Its learning rate.

    Returns:
        For every module and candidate, what it is worth.
    """
    largest = candidates[-1]
    layers = dict(model.base_model.layers_with("default"))
    networks: dict[str, Any] = {name: layer.networks["default"] for name, layer in layers.items()}
    nested = torch.tensor([[1.0] * k + [0.0] * (largest - k) for k in candidates])
    torch.manual_seed(seed)
    there = {name: nn.Parameter(1e-3 * torch.randn(2)) for name in layers}
    width = {name: nn.Parameter(1e-3 * torch.randn(len(candidates))) for name in layers}
    gates: dict[str, Tensor] = {}

    def gated(name: str, plain: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], tuple[Tensor, Tensor]]:
        def factors() -> tuple[Tensor, Tensor]:
            left, right = plain()
            return left * gates[name], right

        return factors

    for name, network in networks.items():
        network.factors = gated(name, network.factors)
    rest = [p for network in networks.values() for p in network.parameters()]
    groups = [{"params": rest, "lr": rate}] + ([{"params": head, "lr": head_rate}] if head else [])
    weights = torch.optim.AdamW(groups, weight_decay=0.0)
    logits = torch.optim.Adam([*there.values(), *width.values()], lr=1e-2, betas=(0.5, 0.999))
    sensitivity = {name: torch.zeros(largest) for name in layers}
    model.train()
    for step in range(steps):
        for optimizer in (logits, weights):
            for name in layers:
                present = nn.functional.gumbel_softmax(there[name], hard=True)[1]
                directions = nn.functional.gumbel_softmax(width[name], hard=True) @ nested
                gates[name] = present * directions.detach() if step % 2 else present.detach() * directions
            weights.zero_grad()
            logits.zero_grad()
            loss(step, optimizer is logits).backward()  # type: ignore[no-untyped-call]
            for name, network in networks.items():
                parts = [(network.A, -2), (network.B, -1)]
                seen = [(p * p.grad).abs().mean(dim).flatten() for p, dim in parts if p.grad is not None]
                if seen:
                    sensitivity[name].mul_(0.85).add_(0.15 * torch.stack(seen).sum(0).detach())
            if optimizer is weights:
                nn.utils.clip_grad_norm_([*head, *rest], 1.0)
            optimizer.step()
    scores = {}
    for name, values in sensitivity.items():
        sums = there[name].detach().softmax(0)[1].item() * values.detach().sort(descending=True).values.cumsum(0)
        scores[name] = {k: float(sums[k - 1]) for k in candidates}
    return scores
