"""Tiny models of many architectures, from configs: what is said of all of them is tested on these."""

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

Options = dict[str, Any]

_ENDS: Options = {"bos_token_id": 1, "eos_token_id": 2}
_SMALL: Options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
_DECODER: Options = {
    **_SMALL,
    **_ENDS,
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_HEADS: Options = {**_DECODER, "head_dim": 8}
_EXPERTS: Options = {**_HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_GPT: Options = {**_ENDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 64}
_STATES: Options = {
    **_ENDS,
    "hidden_size": 32,
    "state_size": 8,
    "num_hidden_layers": 2,
    "vocab_size": 64,
    "pad_token_id": 0,
}
_ENCODER: Options = {**_SMALL, "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0}
_T5: Options = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "vocab_size": 64,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
}
_BART: Options = {
    **_ENDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}

CAUSAL: dict[str, Options] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "phi", "phi3", "stablelm", "olmo2", "cohere", "granite"), _DECODER),
    **dict.fromkeys(("starcoder2", "smollm3", "nemotron"), _DECODER),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "qwen3", "glm4"), _HEADS),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), _GPT),
    "gptj": {**_GPT, "rotary_dim": 4},
    "codegen": {**_GPT, "rotary_dim": 4},
    "mixtral": {**_DECODER, "num_local_experts": 4},
    "qwen3_moe": _EXPERTS,
    "olmoe": {**_DECODER, "num_experts": 4, "num_experts_per_tok": 2},
    "qwen3_next": {
        **_EXPERTS,
        "shared_expert_intermediate_size": 24,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "deepseek_v3": {
        **_DECODER,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 24,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 12,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
    },
    "llama4_text": {**_HEADS, "num_local_experts": 4, "intermediate_size_mlp": 40, "attention_chunk_size": 32},
    "gpt_oss": {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_neo": {
        **_ENDS,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 64,
        "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 1]],
    },
    "gpt_neox": {**_SMALL, **_ENDS, "intermediate_size": 48, "max_position_embeddings": 64},
    "opt": {**_SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64, "pad_token_id": 0},
    "bloom": {**_ENDS, "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64},
    "falcon": {**_SMALL, **_ENDS},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 64, "max_seq_len": 64, "expansion_ratio": 2},
    "mamba": _STATES,
    "mamba2": {**_STATES, "num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2},
    "falcon_mamba": _STATES,
    "jamba": {
        **_DECODER,
        "num_experts": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "biogpt": {**_SMALL, **_ENDS, "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0},
}
ENCODERS: dict[str, Options] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "deberta", "deberta-v2"), _ENCODER),
    **dict.fromkeys(("layoutlm", "mpnet", "ernie"), _ENCODER),
    "electra": {**_ENCODER, "embedding_size": 32},
    "albert": {**_ENCODER, "embedding_size": 16},
    "rembert": {**_ENCODER, "input_embedding_size": 16, "output_embedding_size": 16},
    "modernbert": {**_ENCODER, **_ENDS, "cls_token_id": 1, "sep_token_id": 2},
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "vocab_size": 64,
        "max_position_embeddings": 64,
    },
}
SEQ2SEQ: dict[str, Options] = {
    **dict.fromkeys(("t5", "mt5", "longt5"), _T5),
    **dict.fromkeys(("bart", "mbart", "pegasus"), _BART),
    "marian": {**_BART, "decoder_start_token_id": 0},
}
KINDS = {
    **{name: (AutoModelForCausalLM, options) for name, options in CAUSAL.items()},
    **{name: (AutoModelForSequenceClassification, options) for name, options in ENCODERS.items()},
    **{name: (AutoModelForSeq2SeqLM, options) for name, options in SEQ2SEQ.items()},
}
IDS = torch.tensor([[5, 9, 11, 3, 7, 12], [8, 4, 6, 13, 21, 40], [12, 33, 14, 15, 60, 22]])


def make(name: str) -> PreTrainedModel:
    """Build a frozen model with the same weights at every call; FalconMamba's output is another where it is trained."""
    auto, options = KINDS[name]
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(name, **options))
    assert isinstance(model, PreTrainedModel)
    return model.eval().requires_grad_(False)


def inputs(name: str) -> dict[str, torch.Tensor]:
    return {"input_ids": IDS, **({"decoder_input_ids": IDS.flip(1)} if name in SEQ2SEQ else {})}


@torch.no_grad()
def logits(model: nn.Module, name: str) -> torch.Tensor:
    found: torch.Tensor = model(**inputs(name)).logits
    return found


def task_type(name: str) -> str:
    return "CAUSAL_LM" if name in CAUSAL else "SEQ_2_SEQ_LM" if name in SEQ2SEQ else "SEQ_CLS"
