"""Heads and neurons cut out of models: what is left computes what the masked model does."""

from typing import Any

import pytest
import torch
import transformers as tf
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.architectures import CAUSAL, IDS, SEQ2SEQ, inputs, logits, task_type
from tests.ttnet_llm.slim_models import CASES, build, masks_of, random_plan, size
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import LorettaRepConfig
from ttnet_llm.slim import Plan, axes, masked, plan, slim
from ttnet_llm.tensorize import tensorize

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_a_cut_model_computes_what_the_masked_one_does(case: str, dtype: torch.dtype) -> None:
    name = CASES[case][0]
    model = build(case, dtype)
    whole, before = logits(model, name), size(model)
    found = random_plan(model)
    with masked(model, masks_of(found)):
        expected = logits(model, name)
    torch.testing.assert_close(logits(model, name), whole, rtol=0, atol=0)  # no mask is left
    largest = float(expected.abs().max())
    assert float((expected - whole).abs().max()) > 0.05 * largest
    slim(model, found)
    assert float((logits(model, name) - expected).abs().max()) <= TOLERANCE[dtype] * max(largest, 1)
    assert size(model) == before - found.removed
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", [case for case, (name, _) in CASES.items() if name in CAUSAL or name in SEQ2SEQ])
def test_a_cut_model_generates_with_its_cache_what_the_masked_one_does(case: str, attention: str) -> None:
    model = build(case, torch.float64, attn_implementation=attention)
    found = random_plan(model)
    options: dict[str, Any] = {
        "max_new_tokens": 6,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
        "eos_token_id": None,
    }
    with masked(model, masks_of(found)):
        expected = model.generate(IDS, **options)
    slim(model, found)
    for cached in (True, False):
        written = model.generate(IDS, use_cache=cached, **options)
        assert torch.equal(written.sequences, expected.sequences)
        torch.testing.assert_close(torch.stack(written.logits), torch.stack(expected.logits), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_trains_and_merges_on_a_cut_model(case: str) -> None:
    name = CASES[case][0]
    model = build(case, torch.float64)
    slim(model, random_plan(model))
    plain = logits(model, name)
    config = LorettaRepConfig(task_type=task_type(name), r=4, tt_rank=2, target_modules="all-linear")
    adapted = get_peft_model(model, config)
    trained = models.perturb(adapted, spread=0.1).double().train()
    labels = torch.zeros(len(IDS), dtype=torch.long) if task_type(name) == "SEQ_CLS" else IDS
    trained(**inputs(name), labels=labels).loss.backward()
    gradients = [parameter.grad for parameter in trained.parameters() if parameter.requires_grad]
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in gradients)
    trained.eval()
    unmerged = logits(trained, name)
    assert float((unmerged - plain).abs().max()) > 1e-3
    trained.merge_adapter()
    torch.testing.assert_close(logits(trained, name), unmerged, rtol=1e-5, atol=1e-5)


def test_parameters_go_by_the_formulas_of_papers() -> None:
    """Of BERT a head has four matrices and three biases, a neuron two vectors and a bias; of Llama a group of heads."""
    bert, llama = build("bert"), build("llama")
    sizes = {(axis.kind, axis.groups): axis.parameters for axis in axes(bert)}
    assert sizes == {("heads", 4): 4 * 32 * 8 + 3 * 8, ("neurons", 48): 2 * 32 + 1}
    sizes = {(axis.kind, axis.groups): axis.parameters for axis in axes(llama)}
    assert sizes == {("heads", 2): (2 + 2) * 32 * 8 + 2 * 32 * 8, ("neurons", 48): 3 * 32}
    with torch.device("meta"):
        config = tf.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
        roberta = tf.RobertaModel(config, add_pooling_layer=False)
    found = random_plan(roberta, heads=1 / 3)
    before = size(roberta)
    slim(roberta, found)
    assert found.removed == 12 * 4 * (4 * 768 * 64 + 3 * 64) + 12 * 1024 * (2 * 768 + 1)
    assert size(roberta) == before - found.removed


