"""What every method refuses, with the sentence that it refuses it with."""

import pytest
from peft import get_peft_model
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import Method, each
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, LotrConfig, MeloraConfig, MetaTTConfig, TTLoraConfig

each_method = each()
each_with_trains = each("has_trains")


@each_method
def test_missing_targets_name_near_misses(config_cls: Method) -> None:
    with pytest.raises(NoMatchingPeftModuleError, match="did you mean 'q_proj'"):
        get_peft_model(models.llama(), config_cls(target_modules=["q_porj"]))
    with pytest.raises(NoMatchingPeftModuleError, match="Linear layers of this model are q_proj, k_proj"):
        get_peft_model(models.llama(), config_cls(target_modules=["zzzzzz"]))


@each_method
def test_unknown_architecture_asks_for_targets(config_cls: Method) -> None:
    with pytest.raises(TTValueError, match="Please specify `target_modules`: linear layers of this model are 0, 1"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), config_cls())


@each_method
def test_unsupported_layers_are_named(config_cls: Method) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 1))
    with pytest.raises(TTTypeError, match="Target module 1 is a Conv1d, which is not supported"):
        get_peft_model(model, config_cls(target_modules=["1"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, r"dropout is 1.0; expected a probability in \[0, 1\)"),
        ({"init_weights": "best"}, "init_weights is 'best'; expected one of True, False"),
        ({"rank_pattern": {"q": {"rank": 3}}}, "rank_pattern"),
        ({"bias": "lora_only"}, "bias is 'lora_only'; expected one of"),
        ({"layers_pattern": "layers"}, "give the layers' indices"),
        ({"target_modules": ".*q", "layers_to_transform": 0}, "target_modules is a regular expression"),
    ],
)
@each_method
def test_config_errors(config_cls: Method, options: dict[str, object], message: str) -> None:
    with pytest.raises(TTValueError, match=message):
        config_cls(**options)


@each_method
def test_parameters_are_for_methods_that_adapt_them(config_cls: Method) -> None:
    reason = config_cls().why_no_parameters
    if reason is None:
        assert config_cls.config_cls in (LorettaRepConfig, TTLoraConfig)
        return
    with pytest.raises(TTValueError, match=rf"target_parameters is \['experts.weight'\], and {reason}; name linear"):
        config_cls(target_parameters=["experts.weight"])


@pytest.mark.parametrize(
    ("config_cls", "options", "message"),
    [
        (LorettaRepConfig, {"r": 0}, "r is 0; expected an integer of at least 1"),
        (LorettaRepConfig, {"layout": "interleaved", "modes": "paper"}, "the published modes are those of aligned"),
        (TTLoraConfig, {"layout": "interleaved"}, "layout is 'interleaved', but TT-LoRA is one aligned train"),
        (TTLoraConfig, {"modes": "paper"}, "modes is 'paper', but TT-LoRA"),
        (MeloraConfig, {"n": 0}, "n is 0; expected an integer of at least 1"),
        (MetaTTConfig, {"num_tasks": 0}, "num_tasks is 0"),
        (MetaTTConfig, {"num_tasks": 2, "task": 2}, "task is 2; expected an integer from 0 to 1"),
        (LotrConfig, {"rank_pattern": {"q": 3}}, "shares one network between all modules of a shape"),
        (MeloraConfig, {"init_weights": "tt_svd"}, "init_weights is 'tt_svd'; expected one of True, False"),
        (LorettaAdpConfig, {"bottleneck": -1}, "bottleneck is -1; expected an integer of at least 1"),
        (LorettaAdpConfig, {"position": "middle"}, "position is 'middle'; expected one of"),
        (LorettaAdpConfig, {"non_linearity": "rleu"}, "non_linearity is 'rleu', .* a name like 'relu'"),
    ],
)
def test_errors_of_one_method(config_cls: Method, options: dict[str, object], message: str) -> None:
    with pytest.raises(TTValueError, match=message):
        config_cls(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tt_rank": 0}, "tt_rank is 0; expected an integer of at least 1"),
        ({"modes": "best"}, "modes is 'best'; expected one of 'auto', 'paper'"),
        ({"modes": {"768": [[8], [8]]}}, "expected a shape such as '768x8' and two lists"),
        ({"modes": {"768x8": [[8, 8], [8]]}}, r"factors the 768 rows into \[8, 8\], whose product is 64"),
        ({"layout": "mixed"}, "layout is 'mixed'"),
        ({"rank_pattern": {"q": 0}}, "is 0; expected an integer of at least 1"),
    ],
)
@each_with_trains
def test_config_errors_of_trains(config_cls: Method, options: dict[str, object], message: str) -> None:
    with pytest.raises(TTValueError, match=message):
        config_cls(**options)


@pytest.mark.parametrize("config_cls", [LorettaRepConfig, LorettaAdpConfig])
def test_paper_modes_refuse_other_sizes(config_cls: type) -> None:
    with pytest.raises(TTValueError, match="the published tables have no modes for a 20 x"):
        get_peft_model(nn.Sequential(nn.Linear(20, 20)), config_cls(target_modules=["0"], modes="paper"))
