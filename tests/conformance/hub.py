"""Make a cache of the hub with tiny random models under the names that PEFT's tests ask for: `python hub.py FOLDER`.

The models on the hub have random weights, too; what counts are the architectures and the modules' names.
"""

import hashlib
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers

VOCABULARY = 1024
SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
WORDS = ["the", "hello", "world", "this", "is", "test", "of", *string.ascii_lowercase]

# The names under which architectures know the same few sizes.
ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
LLAMA = ENCODER | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "eos_token_id": 2}
OPT = {
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "word_embed_proj_dim": 32,
    "max_position_embeddings": 128,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
}
DEBERTA = ENCODER | {"pos_att_type": ["c2p", "p2c"], "relative_attention": True}
ROBERTA = ENCODER | {"pad_token_id": 1}
LONG_OPT = OPT | {"hidden_size": 64, "ffn_dim": 128, "word_embed_proj_dim": 64, "num_hidden_layers": 12}

# Name on the hub: the model's class, and the sizes in its config.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": ("OPTForCausalLM", OPT),
    "peft-internal-testing/opt-125m": ("OPTForCausalLM", LONG_OPT),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("GPT2LMHeadModel", GPT),
    "hf-internal-testing/tiny-random-gpt2": ("GPT2LMHeadModel", GPT),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": ("GPTJForCausalLM", GPT | {"rotary_dim": 4}),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", LLAMA),
    "hf-internal-testing/tiny-random-MistralForCausalLM": ("MistralForCausalLM", LLAMA),
    "peft-internal-testing/tiny-dummy-qwen2": ("Qwen2ForCausalLM", LLAMA),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": ("Gemma3ForCausalLM", LLAMA | {"head_dim": 8}),
    "ybelkada/tiny-random-T5ForConditionalGeneration-calibrated": ("T5ForConditionalGeneration", T5),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": ("T5ForConditionalGeneration", T5),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": ("BartForConditionalGeneration", BART),
    "peft-internal-testing/tiny-random-BertModel": ("BertModel", ENCODER),
    "peft-internal-testing/tiny-random-RobertaModel": ("RobertaModel", ROBERTA),
    "peft-internal-testing/tiny-random-DebertaModel": ("DebertaModel", DEBERTA),
    "peft-internal-testing/tiny-random-DebertaV2Model": ("DebertaV2Model", DEBERTA),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": ("BertForSequenceClassification", ENCODER),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (
        "RobertaForSequenceClassification",
        ROBERTA,
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": ("LlamaForSequenceClassification", LLAMA),
}
ADAPTER = "peft-internal-testing/tiny-opt-lora-revision"  # a LoRA, of which the tests only read the config


def main() -> None:
    """Make the cache in the folder that the command line names."""
    folder = Path(sys.argv[1])
    tokenizer = word_tokenizer()
    for name, (class_name, sizes) in MODELS.items():
        torch.manual_seed(0)
        model_cls = getattr(transformers, class_name)
        model = model_cls(model_cls.config_class(vocab_size=VOCABULARY, **sizes))
        add(folder, name, "main", model.save_pretrained, tokenizer.save_pretrained)
    add(folder, ADAPTER, "test", LoraConfig(target_modules=["q_proj", "v_proj"]).save_pretrained)


def word_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Make a tokenizer that knows a few words."""
    vocabulary = {word: k for k, word in enumerate([*SPECIAL.values(), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **SPECIAL)


def add(folder: Path, name: str, revision: str, *save: Callable[[Path], Any]) -> None:
    """Add a repository to the cache.

    Args:
        folder: The cache.
        name: The repository.
        revision: The branch that the files are on.
        save: Functions that write files into a folder.
    """
    commit = hashlib.sha1(name.encode()).hexdigest()
    repository = folder / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for write in save:
        write(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / revision).write_text(commit)


if __name__ == "__main__":
    main()
