"""`apply_loretta`, the default targets, the registry, and the published parameter counts."""

import logging
import warnings

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits
from ttnet.errors import TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, apply_loretta, fit_to_budget
from ttnet_llm.loretta_adp.config import TARGET_MODULES
from ttnet_llm.networks.targets import QUERY_VALUE
from ttnet_llm.registry import peft_type, register

ROBERTA_BASE = tf.RobertaConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
LLAMA_2_7B = tf.LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008)


def on_meta(config: tf.PretrainedConfig) -> nn.Module:
    with torch.device("meta"):
        return tf.AutoModel.from_config(config)


def count(config: tf.PretrainedConfig, peft_config: object) -> int:
    return get_peft_model(on_meta(config), peft_config).get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("variant", ["adp", "rep"])
@pytest.mark.parametrize("make", models.ALL)
def test_one_call_on_any_model(make: object, variant: str) -> None:
    base = make()
    expected = logits(base)
    model = apply_loretta(base, variant)
    assert isinstance(model, PeftModel)
    assert torch.equal(logits(model), expected)


def test_default_variant_is_adp() -> None:
    assert isinstance(apply_loretta(models.bert()).peft_config["default"], LorettaAdpConfig)


@pytest.mark.parametrize(
    ("make", "task"),
    [
        (models.bert, TaskType.SEQ_CLS),
        (models.llama, TaskType.CAUSAL_LM),
        (models.gpt2, TaskType.CAUSAL_LM),
        (models.t5, TaskType.SEQ_2_SEQ_LM),
    ],
)
def test_task_follows_the_class_of_the_model(make: object, task: TaskType) -> None:
    assert apply_loretta(make()).peft_config["default"].task_type == task
    assert apply_loretta(make(), task_type=None).peft_config["default"].task_type is None


def test_head_of_a_classifier_is_trained_unless_refused() -> None:
    trainable = [n for n, p in apply_loretta(models.bert()).named_parameters() if p.requires_grad]
    assert any("classifier" in name for name in trainable)
    trainable = [n for n, p in apply_loretta(models.bert(), task_type=None).named_parameters() if p.requires_grad]
    assert not any("classifier" in name for name in trainable)


def test_summary_is_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        model = apply_loretta(models.bert(), "rep", tt_rank=2)
    (record,) = caplog.records
    layers = sum(p.numel() for n, p in model.named_parameters() if "loretta_rep_network" in n)
    assert record.getMessage().startswith(f"LoRETTA_rep: {layers:,} trainable parameters in 4 adapted modules, 74 in 1")
    assert "\n" not in record.getMessage()


def test_unknown_variant_and_option_are_refused() -> None:
    with pytest.raises(TTValueError, match="variant is 'lora'; expected one of 'adp', 'rep'"):
        apply_loretta(models.bert(), "lora")
    with pytest.raises(TTValueError, match=r"rank: no such option of LorettaRepConfig; it has .*tt_rank"):
        apply_loretta(models.bert(), "rep", rank=3)


def test_published_parameter_counts() -> None:
    rep = {"modes": "paper"}
    assert count(ROBERTA_BASE, LorettaRepConfig(**rep)) == 27_840
    assert count(LLAMA_2_7B, LorettaRepConfig(**rep)) == 102_400
    assert count(LLAMA_2_7B, LorettaRepConfig(tt_rank=8, **rep)) == 249_856
    assert count(ROBERTA_BASE, LorettaAdpConfig(modes="paper")) == 37_440 + 19_968
    assert count(LLAMA_2_7B, LorettaAdpConfig(modes="paper")) == 211_200 + 399_360


def test_automatic_modes_need_fewer_parameters() -> None:
    for config in (ROBERTA_BASE, LLAMA_2_7B):
        for config_cls in (LorettaRepConfig, LorettaAdpConfig):
            assert count(config, config_cls()) < count(config, config_cls(modes="paper"))
        lora = count(
            config,
            LoraConfig(
                r=8,
                target_modules=TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING["bert"]
                if config is ROBERTA_BASE
                else ["q_proj", "v_proj"],
            ),
        )
        assert count(config, LorettaRepConfig()) * 15 < lora


def test_every_architecture_known_to_peft_has_bottleneck_targets() -> None:
    assert set(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING) <= set(TARGET_MODULES)


@pytest.mark.parametrize(
    "config",
    [
        tf.BertConfig(**models.ENCODER),
        tf.ElectraConfig(**models.ENCODER),
        tf.DistilBertConfig(dim=32, hidden_dim=48, n_layers=2, n_heads=4, vocab_size=64),
        tf.AlbertConfig(embedding_size=16, **models.ENCODER),
        tf.ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32),
        tf.MistralConfig(**models.DECODER),
        tf.GemmaConfig(head_dim=8, **models.DECODER),
        tf.Gemma2Config(head_dim=8, **models.DECODER),
        tf.Gemma3TextConfig(head_dim=8, **models.DECODER),
        tf.Qwen3Config(**models.DECODER),
        tf.PhiConfig(**models.DECODER),
        tf.StableLmConfig(**models.DECODER),
        tf.MixtralConfig(num_local_experts=2, **models.DECODER),
        tf.GPTJConfig(n_embd=32, n_layer=2, n_head=4, n_positions=32, rotary_dim=4, vocab_size=64),
        tf.GPTNeoConfig(hidden_size=32, num_layers=2, attention_types=[[["global"], 2]], num_heads=4, vocab_size=64),
        tf.GPTNeoXConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=64
        ),
        tf.GPTBigCodeConfig(n_embd=32, n_layer=2, n_head=4, n_positions=32, vocab_size=64),
        tf.BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=64),
        tf.FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=64),
        tf.MptConfig(d_model=32, n_layers=2, n_heads=4, vocab_size=64),
        tf.CodeGenConfig(n_embd=32, n_layer=2, n_head=4, n_positions=32, rotary_dim=4, vocab_size=64),
        tf.BartConfig(
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            vocab_size=64,
        ),
        tf.RwkvConfig(hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, vocab_size=64),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.filterwarnings(
    "ignore:loretta_adp passes over"
)  # Mixtral's experts, which are said in a test of their own
def test_default_targets_exist_in_their_architecture(config: tf.PretrainedConfig) -> None:
    """The same number of modules is adapted in every layer."""
    for config_cls in (LorettaAdpConfig, LorettaRepConfig):
        if config_cls is LorettaRepConfig and config.model_type not in QUERY_VALUE:
            continue  # PEFT has no query and value projections for it
        adapted = get_peft_model(on_meta(config), config_cls()).base_model.targeted_module_names
        layers = getattr(config, "num_hidden_layers", 2)
        assert len(adapted) >= layers
        assert len(adapted) % layers == 0


def test_registering_again_is_harmless_and_a_clash_is_not() -> None:
    member = peft_type("LORETTA_REP")
    assert member is PeftType.LORETTA_REP is PeftType("LORETTA_REP")
    assert member.value == "LORETTA_REP"
    with pytest.raises(KeyError, match="PEFT already has a method 'lora'"):
        register("lora", LoraConfig, PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORETTA_REP])


def test_nobody_is_warned_of_how_peft_asks_transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply_loretta(on_meta(tf.BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=4)))
        fit_to_budget(ROBERTA_BASE, parameters=50_000)
