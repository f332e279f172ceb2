"""The resolver for vLLM, on classes with the interface that vLLM documents, as that is not installed here."""

import asyncio
import sys
import tomllib
import types
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from tests.ttnet_llm import models
from ttnet.errors import TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, TTLoraConfig
from ttnet_llm.bank import AdapterBank
from ttnet_llm.lora.checkpoint import read_config
from ttnet_llm.vllm_resolver import LoraStore, register


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class LoRAResolver(ABC):
    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None: ...


class Registry:
    def __init__(self) -> None:
        self.resolvers: dict[str, LoRAResolver] = {}

    def register_resolver(self, name: str, resolver: LoRAResolver) -> None:
        assert isinstance(resolver, LoRAResolver)
        self.resolvers[name] = resolver


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    found = Registry()
    for name, content in {
        "vllm": {},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.lora.resolver": {"LoRAResolver": LoRAResolver, "LoRAResolverRegistry": found},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    models.llama().save_pretrained(tmp_path / "base")
    for name, config in {
        "ann": LorettaRepConfig(r=4, init_weights=False, task_type="CAUSAL_LM"),
        "bob": TTLoraConfig(tt_rank=3, init_weights=False, task_type="CAUSAL_LM"),
        "odd": LorettaAdpConfig(task_type="CAUSAL_LM"),
    }.items():
        model = get_peft_model(base_of(tmp_path), config)
        model.save_pretrained(str(tmp_path / "adapters" / name))
    return tmp_path


def base_of(place: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(place / "base")


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(1, 9)[None]).logits


def resolve(registry: Registry, place: Path, name: str, base: str | None = None) -> LoRARequest | None:
    resolver = registry.resolvers["ttnet"]
    return asyncio.run(resolver.resolve_lora(base or str(place / "base"), name))


def test_a_request_is_answered_by_lora_exactly(
    registry: Registry, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    register()
    assert registry.resolvers == {}  # nothing was asked for
    monkeypatch.setenv("TTNET_VLLM_ADAPTERS", str(place / "adapters"))
    register()
    numbers = set()
    for name in ("ann", "bob"):
        answer = resolve(registry, place, name)
        assert answer is not None
        assert answer.lora_name == name
        assert 0 < answer.lora_int_id < 2**63
        numbers.add(answer.lora_int_id)
        config = read_config(answer.lora_path)
        assert config["peft_type"] == "LORA"
        assert not config["rank_pattern"]
        expected = logits(PeftModel.from_pretrained(base_of(place), place / "adapters" / name))
        found = logits(PeftModel.from_pretrained(base_of(place), answer.lora_path))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert resolve(registry, place, name) == answer  # written once
    assert len(numbers) == 2
    for nobody in ("eve", "../base", ".", "", "ann/../../base"):
        assert resolve(registry, place, nobody) is None
    assert resolve(registry, place, "ann", base="another/model") is None
    weights = place / "adapters" / "bob" / "adapter_model.safetensors"
    weights.write_bytes((place / "adapters" / "ann" / weights.name).read_bytes())
    assert resolve(registry, place, "bob") is None
    assert "The adapter 'bob' cannot be served: " in caplog.text
    assert "which its config asks for; save it again" in caplog.text
    assert resolve(registry, place, "odd") is None
    assert "The adapter 'odd' cannot be served: " in caplog.text


def test_an_adapter_that_was_trained_on_is_another(registry: Registry, place: Path) -> None:
    store = LoraStore(place / "adapters", place / "cache", rank=16)
    first = store.lora("ann", str(place / "base"))
    assert first is not None
    assert read_config(first)["r"] == 16
    assert first.parent == place / "cache"
    model = get_peft_model(base_of(place), LorettaRepConfig(r=4, init_weights=False, task_type="CAUSAL_LM"))
    model.save_pretrained(str(place / "adapters" / "ann"))
    second = store.lora("ann", str(place / "base"))
    assert second not in (None, first)


def test_banks_are_served(registry: Registry, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LorettaRepConfig(r=4, init_weights=False, task_type="CAUSAL_LM")
    bank = AdapterBank(base_of(place), config)
    bank.add("first")
    bank.add("second")
    bank.save(place / "bank")
    monkeypatch.setenv("TTNET_VLLM_ADAPTERS", str(place / "bank"))
    monkeypatch.setenv("TTNET_VLLM_CACHE", str(place / "cache"))
    register()
    answer = resolve(registry, place, "second")
    assert answer is not None
    found = logits(PeftModel.from_pretrained(base_of(place), answer.lora_path))
    with bank.use("second"):
        torch.testing.assert_close(found, logits(bank.model), atol=1e-5, rtol=1e-5)
    assert resolve(registry, place, "third") is None
    bank.add("more")
    bank.save(place / "bank")
    assert resolve(registry, place, "second") == answer  # it is as it was
    (parameter,) = bank.trainable("second")
    with torch.no_grad():
        parameter.add_(0.1)
    bank.save(place / "bank")
    assert resolve(registry, place, "second") != answer


def test_mistakes_get_a_sentence(registry: Registry, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTNET_VLLM_ADAPTERS", str(place / "none"))
    with pytest.raises(TTValueError, match="expected the folder of a bank, or one with adapters"):
        register()
    monkeypatch.setenv("TTNET_VLLM_ADAPTERS", str(place / "adapters"))
    for rank in ("0", "many"):
        monkeypatch.setenv("TTNET_VLLM_RANK", rank)
        with pytest.raises(TTValueError, match=r"TTNET_VLLM_RANK is .*; expected a rank of at least 1"):
            register()


def test_vllm_finds_the_plugin() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    group = "vllm.general_plugins"
    value = project["entry-points"][group]["ttnet_lora_resolver"]
    assert EntryPoint("ttnet_lora_resolver", value, group).load() is register
