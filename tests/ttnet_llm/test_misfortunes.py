"""What goes wrong in practice: unlucky names, other dtypes in between, tied weights, wrong values."""

from pathlib import Path

import pytest
import torch
import transformers as tf
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import Method, each
from tests.ttnet_llm.models import logits, perturb
from ttnet.errors import TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, TTLoraConfig, hold_factors

UNLUCKY = {
    "loretta_rep": "A",
    "loretta_adp": "down",
    "tt_lora": "cores",
    "lorta": "heads",
    "lotr": "U",
    "metatt": "inputs",
    "melora": "B",
    "ether": "mirror",
    "neuron_lora": "A",
    "tt_ether": "mirror",
    "tt_turn": "middle",
}


@each()
def test_a_name_that_would_not_be_saved_is_refused(config_cls: Method) -> None:
    name = UNLUCKY[config_cls.method]
    with pytest.raises(TTValueError, match=f"adapter_name is '{name}', which is also the name of a part of a"):
        get_peft_model(models.llama(), config_cls(), adapter_name=name)


@each()
def test_adapters_on_other_modules_load_beside_each_other(config_cls: Method, tmp_path: Path) -> None:
    first = perturb(get_peft_model(models.llama(), config_cls(target_modules=["q_proj"])))
    second = perturb(get_peft_model(models.llama(), config_cls(target_modules=["o_proj"])))
    expected = logits(second)
    second.save_pretrained(tmp_path)
    for low in (False, True):
        first.load_adapter(tmp_path, f"second{low}", low_cpu_mem_usage=low)
        first.set_adapter(f"second{low}")
        torch.testing.assert_close(logits(first), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config_cls", [LorettaRepConfig, TTLoraConfig])
def test_modules_that_a_lora_lacks_start_as_the_identity(config_cls: type, tmp_path: Path) -> None:
    lora = perturb(get_peft_model(models.llama(), LoraConfig(r=2, target_modules=["q_proj"])), spread=0.1)
    expected = logits(lora)
    lora.save_pretrained(tmp_path)
    options = {"init_weights": "lora", "lora_path": str(tmp_path), "tt_rank": 64}
    model = get_peft_model(models.llama(), config_cls(target_modules=["q_proj", "o_proj"], **options)).eval()
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(TTValueError, match="adapts none of the modules that are adapted here"):
        get_peft_model(models.llama(), config_cls(target_modules=["k_proj"], **options))


@each("takes_embeddings")
def test_tied_weights_come_back_from_merging(config_cls: Method) -> None:
    torch.manual_seed(0)
    base = tf.LlamaForCausalLM(tf.LlamaConfig(**models.DECODER, tie_word_embeddings=True)).eval()
    before = base.lm_head.weight.clone()
    model = get_peft_model(base, config_cls(target_modules=["embed_tokens", "lm_head"]))
    perturb(model, spread=0.1)
    model.merge_adapter(safe_merge=True)
    assert not torch.allclose(base.lm_head.weight, before)
    model.unmerge_adapter()
    assert torch.equal(base.lm_head.weight, before)


@each("merges")
def test_unmerging_after_a_change_of_dtype_keeps_the_new_one(config_cls: Method) -> None:
    model = perturb(get_peft_model(models.llama().double(), config_cls()), spread=0.1)
    expected = logits(model)
    model.merge_adapter(safe_merge=True)
    model.float()
    model.unmerge_adapter()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(model), expected.float(), rtol=1e-3, atol=1e-3)


@each("merges")
def test_loading_weights_lets_go_of_held_factors(config_cls: Method) -> None:
    model = perturb(get_peft_model(models.llama(), config_cls()), seed=1).eval()
    first, weights = logits(model), {k: v.clone() for k, v in get_peft_model_state_dict(model).items()}
    perturb(model, seed=2)
    hold_factors(model)
    assert not torch.allclose(logits(model), first)
    set_peft_model_state_dict(model, weights)
    assert torch.equal(logits(model), first)


