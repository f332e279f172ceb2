"""Weighted sums of adapters: exact or rounded, for every linear method, saved and loaded like any other adapter."""

import logging

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import DEPT, METHODS
from tests.ttnet_llm.models import logits
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import (
    EtherConfig,
    LorettaAdpConfig,
    LorettaRepConfig,
    LortaConfig,
    MeloraConfig,
    MetaTTConfig,
    TTEtherConfig,
    TTLoraConfig,
    TTTurnConfig,
)
from ttnet_llm.linear import LinearAdapterLayer
from ttnet_llm.tuner import AdapterModel

LINEAR = [method for method in METHODS if method.adds_up]
each_linear = pytest.mark.parametrize("method", LINEAR, ids=[method.name for method in LINEAR])
WEIGHTS = {"a": 0.7, "b": -1.3, "c": 0.25}


def three_adapters(method, seed=0, **options):
    torch.manual_seed(seed)
    model = get_peft_model(models.llama(), method(init_weights=False, **options), adapter_name="a")
    for name in ("b", "c"):
        model.add_adapter(name, method(init_weights=False, **options))
    return model.eval()


def deltas(model, adapter):
    return {
        name: module.get_delta_weight(adapter).detach().double()
        for name, module in model.named_modules()
        if isinstance(module, LinearAdapterLayer) and adapter in module.networks
    }


def assert_near(found, expected):
    """Compare what is stored in float32."""
    assert (found - expected).norm() <= 3e-6 * expected.norm()


def wanted(model, weights):
    parts = [(weight, deltas(model, adapter)) for adapter, weight in weights.items()]
    return {name: sum(weight * part[name] for weight, part in parts) for name in parts[0][1]}


@each_linear
def test_the_sum_is_exact(method):
    model = three_adapters(method)
    expected = wanted(model, WEIGHTS)
    report = model.add_weighted_adapter(list(WEIGHTS), list(WEIGHTS.values()), "sum", combination_type="cat")
    found = deltas(model, "sum")
    assert found.keys() == expected.keys()
    for name, delta in expected.items():
        assert_near(found[name], delta)
    assert report.error <= 3e-6
    assert report.parameters == sum(p.numel() for n, p in model.named_parameters() if ".sum." in n)
    assert model.active_adapters == ["a"]


@each_linear
def test_the_sum_is_saved_loaded_and_merged(method, tmp_path):
    model = three_adapters(method)
    model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean")
    model.set_adapter("mean")
    expected = logits(model)
    model.save_pretrained(tmp_path, selected_adapters=["mean"])
    loaded = PeftModel.from_pretrained(models.llama(), tmp_path / "mean").eval()
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-6)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [m for m in LINEAR if m.name != "lorta"], ids=lambda method: method.name)
def test_a_rounded_sum_has_the_ranks_of_the_first_and_tells_its_error(method, caplog):
    model = three_adapters(method)
    expected = wanted(model, WEIGHTS)
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        report = model.add_weighted_adapter(list(WEIGHTS), list(WEIGHTS.values()), "sum", "tt_svd")
    found = deltas(model, "sum")
    names = [name for name in found if name in expected]
    for name, error in zip(names, report.errors.values(), strict=True):
        true = float((found[name] - expected[name]).norm() / expected[name].norm())
        assert error == pytest.approx(true, rel=1e-3, abs=1e-5)
        assert error < 1
    assert f"{report.error:.1e}" in caplog.text
    if method.options.get("layout") == "interleaved":
        return  # the sum is one of aligned trains, which need larger ranks for the same matrix
    # Rounding the sum of an adapter and itself loses nothing.
    same = model.add_weighted_adapter(["a", "a"], [0.5, 0.5], "again", "tt_svd")
    assert same.error <= 3e-6


