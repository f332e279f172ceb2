"""TT-Turn: the turns are those of its train, siblings share one, and the rest is what every turn has."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, perturb
from tests.ttnet_llm.networks.test_tt_ether import Block
from ttnet.errors import TTValueError
from ttnet_llm import TTTurnConfig, export_lora, hold_factors
from ttnet_llm.budget import count_parameters
from ttnet_llm.networks.tt_turn import STEP


@given(
    size=st.integers(2, 30),
    out=st.integers(1, 9),
    layers=st.integers(1, 3),
    r=st.integers(1, 5),
    n=st.integers(1, 8),
    scale=st.sampled_from([1.0, 0.3]),
)
def test_every_place_is_turned_by_its_slice_of_the_train(
    size: int, out: int, layers: int, r: int, n: int, scale: float
) -> None:
    base = nn.ModuleDict({"layers": nn.ModuleList(Block(size, out) for _ in range(layers))}).double()
    targets = ["q_proj", "v_proj", "up_proj"]
    config = TTTurnConfig(target_modules=targets, r=r, n=n, scale=scale, init_weights=False)
    model = get_peft_model(base, config)
    views = dict(model.base_model.layers_with("default"))
    shared = next(iter(views.values())).networks["default"].shared
    assert shared.features.shape == (r, size)
    assert shared.middle.shape == (2 * layers, r, r)
    assert shared.n == max(k for k in range(1, n + 1) if size % k == 0 and size >= 2 * k)
    blocks = torch.arange(size) * shared.n // size
    for k in range(layers):
        for place, names in enumerate((["self_attn.q_proj", "self_attn.v_proj"], ["mlp.up_proj"])):
            expected = torch.eye(size, dtype=torch.float64)
            for block in blocks.unique():
                rows = torch.where(blocks == block, shared.features, 0)
                rows = rows / rows.norm(dim=1, keepdim=True)
                expected += scale * STEP * rows.T @ shared.middle[2 * k + place] @ rows
            x = torch.randn(4, size, dtype=torch.float64)
            for name in names:
                layer = views[f"layers.{k}.{name}"]
                torch.testing.assert_close(layer(x), layer.get_base_layer()(x @ expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [models.bert, models.llama, models.gpt2, models.opt, models.t5])
def test_it_starts_as_the_identity_to_the_bit(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    base = make().to(dtype)
    expected = logits(base)
    for autocast in (True, False):
        model = get_peft_model(copy.deepcopy(base), TTTurnConfig(), autocast_adapter_dtype=autocast).eval()
        assert torch.equal(logits(model), expected)
        with torch.no_grad():
            hold_factors(model)
            assert torch.equal(logits(model), expected)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (models.bert, {"query", "key", "value", "dense"}),
        (models.llama, {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}),
        (models.gpt2, {"c_attn", "c_fc"}),
    ],
)
def test_it_adapts_what_reads_the_stream(make: Callable[[], nn.Module], expected: set[str]) -> None:
    model = get_peft_model(make(), TTTurnConfig())
    names = [name for name, _ in model.base_model.layers_with("default")]
    assert {name.rpartition(".")[2] for name in names} == expected
    assert not any(name.endswith(("attention.output.dense", ".output.dense")) for name in names)


LLAMA = tf.LlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000
)


@pytest.mark.parametrize("n", [1, 8, 32])
def test_counts_are_those_of_the_train_whatever_the_number_of_blocks(n: int) -> None:
    """Two places in each of 32 layers of 4,096 features."""
    assert count_parameters(LLAMA, TTTurnConfig(r=9, n=n)).adapter == 9 * 4096 + 2 * 32 * 9**2


@pytest.mark.parametrize(("r", "n"), [(1, 1), (2, 4), (3, 1)])
def test_exports_and_merges_compute_the_same(r: int, n: int, tmp_path: Path) -> None:
    base = models.llama().double()
    model = perturb(get_peft_model(base, TTTurnConfig(r=r, n=n, task_type="CAUSAL_LM")), spread=0.1)
    expected = logits(model)
    report = export_lora(model, tmp_path, dtype=torch.float64)
    assert report.rank == r * n
    exported = PeftModel.from_pretrained(models.llama().double(), tmp_path, autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(logits(exported), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r is 0; expected an integer of at least 1"),
        ({"n": 0}, "n is 0; expected an integer of at least 1"),
        ({"scale": float("inf")}, "scale is inf; expected a finite number"),
        ({"rank_pattern": {"q_proj": 2}}, "tt_turn shares one network between all modules of a shape"),
        ({"init_weights": "tt_svd"}, "init_weights is 'tt_svd'; expected one of True, False"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TTValueError, match=message):
        TTTurnConfig(**options)


def test_a_single_input_cannot_be_turned() -> None:
    with pytest.raises(TTValueError, match="names a layer with one input, and a single number cannot be turned"):
        get_peft_model(nn.Sequential(nn.Linear(1, 8)), TTTurnConfig(target_modules=["0"]))
