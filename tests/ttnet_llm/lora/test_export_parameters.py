"""Adapters of experts as PEFT's LoRA with `target_parameters`: plain PEFT computes the same, or it is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, logits_without_this_package, perturb
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import LorettaRepConfig, TTLoraConfig, export_lora
from ttnet_llm.linear import LinearConfig
from ttnet_llm.lora.checkpoint import peft_weights, read_lora
from ttnet_llm.lora.spectra import adapter_spectra

Build = Callable[[], nn.Module]
each_config = pytest.mark.parametrize("config_cls", [TTLoraConfig, LorettaRepConfig])
each_model = pytest.mark.parametrize("build", models.WITH_EXPERTS)


def adapted(build: Build, config_cls: type[LinearConfig] = TTLoraConfig, **options: object) -> nn.Module:
    fields = {"target_modules": "all-linear", "tt_rank": 3, "task_type": "CAUSAL_LM", "dropout": 0.1}
    return perturb(get_peft_model(build(), config_cls(**(fields | options)))).eval()


def loaded(build: Build, folder: Path) -> nn.Module:
    return PeftModel.from_pretrained(build(), folder).eval()


@each_config
@each_model
def test_plain_peft_computes_the_same(build: Build, config_cls: type, tmp_path: Path) -> None:
    model = adapted(build, config_cls)
    report = export_lora(model, tmp_path)
    config = LoraConfig.from_pretrained(tmp_path)
    assert sorted(config.target_parameters) == model.peft_config["default"].target_parameters
    torch.testing.assert_close(logits(loaded(build, tmp_path)), logits(model), rtol=0, atol=1e-5)
    experts = [module for module in report.modules if "experts." in module.name]
    assert len(experts) == 4
    for module in experts:  # of 4 experts
        assert module.rank <= 3
        assert module.parameters == 4 * report.rank * sum(module.shape)
        assert module.error < 1e-6


@pytest.mark.parametrize(
    ("options", "build"),
    [
        ({"target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]}, models.mixtral),
        (
            {"target_modules": [], "target_parameters": ["0.mlp.experts.gate_up_proj", "experts.down_proj"]},
            models.gpt_oss,
        ),
        ({"target_modules": [], "target_parameters": ["gate.weight", "experts.down_proj"]}, models.mixtral),
        ({"target_modules": "all-linear", "rank_pattern": {"gate_up_proj": 2, "q_proj": 1}}, models.qwen3_moe),
        ({"target_modules": "all-linear", "init_weights": "tt_svd", "tt_rank": 2}, models.llama4),
    ],
)
@pytest.mark.parametrize("pad_to", ["uniform", None])
def test_any_choice_of_parameters_and_ranks(
    options: dict[str, object], build: Build, pad_to: str | None, tmp_path: Path
) -> None:
    model = adapted(build, **options)
    export_lora(model, tmp_path, pad_to=pad_to)
    torch.testing.assert_close(logits(loaded(build, tmp_path)), logits(model), rtol=0, atol=1e-5)


def test_parameters_that_were_adapted_in_another_order(tmp_path: Path) -> None:
    model = adapted(models.mixtral, target_modules=[], target_parameters=["experts.down_proj"])
    model.add_adapter("both", TTLoraConfig(target_modules=[], target_parameters=["experts.down_proj", "gate_up_proj"]))
    model.set_adapter("both")
    perturb(model)
    export_lora(model, tmp_path, adapter_name="both")
    torch.testing.assert_close(logits(loaded(models.mixtral, tmp_path)), logits(model), rtol=0, atol=1e-5)


def test_lossy_exports_bound_the_error_of_every_expert(tmp_path: Path) -> None:
    model = adapted(models.mixtral)
    report = export_lora(model, tmp_path / "eps", eps=0.3)
    assert any(module.error > 0.01 for module in report.modules)
    assert all(module.error <= 0.3 for module in report.modules)
    assert export_lora(model, tmp_path / "rank", rank=1).rank == 1
    with pytest.raises(TTValueError, match=r"pad_to is 2, but the update of 'model\.layers\.0\.\S+' has rank 3"):
        export_lora(model, tmp_path / "pad", pad_to=2)


def test_weights_in_peft_s_layout() -> None:
    left, right = torch.randn(4, 6, 2), torch.randn(4, 2, 5)
    down, up = peft_weights(left, right)
    assert (down.shape, up.shape) == ((8, 6), (5, 8))
    # As PEFT's wrapper of parameters takes them apart.
    delta = torch.einsum("o r e, e r i -> e i o", up.reshape(5, 2, 4), down.reshape(4, 2, 6))
    torch.testing.assert_close(delta, left @ right)


@pytest.mark.slow
def test_a_process_without_this_package_computes_the_same(tmp_path: Path) -> None:
    base = models.mixtral()
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    model = adapted(lambda: base)
    export_lora(model, tmp_path / "lora")
    torch.testing.assert_close(logits_without_this_package(tmp_path / "lora"), logits(model), rtol=0, atol=1e-5)


def test_a_single_expert_with_its_inputs_first_is_refused(tmp_path: Path) -> None:
    """PEFT forms its update transposed."""

    def single() -> nn.Module:
        model = models.gpt_oss()
        for layer in model.model.layers:
            experts = layer.mlp.experts
            experts.down_proj = nn.Parameter(experts.down_proj[:1].detach())
        return model

    model = get_peft_model(single(), TTLoraConfig(target_modules=[], target_parameters=["experts.down_proj"]))
    with pytest.raises(TTTypeError, match="down_proj holds a single expert with its inputs first"):
        export_lora(model, tmp_path)


def test_exports_of_experts_are_no_plain_products_to_read(tmp_path: Path) -> None:
    export_lora(adapted(models.mixtral), tmp_path)
    with pytest.raises(TTTypeError, match="so that its update is not a plain product"):
        read_lora(tmp_path)


def test_spectra_are_those_of_all_experts_side_by_side(tmp_path: Path) -> None:
    base = models.mixtral()
    base.save_pretrained(tmp_path / "base")
    model = adapted(lambda: base)
    model.save_pretrained(tmp_path / "adapter")
    found = {s.name: s for s in adapter_spectra(tmp_path / "adapter", model=str(tmp_path / "base"))}
    spectrum = found["model.layers.0.mlp.experts.down_proj"]
    layer = dict(model.base_model.layers_with("default"))[spectrum.name]
    left, right = layer.factors("default")
    assert right.shape[1] == 4 * 32
    expected = torch.linalg.svdvals(left @ right * layer.scalings["default"])[:3]
    torch.testing.assert_close(torch.tensor(spectrum.singular_values), expected, rtol=1e-4, atol=1e-4)
