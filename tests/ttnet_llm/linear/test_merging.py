"""Merging says what is lost, and refuses before it begins where a weight cannot take up an update."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import get_peft_model
from peft.utils.quantization_utils import ForwardOnlyQuantizationBackend, QuantizationBackend
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from tests.ttnet_llm.methods import Method, each
from ttnet.errors import TTTypeError
from ttnet_llm import LorettaRepConfig, export_lora
from ttnet_llm.linear.merging import MergeLoss
from ttnet_llm.tuner import base_weights


class Coarse(nn.Module):
    """A layer of some quantisation: its weight is rounded to steps of a given size, and is no parameter."""

    def __init__(self, size: int, step: float) -> None:
        super().__init__()
        self.in_features = self.out_features = size
        self.step = step
        self.register_buffer("levels", torch.randn(size, size).div(step).round())

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.levels * self.step).T


class CoarseBackend(QuantizationBackend):
    supports_merge = True
    backend_name = "coarse"
    layer_type = "linear"

    def get_base_weight(self, base_layer: Coarse) -> Tensor:
        return base_layer.levels * base_layer.step

    def set_base_weight(self, peft_layer: Any, weight_data: Tensor) -> None:
        layer = peft_layer.get_base_layer()
        layer.levels = weight_data.div(layer.step).round()


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(layer: nn.Module, **_: Any) -> QuantizationBackend | None:
        return CoarseBackend() if isinstance(layer, Coarse) else None

    monkeypatch.setattr(base_weights, "resolve_quantization_backend", resolve)


class Scaled(nn.Linear):
    """Computes with its weight and a scale beside it, as layers in eight bits do."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.scale = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.scale * self.weight, self.bias)


class InEight(Scaled):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.weight = nn.Parameter(self.weight.data.to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.scale * self.weight.to(x.dtype), self.bias)


class Packed(torch.Tensor):
    """A tensor subclass of somebody's."""


def packed() -> nn.Module:
    layer = nn.Linear(6, 6)
    layer.weight = nn.Parameter(layer.weight.data.as_subclass(Packed), requires_grad=False)
    return layer


def pruned() -> nn.Module:
    return prune.l1_unstructured(nn.Linear(6, 6), "weight", 0.5)


NO_SUM: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: parametrizations.weight_norm(nn.Linear(6, 6)), "made by a parametrisation; take that away"),
    (lambda: parametrizations.orthogonal(nn.Linear(6, 6)), "made by a parametrisation"),
    (lambda: weight_norm(nn.Linear(6, 6)), "made anew for every forward pass"),
    (lambda: spectral_norm(nn.Linear(6, 6)), "made anew for every forward pass"),
    (pruned, r"made anew for every forward pass.*prune\.remove"),
    (lambda: Scaled(6, 6), "computes with something else than its weight"),
    (lambda: InEight(6, 6), r"a Tensor of torch.float8_e4m3fn, which takes no sum"),
    (packed, "a Packed of torch.float32, which takes no sum"),
]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(("make", "message"), NO_SUM)
@each("merges")
def test_weights_that_take_no_sum_are_refused_before_anything_is_merged(
    config_cls: Method, make: Callable[[], nn.Module], message: str, tmp_path: object
) -> None:
    torch.manual_seed(0)
    base = nn.ModuleDict({"first": nn.Linear(6, 6), "second": make()})
    model = get_peft_model(Chain(base), config_cls(target_modules=["first", "second"], init_weights=False)).eval()
    x = torch.randn(3, 6)
    expected = model(x)
    expected.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    plain = model.get_base_model().parts["first"].base_layer.weight.clone()
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(TTTypeError, match=f"parts.second, a .*{message}.*export_lora.*Nothing was merged"):
            merge()
        assert torch.equal(model.get_base_model().parts["first"].base_layer.weight, plain)
        assert torch.equal(model(x), expected)
    with pytest.raises(TTTypeError, match=message):
        model.get_base_model().parts["second"].merge()
    if not config_cls.adds_up and ("takes no sum" in message or "something else" in message):
        with pytest.raises(TTTypeError, match=f"a weight that cannot be read as it is used: .*{message}.* Keep the"):
            export_lora(model, tmp_path)  # what turns add to a weight depends on it
    else:
        assert len(export_lora(model, tmp_path).modules) == 2


