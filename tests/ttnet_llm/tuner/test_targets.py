"""Which layers are adapted where the user names none, or all."""

import pytest
import torch
from peft import IA3Config, LoraConfig, TaskType, VeraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering, BertForTokenClassification

from tests.ttnet_llm import architectures
from tests.ttnet_llm.methods import each
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, LortaConfig, LotrConfig, MetaTTConfig
from ttnet_llm.attach import attach
from ttnet_llm.linear.sharing import head_size

LATENT = {"q_b_proj", "kv_b_proj"}
TINY_BERT = BertConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=99, num_labels=3
)


def adapted(name, config):
    targets = get_peft_model(architectures.make(name), config).peft_config["default"].target_modules
    return set(targets)


@pytest.mark.parametrize(
    ("name", "inputs", "attention", "feed_forward"),
    [
        ("phi3", {"qkv_proj"}, {"qkv_proj", "o_proj"}, {"gate_up_proj", "down_proj"}),
        ("qwen3_moe", {"q_proj", "v_proj"}, {"q_proj", "k_proj", "v_proj", "o_proj"}, {"o_proj"}),
        ("modernbert", {"Wqkv"}, {"Wqkv", "attn.Wo"}, {"Wo"}),
        ("mpnet", {"q", "v"}, {"q", "k", "v", "o"}, {"output.dense"}),
        (
            "deepseek_v3",
            {"q_b_proj", "kv_b_proj"},
            {"q_b_proj", "kv_b_proj", "o_proj"},
            {"gate_proj", "up_proj", "down_proj"},
        ),
        ("mamba", {"in_proj"}, {"in_proj"}, {"in_proj"}),
        ("marian", {"q_proj", "v_proj"}, {"q_proj", "k_proj", "v_proj", "self_attn.out_proj"}, {"fc1", "fc2"}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*passes over")
def test_architectures_that_peft_has_no_defaults_for(name, inputs, attention, feed_forward):
    assert adapted(name, LorettaRepConfig()) == inputs
    assert adapted(name, LortaConfig()) == attention
    assert adapted(name, LorettaAdpConfig()) == feed_forward
    # PEFT's own methods get them, too, where they are put in by us.
    assert set(attach(architectures.make(name), LoraConfig()).peft_config["default"].target_modules) == inputs


def test_a_method_that_keeps_its_defaults_elsewhere_is_left_to_them():
    model = attach(architectures.make("bert"), IA3Config(task_type="SEQ_CLS"))
    assert set(model.peft_config["default"].target_modules) == {"key", "value", "output.dense"}


def test_a_model_of_ones_own_has_no_defaults():
    with pytest.raises(TTValueError, match=r"no default for the architecture 'custom'. .* 0, 1"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), LorettaRepConfig())
    model = get_peft_model(architectures.make("bert"), LorettaRepConfig())
    with pytest.raises(TTValueError, match=r"no default for the architecture 'custom'"):
        get_peft_model(nn.ModuleList([nn.ModuleDict({"q_proj": nn.Linear(2, 2)})]), LorettaRepConfig())
    model.add_adapter("second", LorettaRepConfig())
    assert model.peft_config["second"].target_modules == model.peft_config["default"].target_modules


def test_a_second_adapter_gets_the_same_defaults():
    model = get_peft_model(architectures.make("phi3"), LorettaRepConfig())
    model.add_adapter("second", LorettaRepConfig())
    assert model.peft_config["second"].target_modules == {"qkv_proj"}


@each()
@pytest.mark.filterwarnings("ignore:.*passes over")
@pytest.mark.parametrize("name", ["distilbert", "llama4_text", "electra", "qwen3_next"])
def test_all_linear_leaves_heads_and_routers_alone(name, config_cls):
    base = architectures.make(name)
    expected = architectures.logits(base, name)
    model = get_peft_model(base, config_cls(target_modules="all-linear", task_type=architectures.task_type(name)))
    assert torch.equal(architectures.logits(model.eval(), name), expected)
    names = [n for n, module in model.named_modules() if hasattr(module, "adapt_output")]
    assert names
    assert not [
        n for n in names if any(part in n for part in ("router", "classifier", "shared_expert_gate", "lm_head"))
    ]


@each()
@pytest.mark.filterwarnings("ignore:.*passes over")
@pytest.mark.parametrize("task", ["TOKEN_CLS", TaskType.TOKEN_CLS, "QUESTION_ANS"])
def test_all_linear_leaves_the_heads_of_all_tasks_alone(config_cls, task):
    """Of which PEFT's configs say nothing yet when layers are chosen."""
    cls = BertForQuestionAnswering if task == "QUESTION_ANS" else BertForTokenClassification
    model = get_peft_model(cls(TINY_BERT), config_cls(target_modules="all-linear", task_type=task))
    assert any("query" in name for name in model.peft_config["default"].target_modules)
    heads = [module for name, module in model.named_modules() if name.endswith(("classifier", "qa_outputs"))]
    assert [type(head) for head in heads] == [ModulesToSaveWrapper]


@pytest.mark.parametrize(
    ("cls", "task"), [(BertForTokenClassification, "TOKEN_CLS"), (BertForQuestionAnswering, "QUESTION_ANS")]
)
def test_peft_s_own_methods_leave_heads_alone_where_we_put_them_in(cls, task):
    for config in (LoraConfig(exclude_modules=["key"]), VeraConfig()):
        config.task_type, config.target_modules = task, "all-linear"
        model = attach(cls(TINY_BERT), config)
        heads = [module for name, module in model.named_modules() if name.endswith(("classifier", "qa_outputs"))]
        assert [type(head) for head in heads] == [ModulesToSaveWrapper]
        names = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
        assert any("query" in name for name in names)
        assert any("key" in name for name in names) == isinstance(config, VeraConfig)


def test_a_router_that_is_named_is_refused_where_it_is_more_than_a_product():
    with pytest.raises(TTTypeError, match=r"router is a Llama4Router, which chooses experts .* leave it out"):
        get_peft_model(architectures.make("llama4_text"), LorettaRepConfig(target_modules=["router"]))
    assert adapted("qwen3_next", LorettaRepConfig(target_modules=["shared_expert_gate"])) == {"shared_expert_gate"}


@pytest.mark.parametrize("config_cls", [LortaConfig, LotrConfig, MetaTTConfig])
def test_models_with_a_number_of_heads_for_each_stage(config_cls):
    class Config(dict):
        model_type = "swin"

        def to_dict(self):
            return {"model_type": "swin", "hidden_size": 16, "num_heads": [2, 4]}

    class Staged(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = Config()
            self.stages = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

        def forward(self, x):
            return self.stages[1](self.stages[0](x))

    base, x = Staged(), torch.ones(1, 8)
    expected = base(x)
    model = get_peft_model(base, config_cls(target_modules=["stages.0", "stages.1"]))
    assert torch.equal(model(x), expected)
    assert head_size({"hidden_sizes": [8, 16], "hidden_size": [8, 16], "num_attention_heads": 4}) is None