def test_attention_is_told_of_its_heads() -> None:
    bert, gpt2, opt, t5, llama = (build(name) for name in ("bert", "gpt2", "opt", "t5", "llama"))
    for model in (bert, gpt2, opt, t5, llama):
        slim(model, random_plan(model))
    attention: Any = bert.base_model.encoder.layer[1].attention.self
    assert (attention.num_attention_heads, attention.all_head_size, attention.attention_head_size) == (2, 16, 8)
    attention = gpt2.base_model.h[0].attn
    assert (attention.num_heads, attention.split_size, attention.head_dim, attention.c_attn.nf) == (2, 16, 8, 48)
    attention = opt.base_model.decoder.layers[0].self_attn
    assert (attention.num_heads, attention.head_dim) == (2, 8)
    attention = t5.decoder.block[0].layer[1].EncDecAttention
    assert (attention.n_heads, attention.inner_dim) == (2, 16)
    assert t5.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.embedding_dim == 2
    attention = llama.base_model.layers[0].self_attn  # one of two groups of two heads
    assert attention.num_key_value_groups == 2
    assert (attention.q_proj.out_features, attention.k_proj.out_features, attention.o_proj.in_features) == (16, 8, 16)


def test_weights_in_half_precision_take_their_factors_in_single() -> None:
    model = build("bert", torch.bfloat16)
    layer: Any = model.base_model.encoder.layer[0].output.dense
    weight, found = layer.weight.clone(), random_plan(model)
    name = "encoder.layer.0.output.dense"
    slim(model, found)
    expected = (weight[:, found.kept[name]].float() * found.factors[name]).bfloat16()
    assert torch.equal(layer.weight, expected)


@given(st.data(), st.floats(0, 0.999), st.floats(0, 0.999))
def test_the_smallest_go_and_one_stays_everywhere(data: st.DataObject, heads: float, neurons: float) -> None:
    model = build("bert")
    found = axes(model)
    values = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])  # with ties
    masks = {
        axis.name: torch.tensor(data.draw(st.lists(values, min_size=axis.groups, max_size=axis.groups)))
        for axis in found
    }
    chosen = plan(model, masks, heads=heads, neurons=neurons)
    gone = {axis.name: set(range(axis.groups)) - set(chosen.kept[axis.name].tolist()) for axis in found}
    for axis in found:
        assert len(chosen.kept[axis.name]) >= 1
        assert torch.equal(chosen.factors[axis.name], masks[axis.name][chosen.kept[axis.name]])
        if axis.kind == "heads":
            assert len(gone[axis.name]) == min(int(heads * 4 + 1e-9), 3)
            kept, cut = masks[axis.name].abs()[chosen.kept[axis.name]], masks[axis.name].abs()[list(gone[axis.name])]
            assert not len(cut) or float(cut.max()) <= float(kept.min())
    layers = [axis.name for axis in found if axis.kind == "neurons"]
    assert sum(len(gone[name]) for name in layers) == min(int(neurons * 96 + 1e-9), 94)
    cut = torch.cat([masks[name].abs()[list(gone[name])] for name in layers])
    for name in layers:  # what stayed, but for the one that had to
        kept = masks[name].abs()[chosen.kept[name]].sort().values[:-1]
        assert not len(cut) or not len(kept) or float(cut.max()) <= float(kept.min())
    assert chosen.removed == sum(axis.parameters * len(gone[axis.name]) for axis in found)


def test_equal_masks_do_not_drop_everything() -> None:
    model = build("bert")
    chosen = plan(model, {axis.name: torch.ones(axis.groups) for axis in axes(model)}, heads=0.5, neurons=1 / 3)
    assert [len(kept) for kept in chosen.kept.values()] == [2, 16, 2, 48]
    with masked(model, masks_of(chosen)):
        expected = logits(model, "bert")
    slim(model, chosen)
    torch.testing.assert_close(logits(model, "bert"), expected)


def test_a_plan_may_leave_factors_out() -> None:
    model = build("bert")
    masks = {axis.name: torch.rand(axis.groups) for axis in axes(model)}
    folded, bare = plan(model, masks), plan(model, masks, fold=False)
    for name, kept in folded.kept.items():
        assert torch.equal(bare.kept[name], kept)
        assert bool((bare.factors[name] == 1).all())


def test_nothing_is_cut_by_shares_of_nothing() -> None:
    model = build("gpt2")
    state = {key: value.clone() for key, value in model.state_dict().items()}
    slim(
        model, plan(model, {axis.name: torch.rand(axis.groups) for axis in axes(model)}, heads=0, neurons=0, fold=False)
    )
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def broken(**changes: Any) -> Plan:
    found = random_plan(build("bert"))
    values = {"kept": found.kept, "factors": found.factors, "groups": found.groups, "removed": found.removed} | changes
    return Plan(**values)


