"""How adapters start, patterns for single modules, held factors, recorded modes, heads of trains."""

import json
from pathlib import Path

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import Method, each
from tests.ttnet_llm.models import logits, perturb
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, MeloraConfig, TTLoraConfig, hold_factors
from ttnet_llm.matrices.aligned import AlignedLayout
from ttnet_llm.matrices.thin import leading_factors, thin_svd
from ttnet_llm.matrices.train_matrix import TrainMatrix

FITTING = [LorettaRepConfig, TTLoraConfig]


@pytest.mark.parametrize("config_cls", FITTING)
@pytest.mark.parametrize("make", [models.llama, models.gpt2])
def test_tt_svd_starts_in_the_weights_principal_directions(make: object, config_cls: type, tmp_path: Path) -> None:
    base = make()
    expected = logits(base)
    model = get_peft_model(base, config_cls(init_weights="tt_svd", tt_rank=8))
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    _, layer = next(model.base_model.layers_with("default"))
    network = layer.networks["default"]
    left, right = network.network.factors()
    held = layer.scalings["default"] * (left @ right).double()
    weight = layer.base_matrix().double()
    best = torch.linalg.svdvals(weight)[network.fit_rank :].norm()
    assert (weight - held).norm() < weight.norm()
    if config_cls is LorettaRepConfig:  # ranks of 8 hold its 8 directions of 32 features nearly whole
        assert (weight - held).norm() < 1.2 * best
    perturb(model, spread=0.05)
    trained = logits(model)
    assert not torch.allclose(trained, expected, atol=1e-3)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make(), tmp_path).eval()
    assert torch.equal(logits(loaded), trained)
    with loaded.disable_adapter():  # the base weights are what they were
        assert torch.equal(logits(loaded), expected)
    torch.testing.assert_close(logits(loaded.merge_and_unload()), trained, rtol=1e-4, atol=1e-4)


def test_the_start_of_tt_svd_is_not_trained() -> None:
    model = get_peft_model(models.llama(), TTLoraConfig(init_weights="tt_svd"))
    assert not any(".start." in name for name, _ in model.named_parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == get_peft_model(models.llama(), TTLoraConfig()).get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("config_cls", [LorettaRepConfig, LorettaAdpConfig, TTLoraConfig])
def test_gaussian_start_has_the_stated_spread(config_cls: type) -> None:
    torch.manual_seed(0)
    config = config_cls(target_modules=["0"], init_weights="gaussian")
    squares = []
    for _ in range(30):
        layer = get_peft_model(nn.Sequential(nn.Linear(96, 96)), config).base_model.model[0]
        network = layer.networks["default"]
        matrix = {LorettaRepConfig: "A", LorettaAdpConfig: "down", TTLoraConfig: "delta"}[config_cls]
        left, right = getattr(network, matrix).factors()
        squares.append(float((left @ right).square().mean()))
    assert squares == pytest.approx([1 / (3 * 96)] * 30, rel=1e-4)


@pytest.mark.parametrize("config_cls", FITTING)
@pytest.mark.parametrize("make", [models.llama, models.gpt2])
def test_lora_start_takes_over_the_adapter(make: object, config_cls: type, tmp_path: Path) -> None:
    lora = perturb(get_peft_model(make(), LoraConfig(r=2, lora_alpha=6, use_rslora=True)), spread=0.1)
    expected = logits(lora)
    lora.save_pretrained(tmp_path)
    options = {"init_weights": "lora", "lora_path": str(tmp_path), "tt_rank": 64}
    model = get_peft_model(make(), config_cls(**options)).eval()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    model.save_pretrained(tmp_path / "ours")
    (tmp_path / "adapter_model.safetensors").unlink()  # no longer needed
    loaded = PeftModel.from_pretrained(make(), tmp_path / "ours").eval()
    assert torch.equal(logits(loaded), logits(model))
    for wrong in ({"init_weights": "lora"}, {"lora_path": "somewhere"}):
        with pytest.raises(TTValueError, match="give init_weights='lora' and the folder of a LoRA checkpoint together"):
            config_cls(**wrong)


@each("merges")
def test_methods_that_cannot_be_fitted_say_so(config_cls: Method) -> None:
    if config_cls.has_trains:
        return
    with pytest.raises(TTValueError, match="init_weights is 'lora'; expected one of True, False"):
        config_cls(init_weights="lora")
    network = get_peft_model(nn.Sequential(nn.Linear(4, 4)), config_cls(target_modules=["0"])).base_model.model[0]
    with pytest.raises(TTTypeError, match="cannot be fitted to a given update"):
        network.networks["default"].fit(torch.ones(4, 1), torch.ones(1, 4))


def test_patterns_set_ranks_and_factors_of_single_modules() -> None:
    config = LorettaRepConfig(
        target_modules=["q_proj", "v_proj"],
        rank_pattern={"q_proj": 4, r"layers\.1\.self_attn\.v_proj": {"r": 2, "tt_rank": 1}},
        alpha_pattern={"v_proj": 32},
    )
    model = get_peft_model(models.llama(), config)
    found = {
        name.replace("model.layers.", ""): (
            layer.networks["default"].A.layout.cols,
            max(layer.networks["default"].A.layout.ranks),
            layer.scalings["default"],
        )
        for name, layer in model.base_model.layers_with("default")
    }
    assert found == {
        "0.self_attn.q_proj": (4, 1, 4.0),
        "0.self_attn.v_proj": (8, 5, 4.0),
        "1.self_attn.q_proj": (4, 1, 4.0),
        "1.self_attn.v_proj": (2, 1, 16.0),
    }


def test_patterns_of_the_other_methods() -> None:
    config = LorettaAdpConfig(rank_pattern={"0": 2}, alpha_pattern={"1": 0.5}, target_modules=["0", "1"])
    model = get_peft_model(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), config).base_model.model
    ranks = [max(layer.networks["default"].up.layout.ranks) for layer in model]
    assert ranks == [2, 5]
    assert [layer.scalings["default"] for layer in model] == [1.0, 0.5]
    config = MeloraConfig(rank_pattern={"0": {"r": 2, "n": 4}}, target_modules=["0", "1"])
    model = get_peft_model(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), config).base_model.model
    assert [tuple(layer.networks["default"].A.shape) for layer in model] == [(64, 2), (64, 8)]


