"""The configuration that a number of parameters is spent on: exact, and never above the number."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from transformers import BertConfig, LlamaConfig

from tests.ttnet_llm import models
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import TTEtherConfig, fit_to_budget
from ttnet_llm.budget import count_parameters, split_parameters

LLAMA = LlamaConfig(
    hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, vocab_size=9
)  # six places of 16 features


@given(parameters=st.integers(44, 400))
def test_the_largest_rank_is_taken_that_fits(parameters: int) -> None:
    config = fit_to_budget(LLAMA, parameters)
    counts = {r: 2 * r * (6 + 16) for r in range(1, 6)} | {None: 2 * 6 * 16}
    assert count_parameters(LLAMA, config).adapter == counts[config.r] <= parameters
    assert counts[config.r] == max(count for r, count in counts.items() if count <= min(parameters, 2 * 6 * 16))


@pytest.mark.parametrize("parameters", [2_000, 50_000, 10**6])
def test_large_models_are_counted_without_their_weights(parameters: int) -> None:
    llama = LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000
    )
    if parameters < 2 * (64 + 4096):
        with pytest.raises(TTValueError, match=r"parameters is 2000, but the smallest adapter of this model, .* 8320;"):
            fit_to_budget(llama, parameters)
        return
    config = fit_to_budget(llama, parameters)
    assert (config.r, config.n, config.tied) == {50_000: (11, 8, True), 10**6: (None, 4, False)}[parameters]
    assert config.target_modules is None
    config = fit_to_budget(llama, parameters, task_type="CAUSAL_LM")
    if parameters == 50_000:  # not even one neuron in each of the 32 layers, with its 4096 outputs
        assert config == TTEtherConfig(r=1, target_modules="all-linear", task_type="CAUSAL_LM")
    else:
        assert (config.r, config.neurons) == (4, 10**6 // (4 * 32) - 4096)
        assert 11008 // 4 <= config.neurons < 11008


@given(parameters=st.integers(44, 1000))
def test_language_models_get_rank_where_a_quarter_of_the_neurons_fits(parameters: int) -> None:
    named = LlamaConfig(**LLAMA.to_diff_dict() | {"architectures": ["LlamaForCausalLM"]})
    config = fit_to_budget(named, parameters)
    other = fit_to_budget(LLAMA, parameters, task_type="CAUSAL_LM")
    assert other.to_dict() | {"task_type": None} == config.to_dict()
    assert count_parameters(named, config).adapter <= parameters
    if parameters < 3 * (16 + 1):  # a neuron and the 16 outputs, in three layers
        assert (config.method, config.target_modules) == ("tt_ether", None)
    else:
        assert config.r == max(1, min(parameters // (3 * (16 + 24 // 4)), 8))
        neurons = parameters // (3 * config.r) - 16
        assert config.neurons == (neurons if neurons < 24 else None)
    assert config.method == "tt_ether" or config.update_scale == 2


@given(parameters=st.integers(44, 2000), neurons=st.integers(1, 30))
def test_no_budget_is_exceeded_however_narrow_the_blocks(parameters: int, neurons: int) -> None:
    narrow = LlamaConfig(**LLAMA.to_diff_dict() | {"intermediate_size": neurons})
    with contextlib.suppress(TTValueError):  # below the smallest adapter
        config = fit_to_budget(narrow, parameters, task_type="CAUSAL_LM")
        assert count_parameters(narrow, config).adapter <= parameters


@given(parameters=st.integers(792, 10_000))
def test_both_sides_are_one_train_from_the_rank_on_that_was_measured(parameters: int) -> None:
    minilm = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    config = fit_to_budget(minilm, parameters)  # twelve places of 384 features
    own, one = 2 * (384 + 12), 384 + 2 * 12  # parameters of a rank
    if parameters >= 2 * 12 * 384:
        assert (config.r, config.n, config.tied) == (None, 4, False)
    elif parameters >= 11 * one:
        assert (config.r, config.n, config.tied) == (parameters // one, 8, True)
    else:
        assert (config.r, config.n, config.tied) == (parameters // own, 4, False)


def test_experts_without_layers_of_their_own_are_turned() -> None:
    with pytest.warns(UserWarning, match="tt_ether passes over a part of the model"):
        assert fit_to_budget(models.mixtral().config, 5_000, task_type="CAUSAL_LM").method == "tt_ether"


def test_it_takes_a_model_and_its_config_trains() -> None:
    base = models.bert()
    smallest = count_parameters(base, TTEtherConfig(r=1)).adapter
    config = fit_to_budget(base, smallest, task_type="SEQ_CLS")
    assert config.r == 1
    assert split_parameters(get_peft_model(base, config)).adapter == smallest
    with pytest.raises(TTTypeError, match="config_or_model is a str"):
        fit_to_budget("bert", 300)  # type: ignore[arg-type]
    assert fit_to_budget(BertConfig(), 10**7).r is None


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", None])
def test_a_config_is_counted_for_every_task(task_type: str | None) -> None:
    assert count_parameters(LLAMA, TTEtherConfig(r=2, task_type=task_type)).adapter == 2 * 2 * (6 + 16)