NAME = "encoder.layer.0.output.dense"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: broken(groups={**random_plan(build("bert")).groups, NAME: 60}), "of 'enc.*output.dense' it has 60"),
        (lambda: random_plan(build("roberta", torch.float64)), None),
        (lambda: random_plan(build("llama")), "plan is for another model"),
        (lambda: broken(kept={**random_plan(build("bert")).kept, NAME: torch.tensor([3, 3])}), r"keeps \[3, 3\]"),
        (lambda: broken(kept={**random_plan(build("bert")).kept, NAME: torch.tensor([48])}), r"keeps \[48\]"),
        (
            lambda: broken(kept={**random_plan(build("bert")).kept, NAME: torch.tensor([], dtype=torch.long)}),
            r"keeps \[\] of",
        ),
    ],
)
def test_plans_for_other_models_are_refused(make: Any, words: str | None) -> None:
    model = build("bert")
    before = size(model)
    if words is None:  # of the same layers
        slim(model, make())
        return
    with pytest.raises(TTValueError, match=words):
        slim(model, make())
    assert size(model) == before


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, True, "half"])
@pytest.mark.parametrize("which", ["heads", "neurons"])
def test_shares_out_of_range_are_refused(which: str, share: Any) -> None:
    model = build("bert")
    with pytest.raises(TTValueError, match=f"{which} is {share!r}; expected the share that goes"):
        plan(model, {axis.name: torch.rand(axis.groups) for axis in axes(model)}, **{which: share})


def test_masks_of_another_kind_are_refused() -> None:
    model = build("bert")
    masks = {axis.name: torch.rand(axis.groups) for axis in axes(model)}
    with pytest.raises(TTValueError, match=r"masks has \(7,\) for 'enc.*output.dense'; expected a tensor of 48"):
        plan(model, masks | {NAME: torch.rand(7)})
    with pytest.raises(TTValueError, match="masks has None for"):
        plan(model, {name: mask for name, mask in masks.items() if name != NAME})
    with pytest.raises(TTValueError, match="of 48 finite numbers"):
        plan(model, masks | {NAME: torch.full((48,), torch.nan)})
    with pytest.raises(TTValueError, match="masks names 'other', which is no axis"):
        plan(model, masks | {"other": torch.rand(3)})


def test_models_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(TTTypeError, match="model is a Linear; expected a transformers model"):
        axes(nn.Linear(2, 2))
    with pytest.raises(TTTypeError, match="of the type 'vit', of which it is not known"):
        axes(models.vit())
    bert = build("bert")
    tensorize(bert, targets=["intermediate.dense"], ratio=0.5, progress=False)
    with pytest.raises(TTTypeError, match="model has trains; heads and neurons are cut out of dense models"):
        axes(bert)
    bert = build("bert")
    found = random_plan(bert)
    adapted = get_peft_model(bert, LoraConfig(target_modules=["query"]))
    with pytest.raises(TTTypeError, match="model has adapters already; cut the bare model"):
        slim(adapted, found)
    bert = build("bert")
    slim(bert, found)
    with pytest.raises(TTTypeError, match="model is cut already"):
        slim(bert, found)
    bert = build("bert")
    bert.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(TTTypeError, match=r"model is quantised \(bitsandbytes\)"):
        axes(bert)
    bert = build("bert")
    layer: Any = bert.base_model.encoder.layer[0].intermediate
    layer.dense = torch.ao.nn.quantized.dynamic.Linear(32, 48)
    with pytest.raises(TTTypeError, match=r"has a Linear for 'encoder\.layer\.0\.intermediate\.dense', which cannot"):
        axes(bert)
    deberta = build("deberta")
    attention: Any = deberta.base_model.encoder.layer[0].attention.self
    attention.head_logits_proj = nn.Linear(4, 4)
    with pytest.raises(TTTypeError, match=r"'encoder\.layer\.0\..*head_logits_proj', which mixes its heads"):
        axes(deberta)


def test_axes_are_found_within_what_is_around_a_model() -> None:
    bert = build("bert")
    adapted = get_peft_model(build("bert"), LoraConfig(target_modules="all-linear"))
    assert axes(nn.Sequential(bert)) == axes(bert) == axes(bert.base_model) == axes(adapted)
