"""Adapter folders for mlx-lm, by the rules that docs/export.md names; mlx-lm itself was run when they were written."""

import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import LotrConfig, MeloraConfig, TTLoraConfig, export_lora


def as_mlx_computes(model: nn.Module, folder: Path) -> nn.Module:
    """Add to each weight of a fresh model what mlx-lm adds: the scale, not divided by the rank, times both matrices."""
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["fine_tune_type"] == "lora"
    parameters = config["lora_parameters"]
    tensors = load_file(folder / "adapters.safetensors")
    assert set(tensors) == {f"{name}.lora_{side}" for name in parameters["keys"] for side in "ab"}
    for name in parameters["keys"]:
        left, right = (tensors[f"{name}.lora_{side}"] for side in "ab")
        assert left.shape[1] == right.shape[0] == parameters["rank"]
        module = model.get_submodule(name)
        update = parameters["scale"] * left @ right
        with torch.no_grad():
            module.weight += update if isinstance(module, nn.Embedding) else update.T
    return model


@pytest.mark.parametrize(
    "config",
    [
        TTLoraConfig(tt_rank=2, target_modules="all-linear", rank_pattern={"v_proj": {"tt_rank": 1}}, alpha=3),
        LotrConfig(target_modules=["q_proj"], layers_to_transform=[1]),
        TTLoraConfig(target_modules=["embed_tokens", "lm_head", "q_proj"]),
    ],
)
def test_what_mlx_computes_is_what_was_trained(config: object, tmp_path: Path) -> None:
    config.init_weights = False
    base = models.llama()
    before = logits(base)
    model = get_peft_model(base, config).eval()
    trained = logits(model)
    assert (trained - before).abs().max() > 0.01
    report = export_lora(model, tmp_path, format="mlx")
    assert report.rank == max(module.rank for module in report.modules)
    torch.testing.assert_close(logits(as_mlx_computes(models.llama(), tmp_path)), trained, rtol=1e-5, atol=1e-5)
    export_lora(model, tmp_path)  # of the other format, in its place
    assert not (tmp_path / "adapters.safetensors").exists()


def test_double_precision_is_written_in_single(tmp_path: Path) -> None:
    model = get_peft_model(models.llama().double(), LotrConfig(init_weights=False))
    export_lora(model, tmp_path, format="mlx")
    assert {tensor.dtype for tensor in load_file(tmp_path / "adapters.safetensors").values()} == {torch.float32}


@pytest.mark.parametrize(
    ("config", "options", "error", "message"),
    [
        (LotrConfig(), {"format": "gguf"}, TTValueError, "format is 'gguf'; expected 'peft' or 'mlx'"),
        (
            MeloraConfig(r=2, n=2, rank_pattern={"v_proj": 1}, init_weights=False),
            {"pad_to": None},
            TTValueError,
            "pad_to is None, and the updates have ranks 2 to 4, but mlx-lm knows one rank",
        ),
        (
            LotrConfig(train_norms=True),
            {},
            TTTypeError,
            r"more than LoRA \('base_model.model.model.layers.0.input_layernorm.weight' and 4 more\), which mlx-lm",
        ),
        (
            LotrConfig(target_modules=["embed_tokens"]),
            {},
            TTTypeError,
            "adapts 'model.embed_tokens', which is the output layer too, and mlx-lm would adapt both",
        ),
    ],
)
def test_what_mlx_would_get_wrong_is_refused(
    config: object, options: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    model = models.llama()
    model.config.tie_word_embeddings = True
    with pytest.raises(error, match=message):
        export_lora(get_peft_model(model, config), tmp_path / "lora", **({"format": "mlx"} | options))
    assert not (tmp_path / "lora").exists()


def test_experts_are_refused(tmp_path: Path) -> None:
    model = get_peft_model(models.mixtral(), TTLoraConfig(target_modules="all-linear"))
    with pytest.raises(TTTypeError, match=r"adapts parameters \('model.layers.0.mlp.experts.down_proj' and 3 more\)"):
        export_lora(model, tmp_path / "lora", format="mlx")
    assert not (tmp_path / "lora").exists()


def test_models_without_a_config(tmp_path: Path) -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(8, 6)), LotrConfig(target_modules=["0"]))
    assert export_lora(model, tmp_path, format="mlx").rank == 1
