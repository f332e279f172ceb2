"""A classifier that trains in a second: a random BERT of 32 features with a word tokenizer."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

GOOD, BAD = ["good", "great", "fine", "nice"], ["bad", "awful", "poor", "sad"]
WORDS = [*GOOD, *BAD, "film", "book", "song", "play", "the", "was"]


def save_model(folder: Path) -> Path:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: k for k, word in enumerate([*specials, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.2,  # or a random encoder tells its texts apart by rounding only
        )
    ).save_pretrained(folder)
    return folder


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    """Sentences whose adjective says the label."""
    out: list[dict[str, object]] = []
    for k in range(start, start + count):
        adjectives, label = (GOOD, "good") if k % 2 else (BAD, "bad")
        out.append({"text": f"the {WORDS[8 + k % 4]} was {adjectives[k // 2 % 4]}", "label": label})
    return out


def save_rows(path: Path, records: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)
