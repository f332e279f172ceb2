"""The frozen model of a study, and what its trainings need not compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def first_token_only(model: nn.Module) -> Iterator[None]:
    """Let the last layer of a BERT classifier finish its first token alone; other models stay as they are.

    Args:
        model: A `BertForSequenceClassification`, perhaps with adapters.
    """
    layers = encoder_layers(model)
    if layers is None:
        yield
        return
    hook = layers[-1].attention.output.register_forward_pre_hook(lambda module, args: tuple(arg[:, :1] for arg in args))
    try:
        yield
    finally:
        hook.remove()


def encoder_layers(model: nn.Module) -> nn.ModuleList | None:
    """Find the layers of a BERT classifier; `None` for other models."""
    bert: Any = next((m for m in model.modules() if type(m).__name__ == "BertModel"), None)
    return None if bert is None or bert.pooler is None else bert.encoder.layer


def switch_dropout_off(model: nn.Module) -> None:
    """Make a training deterministic but for its data; dropout of adapters stays as it is."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def load_base(folder: str, classes: int | None, dtype: str = "float32") -> nn.Module:
    """Load a classifier without dropout, its new head not yet drawn; a language model for no classes.

    In bfloat16 attention is not the fused one, whose backward pass takes six times as long on a CPU as in float32.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa" if dtype == "float32" else "eager"}
    if classes is None:
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
        # The last tokens of several texts lie apart in memory, and a product of them would copy the weight for each.
        model.get_output_embeddings().register_forward_pre_hook(lambda module, args: (args[0].contiguous(),))
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=classes, **options)
    switch_dropout_off(model)
    return model.eval()


def draw_head(model: nn.Module, seed: int) -> None:
    """Draw the new head by a seed, the same for every method."""
    generator = torch.Generator().manual_seed(seed)
    head: Any = model.get_submodule("classifier")
    with torch.no_grad():
        head.weight.normal_(std=0.02, generator=generator)
        head.bias.zero_()


def unfreeze(model: nn.Module) -> nn.Module:
    """Train every parameter: full fine-tuning, for studies that have it beside adapters."""
    return model.requires_grad_(True)
