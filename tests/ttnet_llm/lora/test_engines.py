"""What engines make of an export: one rank for all modules unless told otherwise, and a word on what is no LoRA."""

import warnings
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import perturb
from ttnet_llm import LorettaRepConfig, MeloraConfig, TTLoraConfig, export_lora


def said_of(model: nn.Module, path: Path, **options: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        report = export_lora(model, path, **options)
    said = [str(warning.message) for warning in caught if warning.filename == __file__]
    assert said == ([report.caution] if report.caution else [])
    return said


def test_ranks_are_uniform_unless_told_otherwise(tmp_path: Path) -> None:
    config = MeloraConfig(r=2, n=2, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 1})
    model = perturb(get_peft_model(models.llama(), config))
    assert said_of(model, tmp_path) == []
    saved = LoraConfig.from_pretrained(tmp_path)
    assert (saved.r, saved.lora_alpha, saved.rank_pattern, saved.alpha_pattern) == (4, 4, {}, {})
    export_lora(model, tmp_path, pad_to=None)
    assert set(LoraConfig.from_pretrained(tmp_path).rank_pattern.values()) == {2}


@pytest.mark.parametrize(
    ("options", "part", "engines"),
    [
        (
            {"train_norms": True},
            "norms ('model.layers.0.input_layernorm' and 4 more)",
            "vLLM refuses, SGLang refuses or leaves out, and llama.cpp and TGI leave out without a word",
        ),
        (
            {"bias": "tt_lora_only"},
            "biases ('model.layers.0.self_attn.q_proj' and 3 more)",
            "vLLM, SGLang and llama.cpp refuse, and TGI leaves out without a word",
        ),
        (
            {"modules_to_save": ["lm_head"]},
            "modules trained whole ('lm_head')",
            "vLLM and llama.cpp refuse, and SGLang and TGI leave out without a word",
        ),
    ],
)
def test_what_is_no_lora_is_named_with_the_engines_that_do_without_it(
    options: dict[str, object], part: str, engines: str, tmp_path: Path
) -> None:
    (said,) = said_of(get_peft_model(models.qwen2(), TTLoraConfig(init_weights=False, **options)), tmp_path)
    assert said.startswith(f"The export holds more than LoRA: {part}, which {engines}. PEFT and transformers load all")
    assert "merge the adapter (`ttnet-llm merge`)" in said


def test_experts_are_named_with_the_engines_that_do_without_them(tmp_path: Path) -> None:
    model = get_peft_model(models.mixtral(), TTLoraConfig(target_modules="all-linear"))
    (said,) = said_of(model, tmp_path)
    assert "experts or other parameters ('model.layers.0.mlp.experts.down_proj' and 3 more), which vLLM and" in said
    assert "without train_norms, modules_to_save, bias and target_parameters" in said


def test_all_kinds_are_named_together(tmp_path: Path) -> None:
    config = LorettaRepConfig(task_type="SEQ_CLS", train_norms=True, bias="all")
    (said,) = said_of(get_peft_model(models.bert(), config), tmp_path)
    assert "norms ('bert.embeddings.LayerNorm' and 4 more)" in said
    assert "biases ('bert.encoder.layer.0.attention.output.dense' and 12 more)" in said
    assert "modules trained whole ('classifier')" in said


def test_embeddings_that_go_along_are_named(tmp_path: Path) -> None:
    model = get_peft_model(models.llama(), TTLoraConfig(init_weights=False, target_modules=["embed_tokens", "q_proj"]))
    assert said_of(model, tmp_path) == []
    (said,) = said_of(model, tmp_path, save_embedding_layers=True)
    assert "modules trained whole ('model.embed_tokens')" in said