@each("merges")
def test_safe_merge_gives_the_weight_back_bit_for_bit(config_cls: Method) -> None:
    base = models.llama()
    before = {name: p.clone() for name, p in base.named_parameters()}
    model = perturb(get_peft_model(base, config_cls()))
    model.add_adapter("second", config_cls(init_weights=False))
    model.merge_adapter(["default", "second"], safe_merge=True)
    merged = dict(model.named_parameters())
    changed = [n for n, p in before.items() if not torch.equal(merged.get(_wrapped(n), merged.get(_plain(n))), p)]
    assert changed
    model.unmerge_adapter()
    after = dict(model.named_parameters())
    for name, parameter in before.items():
        assert torch.equal(after.get(_wrapped(name), after.get(_plain(name))), parameter), name


def _wrapped(name: str) -> str:
    return f"base_model.model.{name.removesuffix('.weight')}.base_layer.weight"


def _plain(name: str) -> str:
    return f"base_model.model.{name}"


@each("merges")
def test_held_factors_change_nothing_until_training(config_cls: Method) -> None:
    model = perturb(get_peft_model(models.llama(), config_cls())).eval()
    expected = logits(model)
    hold_factors(model)
    held = logits(model)
    torch.testing.assert_close(held, expected)  # up to rounding: held factors are stored another way
    perturb(model)
    assert torch.equal(logits(model), held)  # still those held
    model.train().eval()
    assert not torch.allclose(logits(model), held)
    with pytest.raises(TTValueError, match=r"call `eval\(\)` first"):
        hold_factors(model.train())
    with pytest.raises(TTValueError, match="has no adapter of a linear method"):
        hold_factors(models.llama())


