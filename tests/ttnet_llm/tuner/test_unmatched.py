"""Whatever a config asks for and the model does not have is named."""

import warnings
from collections.abc import Callable

import pytest
import torch
from peft import get_peft_model
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import Method, each
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, TTLoraConfig
from ttnet_llm.tuner.names import expert_parameters

Build = Callable[[], nn.Module]

each_method = each()


def warnings_of(model: nn.Module, config: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        get_peft_model(model, config)
    # PEFT warns of what it says twice by RuntimeWarning; transformers warns of itself.
    kinds = (UserWarning, RuntimeWarning)
    return [str(warning.message) for warning in caught if warning.category in kinds]


@each_method
def test_entries_that_match_nothing_are_named(config_cls: Method) -> None:
    (said,) = warnings_of(models.llama(), config_cls(target_modules=["q_proj", "v_porj", "self_attn.up_proj"]))
    assert "target_modules has 'self_attn.up_proj', 'v_porj', which match nothing in this LlamaForCausalLM" in said
    assert "q_proj" not in said
    assert "expert" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exclude_modules": ["1.self_attn.v_proj", "lm_haed"]}, "exclude_modules has 'lm_haed', which match nothing"),
        ({"exclude_modules": r".*lm_haed"}, "exclude_modules has '.*lm_haed', which match nothing"),
        ({"modules_to_save": ["lm_head", "scroe"]}, "modules_to_save has 'scroe', which match nothing"),
        ({"layers_to_transform": [0, 2]}, "layers_to_transform has 2, which match nothing"),
        ({"layers_to_transform": [1, 5], "layers_pattern": "layers"}, "layers_to_transform has 5, which match nothing"),
        ({"target_parameters": ["experts.up"]}, "target_parameters has 'experts.up', which match nothing"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern has 'q_proj', which match nothing"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern has 'q_proj', which match nothing"),
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
    with pytest.warns(UserWarning, match="target_modules has 'q_porj' and layers_to_transform has 1, which match"):
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
def test_experts_that_are_named_as_modules(build: Build, targets: object) -> None:
    said = warnings_of(build(), LorettaRepConfig(target_modules=targets))[-1]
    assert said.startswith("loretta_rep passes over a part of the model. The experts of this model are parameters")
    assert "experts.gate_up_proj" in said
    assert said.endswith("'] adapts them.")


def test_a_target_that_is_nothing_but_a_parameter_is_an_error_that_says_so() -> None:
    with pytest.raises(NoMatchingPeftModuleError, match=r"target_parameters=\['mlp.experts.down_proj', .* adapts them"):
        get_peft_model(models.gpt_oss(), LorettaRepConfig(target_modules=["gate_up_proj"]))


@pytest.mark.parametrize("build", models.WITH_EXPERTS)
@each_method
def test_experts_that_all_linear_passes_over(config_cls: Method, build: Build) -> None:
    said = warnings_of(build(), config_cls(target_modules="all-linear"))
    if config_cls().why_no_parameters is None:
        assert said == []
        return
    assert len(said) == 1
    assert said[0].startswith(f"{config_cls.method} passes over a part of the model. The experts of this model are")
    assert "LoRETTA_rep and TT-LoRA, or PEFT's LoRA, take target_parameters=['" in said[0]


def test_experts_are_left_alone_where_the_list_of_parameters_is_empty() -> None:
    (said,) = warnings_of(models.mixtral(), TTLoraConfig(target_modules="all-linear", target_parameters=[]))
    assert "passes over a part of the model" in said


def test_defaults_that_are_meant_to_be_the_feed_forward_layers() -> None:
    (said,) = warnings_of(models.mixtral(), LorettaAdpConfig())
    assert said.startswith("loretta_adp passes over a part of the model")
    assert "mlp.experts.down_proj" in said
    assert warnings_of(models.mixtral(), TTLoraConfig()) == []  # query and value, as it says


def test_patterns_of_parameters_are_looked_for_among_parameters() -> None:
    fields = {"target_parameters": ["experts.down_proj"], "rank_pattern": {"down_proj": 2, "up_proj": 2}}
    (said,) = warnings_of(models.mixtral(), TTLoraConfig(target_modules=["q_proj"], **fields))
    assert "rank_pattern has 'up_proj', which match nothing" in said


def test_parameters_of_adapters_are_not_taken_for_experts() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(12, 12) for _ in range(2))})
    adapted = get_peft_model(model, TTLoraConfig(target_modules=["0"]))
    assert list(expert_parameters(adapted.base_model.model)) == []
