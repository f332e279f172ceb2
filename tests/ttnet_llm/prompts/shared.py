"""Models that take a prompt, and their answers to texts with it."""

from typing import Any

import pytest
import torch
import transformers as tf
from peft import get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import DECODER
from ttnet_llm import DeptConfig, prepend_prompt
from ttnet_llm.prompts.layer import DeptEmbedding

M, LENGTH = 5, 9


IDS = torch.tensor([[5, 9, 11, 3, 7, 2], [8, 17, 4, 6, 2, 2], [12, 13, 14, 15, 16, 2]])  # without what pads


def decoder(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return tf.LlamaForSequenceClassification(tf.LlamaConfig(**DECODER)).eval()


def bart(seed: int = 0) -> nn.Module:
    """A model whose table multiplies what it looks up."""
    torch.manual_seed(seed)
    sizes = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = tf.BartConfig(
        d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24, vocab_size=64, scale_embedding=True, pad_token_id=1, **sizes
    )
    return tf.BartForConditionalGeneration(config).eval()


MODELS = [models.bert, models.roberta, models.deberta, models.t5, bart, decoder]


each_model = pytest.mark.parametrize("make", MODELS)


def config(**options: Any) -> DeptConfig:
    return DeptConfig(**{"num_virtual_tokens": M, "r": 3, "max_length": LENGTH} | options)


def layer_of(model: nn.Module) -> DeptEmbedding:
    (layer,) = [module for module in model.modules() if isinstance(module, DeptEmbedding)]
    return layer


def logits_of(model: nn.Module) -> torch.Tensor:
    """Logits of texts without a prompt."""
    return models.logits(model, IDS)


def answers(model: nn.Module, ids: torch.Tensor = IDS, mask: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
    """Logits of texts with the model's prompt before them, what a decoder writes being the same everywhere."""
    mask = torch.ones_like(ids) if mask is None else mask
    if model.config.is_encoder_decoder:
        kwargs["decoder_input_ids"] = IDS[:1].expand(len(ids), -1)
    with torch.no_grad():
        return model(**prepend_prompt({"input_ids": ids, "attention_mask": mask}, model), **kwargs).logits


def table(seed: int = 0, rows: int = 20, features: int = 6, **options: Any) -> nn.Module:
    """An embedding alone, in double precision."""
    torch.manual_seed(seed)
    base = nn.Sequential(nn.Embedding(rows, features)).double()
    return get_peft_model(base, config(target_modules=["0"], init_weights=False, **options)).eval()


def states(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Last hidden states of an encoder, with positions counted from the first word where it takes positions."""
    batch = prepend_prompt({"input_ids": ids, "attention_mask": mask}, model)
    base = model.base_model.model
    part = base.get_encoder() if base.config.is_encoder_decoder else base.base_model
    if base.config.model_type in ("bert", "deberta-v2"):
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        return part(**batch).last_hidden_state