@pytest.mark.parametrize("make", [models.bert, models.roberta])
@pytest.mark.parametrize("config_cls", [LorettaAdpConfig, TTLoraConfig])
def test_two_adapters_have_heads_of_trains(make: object, config_cls: type, tmp_path: Path) -> None:
    config = {"tt_head": True, "task_type": "SEQ_CLS"}
    model = perturb(get_peft_model(make(), config_cls(**config)), seed=1)
    first = logits(model)
    model.save_pretrained(tmp_path)
    model.add_adapter("second", config_cls(**config))
    model.set_adapter("second")
    second = logits(perturb(model, seed=2))
    model.set_adapter("default")
    assert torch.equal(logits(model), first)
    model.load_adapter(tmp_path, "third")
    model.set_adapter("third")
    assert torch.equal(logits(model), first)
    model.set_adapter("second")
    assert torch.equal(logits(model), second)


@pytest.mark.parametrize("unload", [False, True])
def test_heads_become_layers_of_the_base_models_dtype(unload: bool) -> None:
    model = get_peft_model(models.roberta().bfloat16(), TTLoraConfig(tt_head=True, task_type="SEQ_CLS"))
    merged = model.unload() if unload else model.merge_and_unload()
    assert logits(merged).dtype == torch.bfloat16


@each("shares")
def test_shared_networks_are_not_injected_by_keys(config_cls: Method) -> None:
    state = get_peft_model_state_dict(get_peft_model(models.llama(), config_cls()))
    with pytest.raises(TTValueError, match="does not name the modules that share a network"):
        inject_adapter_in_model(config_cls(), models.llama(), state_dict=state)


@pytest.mark.parametrize("rank", [0, 2.0, None, "5", True, [3, 0], [[3], "x"]])
@each("has_trains")
def test_ranks_that_are_none(config_cls: Method, rank: object) -> None:
    with pytest.raises(TTValueError, match=r"tt_rank is .*; expected an integer of at least 1, or for given modes"):
        config_cls(tt_rank=rank)


@pytest.mark.parametrize("scale", ["16", None, float("nan"), float("inf")])
@each()
def test_factors_that_are_no_numbers(config_cls: Method, scale: object) -> None:
    with pytest.raises(TTValueError, match="expected a finite number"):
        config_cls(**{config_cls.config_cls.scale_field: scale})


def test_a_start_that_divides_by_the_factor_refuses_zero() -> None:
    with pytest.raises(TTValueError, match="alpha is 0, and init_weights 'tt_svd' divides by it"):
        TTLoraConfig(alpha=0, init_weights="tt_svd")


@pytest.mark.parametrize("field", ["layout", "position", "non_linearity"])
def test_patterns_are_checked_like_the_config(field: str) -> None:
    with pytest.raises(TTValueError, match=f"{field} is 'bogus'"):
        LorettaAdpConfig(rank_pattern={"dense": {field: "bogus"}})


def test_near_misses_of_a_second_adapter_include_adapted_modules() -> None:
    model = get_peft_model(models.llama(), TTLoraConfig(target_modules=["q_proj"]))
    with pytest.raises(NoMatchingPeftModuleError, match="did you mean 'q_proj'"):
        model.add_adapter("second", TTLoraConfig(target_modules=["q_porj"]))


def test_lists_of_ranks_go_with_given_modes() -> None:
    modes = {"24x4": [[4, 6], [4]], "12x4": [[3, 4], [4]]}
    pattern = {"0": {"r": 4, "tt_rank": [[2, 3], [3, 4]]}}
    config = LorettaRepConfig(target_modules=["0"], modes=modes, rank_pattern=pattern)
    network = get_peft_model(nn.Sequential(nn.Linear(24, 12)), config).base_model.model[0].networks["default"]
    assert (network.A.layout.ranks, network.B.layout.ranks) == ((1, 2, 3, 1), (1, 3, 4, 1))


@each()
def test_a_trainable_load_and_one_for_inference(config_cls: Method, tmp_path: Path) -> None:
    get_peft_model(models.llama(), config_cls()).save_pretrained(tmp_path)
    for trainable in (False, True):
        model = PeftModel.from_pretrained(models.llama(), tmp_path, is_trainable=trainable)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        assert bool(names) is trainable
        assert all(f"{config_cls.method}_network" in name for name in names)
