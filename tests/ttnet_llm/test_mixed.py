"""Batches whose rows name their adapters: each row is what it is alone, computed together with others."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import METHODS, Method
from tests.ttnet_llm.models import logits
from ttnet_llm import (
    EtherConfig,
    LorettaAdpConfig,
    LorettaRepConfig,
    MetaTTConfig,
    TTEtherConfig,
    TTLoraConfig,
    TTTurnConfig,
    hold_factors,
)
from ttnet_llm.networks.metatt import set_task
from ttnet_llm.tuner import AdapterLayer, mixed

NAMES = ("ann", "bob", "cyd", "dan", "eve", "__base__")
by_method = pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])
TARGETS = {"target_modules": ["0", "2"], "init_weights": False}


def with_others(base: nn.Module, method: Callable[..., Any], **targets: Any) -> PeftModel:
    """A model with two adapters alike, one of another scaling, one of another size, and one on fewer modules."""
    one = {"init_weights": False, **targets}
    config = method(**one)
    size = {"bottleneck": 5} if isinstance(config, LorettaAdpConfig) else {config.rank_field: 3}
    if isinstance(config, TTLoraConfig):
        size = {"tt_rank": 2}
    fewer = one | {"target_modules": [next(iter(one["target_modules"]))]}
    configs = [config, method(**one), method(**one, **{config.scale_field: 3}), method(**one, **size), method(**fewer)]
    model = get_peft_model(base, config, adapter_name="ann")
    for name, each in zip(NAMES[1:], configs[1:], strict=False):
        model.add_adapter(name, each)
    return models.perturb(model).eval()


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 6)).double()


def each_row(model: PeftModel, names: list[str], x: Tensor) -> Tensor:
    rows = []
    for row, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                rows.append(model(x[row : row + 1]))
        else:
            model.set_adapter(name)
            rows.append(model(x[row : row + 1]))
    return torch.cat(rows)


@by_method
@given(data=st.data())
def test_rows_are_what_they_are_alone(method: Method, data: Any) -> None:
    torch.manual_seed(0)
    model = with_others(small(), method, target_modules=["0", "2"])
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=7))
    inner = data.draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    x = torch.randn(len(names), *inner, 12, dtype=torch.float64)
    with torch.set_grad_enabled(data.draw(st.booleans())):
        found = model(x, adapter_names=names)
    torch.testing.assert_close(found, each_row(model, names, x), rtol=1e-10, atol=1e-10)
    held = [module for module in model.modules() if isinstance(module, AdapterLayer) and module.kept is not None]
    assert not held


@by_method
def test_adapters_alike_are_computed_together(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_others(small(), method, target_modules=["0", "2"])
    expected = each_row(model, ["ann", "bob", "ann", "cyd"], x := torch.randn(4, 12, dtype=torch.float64))

    def one_by_one(*args: Any) -> None:
        raise AssertionError("an adapter was computed by itself")

    layers = [module for module in model.modules() if isinstance(module, AdapterLayer)]
    for layer in layers:
        monkeypatch.setattr(layer, "adapt_output", one_by_one)
        monkeypatch.setattr(layer, "adapt_input", one_by_one)
    torch.testing.assert_close(model(x, adapter_names=["ann", "bob", "ann", "cyd"]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", [LorettaRepConfig, LorettaAdpConfig, EtherConfig, TTEtherConfig, TTTurnConfig])
def test_a_base_of_less_precision_rounds_as_it_does_alone(config: Any, dtype: torch.dtype) -> None:
    model = with_others(small().to(dtype), config, target_modules=["0", "2"])
    assert all(parameter.dtype == torch.float32 for name, parameter in model.named_parameters() if "_network" in name)
    names, x = ["ann", "bob", "__base__", "cyd", "dan"], torch.randn(5, 3, 12).to(dtype)
    found = model(x, adapter_names=names)
    assert found.dtype == dtype
    torch.testing.assert_close(found, each_row(model, names, x), rtol=2 * torch.finfo(dtype).eps, atol=1e-2)


@by_method
def test_held_factors_are_stacked(method: Method) -> None:
    model = with_others(small(), method, target_modules=["0", "2"])
    if method.merges:
        hold_factors(model)
    names, x = ["ann", "bob", "dan", "cyd"], torch.randn(4, 12, dtype=torch.float64)
    found = model(x, adapter_names=names)
    torch.testing.assert_close(found, each_row(model, names, x), rtol=1e-10, atol=1e-10)


def test_what_is_learnt_and_loaded_since_is_used() -> None:
    model, x = with_others(small(), LorettaRepConfig, target_modules=["0", "2"]), torch.randn(2, 12).double()
    before = model(x, adapter_names=["ann", "bob"])
    model.set_adapter("bob")
    models.perturb(model, seed=5)
    after = model(x, adapter_names=["ann", "bob"])
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])
    torch.testing.assert_close(after, each_row(model, ["ann", "bob"], x))
    model.delete_adapter("bob")
    model.add_adapter("bob", LorettaRepConfig(r=3, **TARGETS))
    torch.testing.assert_close(model(x, adapter_names=["ann", "bob"]), each_row(model, ["ann", "bob"], x))
    copied = copy.deepcopy(model)
    models.perturb(model, seed=6)
    torch.testing.assert_close(copied(x, adapter_names=["ann", "bob"]), each_row(copied, ["ann", "bob"], x))


def test_rows_of_one_train_have_their_own_tasks() -> None:
    config = MetaTTConfig(r=2, num_tasks=3, **TARGETS)
    model = get_peft_model(small(), config, adapter_name="ann")
    model.add_adapter("bob", copy.deepcopy(config))
    models.perturb(model).eval()
    x = torch.randn(2, 12).double()
    for tasks in ((0, 0), (2, 0), (2, 1), (1, 1)):
        for name, task in zip(("ann", "bob"), tasks, strict=True):
            set_task(model, task, name)
        torch.testing.assert_close(model(x, adapter_names=["ann", "bob"]), each_row(model, ["ann", "bob"], x))


def test_adapters_that_count_from_their_start_are_stacked() -> None:
    config = LorettaRepConfig(target_modules=["0", "2"], init_weights="tt_svd")
    model = get_peft_model(small(), config, adapter_name="ann")
    model.add_adapter("bob", copy.deepcopy(config))
    model.add_adapter("cyd", LorettaRepConfig(**TARGETS))
    models.perturb(model).eval()
    x = torch.randn(3, 12).double()
    torch.testing.assert_close(model(x, adapter_names=["ann", "bob", "cyd"]), each_row(model, ["ann", "bob", "cyd"], x))


@pytest.mark.parametrize("non_linearity", ["gelu", "prelu"])
def test_non_linearities_that_learn_are_not_shared(non_linearity: str) -> None:
    model = with_others(small(), LorettaAdpConfig, target_modules=["0", "2"])
    for name, value in (("fay", 0.25), ("gus", 0.5)):
        model.add_adapter(name, LorettaAdpConfig(non_linearity=non_linearity, **TARGETS))
        for key, parameter in model.named_parameters():
            if f".{name}." in key and "activation" in key:
                parameter.data.fill_(value)
    names, x = ["ann", "fay", "gus", "fay"], torch.randn(4, 2, 12).double()
    torch.testing.assert_close(model(x, adapter_names=names), each_row(model, names, x))


def test_embeddings_beside_layers_are_computed_one_by_one() -> None:
    base = nn.Sequential(nn.Embedding(10, 12), nn.Linear(12, 8)).double()
    config = TTLoraConfig(tt_rank=2, target_modules=["0", "1"], init_weights=False)
    model = get_peft_model(base, config, adapter_name="ann")
    model.add_adapter("bob", copy.deepcopy(config))
    models.perturb(model).eval()
    x = torch.randint(10, (3, 4))
    torch.testing.assert_close(model(x, adapter_names=["bob", "ann", "bob"]), each_row(model, ["bob", "ann", "bob"], x))


def test_a_generation_makes_the_matrices_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_others(models.llama(), LorettaRepConfig, target_modules=["q_proj", "v_proj"])
    made: list[Any] = []
    real = mixed.parts_of
    monkeypatch.setattr("ttnet_llm.tuner.layer.parts_of", lambda *args: made.append(args) or real(*args))
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    ids = torch.randint(1, 60, (3, 5))
    names = ["ann", "bob", "dan"]
    found = model.generate(input_ids=ids, adapter_names=names, **options)
    assert len(made) == 4  # layers
    for row, name in enumerate(names):
        model.set_adapter(name)
        assert torch.equal(found[row], model.generate(input_ids=ids[row : row + 1], **options)[0])
    made.clear()
    monkeypatch.setattr("ttnet_llm.tuner.model.Kept", lambda: mixed.Kept(0))
    assert torch.equal(model.generate(input_ids=ids, adapter_names=names, **options), found)
    assert len(made) == 16  # no room to keep them


def test_offloaded_networks_are_computed_one_by_one_and_come_back() -> None:
    model, x = with_others(small(), LorettaRepConfig, target_modules=["0", "2"]), torch.randn(3, 12).double()
    names = ["ann", "bob", "eve"]
    expected = model(x, adapter_names=names)
    layers = [module for module in model.modules() if isinstance(module, AdapterLayer)]
    for layer in layers:
        for part in layer.networks["bob"].modules():
            if part._parameters:
                cpu_offload(part, execution_device=torch.device("cpu"))
    assert any(parameter.is_meta for parameter in model.parameters())
    torch.testing.assert_close(model(x, adapter_names=names), expected)
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(model(x, adapter_names=names), expected)  # together again


def test_a_network_whose_tensors_moved_is_looked_at_anew() -> None:
    model, x = with_others(small(), LorettaAdpConfig, target_modules=["0", "2"]), torch.randn(2, 12).double()
    model(x, adapter_names=["ann", "bob"])
    for layer in model.modules():
        if isinstance(layer, AdapterLayer):
            parametrize.register_parametrization(layer.networks["bob"], "up_bias", Doubled())
    found = model(x, adapter_names=["ann", "bob"])
    torch.testing.assert_close(found, each_row(model, ["ann", "bob"], x))


class Doubled(nn.Module):
    """Twice what is held."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_gradients_reach_every_adapter() -> None:
    model = with_others(small(), LorettaRepConfig, target_modules=["0", "2"])
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    names, x = ["ann", "bob", "ann"], torch.randn(3, 12).double()
    model(x, adapter_names=names).square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for row, name in enumerate(names):
        model.set_adapter(name)
        model(x[row : row + 1]).square().sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None and "_network" in name}
    assert expected
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)


def test_switched_off_adapters_stay_off() -> None:
    base = models.bert()
    expected = logits(base)
    model = with_others(base, LorettaRepConfig, target_modules=["query", "value"])
    with model.disable_adapter():
        assert torch.equal(logits(model, adapter_names=["ann", "bob", "cyd"]), expected)
