"""Models with three adapters, the same in a bank, and what each of them says alone."""

import copy
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import METHODS
from ttnet_llm import NeuronLoraConfig
from ttnet_llm.bank import AdapterBank

STACKED = [method for method in METHODS if method.config_cls is not NeuronLoraConfig]
NAMES = ("ann", "bob", "cyd")
by_method = pytest.mark.parametrize("method", STACKED, ids=[method.name for method in STACKED])


def peft_model(base: nn.Module, config: Any) -> PeftModel:
    """A model with three different adapters."""
    model = get_peft_model(copy.deepcopy(base), copy.deepcopy(config), adapter_name=NAMES[0])
    for name in NAMES[1:]:
        model.add_adapter(name, copy.deepcopy(config))
    models.perturb(model)
    return model.eval()


def bank_of(model: PeftModel, base: nn.Module, config: Any, **options: Any) -> AdapterBank:
    bank = AdapterBank(copy.deepcopy(base), config, **options)
    for name in NAMES:
        bank.add(name, model, adapter=name)
    bank.model.eval()
    return bank


def alone(model: PeftModel, name: str | None, **inputs: torch.Tensor) -> torch.Tensor:
    if name is None:
        with model.disable_adapter(), torch.no_grad():
            return model(**inputs).logits
    model.set_adapter(name)
    with torch.no_grad():
        return model(**inputs).logits


def checkpoint_layers(bank: AdapterBank) -> None:
    options = {"use_reentrant": False, "context_fn": bank.checkpointing}
    bank.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)  # type: ignore[operator]
