"""Small models from configs, of every architecture that the tests adapt."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import nn

DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
ENCODER = {
    "hidden_size": 36,
    "intermediate_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 64,
    "max_position_embeddings": 40,
}


def bert(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return tf.BertForSequenceClassification(tf.BertConfig(**ENCODER)).eval()


def llama(seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    return tf.LlamaForCausalLM(tf.LlamaConfig(**DECODER | changes)).eval()


def gpt2(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = tf.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=32, vocab_size=64, bos_token_id=1, eos_token_id=2
    )
    return tf.GPT2LMHeadModel(config).eval()


def t5(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = tf.T5Config(
        d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=64, decoder_start_token_id=0, pad_token_id=0
    )
    return tf.T5ForConditionalGeneration(config).eval()


def opt(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = tf.OPTConfig(
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        vocab_size=64,
        max_position_embeddings=32,
    )
    return tf.OPTForCausalLM(config).eval()


def roberta(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return tf.RobertaForSequenceClassification(tf.RobertaConfig(pad_token_id=1, **ENCODER)).eval()


def deberta(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = tf.DebertaV2Config(pos_att_type=["c2p", "p2c"], relative_attention=True, **ENCODER)
    return tf.DebertaV2ForSequenceClassification(config).eval()


def qwen2(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return tf.Qwen2ForCausalLM(tf.Qwen2Config(**DECODER)).eval()


def mistral(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return tf.MistralForCausalLM(tf.MistralConfig(**DECODER)).eval()


def gemma(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return tf.GemmaForCausalLM(tf.GemmaConfig(**DECODER, head_dim=8)).eval()


EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def mixtral(seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return tf.MixtralForCausalLM(tf.MixtralConfig(**DECODER, **EXPERTS, **options)).eval()


def qwen3_moe(seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    config = tf.Qwen3MoeConfig(
        **DECODER, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=8, **options
    )
    return tf.Qwen3MoeForCausalLM(config).eval()


def gpt_oss(seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return tf.GptOssForCausalLM(tf.GptOssConfig(**DECODER, **EXPERTS, head_dim=8, **options)).eval()


def llama4(seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    config = tf.Llama4TextConfig(
        **DECODER, num_local_experts=4, intermediate_size_mlp=40, head_dim=8, attention_chunk_size=32, **options
    )
    return tf.Llama4ForCausalLM(config).eval()


def vit(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = tf.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, image_size=16, patch_size=8
    )
    return tf.ViTForImageClassification(config).eval()


ALL = [bert, roberta, deberta, llama, mistral, qwen2, gemma, gpt2, opt, t5]
WITH_EXPERTS = [mixtral, qwen3_moe, gpt_oss, llama4]
IDS = torch.tensor([[5, 9, 11, 3, 7, 2], [8, 1, 4, 6, 2, 2], [12, 13, 14, 15, 16, 2]])


def logits(model: nn.Module, ids: torch.Tensor = IDS, **kwargs: object) -> torch.Tensor:
    config = model.config if not hasattr(model, "get_base_model") else model.get_base_model().config
    if config.is_encoder_decoder:
        kwargs["decoder_input_ids"] = ids
    with torch.no_grad():
        return model(input_ids=ids, **kwargs).logits


def perturb(model: nn.Module, seed: int = 0, spread: float = 0.3) -> nn.Module:
    """Move every trainable parameter, so that an adapter does something; any adapter is then told from another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * spread
                parameter.add_(noise.to(parameter.device, parameter.dtype))
    return model


def logits_without_this_package(adapter: Path) -> torch.Tensor:
    """Let a process that only knows PEFT load a causal LM's adapter, which names its base model, and call it."""
    program = f"""
import sys, torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained({str(adapter)!r}).eval()
with torch.no_grad():
    logits = model(input_ids=torch.tensor({IDS.tolist()})).logits
assert not [name for name in sys.modules if name.partition(".")[0] in ("ttnet", "ttnet_llm")]
torch.save(logits, {str(adapter / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return torch.load(adapter / "logits.pt")
