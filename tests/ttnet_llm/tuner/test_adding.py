"""Adding an adapter to a model that has others: it looks at none of them, and leaves them as they are."""

import copy
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import METHODS, Method
from tests.ttnet_llm.models import logits
from ttnet_llm.tuner import AdapterLayer

by_method = pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])


def networks(model: nn.Module, name: str) -> list[nn.Module]:
    layers = [module for module in model.modules() if isinstance(module, AdapterLayer)]
    return [layer.networks[name] for layer in layers]


def flags(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


@by_method
def test_others_are_passed_by(method: Method) -> None:
    model = get_peft_model(models.llama(), method(), adapter_name="first")

    def walked(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("an adapter that was there was walked over")

    first = networks(model, "first")
    for network in first:
        network.named_modules = walked  # type: ignore[method-assign]
    model.add_adapter("second", method())
    for network in first:
        del network.named_modules
    names = {name for name, _ in model.named_parameters()}
    others = {name.replace(".second.", ".first.") for name in names if ".second." in name}
    assert others
    assert others == {name for name in names if ".first." in name}


@by_method
@pytest.mark.parametrize("inference_mode", [False, True])
def test_what_learns_goes_on_learning(method: Method, inference_mode: bool) -> None:
    model = get_peft_model(models.llama(), method(), adapter_name="first")
    odd = next(parameter for name, parameter in model.named_parameters() if ".first." in name)
    odd.requires_grad_(False)  # by the user
    before = flags(model)
    model.add_adapter("second", method(inference_mode=inference_mode))
    after = flags(model)
    assert {name: after[name] for name in before} == before
    assert not any(flag for name, flag in after.items() if ".second." in name)
    model.set_adapter("second")
    assert all(flag == (".second." in name) for name, flag in flags(model).items())


@by_method
def test_an_adapter_is_loaded_beside_others(method: Method, tmp_path: Path) -> None:
    base = models.llama()
    saved = models.perturb(get_peft_model(copy.deepcopy(base), method())).eval()
    saved.save_pretrained(str(tmp_path))
    model = get_peft_model(copy.deepcopy(base), method(init_weights=False), adapter_name="first").eval()
    first = {name: value.clone() for name, value in model.state_dict().items()}
    result = model.load_adapter(str(tmp_path), "second")
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert all(torch.equal(model.state_dict()[name], value) for name, value in first.items())
    model.set_adapter("second")
    assert torch.equal(logits(model), logits(saved))
    assert isinstance(model, PeftModel)
