"""Published parameter counts against those of this library, from configurations alone.

No weights are made or read: every model is built on PyTorch's meta device. `python -m benchmarks.published` writes
docs/results/published.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers as tf
from peft import HiraConfig, IA3Config, LoraConfig, PeftConfig

from benchmarks import versions
from ttnet_llm import (
    DeptConfig,
    EtherConfig,
    LorettaAdpConfig,
    LorettaRepConfig,
    LortaConfig,
    LotrConfig,
    MeloraConfig,
    MetaTTConfig,
    TTLoraConfig,
)
from ttnet_llm.budget import count_parameters
from ttnet_llm.files import write_text
from ttnet_llm.slim.entry import SlimConfig
from ttnet_llm.training.report import markdown_table

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "published.md"

ROBERTA = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
MODELS: dict[str, tf.PretrainedConfig] = {
    "RoBERTa-base": tf.RobertaConfig(**ROBERTA, vocab_size=50265),
    "RoBERTa-large": tf.RobertaConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, vocab_size=50265
    ),
    "DeBERTa-base": tf.DebertaConfig(**ROBERTA, vocab_size=50265, type_vocab_size=0),
    "LLaMA-2-7B": tf.LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008
    ),
    "Llama-3.2-1B": tf.LlamaConfig(
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        intermediate_size=8192,
    ),
    "T5-large": tf.T5Config(d_model=1024, d_ff=4096, num_layers=24, num_heads=16, vocab_size=32128),
    "T0-3B": tf.T5Config(
        d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32, feed_forward_proj="gated-gelu", vocab_size=32128
    ),
}
SLIM = "RoBERTa-base, slim"
MODELS[SLIM] = tf.RobertaConfig(**ROBERTA, vocab_size=50265)
MODELS[SLIM].quantization_config = SlimConfig(
    {
        f"encoder.layer.{k}.{name}": kept
        for k in range(12)
        for name, kept in (("attention.output.dense", 8), ("output.dense", 2048))
    }
)
TT_LORA_MODES = {"2048x2048": [[16, 8, 4, 4], [4, 4, 8, 16]], "2048x512": [[16, 16, 4, 2], [2, 16, 16]]}
PAPER: dict[str, Any] = {"modes": "paper"}
WHOLE: dict[str, Any] = {"modes": "paper", "train_norms": True}


@dataclass(frozen=True)
class Row:
    """A published number: what it counts, and the config that counts it here."""

    method: str
    model: str
    config: PeftConfig
    options: str
    published: int | None  # of everything that is trained, the head included
    source: str


# LoRA on all linear layers of all blocks.
BLOCKS = MeloraConfig(r=8, n=1, target_modules=r"(.*\.)?layers?\.\d+\..*(query|key|value|dense|_proj)")
ETHER: dict[str, Any] = {"plus": False, "sides": "input", "init_weights": False}
ROWS = [
    Row("LoRA", "RoBERTa-base", LoraConfig(r=8), "r 8", 294_912, "2 r (in + out) L"),
    Row("LoRETTA_rep", "RoBERTa-base", LorettaRepConfig(**PAPER), "r 8, TT rank 5", 27_840, "arXiv:2402.11417"),
    Row("LoRETTA_rep", "LLaMA-2-7B", LorettaRepConfig(**PAPER), "r 8, TT rank 5", 102_400, "arXiv:2402.11417"),
    Row(
        "LoRETTA_rep",
        "LLaMA-2-7B",
        LorettaRepConfig(**WHOLE, tt_rank=8),
        "r 8, TT rank 8, norms",
        516_096,
        "arXiv:2402.11417 (0.51 M)",
    ),
    Row("LoRETTA_adp", "RoBERTa-base", LorettaAdpConfig(**PAPER), "TT rank 5", 57_408, "arXiv:2402.11417"),
    Row(
        "LoRETTA_adp",
        "DeBERTa-base",
        LorettaAdpConfig(**WHOLE, tt_head=True, task_type="SEQ_CLS"),
        "TT rank 5, norms, TT head",
        99_194,
        "arXiv:2402.11417 (0.10 M)",
    ),
    Row(
        "LoRETTA_adp",
        "LLaMA-2-7B",
        LorettaAdpConfig(**WHOLE),
        "TT rank 5, norms",
        876_800,
        "arXiv:2402.11417 (0.88 M)",
    ),
    Row(
        "TT-LoRA",
        "Llama-3.2-1B",
        TTLoraConfig(modes=TT_LORA_MODES),
        "TT rank 5, published modes",
        33_920,
        "arXiv:2408.01008",
    ),
    Row("LoRTA", "RoBERTa-base", LortaConfig(r=4), "r 4", 3_440, "arXiv:2410.04060"),
    Row("LoRTA", "LLaMA-2-7B", LortaConfig(r=4), "r 4", 17_168, "arXiv:2410.04060"),
    Row("LoTR", "RoBERTa-base", LotrConfig(r=2), "r 2", 3_168, "2 d r + 2 L r^2, arXiv:2402.01376"),
    Row(
        "MetaTT",
        "RoBERTa-base",
        MetaTTConfig(r=8),
        "r 8",
        2 * 768 * 8 + (12 + 2) * 8**2,
        "2 d r + (L + P) r^2, arXiv:2506.09105",
    ),
    Row("MELoRA", "RoBERTa-base", MeloraConfig(r=8, n=4), "r 8, n 4", 294_912, "2 r (in + out) L, arXiv:2402.17263"),
    Row("ETHER", "RoBERTa-base", EtherConfig(**ETHER), "input side", 18_432, "d L, arXiv:2405.20271"),
    Row("ETHER", "LLaMA-2-7B", EtherConfig(**ETHER), "input side", 262_144, "arXiv:2405.20271 (0.26 M)"),
    Row("ETHER+", "RoBERTa-base", EtherConfig(), "both sides", 73_728, "2 (in + out) L, arXiv:2405.20271"),
    Row("ETHER+", "LLaMA-2-7B", EtherConfig(), "both sides", 1_048_576, "arXiv:2405.20271 (1.04 M)"),
    Row(
        "IA3, as T-Few trains it",
        "T0-3B",
        IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"]),
        "keys, values, neurons",
        540_672,
        "arXiv:2205.05638 (0.54 M)",
    ),
    Row(
        "HiRA, which can be any SPP",
        "RoBERTa-base",
        HiraConfig(r=16, target_modules=r".*encoder.*\.(query|key|value|dense)"),
        "r 16, all layers",
        2_654_208,
        "r (in + out), arXiv:2405.16057 (SPP: r in + out, 1,410,048)",
    ),
    *(
        Row("DePT", model, DeptConfig(), "40 vectors, r 45, 256 tokens", count, "m d + s r + r d, arXiv:2309.05173")
        for model, count in (("RoBERTa-base", 76_800), ("T5-large", 98_560), ("LLaMA-2-7B", 359_680))
    ),
    Row("Light-PEFT, nothing cut", "RoBERTa-base", BLOCKS, "LoRA r 8 in blocks", 1_327_104, "arXiv:2406.03792"),
    Row("Light-PEFT, nothing cut", "RoBERTa-large", BLOCKS, "LoRA r 8 in blocks", 3_538_944, "arXiv:2406.03792"),
    Row("Light-PEFT, nothing cut", "LLaMA-2-7B", BLOCKS, "LoRA r 8 in blocks", 19_988_480, "arXiv:2406.03792"),
    Row("Light-PEFT, a third cut", SLIM, BLOCKS, "LoRA r 8 in blocks", None, ""),
    Row("LoRETTA_rep", "RoBERTa-base", LorettaRepConfig(), "r 8, TT rank 5, automatic modes", None, ""),
    Row("LoRETTA_rep", "LLaMA-2-7B", LorettaRepConfig(), "r 8, TT rank 5, automatic modes", None, ""),
    Row(
        "LoRETTA_rep",
        "RoBERTa-base",
        LorettaRepConfig(layout="interleaved"),
        "r 8, TT rank 5, interleaved",
        None,
        "",
    ),
    Row("LoRETTA_adp", "RoBERTa-base", LorettaAdpConfig(), "TT rank 5, automatic modes", None, ""),
    Row("LoRETTA_adp", "LLaMA-2-7B", LorettaAdpConfig(), "TT rank 5, automatic modes", None, ""),
    Row("TT-LoRA", "Llama-3.2-1B", TTLoraConfig(), "TT rank 5, automatic modes", None, ""),
]


def cells(row: Row) -> list[str]:
    counted = count_parameters(MODELS[row.model], row.config).trainable
    published = "" if row.published is None else f"{row.published:,}"
    return [row.method, row.model, row.options, published, f"{counted:,}", row.source]


def main() -> None:
    header = ["method", "model", "options", "published", "counted", "source"]
    table = markdown_table(header, [cells(row) for row in ROWS])
    write_text(
        RESULTS,
        f"""# Published and counted parameters

Everything that is trained, counted on the models' own configurations, without weights. Where the papers give a
formula or a layout, the number is what it comes to; those in brackets are the papers' rounded ones.

{table}

Two systems have no size of their own. BIPEFT (arXiv:2410.09079) names its budgets in parts of ten thousand of
T5-large's 737.7 M parameters, 0.086 to 1.39 and so 6,412 to 102,600, which `allocate(..., budget=102_600)` takes as
they are. NOMAD's search (arXiv:2312.00949) goes over LoRA of ranks 4 to 512, and `tune(..., engine="nomad")` over any
space.

Made by `python -m benchmarks.published` with {versions("ttnet-torch", "torch", "transformers", "peft")}; nothing is
measured or drawn, so that any machine gives the same.

[Where the parameters go](../parameters.md), and [the methods](../methods.md).
""",
    )


if __name__ == "__main__":
    main()
