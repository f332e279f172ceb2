"""Adapters on weights that several layers share: merged into their own layer only, and loaded as they were saved."""

import copy
import functools
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.architectures import CAUSAL, SEQ2SEQ, make
from tests.ttnet_llm.methods import Method, each
from tests.ttnet_llm.models import logits, perturb
from ttnet_llm import LorettaRepConfig
from ttnet_llm.tuner.bypassed import goes_around
from ttnet_llm.tuner.ties import merge_apart

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}


def case(model_cls: str, config: Callable[[], Any]) -> Any:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return getattr(tf, model_cls)(config()).eval()

    return pytest.param(build, id=model_cls)


def t5gemma() -> Any:
    part = models.DECODER | {"head_dim": 8}
    return tf.T5GemmaConfig(encoder=part, decoder=part | {"cross_attention_hidden_size": 32}, vocab_size=64)


MARIAN, T5 = SEQ2SEQ["marian"], SEQ2SEQ["t5"]
TIED = [
    case("LlamaForCausalLM", lambda: tf.LlamaConfig(**models.DECODER, tie_word_embeddings=True)),
    case("GPT2LMHeadModel", lambda: tf.GPT2Config(**CAUSAL["gpt2"])),
    case("Gemma3ForCausalLM", lambda: tf.Gemma3TextConfig(**models.DECODER, head_dim=8)),
    case("BertForMaskedLM", lambda: tf.BertConfig(**models.ENCODER)),  # also a bias
    case("MarianMTModel", lambda: tf.MarianConfig(**MARIAN)),
    # Tables of its own for encoder and decoder, and the latter's is the head.
    case("MarianMTModel", lambda: tf.MarianConfig(**MARIAN, share_encoder_decoder_embeddings=False)),
    case("BartForConditionalGeneration", lambda: tf.BartConfig(**SEQ2SEQ["bart"])),
    case("T5ForConditionalGeneration", lambda: tf.T5Config(**T5)),
    case("UMT5ForConditionalGeneration", lambda: tf.UMT5Config(**T5)),  # scales the output of a tied head
    case("SwitchTransformersForConditionalGeneration", lambda: tf.SwitchTransformersConfig(**T5)),
    case("T5GemmaForConditionalGeneration", t5gemma),
]
OTHERS = [pytest.param(functools.partial(make, name), id=name, marks=pytest.mark.slow) for name in (CAUSAL | SEQ2SEQ)]


def targets(model: nn.Module, what: str) -> list[str]:
    """Name the layers that stand for a part of the model."""
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]
    head = {id(model.get_output_embeddings())}
    table = model.get_input_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    tables = [n for n, m in model.named_modules() if isinstance(m, nn.Embedding) and m.weight is table.weight]
    heads = [names[found] for found in head if found in names]
    return {
        "layers": [name for name in linear if name not in heads and not goes_around(model, name)][:3],
        "head": heads,
        "source": [names[id(table)]],
        "tables": tables,
        "both": [*tables, *heads],
    }[what]


def adapted(base: nn.Module, names: list[str], config_cls: Any = LorettaRepConfig, **options: Any) -> PeftModel:
    model = get_peft_model(base, config_cls(target_modules=names, alpha=4, init_weights=False, **options))
    return model.eval()


@functools.cache
def untouched(build: Callable[[], Any]) -> torch.Tensor:
    return logits(build())


