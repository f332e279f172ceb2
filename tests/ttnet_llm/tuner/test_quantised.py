"""Bases that another library has quantised layer by layer: adapted, trained, exported, and merged or refused.

The libraries are not in the environment of development, as PEFT and transformers act otherwise in its presence; what is
particular to them is tested on small classes that do the same. Where one is installed it is tested itself.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model
from peft.utils.quantization_utils import HqqBackend, QuantizationBackend, TorchaoBackend
from torch import Tensor, nn

from tests.ttnet_llm.methods import Method, each
from ttnet.errors import TTTypeError
from ttnet_llm import LorettaRepConfig, export_lora
from ttnet_llm.tuner import base_weights
from ttnet_llm.tuner.base_weights import quantization_backend

NAMES = ["first", "second", "third"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Linear(64, 64) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.relu(self.second(torch.relu(self.first(x)))))


class Levels(Tensor):
    """A weight that is quantised with the activations, as torchao has it: autograd is told nothing of its products."""

    def __tensor_flatten__(self) -> tuple[list[str], dict[str, Any]]:
        return [], {"activations": True}

    def dequantize(self) -> Tensor:
        return self.as_subclass(Tensor).detach()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            x, weight, *bias = args
            return F.linear(x.detach(), weight.dequantize()) + bias[0]
        return super().__torch_function__(func, types, args, kwargs or {})


def levelled(model: nn.Module) -> nn.Module:
    for name in NAMES:
        layer = getattr(model, name)
        layer.weight = nn.Parameter(layer.weight.data.as_subclass(Levels), requires_grad=False)
    return model


@pytest.fixture
def torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(layer: nn.Module, get_apply_tensor_subclass: Any = None, **_: Any) -> QuantizationBackend | None:
        if not isinstance(getattr(layer, "weight", None), Levels):
            return None
        if get_apply_tensor_subclass is None:
            raise ValueError("torchao quantized layer detected but 'get_apply_tensor_subclass' was not provided.")
        return TorchaoBackend(get_apply_tensor_subclass)

    monkeypatch.setattr(base_weights, "resolve_quantization_backend", resolve)


def gradients(model: nn.Module, config_cls: Any, x: Tensor) -> Tensor:
    torch.manual_seed(1)
    model = get_peft_model(model, config_cls(target_modules=["first"], init_weights=False))
    model(x).square().mean().backward()
    found = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient is not None for gradient in found)
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.usefixtures("torchao")
@each()
def test_what_quantize_has_quantised_is_adapted_trained_and_exported(config_cls: Method, tmp_path: Path) -> None:
    x = torch.randn(40, 64)
    expected = gradients(Net(), config_cls, x)
    torch.testing.assert_close(gradients(levelled(Net()), config_cls, x), expected)
    base = levelled(Net())
    before = base(x)
    model = get_peft_model(base, config_cls(target_modules=NAMES))
    assert torch.equal(model(x), before)
    if config_cls.merges:
        assert len(export_lora(model, tmp_path).modules) == 3
        with pytest.raises(
            TTTypeError, match=r"first, a Linear, .* quantised by torchao, and cannot be quantised again"
        ):
            model.merge_and_unload()
    assert torch.equal(model.unload()(x), before)


@pytest.mark.usefixtures("torchao")
def test_a_start_from_the_weights_dequantises_them() -> None:
    config = LorettaRepConfig(target_modules=["first"], init_weights="tt_svd", r=4, tt_rank=4)
    layer = get_peft_model(levelled(Net()), config).get_base_model().first
    assert torch.equal(layer.base_matrix(), Net().first.weight.T)


@pytest.mark.usefixtures("torchao")
def test_a_recipe_that_transformers_knows_is_merged_by() -> None:
    assert quantization_backend(levelled(Net()).first).supports_merge is False
    assert quantization_backend(levelled(Net()).first, get_apply_tensor_subclass=lambda: None).supports_merge is True


class QTensor(Tensor):
    """A weight that gives floats in any sum, and stays what it is where `data` is written to."""

    def dequantize(self) -> Tensor:
        return self.as_subclass(Tensor).detach()

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        pass


class QLinear(nn.Linear):
    def freeze(self) -> None:
        steps = self.weight.data.mul(1024).round().div(1024)
        self.weight = nn.Parameter(steps.as_subclass(QTensor), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.dequantize(), self.bias)


@each("merges")
def test_weights_that_lose_what_is_written_are_quantised_again(
    config_cls: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As optimum-quanto's layers are."""
    quanto = ModuleType("optimum.quanto")
    quanto.QTensor = QTensor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "optimum.quanto", quanto)
    torch.manual_seed(0)
    base = nn.ModuleDict({"only": QLinear(64, 64)})
    base["only"].freeze()
    model = get_peft_model(base, config_cls(target_modules=["only"], init_weights=False))
    layer, x = model.get_base_model()["only"], torch.randn(3, 64)
    expected = layer(x)
    with pytest.warns(UserWarning, match="weights that optimum-quanto quantises lost"):
        merged = model.merge_and_unload()["only"]
    assert isinstance(merged.weight, QTensor)
    torch.testing.assert_close(merged(x), expected, atol=64 / 1024, rtol=0)


