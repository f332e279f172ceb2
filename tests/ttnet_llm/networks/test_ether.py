"""ETHER and ETHER+: reflections, their counts, and what turning instead of adding asks of the shared layer."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from hypothesis import given
from hypothesis import strategies as st
from peft import HRAConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, perturb
from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import TTLinear
from ttnet_llm import EtherConfig, export_lora, hold_factors
from ttnet_llm.budget import count_parameters
from ttnet_llm.networks.ether import Reflections

REFLECTION: dict[str, Any] = {"plus": False, "init_weights": False}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"sides": "input"},
    {"sides": "output", "n": 5},
    REFLECTION | {"sides": "input", "n": 7},
    REFLECTION | {"sides": "output"},
    REFLECTION,
    {"scale": 0.5},
]
each_variant = pytest.mark.parametrize("options", VARIANTS, ids=lambda options: str(options or "default"))


def matrix(reflections: Reflections) -> Tensor:
    return torch.eye(len(reflections.mirror), dtype=reflections.mirror.dtype) + torch.matmul(*reflections.turn())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("n", [1, 4, 7, 32])
def test_reflections_are_orthogonal_and_far_from_the_identity(n: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    h = matrix(Reflections(384, n, plus=False, identity=False).to(dtype)).detach().double()
    identity = torch.eye(384, dtype=torch.float64)
    assert (h @ h.mT - identity).abs().max() <= tolerance
    assert float((h - identity).norm()) == pytest.approx(2 * n**0.5, rel=1e-6)
    assert torch.linalg.slogdet(h)[0] == (-1) ** n


@given(size=st.integers(1, 60), n=st.integers(1, 70), plus=st.booleans())
def test_a_block_turns_its_own_entries_only(size: int, n: int, plus: bool) -> None:
    reflections = Reflections(size, n, plus, identity=False).double()
    blocks = torch.arange(size) * reflections.n // size
    assert blocks.bincount().max() - blocks.bincount().min() <= 1
    assert blocks.bincount().min() >= min(size, 2)  # a block of one entry could not turn
    expected = torch.eye(size, dtype=torch.float64)
    for block in range(reflections.n):
        own = blocks == block
        u = torch.where(own, reflections.mirror, 0)
        u = u / u.norm()
        if reflections.restore is None:
            expected -= 2 * torch.outer(u, u)
        else:
            v = torch.where(own, reflections.restore, 0)
            v = v / v.norm()
            expected += torch.outer(v, v) - torch.outer(u, u)
    torch.testing.assert_close(matrix(reflections), expected)
    turn = reflections.turn()
    assert turn.down.shape[1] == (2 if plus else 1) * reflections.n


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [models.bert, models.llama, models.gpt2, models.opt, models.t5])
def test_it_starts_as_the_identity_to_the_bit(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    base = make().to(dtype)
    expected = logits(base)
    targets = [n for n, m in base.named_modules() if isinstance(m, nn.Linear | Conv1D) and "lm_head" not in n]
    for autocast in (True, False):
        model = get_peft_model(
            copy.deepcopy(base), EtherConfig(target_modules=targets), autocast_adapter_dtype=autocast
        ).eval()
        assert torch.equal(logits(model), expected)
        with torch.no_grad():
            hold_factors(model)
            assert torch.equal(logits(model), expected)


LLAMA = tf.LlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000
)
ROBERTA = tf.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)


@pytest.mark.parametrize("n", [1, 4, 32])
@pytest.mark.parametrize(
    ("options", "roberta", "llama"),
    [
        (REFLECTION | {"sides": "input"}, 18_432, 262_144),
        ({"sides": "input"}, 36_864, 524_288),
        ({}, 73_728, 1_048_576),
    ],
)
def test_counts_are_the_published_ones_whatever_the_number_of_blocks(
    options: dict[str, Any], roberta: int, llama: int, n: int
) -> None:
    assert count_parameters(ROBERTA, EtherConfig(n=n, **options)).adapter == roberta
    assert count_parameters(LLAMA, EtherConfig(n=n, **options)).adapter == llama


def trained(base: nn.Module, **options: Any) -> PeftModel:
    config = EtherConfig(target_modules="all-linear", task_type="CAUSAL_LM", **options)
    return perturb(get_peft_model(base, config), spread=0.1)


@each_variant
@pytest.mark.parametrize("make", [models.llama, models.gpt2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_exports_compute_the_same_in_plain_peft(
    make: Callable[[], nn.Module], options: dict[str, Any], dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    model = trained(make().to(dtype), **options)
    expected = logits(model)
    assert not torch.allclose(expected, logits(make().to(dtype)), atol=1e-2)
    config = model.peft_config["default"]
    most = config.n * (2 if config.plus else 1) * (2 if config.sides == "both" else 1)
    report = export_lora(model, tmp_path, dtype=dtype)
    assert report.rank == min(most, 32)  # no more than the layers' own sides
    exported = PeftModel.from_pretrained(make().to(dtype), tmp_path, autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(logits(exported), expected, rtol=tolerance, atol=tolerance)
    layer = next(layer for _, layer in model.base_model.layers_with("default"))
    assert layer.update("default")[0].shape[1] == most


@each_variant
def test_merging_adds_what_unmerging_takes_out(options: dict[str, Any]) -> None:
    model = trained(models.gpt2().double(), **options)
    expected = logits(model)
    layers = [layer for _, layer in model.base_model.layers_with("default")]
    for safe in (False, True):
        weights = [layer.get_base_weight().clone() for layer in layers]
        model.merge_adapter(safe_merge=safe)
        torch.testing.assert_close(logits(model), expected, rtol=1e-10, atol=1e-10)
        deltas = [layer.get_delta_weight("default") for layer in layers]  # still of the weight without it
        model.unmerge_adapter()
        for layer, weight, delta in zip(layers, weights, deltas, strict=True):
            torch.testing.assert_close(layer.get_base_weight(), weight, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(layer.get_delta_weight("default"), delta, rtol=1e-10, atol=1e-10)
        if safe:
            assert all(
                torch.equal(layer.get_base_weight(), weight) for layer, weight in zip(layers, weights, strict=True)
            )


def test_what_was_added_is_taken_out_whatever_became_of_the_adapter() -> None:
    model = trained(models.llama().double())
    model.merge_adapter()
    perturb(model, seed=1)
    model.unmerge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), logits(models.llama().double()), rtol=1e-10, atol=1e-10)


@each_variant
def test_several_adapters_are_merged_as_they_are_applied(options: dict[str, Any], tmp_path: Path) -> None:
    model = trained(models.llama().double(), **options)
    model.add_adapter("second", EtherConfig(target_modules=["q_proj", "down_proj"], n=2, init_weights=False))
    model.base_model.set_adapter(["default", "second"])
    expected = logits(model)
    model.base_model.set_adapter(["second", "default"])
    assert not torch.allclose(logits(model), expected, atol=1e-4)  # turns do not commute
    model.base_model.set_adapter(["default", "second"])
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, rtol=1e-10, atol=1e-10)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, rtol=1e-10, atol=1e-10)


class Unreadable(nn.Linear):
    """A layer that computes, and whose weight is not for reading."""

    reads = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "weight":
            type(self).reads += 1
        return super().__getattribute__(name)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self._parameters["weight"].mT + self._parameters["bias"]


@each_variant
def test_the_forward_pass_never_reads_the_weight(options: dict[str, Any]) -> None:
    model = get_peft_model(nn.Sequential(Unreadable(12, 8)), EtherConfig(target_modules=["0"], **options))
    Unreadable.reads = 0
    x = torch.randn(5, 12, requires_grad=True)
    model(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    with torch.no_grad():
        hold_factors(model.eval())
        model(x)
    assert Unreadable.reads == 0
    model.base_model.model[0].get_delta_weight("default")
    assert Unreadable.reads > 0


@each_variant
def test_trains_and_odd_layers_are_turned_as_dense_ones(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    train = TTLinear(24, 20, ranks=3).double()
    dense = nn.Linear(24, 20).double()
    dense.load_state_dict(train.to_dense().state_dict())
    x = torch.randn(2, 3, 24, dtype=torch.float64)
    results = []
    for base in (train, dense):
        torch.manual_seed(1)
        model = perturb(get_peft_model(nn.Sequential(base), EtherConfig(target_modules=["0"], **options)), spread=0.2)
        results.append((model(x), model.base_model.model[0].get_delta_weight("default").reshape(20, 24)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@each_variant
def test_rows_of_a_batch_are_turned_together_as_they_are_alone(options: dict[str, Any]) -> None:
    base = models.gpt2().double()  # Conv1D with biases, and a head without
    for parameter in base.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # some biases are 0 in a fresh model
    model = trained(base, **options).eval()
    for name, scale in (("other", 1.0), ("third", 0.3)):
        config = EtherConfig(target_modules="all-linear", **options | {"init_weights": False, "scale": scale})
        model.add_adapter(name, config)
    names = ["third", "default", "other", "default"]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("_network" in name)
    ids = torch.randint(1, 60, (4, 5))
    found = model(input_ids=ids, adapter_names=names).logits
    found.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for row, name in enumerate(names):
        model.set_adapter(name)
        alone = model(input_ids=ids[row : row + 1]).logits
        torch.testing.assert_close(found[row], alone[0], rtol=1e-10, atol=1e-10)
        alone.square().sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-8, atol=1e-8)


def test_one_reflection_of_the_input_is_pefts_hra_of_rank_1() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(48, 32))
    hra = get_peft_model(copy.deepcopy(base), HRAConfig(r=1, target_modules=["0"], init_weights=False)).eval()
    ours = get_peft_model(base, EtherConfig(n=1, sides="input", target_modules=["0"], **REFLECTION)).eval()
    mirror = ours.base_model.model[0].networks["default"].input.mirror
    mirror.data.copy_(hra.base_model.model[0].hra_u["default"].data[:, 0])
    x = torch.randn(5, 48)
    torch.testing.assert_close(ours(x), hra(x), rtol=1e-5, atol=1e-6)


def test_dropout_acts_on_what_is_changed_only() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 8))
    model = get_peft_model(copy.deepcopy(base), EtherConfig(target_modules=["0"], dropout=0.5))
    x = torch.randn(4, 12)
    assert torch.equal(model.train()(x), base(x))  # the identity drops nothing
    perturb(model, spread=0.5).train()
    assert not torch.equal(model(x), model(x))


def test_a_tied_head_is_turned_and_merged_alone() -> None:
    torch.manual_seed(0)
    base = tf.LlamaForCausalLM(tf.LlamaConfig(**models.DECODER, tie_word_embeddings=True)).eval()
    model = perturb(get_peft_model(base, EtherConfig(target_modules=["lm_head"])), spread=0.3)
    expected, table = logits(model), base.get_input_embeddings().weight.clone()
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(merged.get_input_embeddings().weight, table)


def test_the_number_of_blocks_may_differ_between_modules() -> None:
    config = EtherConfig(target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 0.5})
    model = get_peft_model(models.llama(), config)
    for name, layer in model.base_model.layers_with("default"):
        assert layer.networks["default"].input.n == (2 if "v_proj" in name else 4)
        assert layer.scalings["default"] == (1.0 if "v_proj" in name else 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n is 0; expected an integer of at least 1"),
        ({"sides": "left"}, "sides is 'left'; expected one of 'both', 'input', 'output'"),
        ({"plus": "no"}, "plus is 'no'; expected one of True, False"),
        ({"scale": float("nan")}, "scale is nan; expected a finite number"),
        ({"plus": False}, "a reflection is never the identity; pass init_weights=False to start from random ones"),
        ({"rank_pattern": {"q_proj": {"plus": False}}}, "a reflection is never the identity"),
        ({"init_weights": "lora"}, "init_weights is 'lora'; expected one of True, False"),
        ({"target_parameters": ["experts.down_proj"]}, "ether adapts modules, not bare parameters"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TTValueError, match=message):
        EtherConfig(**options)


def test_embeddings_are_refused() -> None:
    with pytest.raises(TTTypeError, match="embed_tokens is a Embedding, which is not supported; expected one of Lin"):
        get_peft_model(models.llama(), EtherConfig(target_modules=["embed_tokens"]))


def test_a_single_number_is_not_turned() -> None:
    base = nn.Sequential(nn.Linear(8, 1))
    model = get_peft_model(copy.deepcopy(base), EtherConfig(target_modules=["0"]))
    assert model.get_nb_trainable_parameters()[0] == 16
    with pytest.raises(
        TTValueError, match="sides is 'output', and a layer has 8 inputs and 1 outputs: a single number"
    ):
        get_peft_model(base, EtherConfig(target_modules=["0"], sides="output"))