@pytest.mark.parametrize("config_cls", [LorettaRepConfig, TTLoraConfig])
def test_an_error_bound_is_kept(config_cls):
    model = three_adapters(config_cls, target_modules=["q_proj"])
    exact = model.add_weighted_adapter(["a", "b"], [1, 1e-3], "exact")
    rounded = model.add_weighted_adapter(["a", "b"], [1, 1e-3], "rounded", "tt_svd", eps=0.05)
    assert 1e-5 < rounded.error <= 0.05
    assert rounded.parameters < exact.parameters
    least = model.add_weighted_adapter(["a", "b"], [1, 1e-3], "least", "tt_svd", max_rank=1)
    assert least.parameters < rounded.parameters


def test_modules_that_one_adapter_lacks_count_as_zero():
    torch.manual_seed(0)
    model = get_peft_model(models.llama(), MeloraConfig(r=2, init_weights=False, target_modules=["q_proj", "v_proj"]))
    model.add_adapter("other", MeloraConfig(r=3, init_weights=False, target_modules=["q_proj", "k_proj"]))
    one, other = deltas(model, "default"), deltas(model, "other")
    model.add_weighted_adapter(["default", "other"], [2, 3], "sum")
    found = deltas(model, "sum")
    assert found.keys() == one.keys() | other.keys()
    for name, delta in found.items():
        assert_near(delta, 2 * one.get(name, 0 * delta) + 3 * other.get(name, 0 * delta))


def test_several_tasks_and_embeddings_add_up():
    torch.manual_seed(0)
    config = MetaTTConfig(r=2, num_tasks=3, task=1, init_weights=False, target_modules=["0", "1"])
    model = get_peft_model(nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8)), config)
    model.add_adapter("other", config)
    expected = wanted(model, {"default": 1, "other": 2})
    model.add_weighted_adapter(["default", "other"], [1, 2], "sum")
    for name, delta in deltas(model, "sum").items():
        assert_near(delta, expected[name])


def test_an_adapter_that_counts_from_its_start_can_be_added():
    model = get_peft_model(models.llama(), LorettaRepConfig(init_weights="tt_svd", target_modules=["q_proj"]))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.01 * torch.randn_like(parameter)
    expected = wanted(model, {"default": 2})
    model.add_weighted_adapter(["default"], [2], "twice")
    for name, delta in deltas(model, "twice").items():
        assert_near(delta, expected[name])


def test_scales_of_single_modules_are_kept():
    config = MeloraConfig(
        r=2,
        init_weights=False,
        target_modules=["q_proj", "v_proj"],
        alpha_pattern={"v_proj": 3},
        rank_pattern={"v_proj": 5},
    )
    model = get_peft_model(models.llama(), config)
    model.add_adapter("other", config)
    expected = wanted(model, {"default": 1, "other": 1})
    model.add_weighted_adapter(["default", "other"], [1, 1], "sum")
    for name, delta in deltas(model, "sum").items():
        assert_near(delta, expected[name])


def test_mistakes_get_a_sentence():
    model = get_peft_model(models.llama(), TTLoraConfig())
    model.add_adapter("other", TTLoraConfig())
    add = model.add_weighted_adapter
    for arguments, sentence in [
        ((["default"], [1], "x", "svd"), r"combination_type is 'svd'; expected one of 'cat', 'tt_svd'"),
        (([], [], "x"), r"adapters has 0 names and weights has 0 numbers"),
        ((["default", "other"], [1], "x"), r"adapters has 2 names and weights has 1 numbers; expected"),
        ((["default"], [float("nan")], "x"), r"weights has the entry nan; expected finite"),
        ((["default"], [1], "other"), r"adapter_name is 'other', which the model has already; choose"),
        ((["mine"], [1], "x"), r"adapters names 'mine'; the model has 'default', 'other'"),
    ]:
        with pytest.raises(TTValueError, match=sentence):
            add(*arguments)
    with pytest.raises(TTValueError, match=r"'cat', which is exact, with eps=0.1 .* say 'tt_svd'"):
        add(["default"], [1], "x", eps=0.1)
    for eps, max_rank, sentence in [(-1, None, "eps is -1"), (None, 0, "max_rank is 0; expected an integer")]:
        with pytest.raises(TTValueError, match=sentence):
            add(["default"], [1], "x", "tt_svd", eps=eps, max_rank=max_rank)
    assert set(model.peft_config) == {"default", "other"}