class Chain(nn.Module):
    def __init__(self, parts: nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = part(x)
        return x


def test_only_the_layers_of_the_adapters_that_are_merged_count() -> None:
    base = Chain(nn.ModuleDict({"first": nn.Linear(6, 6), "second": Scaled(6, 6)}))
    model = get_peft_model(base, LorettaRepConfig(target_modules=["second"], init_weights=False))
    model.add_adapter("plain", LorettaRepConfig(target_modules=["first"], init_weights=False))
    model.set_adapter("plain")
    x = torch.randn(3, 6)
    expected = model(x)
    torch.testing.assert_close(model.merge_and_unload()(x), expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("norm", [weight_norm, parametrizations.weight_norm])
def test_a_norm_that_was_taken_away_is_merged_into(norm: Callable[[nn.Module], nn.Module]) -> None:
    base = Chain(nn.ModuleDict({"only": norm(nn.Linear(6, 6))}))
    model = get_peft_model(base, LorettaRepConfig(target_modules=["only"], init_weights=False))
    x = torch.randn(3, 6)
    expected = model(x)
    layer = model.get_base_model().parts["only"].base_layer
    if norm is weight_norm:
        nn.utils.remove_weight_norm(layer)
    else:
        nn.utils.parametrize.remove_parametrizations(layer, "weight")
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(x), expected)
    assert set(merged.state_dict()) == {"parts.only.weight", "parts.only.bias"}


def test_classes_that_compute_as_their_kind_does_are_merged_into() -> None:
    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            return x @ self.weight.T + self.bias

    base = Chain(nn.ModuleDict({"only": Counted(6, 6)}))
    model = get_peft_model(base, LorettaRepConfig(target_modules=["only"], init_weights=False))
    x = torch.randn(3, 6)
    expected = model(x)
    torch.testing.assert_close(model.merge_and_unload()(x), expected)


def said(act: Callable[..., object]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        act()
    return [str(warning.message) for warning in found if str(warning.message).startswith("Merging into")]


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("unload", [True, False])
@each("merges")
def test_what_requantising_loses_is_measured_and_told(config_cls: Method, unload: bool) -> None:
    torch.manual_seed(0)
    base = Chain(nn.ModuleDict({"fine": Coarse(6, 1e-3), "rough": Coarse(6, 2.0), "dense": nn.Linear(6, 6)}))
    config = config_cls(target_modules=["fine", "rough", "dense"], init_weights=False)
    model = get_peft_model(base, config).eval()
    layers = dict(model.get_base_model().parts.items())
    weights = {name: layer.get_base_weight().clone() for name, layer in layers.items()}
    updates = {name: layer.get_delta_weight("default") for name, layer in layers.items()}
    (message,) = said(model.merge_and_unload if unload else model.merge_adapter)
    errors = {n: layer.get_base_weight() - weights[n] - updates[n] for n, layer in layers.items() if n != "dense"}
    lost = sum(float(error.norm()) ** 2 for error in errors.values()) ** 0.5
    whole = sum(float(updates[name].norm()) ** 2 for name in errors) ** 0.5
    assert f"weights that coarse quantises lost {lost / whole:.0%} of the update" in message
    assert f"(parts.rough: {float(errors['rough'].norm() / updates['rough'].norm()):.0%};" in message
    assert "unmerging does not give these weights back" in message


@each("merges")
def test_updates_that_half_precision_rounds_away_are_told_of(config_cls: Method) -> None:
    torch.manual_seed(0)
    base = Chain(nn.ModuleDict({"only": nn.Linear(32, 32)})).bfloat16()
    model = get_peft_model(base, config_cls(target_modules=["only"], init_weights=False))
    layer = model.get_base_model().parts["only"]
    assert said(model.merge_adapter) == []
    assert 0 < layer.merge_loss.ratio < 0.5
    model.unmerge_adapter()
    layer.scalings["default"] *= 1e-4
    (message,) = said(model.merge_adapter)
    assert re.match(r"Merging into weights of half precision lost \d+% of the update \(parts.only: \d+%;", message)
    assert "unmerging" not in message


def test_float32_loses_nothing() -> None:
    base = Chain(nn.ModuleDict({"only": nn.Linear(6, 6)}))
    model = get_peft_model(base, LorettaRepConfig(target_modules=["only"], init_weights=False))
    assert said(model.merge_adapter) == []
    assert model.get_base_model().parts["only"].merge_loss == MergeLoss()


def test_quantisation_that_only_computes_forwards_is_trained_exported_and_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """As PEFT answers for the layers of GPTQ, AWQ and others."""

    def resolve(layer: nn.Module, **_: Any) -> QuantizationBackend | None:
        return ForwardOnlyQuantizationBackend("gptq") if isinstance(layer, Coarse) else None

    monkeypatch.setattr(base_weights, "resolve_quantization_backend", resolve)
    base = Chain(nn.ModuleDict({"first": nn.Linear(6, 6), "second": Coarse(6, 0.5)}))
    model = get_peft_model(base, LorettaRepConfig(target_modules=["first", "second"], init_weights=False))
    model(torch.randn(3, 6)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with pytest.raises(TTTypeError, match=r"parts.second, a Coarse, .* quantised by gptq, and cannot be"):
        model.merge_and_unload()
    assert len(export_lora(model, tmp_path).modules) == 2