def torchao_of(name: str) -> Callable[[nn.Module], nn.Module]:
    def quantise(model: nn.Module) -> nn.Module:
        quantization = pytest.importorskip("torchao.quantization", reason="torchao is kept out of the environment")
        quantization.quantize_(model, getattr(quantization, name)())
        return model

    return quantise


def quanto_of(name: str) -> Callable[[nn.Module], nn.Module]:
    def quantise(model: nn.Module) -> nn.Module:
        quanto = pytest.importorskip("optimum.quanto", reason="optimum-quanto is kept out of the environment")
        quanto.quantize(model, weights=getattr(quanto, name))
        quanto.freeze(model)
        return model

    return quantise


def hqq(model: nn.Module) -> nn.Module:
    library = pytest.importorskip("hqq.core.quantize", reason="hqq is kept out of the environment")
    config = library.BaseQuantizeConfig(nbits=8, group_size=64)
    for name in NAMES:
        layer = library.HQQLinear(getattr(model, name), config, compute_dtype=torch.float32, device="cpu")
        setattr(model, name, layer)
    return model


def nf4(model: nn.Module) -> nn.Module:
    library = pytest.importorskip("bitsandbytes", reason="bitsandbytes is kept out of the environment")
    for name in NAMES:
        dense = getattr(model, name)
        layer = library.nn.Linear4bit(64, 64, quant_type="nf4")
        layer.load_state_dict(dense.state_dict())
        setattr(model, name, layer.to("cpu"))
    return model


LIBRARIES = {
    "torchao int8 weights": (torchao_of("Int8WeightOnlyConfig"), False),
    "torchao int8 activations": (torchao_of("Int8DynamicActivationInt8WeightConfig"), False),
    "torchao float8 weights": (torchao_of("Float8WeightOnlyConfig"), False),
    "quanto int8": (quanto_of("qint8"), True),
    "quanto int4": (quanto_of("qint4"), True),
    "quanto float8": (quanto_of("qfloat8"), True),
    "hqq": (hqq, True),
    "bitsandbytes nf4": (nf4, True),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_installed_libraries_themselves(library: str, tmp_path: Path) -> None:
    quantise, merges = LIBRARIES[library]
    x = torch.randn(40, 64)
    found, expected = gradients(quantise(Net()), LorettaRepConfig, x), gradients(Net(), LorettaRepConfig, x)
    assert float((found - expected).norm() / expected.norm()) < 0.3  # that of another function
    base = quantise(Net()).eval()
    before = base(x)
    model = get_peft_model(base, LorettaRepConfig(target_modules=NAMES, init_weights=False)).eval()
    adapted = model(x)
    export_lora(model, tmp_path)
    plain = PeftModel.from_pretrained(quantise(Net()), tmp_path).eval()
    assert float((plain(x) - adapted).norm()) < 1e-2 * float((adapted - before).norm())
    if not merges:
        with pytest.raises(TTTypeError, match="cannot be quantised again from here"):
            model.merge_and_unload()
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        merged = model.merge_and_unload()
    assert any("quantises lost" in str(warning.message) for warning in told)
    assert float((merged(x) - adapted).norm()) < 0.25 * float((adapted - before).norm())


def test_a_layer_that_another_takes_the_place_of_leaves_its_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's backend for HQQ puts a new layer in the place of the old one, without the bias."""

    def without_bias(self: HqqBackend, peft_layer: Any, weight_data: Tensor) -> None:
        peft_layer.base_layer = nn.Linear(64, 64, bias=False)
        peft_layer.base_layer.weight.data = weight_data

    monkeypatch.setattr(HqqBackend, "get_base_weight", lambda self, base_layer: base_layer.weight.data)
    monkeypatch.setattr(HqqBackend, "set_base_weight", without_bias)
    monkeypatch.setattr(base_weights, "resolve_quantization_backend", lambda layer, **_: HqqBackend())
    model = get_peft_model(
        nn.ModuleDict({"only": nn.Linear(64, 64)}), LorettaRepConfig(target_modules=["only"], init_weights=False)
    )
    x = torch.randn(3, 64)
    expected = model.get_base_model()["only"](x)
    with pytest.warns(UserWarning, match="weights that hqq quantises lost 0% of the update"):
        merged = model.merge_and_unload()["only"]
    torch.testing.assert_close(merged(x), expected)
