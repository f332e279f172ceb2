"""LoRA checkpoints of PEFT's as thin factors, and back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, perturb
from ttnet.errors import TTFileError, TTTypeError
from ttnet_llm.lora.checkpoint import lora_factors, read_lora, write_lora


def save(path: Path, base: nn.Module | None = None, **options: object) -> nn.Module:
    options.setdefault("target_modules", ["q_proj", "v_proj"])
    model = perturb(get_peft_model(models.llama() if base is None else base, LoraConfig(**options)))
    model.save_pretrained(path, save_embedding_layers=False)
    return model


def change(path: Path, keep: Callable[[str], bool] = lambda key: True, **fields: object) -> None:
    config, weights = path / "adapter_config.json", path / "adapter_model.safetensors"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    save_file({key: tensor for key, tensor in load_file(weights).items() if keep(key)}, weights)


@pytest.mark.parametrize("make", [models.llama, models.gpt2])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_factors_are_what_peft_adds_to_the_weights(
    make: Callable[[], nn.Module], use_rslora: bool, tmp_path: Path
) -> None:
    options = {
        models.llama: {
            "target_modules": ["q_proj", "v_proj", "embed_tokens"],
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {r".*\.1\..*v_proj": 7},
        },
        models.gpt2: {
            "target_modules": ["c_attn", "wte"],
            "rank_pattern": {r"h\.1\..*": 3},
            "alpha_pattern": {"c_attn": 5},
            "fan_in_fan_out": True,
        },
    }[make]
    model = save(tmp_path, make(), r=4, lora_alpha=6, use_rslora=use_rslora, **options)
    found = lora_factors(tmp_path)
    layers = {n: m for n, m in model.get_base_model().named_modules() if hasattr(m, "lora_A")}
    assert found.keys() == layers.keys()
    for name, (left, right) in found.items():
        base = layers[name].get_base_layer()
        delta = layers[name].get_delta_weight("default")
        torch.testing.assert_close(left @ right, delta if isinstance(base, Conv1D | nn.Embedding) else delta.T)


def test_what_is_read_can_be_written(tmp_path: Path) -> None:
    model = save(
        tmp_path / "one", models.bert(), task_type="SEQ_CLS", target_modules=["query"], bias="all",
        rank_pattern={r"layer\.1\..*": 2}, r=3, lora_alpha=7,
    )  # fmt: skip
    write_lora(tmp_path / "two", read_lora(tmp_path / "one"))
    loaded = PeftModel.from_pretrained(models.bert(), tmp_path / "two").eval()
    torch.testing.assert_close(logits(loaded), logits(model.eval()), rtol=1e-5, atol=1e-5)


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    save(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    save_file({k: t.bfloat16() for k, t in tensors.items()}, tmp_path / "adapter_model.safetensors")
    assert {factor.dtype for pair in lora_factors(tmp_path).values() for factor in pair} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "made with use_dora=True, so that its update is not a plain product"),
        ({"layer_replication": [[0, 1], [0, 2]]}, "made with layer_replication"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa', which changes the base model's weights"),
        ({"init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
        ({"trainable_token_indices": [1, 2]}, "made with trainable_token_indices"),
    ],
)
def test_other_kinds_of_lora_are_refused(options: dict[str, object], message: str, tmp_path: Path) -> None:
    save(tmp_path, **options)
    with pytest.raises(TTTypeError, match=message):
        lora_factors(tmp_path)


def test_other_methods_and_other_layers_are_refused(tmp_path: Path) -> None:
    config = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    get_peft_model(models.llama(), config).save_pretrained(tmp_path / "ia3")
    with pytest.raises(TTTypeError, match="is IA3, not LoRA"):
        lora_factors(tmp_path / "ia3")
    save(tmp_path / "conv", nn.Sequential(nn.Conv2d(3, 4, 3)), target_modules=["0"])
    with pytest.raises(TTTypeError, match="Only linear layers and embeddings are understood"):
        lora_factors(tmp_path / "conv")
    save(tmp_path / "bias", nn.Sequential(nn.Linear(3, 4)), target_modules=["0"], lora_bias=True)
    change(tmp_path / "bias", lora_bias=False)  # the weights tell all the same
    with pytest.raises(TTTypeError, match=r"holds 'base_model.model.0.lora_B.bias'"):
        lora_factors(tmp_path / "bias")


def test_files_that_are_not_there_or_not_whole_are_named(tmp_path: Path) -> None:
    with pytest.raises(TTFileError, match="holds no adapter"):
        lora_factors(tmp_path / "nowhere")
    save(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    whole = weights.read_bytes()

    change(tmp_path, lambda key: "layers.1.self_attn.v_proj.lora_B" not in key)
    with pytest.raises(TTFileError, match=r"lora_A of 'model.layers.1.self_attn.v_proj', but no lora_B"):
        lora_factors(tmp_path)
    change(tmp_path, lambda key: False)
    with pytest.raises(TTFileError, match="holds no LoRA weights"):
        lora_factors(tmp_path)
    weights.write_bytes(whole[:100])
    with pytest.raises(TTFileError, match="cannot be read"):
        lora_factors(tmp_path)
    weights.write_bytes(whole)
    change(tmp_path, r=3)
    with pytest.raises(TTFileError, match="but its config says rank 3"):
        lora_factors(tmp_path)
    weights.unlink()
    with pytest.raises(TTFileError, match=r"holds no adapter_model.safetensors; load the adapter with PEFT"):
        lora_factors(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(TTFileError, match="cannot be read"):
        lora_factors(tmp_path)
