"""Small models for the tests of trains in models: dense ones, and ones with trains and what trains them."""

from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import IDS
from ttnet.nn import TTWeight
from ttnet_llm.tensorize import tensorize


def tied_llama(seed: int = 0, **changes: Any) -> nn.Module:
    return models.llama(seed, **changes, tie_word_embeddings=True)


def gemma() -> nn.Module:
    """Its table multiplies the rows by the root of their size, which its tied head does not."""
    torch.manual_seed(0)
    changes = {"head_dim": 8, "num_key_value_heads": 2}
    return tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**models.DECODER | changes)).eval()


def bart() -> nn.Module:
    """One scaled table for encoder, decoder and head."""
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return tf.BartForConditionalGeneration(tf.BartConfig(**sizes, **heads, vocab_size=99, scale_embedding=True)).eval()


def masked_bert() -> nn.Module:
    torch.manual_seed(0)
    return tf.BertForMaskedLM(tf.BertConfig(**models.ENCODER)).eval()


def shrink(model: nn.Module, targets: Any, **options: Any) -> Any:
    options = options or {"ratio": 0.6}
    return tensorize(model, targets=targets, progress=False, **options)


def small(make: Any = models.bert, targets: Any = ("intermediate.dense", "word_embeddings"), **options: Any) -> Any:
    model = make()
    tensorize(model, targets=list(targets), progress=False, **(options or {"ratio": 0.6}))
    return model


class Texts(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        return {"input_ids": IDS[k % 3].roll(k // 3), "labels": torch.tensor(k % 2)}


def trainer(model: nn.Module, folder: Path, steps: int = 8, callbacks: Any = (), **options: Any) -> tf.Trainer:
    options = {"save_strategy": "no"} | options
    arguments = tf.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=6,
        learning_rate=1e-2,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    return tf.Trainer(
        model=model, args=arguments, train_dataset=Texts(), eval_dataset=Texts(), callbacks=list(callbacks)
    )


def weights(model: nn.Module) -> list[TTWeight]:
    return [module for module in model.modules() if isinstance(module, TTWeight)]