@each("has_trains")
def test_a_checkpoint_outlives_the_automatic_choice_of_modes(
    config_cls: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = perturb(get_peft_model(models.bert(), config_cls()))
    trained = logits(model)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["ttnet_version"]
    assert saved["recorded_modes"]
    choose = TrainMatrix.choose.__func__

    def later(cls: type, rows: int, cols: int, *, rank: object, modes: object) -> object:
        """A version that prefers one core for every side."""
        return choose(cls, rows, cols, rank=rank, modes=[[rows], [cols]] if modes == "auto" else modes)

    monkeypatch.setattr(TrainMatrix, "choose", classmethod(later))
    other = get_peft_model(models.bert(), config_cls())
    assert other.get_nb_trainable_parameters() != model.get_nb_trainable_parameters()
    loaded = PeftModel.from_pretrained(models.bert(), tmp_path).eval()
    assert torch.equal(logits(loaded), trained)


@pytest.mark.parametrize("config_cls", [LorettaRepConfig, LorettaAdpConfig, TTLoraConfig])
@pytest.mark.parametrize(
    ("make", "hidden"),
    [
        (models.roberta, "classifier.modules_to_save.default.dense"),
        (models.bert, "pooler.dense"),
        (models.deberta, "pooler.dense"),
    ],
)
def test_hidden_layer_of_a_head_is_a_train(make: object, hidden: str, config_cls: type, tmp_path: Path) -> None:
    base = make()
    expected = logits(base)
    model = get_peft_model(base, config_cls(tt_head=True, task_type="SEQ_CLS"))
    trainable = [n for n, p in model.named_parameters() if p.requires_grad and "weight_train" in n]
    assert trainable
    assert all(hidden in name for name in trainable)
    trained = logits(perturb(model))
    model.save_pretrained(tmp_path)
    for low in (False, True):
        loaded = PeftModel.from_pretrained(make(), tmp_path, low_cpu_mem_usage=low).eval()
        torch.testing.assert_close(logits(loaded), trained, rtol=1e-5, atol=1e-5)
    with model.disable_adapter():
        assert torch.equal(logits(model), expected)
    if config_cls is not LorettaAdpConfig:
        merged = model.merge_and_unload()
        torch.testing.assert_close(logits(merged), trained, rtol=1e-4, atol=1e-4)
        assert {type(m).__module__.partition(".")[0] for m in merged.modules()} <= {"torch", "transformers"}


def test_a_head_without_hidden_layer_is_refused() -> None:
    with pytest.raises(TTValueError, match="LlamaForCausalLM has no hidden dense layer in its head"):
        get_peft_model(models.llama(), TTLoraConfig(tt_head=True))


def test_published_totals() -> None:
    deberta = tf.DebertaConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072, type_vocab_size=0
    )
    with torch.device("meta"):
        model = tf.DebertaForSequenceClassification(deberta)
    options = {"modes": "paper", "tt_head": True, "train_norms": True, "task_type": "SEQ_CLS"}
    assert get_peft_model(model, LorettaAdpConfig(**options)).get_nb_trainable_parameters()[0] == 99_194


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_leading_factors_are_near_the_best(rank: int) -> None:
    torch.manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(40, 30))[0], torch.linalg.qr(torch.randn(50, 30))[0]
    weight = (u * 0.7 ** torch.arange(30)) @ v.T
    left, right = leading_factors(weight, rank)
    best = torch.linalg.svdvals(weight)[rank:].norm()
    assert (left @ right - weight).norm() < 1.01 * best
    torch.manual_seed(5)
    again = leading_factors(weight, rank)
    assert torch.equal(left, again[0])
    torch.testing.assert_close(left.norm(), right.norm())


def test_thin_svd_is_the_svd_of_the_product() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(9, 4, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    u, s, v = thin_svd(left, right)
    torch.testing.assert_close((u * s) @ v, left @ right)
    torch.testing.assert_close(s, torch.linalg.svdvals(left @ right)[:3])
    torch.testing.assert_close(u.T @ u, torch.eye(3, dtype=torch.float64))


def test_layout_of_an_interleaved_adapter_reaches_full_rank() -> None:
    """What the two layouts buy: rank 5 at most for the aligned bottleneck, all 64 for the interleaved one."""
    ranks = {}
    for layout in ("aligned", "interleaved"):
        torch.manual_seed(0)
        config = LorettaAdpConfig(target_modules=["0"], layout=layout)
        network = get_peft_model(nn.Sequential(nn.Linear(768, 768)), config).base_model.model[0].networks["default"]
        left, right = network.down.factors()
        ranks[layout] = int(torch.linalg.matrix_rank(left @ right))
    assert ranks == {"aligned": 5, "interleaved": 64}
    assert AlignedLayout.choose(768, 64, rank=5, modes="auto").cut_rank == 5
