"""Whatever a config asks for and the model does not have is named."""

import warnings

import pytest
from peft import get_peft_model
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import Method, each
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, TTLoraConfig

each_method = each()


def warnings_of(model: nn.Module, config: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        get_peft_model(model, config)
    return [str(warning.message) for warning in caught if warning.category is UserWarning]  # transformers warns, too


@each_method
def test_entries_that_match_nothing_are_named(config_cls: Method) -> None:
    (said,) = warnings_of(models.llama(), config_cls(target_modules=["q_proj", "v_porj", "self_attn.up_proj"]))
    assert "target_modules has 'self_attn.up_proj', 'v_porj', which no module of this LlamaForCausalLM" in said
    assert "q_proj" not in said
    assert "expert" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude_modules": ["1.self_attn.v_proj", "lm_haed"]}, "exclude_modules has 'lm_haed', which"),
        ({"modules_to_save": ["lm_head", "scroe"]}, "modules_to_save has 'scroe', which"),
        ({"layers_to_transform": [0, 2]}, "layers_to_transform has 2, where no module"),
        ({"layers_to_transform": [1, 5], "layers_pattern": "layers"}, "layers_to_transform has 5, where no module"),
    ],
)
def test_every_list_of_a_config_is_looked_at(options: dict[str, object], message: str) -> None:
    (said,) = warnings_of(models.llama(), TTLoraConfig(target_modules=["v_proj"], **options))
    assert message in said


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "layers.1.self_attn.v_proj"], "layers_to_transform": 1},
        {"target_modules": "all-linear", "exclude_modules": ["up_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": r".*\.(q_proj|gate_up_proj)"},
        {},
    ],
)
@each_method
def test_nothing_is_said_where_all_is_found(config_cls: Method, options: dict[str, object]) -> None:
    assert warnings_of(models.llama(), config_cls(**options)) == []


def test_defaults_for_several_variants_of_an_architecture_are_found_when_they_come_back() -> None:
    model = get_peft_model(models.t5(), LorettaAdpConfig())
    saved = model.peft_config["default"]
    assert "wi_0" in saved.target_modules  # of T5 1.1 only
    assert warnings_of(models.t5(), saved) == []


def test_heads_that_peft_adds_are_not_taken_for_misspelled() -> None:
    assert warnings_of(models.bert(), LorettaRepConfig(task_type="SEQ_CLS", train_norms=True)) == []


def test_a_second_adapter_is_looked_at_like_the_first() -> None:
    model = get_peft_model(models.llama(), LorettaRepConfig(target_modules=["q_proj"]))
    second = LorettaRepConfig(target_modules=["0.self_attn.q_proj", "q_porj"], layers_to_transform=[0, 1])
    with pytest.warns(UserWarning, match="target_modules has 'q_porj', which .* layers_to_transform has 1, where"):
        model.add_adapter("second", second)


@pytest.mark.parametrize(
    ("build", "targets"),
    [
        (models.mixtral, ["q_proj", "w1", "w2"]),
        (models.qwen3_moe, ["q_proj", "gate_proj", "down_proj"]),
        (models.gpt_oss, ["q_proj", "gate_up_proj"]),
        (models.llama4, ["q_proj", "down_proj"]),  # which is a module of the shared expert, too
        (models.gpt_oss, r".*\.(q_proj|down_proj)"),
    ],
)
def test_experts_that_are_named_as_modules(build: type, targets: object) -> None:
    (said,) = warnings_of(build(), LorettaRepConfig(target_modules=targets))
    assert "gate_up_proj and" in said
    assert "experts.down_proj, which are no modules" in said


def test_a_target_that_is_nothing_but_a_parameter_is_an_error_that_says_so() -> None:
    with pytest.raises(NoMatchingPeftModuleError, match=r"experts as parameters, mlp.experts.gate_up_proj and"):
        get_peft_model(models.gpt_oss(), LorettaRepConfig(target_modules=["gate_up_proj"]))


@pytest.mark.parametrize("build", [models.mixtral, models.qwen3_moe, models.gpt_oss])
@each_method
def test_experts_that_all_linear_passes_over(config_cls: Method, build: type) -> None:
    (said,) = warnings_of(build(), config_cls(target_modules="all-linear"))
    assert "passes over a part of the model" in said
    assert "mlp.experts.gate_up_proj and mlp.experts.down_proj" in said


def test_defaults_that_are_meant_to_be_the_feed_forward_layers() -> None:
    (said,) = warnings_of(models.mixtral(), LorettaAdpConfig())
    assert said.startswith("loretta_adp passes over a part of the model")
    assert "mlp.experts.down_proj" in said
    assert warnings_of(models.mixtral(), TTLoraConfig()) == []  # query and value, as it says
