"""Whatever the commands write is loaded by its folder alone, a classifier with the names of its classes."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers as tf
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftModel, get_peft_model
from torch import nn

import ttnet_llm
from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, perturb
from tests.ttnet_llm.tiny import save_model
from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, MetaTTConfig, TTLoraConfig, export_lora
from ttnet_llm.loading import find_model
from ttnet_llm.tensorize import tensorize
from ttnet_llm.tuner.ties import merge_apart

NAMES = {0: "bad", 1: "so-so", 2: "good"}
IDS = models.IDS % 8


def classifier(folder: Path, **fields: Any) -> nn.Module:
    """A pretrained encoder without a head, saved in `base`, with a head for three classes."""
    save_model(folder / "base")
    fields = fields or {"id2label": NAMES, "label2id": {name: k for k, name in NAMES.items()}}
    return tf.AutoModelForSequenceClassification.from_pretrained(folder / "base", **fields).eval()


def adapted(folder: Path, config: Any, **fields: Any) -> nn.Module:
    model = perturb(get_peft_model(classifier(folder, **fields), config)).eval()
    model.save_pretrained(folder / "adapter")
    return model


def check(folder: Path, expected: nn.Module, cls: type | None = None) -> None:
    model, tokenizer = ttnet_llm.load(folder)
    assert tokenizer is not None
    assert tokenizer.tokenize("the film") == ["the", "film"]
    assert not model.training
    assert model.config.id2label == NAMES
    assert model.config.label2id == {name: k for k, name in NAMES.items()}
    torch.testing.assert_close(logits(model, IDS), logits(expected, IDS), rtol=1e-4, atol=1e-5)
    assert cls is None or type(model) is cls


@pytest.mark.parametrize("config_cls", [LorettaRepConfig, LorettaAdpConfig, MetaTTConfig])
def test_an_adapter_brings_its_classes(config_cls: Any, tmp_path: Path) -> None:
    model = adapted(tmp_path, config_cls(task_type="SEQ_CLS"))
    check(tmp_path / "adapter", model)
    for cls in (AutoPeftModelForSequenceClassification, tf.AutoModelForSequenceClassification):  # theirs alone
        loaded = cls.from_pretrained(tmp_path / "adapter").eval()
        assert loaded.config.id2label == NAMES
        torch.testing.assert_close(loaded(input_ids=IDS).logits, logits(model, IDS))


def test_runs_exports_compressed_and_merged_models(tmp_path: Path) -> None:
    model = adapted(tmp_path, TTLoraConfig(task_type="SEQ_CLS"))
    (tmp_path / "run").mkdir()
    (tmp_path / "adapter").rename(tmp_path / "run" / "adapter")
    check(tmp_path / "run", model)
    export_lora(model, tmp_path / "lora")
    check(tmp_path / "lora", model)
    plain = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "lora", num_labels=3).eval()
    torch.testing.assert_close(logits(plain, IDS), logits(model, IDS), rtol=1e-4, atol=1e-5)
    ttnet_llm.compress_lora(tmp_path / "lora", tmp_path / "compressed")
    check(tmp_path / "compressed", model)
    assert json.loads((tmp_path / "compressed" / "adapter_config.json").read_text())["id2label"]["1"] == "so-so"
    expected = logits(model, IDS)
    merged = merge_apart(model)
    merged.save_pretrained(tmp_path / "merged" / "model")
    tf.AutoTokenizer.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "merged" / "model")
    check(tmp_path / "merged", merged, tf.BertForSequenceClassification)
    torch.testing.assert_close(logits(merged, IDS), expected, rtol=1e-4, atol=1e-5)


def test_tensorised_models_and_adapters_on_them(tmp_path: Path) -> None:
    model = classifier(tmp_path)
    tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path / "base")
    tensorize(model, targets=["intermediate.dense"], ratio=0.6, progress=False)
    ttnet_llm.save_tensorized(model, tmp_path / "small", tokenizer=tokenizer)
    check(tmp_path / "small", model, tf.BertForSequenceClassification)
    base = ttnet_llm.load_tensorized(tmp_path / "small")
    config = LorettaRepConfig(task_type="SEQ_CLS", target_modules=["intermediate.dense"])
    perturb(both := get_peft_model(base, config)).eval().save_pretrained(tmp_path / "adapter")
    check(tmp_path / "adapter", both)


def test_plain_lora_of_two_classes_has_the_base_models_names(tmp_path: Path) -> None:
    model = adapted(tmp_path, LoraConfig(task_type="SEQ_CLS"), num_labels=2)
    loaded, _ = ttnet_llm.load(tmp_path / "adapter")
    assert loaded.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    torch.testing.assert_close(logits(loaded, IDS), logits(model, IDS))


def test_a_causal_model_gets_a_token_to_pad_with(tmp_path: Path) -> None:
    save_model(tmp_path / "base")  # for its tokenizer
    tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    model = models.llama()
    model.config.pad_token_id = None
    for folder in ("base", "adapter"):
        tokenizer.save_pretrained(tmp_path / folder)
    model.save_pretrained(tmp_path / "base")
    model.name_or_path = str(tmp_path / "base")
    perturb(get_peft_model(model, TTLoraConfig(task_type="CAUSAL_LM"))).save_pretrained(tmp_path / "adapter")
    loaded, tokenizer = ttnet_llm.load(tmp_path / "adapter", dtype=torch.float64)
    assert isinstance(loaded, PeftModel)
    assert tokenizer.pad_token == "[SEP]"
    assert loaded.config.pad_token_id == tokenizer.pad_token_id
    assert loaded.get_base_model().lm_head.weight.dtype == torch.float64


def test_the_base_may_be_another_and_classes_are_resized_once(tmp_path: Path) -> None:
    config = LorettaRepConfig(task_type="SEQ_CLS")
    model = adapted(tmp_path, config)
    assert config.id2label == NAMES
    two = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=2)
    fresh = get_peft_model(two, config)  # the same config once more: the model's classes, not those of the other
    assert fresh.config.num_labels == 2
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(TTFileError, match="cannot be loaded: it is neither a folder"):
        ttnet_llm.load(tmp_path / "adapter")
    loaded, _ = ttnet_llm.load(tmp_path / "adapter", base=str(tmp_path / "moved"))
    torch.testing.assert_close(logits(loaded, IDS), logits(model, IDS))
    with pytest.raises(TTValueError, match="holds a whole model; leave it out"):
        ttnet_llm.load(tmp_path / "moved", base="x")


def test_ids_are_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(tmp_path, LorettaRepConfig(task_type="SEQ_CLS"))
    asked = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(tmp_path / "adapter")

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", download)
        loaded, _ = ttnet_llm.load("someone/adapter")
    assert "*.safetensors" in asked["someone/adapter"]
    torch.testing.assert_close(logits(loaded, IDS), logits(model, IDS))
    with pytest.raises(TTFileError, match="There is no folder 'someone/else', it is not in the local cache"):
        find_model("someone/else")
    with pytest.raises(TTFileError, match="There is no folder 'no such place!'"):
        find_model("no such place!")


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    with pytest.raises(TTFileError, match=r"holds neither an adapter nor a model \(there is no adapter_config.json"):
        ttnet_llm.load(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    save_model(tmp_path / "base")
    with pytest.raises(TTTypeError, match="a method that PEFT has not"):
        ttnet_llm.load(tmp_path, base=str(tmp_path / "base"))
    (tmp_path / "base" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(TTFileError, match=r"The weights of .* cannot be loaded"):
        ttnet_llm.load(tmp_path / "base")


def test_names_that_make_no_sense(tmp_path: Path) -> None:
    for names in ([], {}, {1: "a"}, {"one": "a"}):
        with pytest.raises(TTValueError, match=r"id2label is .*; expected names by the indices 0, 1"):
            LorettaRepConfig(id2label=names)
    adapted(tmp_path, TTLoraConfig(task_type="SEQ_CLS"))
    (tmp_path / "adapter" / "labels.json").write_text('{"id2label": {"one": "a"}}')
    with pytest.raises(TTFileError, match=r"labels.json' cannot be read: .*; save the adapter again"):
        ttnet_llm.load(tmp_path / "adapter")
