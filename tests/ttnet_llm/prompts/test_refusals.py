"""What DePT refuses: ids, texts, models and options that do not go together with a prompt."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.prompts.shared import IDS, LENGTH, bart, config, layer_of
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import export_lora, prepend_prompt


def test_ids_beyond_the_prompt_are_refused() -> None:
    model = get_peft_model(models.bert(), config())
    with pytest.raises(
        TTValueError, match=r"input_ids has the id 69, .* of 64 tokens, .* end at 68; make them with pre"
    ):
        model(input_ids=torch.tensor([[69, 3]]))
    ids = prepend_prompt({"input_ids": IDS}, model)["input_ids"]
    model.add_adapter("two", config(num_virtual_tokens=2))
    model.eval()
    with pytest.raises(TTValueError, match="the 2 placeholders of the adapter 'two' end at 65"):
        model(input_ids=ids, adapter_names=["default", "two", "default"])
    with pytest.raises(TTValueError, match=r"no prompt is active for it \(__base__\); give the text without"):
        model(input_ids=ids, adapter_names=["default", "__base__", "default"])
    with (
        model.disable_adapter(),
        pytest.raises(TTValueError, match="no prompt is active for it; give the text without"),
    ):
        model(input_ids=ids)
    model.base_model.set_adapter(["default", "two"])
    with pytest.raises(TTValueError, match="the adapters default, two are active, so that it is unclear whose prompt"):
        model(input_ids=ids)
    assert model(input_ids=IDS).logits.shape == (3, 2)


def test_texts_that_are_too_long_are_refused_and_padding_is_not_text() -> None:
    model = get_peft_model(models.bert(), config())
    ids = prepend_prompt({"input_ids": torch.ones(1, LENGTH + 1, dtype=torch.long)}, model)["input_ids"]
    message = r"A text has 10 tokens after the prompt, and max_length of the adapter 'default' is 9; cut texts"
    with pytest.raises(TTValueError, match=message):
        model(input_ids=ids)
    ids[:, -1] = 0  # padding
    expected = model.eval()(input_ids=ids[:, :-1]).logits
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected)
    layer_of(model).padding = None
    with pytest.raises(TTValueError, match="after the prompt with its padding, as the model's config names no pad"):
        model(input_ids=ids)


@pytest.mark.parametrize("make", [models.llama, models.gpt2, models.opt])
def test_causal_models_are_refused_with_the_reason(make: Callable[[], nn.Module]) -> None:
    reason = "its offset is added to every token of an answer in training, but to none that is generated"
    with pytest.raises(TTTypeError, match=f"The model is a {type(make()).__name__}, .*{reason}.*PromptTuningConfig"):
        get_peft_model(make(), config())
    with pytest.raises(TTValueError, match=f"task_type is 'CAUSAL_LM', .*{reason}"):
        config(task_type="CAUSAL_LM")


def test_decoders_that_read_placeholders_are_refused() -> None:
    t5 = tf.T5ForSequenceClassification(models.t5().config)
    with pytest.raises(
        TTTypeError, match=r"T5ForSequenceClassification, which gives its decoder the ids of its encoder"
    ):
        get_peft_model(t5, config())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_virtual_tokens": 0}, "num_virtual_tokens is 0; expected an integer of at least 1"),
        ({"r": 2.5}, "r is 2.5; expected an integer of at least 1"),
        ({"max_length": -1}, "max_length is -1; expected an integer of at least 1"),
        ({"alpha": math.inf}, "alpha is inf; expected a finite number"),
        ({"target_modules": "all-linear"}, "target_modules is 'all-linear', but DePT adapts the table of word"),
        ({"prompt_tuning_init_text": " "}, "prompt_tuning_init_text is empty; expected a text, or None"),
        ({"prompt_tuning_init_ids": []}, r"prompt_tuning_init_ids is \[\]; expected a list of ids"),
        ({"prompt_tuning_init_ids": [3, -1]}, r"prompt_tuning_init_ids is \[3, -1\]; expected a list of ids"),
        ({"target_parameters": ["x"]}, r"target_parameters is \['x'\], and dept adapts modules"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TTValueError, match=message):
        config(**options)


def test_targets() -> None:
    named = get_peft_model(models.t5(), config(target_modules=["encoder.embed_tokens"]))
    assert named.base_model.targeted_module_names == ["encoder.embed_tokens"]
    with pytest.raises(TTValueError, match=r"names 2 modules \(encoder.embed_tokens, decoder.embed_tokens\), and DePT"):
        get_peft_model(models.t5(), config(target_modules=["embed_tokens"]))
    with pytest.raises(
        TTTypeError, match=r"bert.pooler.dense is a Linear, which is not supported; expected one of Emb"
    ):
        get_peft_model(models.bert(), config(target_modules=["pooler.dense"]))
    with pytest.raises(TTValueError, match=r"the Sequential does not tell in which table .* specify `target_modules`"):
        get_peft_model(nn.Sequential(nn.Embedding(4, 2)), config())
    with pytest.raises(
        TTTypeError, match="which does something else than look its input up, as tables of positions do"
    ):
        get_peft_model(bart(), config(target_modules=["encoder.embed_positions"]))


def test_texts_of_prompts_need_a_tokenizer(tmp_path: Path) -> None:
    base = models.bert()
    with pytest.raises(TTValueError, match=r"is 'good or bad', but the model was not loaded from a folder with a tok"):
        get_peft_model(base, config(prompt_tuning_init_text="good or bad"))
    with pytest.raises(TTValueError, match=re.escape(f"there is no tokenizer in {str(tmp_path)!r} that makes tokens")):
        get_peft_model(base, config(prompt_tuning_init_text="good", tokenizer_name_or_path=str(tmp_path)))
    with pytest.raises(TTValueError, match="prompt_tuning_init_ids has 64, and the model has embeddings of 64 tokens"):
        get_peft_model(base, config(prompt_tuning_init_ids=[64]))


def test_it_neither_merges_nor_adds_up_nor_becomes_lora(tmp_path: Path) -> None:
    model = get_peft_model(models.bert(), config())
    message = r"DePT cannot be merged: .* call `unload\(\)` .* a LoRA of that table \(target_modules=\['position_embedd"
    for merge in (model.merge_adapter, model.merge_and_unload, layer_of(model).merge):
        with pytest.raises(TTTypeError, match=message):
            merge()
    with pytest.raises(TTTypeError, match="dept adapters have no sum: each stands for its own prompt"):
        model.add_weighted_adapter(["default"], [1.0], "sum")
    with pytest.raises(
        TTTypeError, match="is dept, which puts a prompt before texts, and adds to words by their place"
    ):
        export_lora(model, tmp_path / "lora")
    assert not layer_of(model).supports_lora_conversion()


def test_names_of_parts_are_no_names_of_adapters() -> None:
    with pytest.raises(TTValueError, match="adapter_name is 'prompt', which is also the name of a part of a dept"):
        get_peft_model(models.bert(), config(), adapter_name="prompt")