@pytest.mark.parametrize("options", [{"modules_to_save": ["lm_head"]}, {"train_norms": True}, {"bias": "all"}])
def test_what_is_trained_whole_has_no_sum(options):
    model = get_peft_model(models.llama(), TTLoraConfig(**options))
    with pytest.raises(TTTypeError, match=rf"has {next(iter(options))}=.* combine adapters that were made without"):
        model.add_weighted_adapter(["default"], [1], "x")


def test_what_cannot_be_added_is_refused():
    model = get_peft_model(models.llama(), LortaConfig())
    with pytest.raises(TTTypeError, match="no SVD finds fewer terms; say 'cat'"):
        model.add_weighted_adapter(["default"], [1], "x", "tt_svd", max_rank=2)
    with pytest.raises(TTTypeError, match=r"eps is 0.1, and the ranks of lorta are one .* give max_rank"):
        model.add_weighted_adapter(["default"], [1], "x", "tt_svd", eps=0.1)
    model.add_adapter("less", LortaConfig(target_modules=["q_proj"]))
    with pytest.raises(TTValueError, match=r"'default' and 'less' adapt different modules, .* export both"):
        model.add_weighted_adapter(["default", "less"], [1, 1], "x")
    model = get_peft_model(models.llama(), MeloraConfig(n=2))
    model.add_adapter("other", MeloraConfig(n=3))
    with pytest.raises(TTValueError, match=r"'default' and 'other' differ in n, .* export both"):
        model.add_weighted_adapter(["default", "other"], [1, 1], "x")
    model = get_peft_model(models.llama(), MetaTTConfig(alpha_pattern={"q_proj": 3}))
    with pytest.raises(TTValueError, match=r"scales single modules by .* has one scale; export"):
        model.add_weighted_adapter(["default"], [1], "x")
    assert set(model.peft_config) == {"default"}


def test_adapters_that_are_not_linear_say_so():
    model = get_peft_model(models.llama(), LorettaAdpConfig())
    with pytest.raises(TTTypeError, match="loretta_adp adapters have no sum: they are not linear"):
        model.add_weighted_adapter(["default"], [1], "x")


def test_names_that_torch_keeps_for_itself_are_refused():
    model = get_peft_model(models.llama(), TTLoraConfig())
    with pytest.raises(TTValueError, match=r"adapter_name is 'double', which torch's modules have .* choose another"):
        model.base_model.add_weighted_adapter(["default"], [1], "double")
    assert set(model.peft_config) == {"default"}


@pytest.mark.parametrize("config", [EtherConfig(), TTEtherConfig(), TTTurnConfig()], ids=lambda config: config.method)
def test_turns_are_not_added_up(config):
    model = get_peft_model(models.llama(), config)
    model.add_adapter("other", config)
    with pytest.raises(TTTypeError, match=rf"{config.method} adapters have no sum: .* that are added up are no turn"):
        model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "sum")
    assert set(model.peft_config) == {"default", "other"}


def test_every_method_has_a_sum_or_says_why_not():
    # Those of this package: what a page of the documentation registers may be there as well.
    ours = {
        name
        for name, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()
        if issubclass(tuner, AdapterModel) and tuner.__module__.startswith("ttnet_llm.")
    }
    assert {method.config_cls().peft_type for method in METHODS} | {DEPT().peft_type} == ours
    with_a_sum = {method.config_cls().peft_type for method in LINEAR}  # which the tests above run over
    without = {EtherConfig, TTEtherConfig, TTTurnConfig, LorettaAdpConfig}  # which the tests above refuse
    assert with_a_sum | {config().peft_type for config in without} | {DEPT().peft_type} == ours
    model = get_peft_model(models.bert(), DEPT(), adapter_name="one")
    with pytest.raises(TTTypeError, match="dept adapters have no sum: each stands for its own prompt"):
        model.add_weighted_adapter(["one"], [1], "sum")