@pytest.mark.parametrize("what", ["layers", "head", "source", "tables", "both", "whole head"])
@pytest.mark.parametrize("build", [*TIED, *OTHERS])
def test_merged_models_are_loaded_as_they_were_saved(build: Callable[[], Any], what: str, tmp_path: Path) -> None:
    base = build()
    if what == "whole head":
        model = adapted(base, targets(base, "layers"), modules_to_save=targets(base, "head"))
        perturb(model)
    else:
        model = adapted(base, targets(base, what))
    before, expected = untouched(build), logits(model)
    assert what == "source" or not torch.allclose(expected, before, atol=1e-6)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path)
    loaded, report = type(base).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    torch.testing.assert_close(logits(loaded.eval()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", ["head", "tables", "both"])
@each("takes_embeddings")
def test_merging_changes_one_layer_and_unmerging_ties_it_again(config_cls: Method, what: str) -> None:
    base = TIED[0].values[0]()
    expected, weight = logits(base), base.lm_head.weight
    model = get_peft_model(base, config_cls(target_modules=targets(base, what), init_weights=False)).eval()
    adapted_logits = logits(model)
    assert not torch.allclose(adapted_logits, expected, atol=1e-3)
    for safe in (False, True):
        model.merge_adapter(safe_merge=safe)
        torch.testing.assert_close(logits(model), adapted_logits, rtol=1e-4, atol=1e-5)
        assert base.lm_head.weight is not base.get_input_embeddings().weight
        with model.disable_adapter():
            assert torch.equal(logits(model), expected)
        torch.testing.assert_close(logits(model), adapted_logits, rtol=1e-4, atol=1e-5)
        model.unmerge_adapter()
        assert base.lm_head.weight is weight
        assert base.get_input_embeddings().weight is weight
    assert torch.equal(logits(model.unload()), expected)


def test_merged_models_can_be_copied_moved_and_unmerged() -> None:
    base = TIED[0].values[0]()
    expected = logits(base)
    model = adapted(base, ["lm_head"])
    model.merge_adapter()
    merged = logits(model)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(same), merged)
        same.double()
        torch.testing.assert_close(logits(same).float(), merged)
        same.unmerge_adapter()
        inner = same.get_base_model()
        assert inner.lm_head.weight is inner.get_input_embeddings().weight
        torch.testing.assert_close(logits(same.unload()).float(), expected)


def test_layers_that_are_merged_one_by_one_come_apart_too() -> None:
    base = TIED[0].values[0]()
    weight = base.get_input_embeddings().weight
    inject_adapter_in_model(LorettaRepConfig(target_modules=["lm_head"], init_weights=False), base)
    expected = logits(base)
    for module in base.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    torch.testing.assert_close(logits(base), expected, rtol=1e-4, atol=1e-5)
    assert base.get_input_embeddings().weight is weight


def test_two_adapters_are_merged_into_one_tied_head() -> None:
    base = TIED[0].values[0]()
    model = adapted(base, ["lm_head"])
    model.add_adapter("second", LorettaRepConfig(target_modules=["lm_head"], init_weights=False))
    model.base_model.set_adapter(["default", "second"])
    expected = logits(model.eval())
    merged = model.merge_and_unload(adapter_names=["default", "second"])
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-5)


def test_the_config_says_untied_where_the_head_is_and_tied_where_it_is_not() -> None:
    for what, tied in (("layers", True), ("head", False)):
        base = TIED[0].values[0]()
        merged = adapted(base, targets(base, what)).merge_and_unload()
        assert merged.config.tie_word_embeddings is tied
        assert bool(merged.all_tied_weights_keys) is tied
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**VISION, image_size=16, patch_size=8),
        text_config=tf.LlamaConfig(**models.DECODER, tie_word_embeddings=True),
        tie_word_embeddings=True,
    )
    merged = adapted(tf.LlavaForConditionalGeneration(config), ["lm_head"]).merge_and_unload()
    assert merged.config.tie_word_embeddings is False
    assert merged.config.text_config.tie_word_embeddings is False  # the one that engines look at


def test_nobody_is_warned_of_ties() -> None:
    base = TIED[0].values[0]()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(tied|tie_word_embeddings)")
        adapted(base, ["embed_tokens", "lm_head"]).merge_and_unload()


@pytest.mark.parametrize("what", ["layers", "head", "tables", "both", "whole head"])
@pytest.mark.parametrize("build", [TIED[0].values[0], TIED[5].values[0]], ids=["llama", "marian"])
def test_lora_is_merged_into_its_own_layers_too(build: Callable[[], Any], what: str, tmp_path: Path) -> None:
    base = build()
    whole = what == "whole head"
    names, kept = targets(base, "layers" if whole else what), targets(base, "head") if whole else None
    config = LoraConfig(target_modules=names, init_lora_weights=False, modules_to_save=kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = perturb(get_peft_model(base, config)).eval()
        expected = logits(model)
        merged = merge_apart(model, safe_merge=True)
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path)
    loaded = type(base).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)
