"""Adapted layers that the model reads the weight of instead of calling them: told of, or called after all."""

import copy
import pickle
import warnings

import pytest
import torch
import transformers as tf
from peft import get_peft_model
from torch import Tensor, nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import Method, each
from tests.ttnet_llm.models import IDS, logits
from ttnet_llm import LorettaRepConfig, TTLoraConfig
from ttnet_llm.tuner.bypassed import weights_read


def mamba() -> nn.Module:
    return tf.MambaForCausalLM(tf.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64, state_size=4)).eval()


def wavlm() -> nn.Module:
    config = tf.WavLMConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(8, 8),
        conv_stride=(5, 2),
        conv_kernel=(10, 3),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return tf.WavLMModel(config).eval()


class Block(nn.Module):
    """Calls one of its layers, looks a second's weight up through another name, and skips the third at times."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read, self.sometimes = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        layer = self.read
        x = self.called(x) @ layer.weight.T
        return self.sometimes(x) if x.numel() > 6 else x


def caught(act: object, *arguments: object, **options: object) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        act(*arguments, **options)
    return [str(warning.message) for warning in found if "trained and merged for nothing" in str(warning.message)]


@pytest.mark.parametrize("target", ["dt_proj", "out_proj", "x_proj"])
@each()
def test_fused_kernels_are_told_of_when_the_adapter_is_made(config_cls: Method, target: str) -> None:
    (message,) = caught(get_peft_model, mamba(), config_cls(target_modules=[target]))
    assert f"MambaMixer's {target}" in message
    assert f"these 2 layers (backbone.layers.0.mixer.{target} and the like)" in message


def test_all_linear_leaves_out_what_the_model_goes_around() -> None:
    assert caught(get_peft_model, mamba(), LorettaRepConfig(target_modules="all-linear")) == []
    model = get_peft_model(mamba(), LorettaRepConfig(target_modules="all-linear"))
    assert {name.rpartition(".")[2] for name in model.targeted_module_names} == {"in_proj"}


def test_default_targets_whose_weights_are_read_are_told_of() -> None:
    (message,) = caught(get_peft_model, wavlm(), LorettaRepConfig())
    assert "WavLMAttention's q_proj" in message
    assert "WavLMAttention's v_proj" in message


@pytest.mark.parametrize("make", models.ALL)
def test_models_that_call_their_layers_are_told_nothing(make: object) -> None:
    model = make()
    config = TTLoraConfig(tt_rank=2, target_modules="all-linear")
    assert caught(get_peft_model, model, config) == []
    model.train()
    assert caught(logits, model) == []


def test_weights_are_found_by_what_is_done_with_them() -> None:
    class Reading(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if isinstance(self.asked.weight, Tensor) and x.dtype != self.about.weight.dtype:
                x = x.to(self.about.weight.device)
            parts = self.sliced.weight[:2], *self.parted.weight.chunk(2)
            return (
                self.called(x) + len(parts) + self.read.weight.float() @ x + nn.functional.linear(x, self.handed.weight)
            )

        def init_weights(self) -> None:
            nn.init.zeros_(self.started.weight)

    assert weights_read(Reading) == {"read", "handed"}
    assert weights_read(type("Child", (Reading,), {})) == {"read", "handed"}
    assert weights_read(nn.Linear) == frozenset()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_layers_that_are_not_called_are_told_of_at_the_first_pass(inner: bool, training: bool) -> None:
    model = nn.ModuleDict({"block": Block()})["block"] if not inner else nn.Sequential(Block(), Block())
    targets = ["called", "read", "sometimes"]
    peft_model = get_peft_model(model, LorettaRepConfig(target_modules=targets)).train(training)
    (message,) = caught(peft_model, torch.randn(2, 6))
    assert "a Block, did not call its adapted layer 'read' in its first forward pass" in message
    assert caught(peft_model, torch.randn(1, 6)) == []
    left = [m for m in peft_model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert set(map(type, left)) <= {type(peft_model.base_model)}  # which is not called here


def test_experts_without_tokens_are_not_told_of() -> None:
    class Expert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(x)

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(Expert() for _ in range(3))
            self.plain = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

        def forward(self, x: Tensor, chosen: int) -> Tensor:
            return self.plain[chosen](self.experts[chosen](x))

    model = get_peft_model(Experts(), LorettaRepConfig(target_modules=r".*(up|plain\.\d)")).train()
    for chosen in range(3):
        assert caught(model, torch.randn(2, 6), chosen) == []


def test_the_first_pass_is_watched_under_checkpointing_compiling_and_in_copies() -> None:
    targets = LorettaRepConfig(target_modules=["q_proj", "down_proj"])
    for reentrant in (False, True):
        model = get_peft_model(models.llama(), targets).train()
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        assert caught(lambda model=model: model(input_ids=IDS, labels=IDS).loss.backward()) == []
    fresh = get_peft_model(nn.Sequential(Block()), LorettaRepConfig(target_modules=["read"]))
    for same in (copy.deepcopy(fresh), pickle.loads(pickle.dumps(fresh))):
        assert len(caught(same, torch.randn(2, 6))) == 1
    assert len(caught(fresh, torch.randn(2, 6))) == 1
    torch.compiler.reset()
    fresh = get_peft_model(nn.Sequential(Block()), LorettaRepConfig(target_modules=["called", "read"]))
    compiled = torch.compile(fresh, fullgraph=True, backend="eager")
    assert caught(compiled, torch.randn(2, 6)) == []  # what is compiled is not watched
    assert len(caught(fresh, torch.randn(2, 6))) == 1


def test_adapters_that_were_taken_out_before_the_first_pass_are_not_told_of() -> None:
    model = get_peft_model(nn.Sequential(Block()), LorettaRepConfig(target_modules=["called", "read"]))
    assert caught(model.merge_and_unload(), torch.randn(2, 6)) == []


def test_the_table_that_encoder_and_decoder_share_is_told_of() -> None:
    """T5 holds it once more under a name of its own, and never calls that."""
    model = get_peft_model(models.t5(), LorettaRepConfig(target_modules=["shared"], task_type="SEQ_2_SEQ_LM"))
    (message,) = caught(logits, model)
    assert "a T5ForConditionalGeneration, did not call its adapted layer 'shared'" in message


@pytest.mark.parametrize("stacked", [False, True])
@each()
def test_torchs_encoder_layers_call_their_adapters_in_evaluation_too(config_cls: Method, stacked: bool) -> None:
    """Their fast path reads the weights, and in the stack nested tensors stand for padding."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, dropout=0.0)
    base = nn.TransformerEncoder(layer, 2) if stacked else nn.Sequential(layer)
    config = config_cls(target_modules=["linear1", "linear2"], init_weights=False)
    model = get_peft_model(base, config)
    x, padding = torch.randn(3, 5, 16), torch.arange(5) >= torch.tensor([[4], [5], [2]])
    for options in ({}, {"src_key_padding_mask": padding}) if stacked else ({},):
        expected = model.train()(x, **options)[~padding]
        model.eval()
        assert caught(model, x, **options) == []
        torch.testing.assert_close(model(x, **options)[~padding], expected)
        with torch.no_grad():
            torch.testing.assert_close(model(x, **options)[~padding], expected)
            with model.disable_adapter():
                assert not torch.allclose(model(x, **options)[~padding], expected, atol=1e-2)


def test_torchs_attention_never_calls_its_output_projection() -> None:
    model = nn.Sequential(nn.MultiheadAttention(16, 2))
    (message,) = caught(get_peft_model, model, LorettaRepConfig(target_modules=["out_proj"]))
    assert "MultiheadAttention's out_proj" in message


@pytest.mark.parametrize("name", ["embed_positions"])
def test_tables_that_are_no_look_up_are_refused(name: str) -> None:
    from ttnet.errors import TTTypeError

    with pytest.raises(TTTypeError, match="embed_positions is a OPTLearnedPositionalEmbedding, which does something"):
        get_peft_model(models.opt(), LorettaRepConfig(target_modules=[name]))
