"""Any linear method's adapter as an ordinary LoRA checkpoint: the same function, in files that engines load."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftMixedModel, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file
from torch import nn

import ttnet_llm.lora.checkpoint
from tests.examples import examples
from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, perturb
from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm import (
    LorettaAdpConfig,
    LorettaRepConfig,
    LortaConfig,
    LotrConfig,
    MeloraConfig,
    MetaTTConfig,
    NeuronLoraConfig,
    TTLoraConfig,
    set_task,
)
from ttnet_llm.lora.checkpoint import lora_factors
from ttnet_llm.lora.export import export_lora, smallest_factors
from ttnet_llm.matrices.thin import thin_svd

CONFIGS = {
    "loretta_rep": lambda **o: LorettaRepConfig(r=4, tt_rank=3, **o),
    "loretta_rep, interleaved": lambda **o: LorettaRepConfig(r=4, tt_rank=3, layout="interleaved", **o),
    "loretta_rep, tt_svd": lambda **o: LorettaRepConfig(r=4, tt_rank=3, init_weights="tt_svd", **o),
    "tt_lora": lambda **o: TTLoraConfig(tt_rank=4, **o),
    "tt_lora, tt_svd": lambda **o: TTLoraConfig(tt_rank=4, init_weights="tt_svd", **o),
    "lorta": lambda **o: LortaConfig(r=3, **o),
    "lotr": lambda **o: LotrConfig(r=3, **o),
    "metatt": lambda **o: MetaTTConfig(r=3, **o),
    "melora": lambda **o: MeloraConfig(r=2, n=2, **o),
    "neuron_lora": lambda **o: NeuronLoraConfig(r=2, neurons=5, **o),
}
each_config = pytest.mark.parametrize("make_config", CONFIGS.values(), ids=CONFIGS)


def plain_lora(base: nn.Module, path: Path) -> nn.Module:
    model = PeftModel.from_pretrained(base, path).eval()
    assert type(model.base_model).__name__ == "LoraModel"
    return model


def vllm_objections(path: Path, max_lora_rank: int = 16) -> list[str]:
    """What vLLM has to say of a checkpoint, by the rules that docs/export.md names."""
    config = json.loads((path / "adapter_config.json").read_text())
    assert max_lora_rank in (1, 8, 16, 32, 64, 128, 256, 320, 512)
    objections = [f"no {key}" for key in ("r", "lora_alpha", "target_modules") if not config.get(key)]
    objections += [key for key in ("modules_to_save", "use_dora") if config[key]]
    objections += ["bias"] if config["bias"] != "none" else []
    objections += ["rank"] if config["r"] > max_lora_rank else []
    # It takes one rank and one alpha for all modules, and passes over the patterns in silence.
    objections += ["alpha"] if config["lora_alpha"] != config["r"] or config["alpha_pattern"] else []
    for key, tensor in load_file(path / "adapter_model.safetensors").items():
        found = re.fullmatch(r"base_model\.model\..*\b(\w+)\.(?:lora_([AB])\.weight|lora_embedding_([AB]))", key)
        if not found or found[1] not in ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj", "embed_tokens"):
            objections.append(f"unsupported LoRA weight {key}")
        elif tensor.shape["AB".index(found[2] or found[3])] != config["r"]:
            objections.append(f"rank of {key}")
    return objections


@each_config
@pytest.mark.parametrize("make", [models.llama, models.gpt2, models.bert])
def test_plain_lora_computes_the_same(
    make: Callable[[], nn.Module], make_config: Callable[..., object], tmp_path: Path
) -> None:
    task = {"task_type": "SEQ_CLS"} if make is models.bert else {}
    base = make()
    expected = logits(base)
    model = perturb(get_peft_model(base, make_config(**task)), spread=0.2).eval()
    trained = logits(model)
    assert (trained - expected).abs().max() > 0.01
    report = export_lora(model, tmp_path / "lora")
    torch.testing.assert_close(logits(plain_lora(make(), tmp_path / "lora")), trained, rtol=1e-5, atol=1e-5)
    assert all(module.error < 1e-6 for module in report.modules)


@each_config
def test_ranks_are_the_smallest(make_config: Callable[..., object], tmp_path: Path) -> None:
    model = perturb(get_peft_model(models.llama(), make_config()))
    report = export_lora(model, tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    for module in report.modules:
        layer = model.get_base_model().get_submodule(module.name)
        delta = layer.get_delta_weight("default").double()
        rank = int(torch.linalg.matrix_rank(delta, rtol=1e-5))
        assert module.rank == rank
        assert stored[f"base_model.model.{module.name}.lora_A.weight"].shape == (rank, layer.in_features)
    assert report.parameters == sum(tensor.numel() for tensor in stored.values())


@pytest.mark.parametrize("pad_to", [None, "uniform", 8])
def test_padding_gives_one_rank_and_the_same_function(pad_to: object, tmp_path: Path) -> None:
    config = MeloraConfig(r=2, n=2, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 1})
    model = perturb(get_peft_model(models.llama(), config))
    report = export_lora(model, tmp_path, pad_to=pad_to)
    assert {module.rank for module in report.modules} == {4, 2}
    assert report.rank == (8 if pad_to == 8 else 4)
    saved = LoraConfig.from_pretrained(tmp_path)
    assert saved.lora_alpha == saved.r == report.rank
    assert saved.rank_pattern == saved.alpha_pattern
    assert len(saved.rank_pattern) == (2 if pad_to is None else 0)
    assert bool(vllm_objections(tmp_path)) == (pad_to is None)
    torch.testing.assert_close(logits(plain_lora(models.llama(), tmp_path)), logits(model), rtol=1e-5, atol=1e-5)


@each_config
def test_an_engine_takes_what_is_padded(make_config: Callable[..., object], tmp_path: Path) -> None:
    export_lora(perturb(get_peft_model(models.llama(), make_config())), tmp_path, pad_to="uniform")
    assert vllm_objections(tmp_path) == []
    assert isinstance(json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"], list)


def test_a_zero_update_has_rank_one(tmp_path: Path) -> None:
    base = models.llama()
    expected = logits(base)
    report = export_lora(get_peft_model(base, TTLoraConfig()), tmp_path)
    assert {module.rank for module in report.modules} == {1}
    assert torch.equal(logits(plain_lora(models.llama(), tmp_path)), expected)


def test_embeddings(tmp_path: Path) -> None:
    config = TTLoraConfig(tt_rank=3, target_modules=["embed_tokens", "q_proj"], alpha=2)
    model = perturb(get_peft_model(models.llama(), config), spread=0.5)
    trained = logits(model)
    export_lora(model, tmp_path, pad_to="uniform")
    loaded = plain_lora(models.llama(), tmp_path)
    torch.testing.assert_close(logits(loaded), trained, rtol=1e-5, atol=1e-5)
    assert "base_model.model.model.embed_tokens.lora_embedding_A" in load_file(tmp_path / "adapter_model.safetensors")
    assert vllm_objections(tmp_path) == []


@pytest.mark.parametrize("make", [models.bert, models.roberta])
def test_heads_norms_biases_and_trains_in_the_head_go_along(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "base")
    base = type(make()).from_pretrained(tmp_path / "base")
    config = LorettaRepConfig(task_type="SEQ_CLS", tt_rank=3, train_norms=True, tt_head=True, bias="loretta_rep_only")
    model = perturb(get_peft_model(base, config)).eval()
    export_lora(model, tmp_path / "lora")
    assert not any("train" in key for key in load_file(tmp_path / "lora" / "adapter_model.safetensors"))
    assert LoraConfig.from_pretrained(tmp_path / "lora").bias == "lora_only"
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "lora").eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)


def test_targets_that_names_alone_do_not_tell(tmp_path: Path) -> None:
    config = LotrConfig(target_modules=["q_proj", "v_proj"], exclude_modules=["v_proj"], layers_to_transform=[1])
    model = perturb(get_peft_model(models.llama(), config))
    export_lora(model, tmp_path)
    loaded = plain_lora(models.llama(), tmp_path)
    assert loaded.base_model.targeted_module_names == ["model.layers.1.self_attn.q_proj"]
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)


def test_only_the_adapter_of_that_name_is_exported_merged_or_not(tmp_path: Path) -> None:
    model = perturb(get_peft_model(models.llama(), LotrConfig(), adapter_name="first"), seed=1)
    model.add_adapter("second", LotrConfig(r=3, init_weights=False))
    model.set_adapter("second")
    second = logits(model)
    model.merge_adapter()
    export_lora(model, tmp_path, adapter_name="second")
    torch.testing.assert_close(logits(plain_lora(models.llama(), tmp_path)), second, rtol=1e-5, atol=1e-5)


def test_the_task_in_use_is_exported(tmp_path: Path) -> None:
    model = perturb(get_peft_model(models.llama(), MetaTTConfig(r=3, num_tasks=2)))
    for task in (0, 1):
        set_task(model, task)
        export_lora(model, tmp_path / str(task))
        loaded = plain_lora(models.llama(), tmp_path / str(task))
        torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)


def test_transformers_add_adapter(tmp_path: Path) -> None:
    model = models.llama()
    model.add_adapter(LotrConfig(), adapter_name="extra")
    perturb(model)
    export_lora(model, tmp_path, adapter_name="extra")
    torch.testing.assert_close(logits(plain_lora(models.llama(), tmp_path)), logits(model), rtol=1e-5, atol=1e-5)


@given(
    st.integers(1, 7), st.integers(1, 7), st.integers(1, 6), st.integers(0, 5), st.floats(0, 1.5), st.integers(0, 99)
)
@examples(2)
def test_factors_are_the_smallest_within_the_bound(m: int, n: int, k: int, r: int, eps: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(m, k, generator=generator, dtype=torch.float64)
    right = torch.randn(k, n, generator=generator, dtype=torch.float64)
    left[:, min(r, k) :] = 0  # of rank r at most
    delta = left @ right
    small_left, small_right, error = smallest_factors(left, right, eps)
    distance = torch.linalg.norm(delta - small_left @ small_right)
    norm = torch.linalg.norm(delta)
    assert distance <= (eps + 1e-12) * norm
    assert abs(error * norm - distance) <= 1e-12 * norm
    rank = small_left.shape[1]
    if rank > 1:  # one column fewer would be too few, by the theorem of Eckart and Young
        assert torch.linalg.norm(torch.linalg.svdvals(delta)[rank - 1 :]) > eps * norm
    assert smallest_factors(left, right, max_rank=1)[0].shape == (m, 1)


def test_eps_and_rank_bound_the_export(tmp_path: Path) -> None:
    model = perturb(get_peft_model(models.llama(), MeloraConfig(r=4, n=2)))
    report = export_lora(model, tmp_path, eps=0.5)
    layers = {module.name: model.get_base_model().get_submodule(module.name) for module in report.modules}
    for name, (left, right) in lora_factors(tmp_path).items():
        delta = layers[name].get_delta_weight("default").T
        assert torch.linalg.norm(left @ right - delta) <= 0.5 * torch.linalg.norm(delta)
    report = export_lora(model, tmp_path, rank=3)
    assert {module.rank for module in report.modules} == {3}
    for module in report.modules:
        s = thin_svd(*layers[module.name].factors("default"))[1].detach()
        assert module.error == pytest.approx(float(s[3:].norm() / s.norm()), rel=1e-5)


def test_dtype(tmp_path: Path) -> None:
    model = get_peft_model(models.llama(), LotrConfig(init_weights=False))
    export_lora(model, tmp_path, dtype=torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (LorettaAdpConfig(), TTTypeError, "loretta_adp, which is not linear in its input, so that no LoRA is equal"),
        (LoraConfig(), TTTypeError, "it is LoRA already; use `save_pretrained`"),
    ],
)
def test_what_no_lora_is_equal_to_is_refused(
    config: object, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export_lora(get_peft_model(models.llama(), config), tmp_path / "lora")
    assert not (tmp_path / "lora").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapter_name": "other"}, "adapter_name is 'other', but the model has 'default'"),
        ({"pad_to": 2}, "pad_to is 2, but the update of 'model.layers.0.self_attn.q_proj' has rank 4"),
        ({"pad_to": "max"}, "pad_to is 'max'; expected an integer of at least 1, \"uniform\" or None"),
        ({"rank": 0}, "rank is 0; expected an integer of at least 1"),
        ({"eps": -1}, "eps is -1; expected a relative error >= 0"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, object], message: str, tmp_path: Path) -> None:
    model = perturb(get_peft_model(models.llama(), MeloraConfig(r=2, n=2)))
    with pytest.raises(TTValueError, match=message):
        export_lora(model, tmp_path / "lora", **options)
    assert not (tmp_path / "lora").exists()


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    model = get_peft_model(models.llama(), LotrConfig())
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
    with pytest.raises(TTValueError, match="are NaN or infinite"):
        export_lora(model, tmp_path / "lora")
    with pytest.raises(TTValueError, match="but the model has no adapter"):
        export_lora(nn.Linear(2, 2), tmp_path / "lora")


def test_an_interrupted_write_leaves_the_old_checkpoint_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = perturb(get_peft_model(models.llama(), LotrConfig()))
    export_lora(model, tmp_path / "lora")
    before = {file.name: file.read_bytes() for file in (tmp_path / "lora").iterdir()}

    def fail(*arguments: object, **options: object) -> None:
        Path(arguments[1]).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ttnet_llm.lora.checkpoint, "save_file", fail)
        with pytest.raises(KeyboardInterrupt):
            export_lora(perturb(model), tmp_path / "lora")
    assert {file.name: file.read_bytes() for file in (tmp_path / "lora").iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["lora"]
    export_lora(perturb(model), tmp_path / "lora")
    assert (tmp_path / "lora" / "adapter_model.safetensors").read_bytes() != before["adapter_model.safetensors"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    model = get_peft_model(models.llama(), LotrConfig())
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(TTFileError, match=r"holds 'mine.txt', which would be lost"):
        export_lora(model, tmp_path)
    with pytest.raises(TTFileError, match="is a file; name a folder"):
        export_lora(model, tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_what_peft_does_for_lora_alone_is_had_by_exporting(tmp_path: Path) -> None:
    """Hot-swapping one adapter for another of the same ranks, and models that mix methods."""
    first = perturb(get_peft_model(models.llama(), MetaTTConfig(r=3)), seed=1)
    second = perturb(get_peft_model(models.llama(), TTLoraConfig(tt_rank=3)), seed=2)
    export_lora(first, tmp_path / "first", pad_to=4)
    export_lora(second, tmp_path / "second", pad_to=4)
    model = plain_lora(models.llama(), tmp_path / "first")
    hotswap_adapter(model, tmp_path / "second", adapter_name="default")
    torch.testing.assert_close(logits(model), logits(second), rtol=1e-5, atol=1e-5)
    mixed = PeftMixedModel.from_pretrained(models.llama(), tmp_path / "first").eval()
    torch.testing.assert_close(logits(mixed), logits(first), rtol=1e-5, atol=1e-5)
