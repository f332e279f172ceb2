"""Models of every architecture that heads and neurons are cut out of, with masks that say which."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from tests.ttnet_llm.architectures import KINDS
from ttnet_llm.slim import Plan, axes, plan, save_slim, slim
from ttnet_llm.slim.architectures import ARCHITECTURES

_RELATIVE: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ARCHITECTURES},
    "deberta, relative": ("deberta", _RELATIVE),
    "deberta-v2, relative": ("deberta-v2", _RELATIVE),
    "deberta-v2, shared": ("deberta-v2", {**_RELATIVE, "share_att_key": True, "position_buckets": 8}),
    "llama, biased": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "opt, unbiased": ("opt", {"enable_bias": False}),
    "t5, gated": ("t5", {"feed_forward_proj": "gated-gelu"}),
}


def build(case: str, dtype: torch.dtype = torch.float32, **options: Any) -> PreTrainedModel:
    """Make a frozen model whose output depends on each of its heads and neurons."""
    name, changes = CASES[case]
    auto, usual = KINDS[name]
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(name, **usual, **changes), **options).eval().requires_grad_(False)
    assert isinstance(model, PreTrainedModel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.to(dtype)


def random_plan(model: PreTrainedModel, seed: int = 0, *, heads: float = 0.5, neurons: float = 1 / 3) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    masks = {axis.name: 0.5 + torch.rand(axis.groups, generator=generator) for axis in axes(model)}
    return plan(model, masks, heads=heads, neurons=neurons)


def masks_of(found: Plan) -> dict[str, Tensor]:
    """The masks that a plan stands for: its factors, and zeros."""
    return {
        name: torch.zeros(found.groups[name]).index_copy(0, kept, found.factors[name])
        for name, kept in found.kept.items()
    }


def size(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def saved(case: str, place: Path) -> tuple[PreTrainedModel, Plan]:
    """A base model in `base`, the record of a slim one in `slim`, and the slim one itself."""
    model = build(case)
    model.save_pretrained(place / "base")
    found = random_plan(model)
    save_slim(found, place / "slim", base=place / "base")
    slim(model, found)
    return model, found
