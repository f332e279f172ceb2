"""TT-ETHER: the turns are those of its trains, siblings share one, and the rest is what every turn has."""

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
from transformers.pytorch_utils import Conv1D

from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, perturb
from ttnet.errors import TTValueError
from ttnet_llm import EtherConfig, TTEtherConfig, export_lora, hold_factors
from ttnet_llm.budget import count_parameters

each_train = pytest.mark.parametrize(
    ("r", "tied"), [(1, False), (3, False), (None, False), (2, True), (3, True), (None, True)]
)


class Block(nn.Module):
    """What an attention holds, by the names that transformers gives them."""

    def __init__(self, size: int, out: int) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({"q_proj": nn.Linear(size, size), "v_proj": nn.Linear(size, out)})
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(size, out)})


@given(size=st.integers(2, 30), out=st.integers(1, 9), layers=st.integers(1, 3), n=st.integers(1, 8), data=st.data())
def test_every_place_is_turned_by_its_rows_of_the_trains(
    size: int, out: int, layers: int, n: int, data: st.DataObject
) -> None:
    r, scale = data.draw(st.none() | st.integers(1, 8)), data.draw(st.sampled_from([1.0, 0.3]))
    base = nn.ModuleDict({"layers": nn.ModuleList(Block(size, out) for _ in range(layers))}).double()
    tied = r != 1 and data.draw(st.booleans())
    targets = ["q_proj", "v_proj", "up_proj"]
    config = TTEtherConfig(target_modules=targets, r=r, n=n, scale=scale, tied=tied, init_weights=False)
    model = get_peft_model(base, config)
    views = dict(model.base_model.layers_with("default"))
    shared = next(iter(views.values())).networks["default"].shared
    assert (shared.mirror.places is None) == (r is None or r >= (4 if tied else 2) * layers)
    assert (shared.restore.features is None) == (tied and shared.mirror.places is not None)
    blocks = torch.arange(size) * min(n, size // 2) // size
    for k in range(layers):
        for place, names in enumerate((["self_attn.q_proj", "self_attn.v_proj"], ["mlp.up_proj"])):
            expected = torch.eye(size, dtype=torch.float64)
            for train, sign in ((shared.mirror, -1), (shared.restore, 1)):
                features = shared.mirror.features if train.features is None else train.features
                rows = features if train.places is None else train.places @ features
                for block in blocks.unique():
                    u = torch.where(blocks == block, rows[2 * k + place], 0)
                    expected += sign * scale * torch.outer(u, u) / (u @ u)
            x = torch.randn(4, size, dtype=torch.float64)
            for name in names:
                layer = views[f"layers.{k}.{name}"]
                torch.testing.assert_close(layer(x), layer.get_base_layer()(x @ expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [models.bert, models.llama, models.gpt2, models.opt, models.t5])
@each_train
def test_it_starts_as_the_identity_to_the_bit(
    make: Callable[[], nn.Module], dtype: torch.dtype, r: int | None, tied: bool
) -> None:
    base = make().to(dtype)
    expected = logits(base)
    for autocast in (True, False):
        config = TTEtherConfig(r=r, tied=tied)
        model = get_peft_model(copy.deepcopy(base), config, autocast_adapter_dtype=autocast).eval()
        assert torch.equal(logits(model), expected)
        with torch.no_grad():
            hold_factors(model)
            assert torch.equal(logits(model), expected)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (models.bert, {"query", "key", "value", "dense"}),
        (models.llama, {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}),
        (models.opt, {"q_proj", "k_proj", "v_proj", "fc1"}),
        (models.gpt2, {"c_attn", "c_fc"}),
        (models.t5, {"q", "k", "v", "wi"}),
    ],
)
def test_it_adapts_what_reads_the_stream(make: Callable[[], nn.Module], expected: set[str]) -> None:
    model = get_peft_model(make(), TTEtherConfig())
    names = [name for name, _ in model.base_model.layers_with("default")]
    assert {name.rpartition(".")[2] for name in names} == expected
    assert not any(name.endswith(("attention.output.dense", ".output.dense")) for name in names)


def test_only_modules_that_read_the_same_share_a_turn() -> None:
    model = get_peft_model(models.llama(), TTEtherConfig(target_modules="all-linear", r=None))
    views = {name: layer.networks["default"] for name, layer in model.base_model.layers_with("default")}

    def place(name: str) -> tuple[int, int]:
        view = views[f"model.layers.1.{name}"]
        return id(view.shared), view.place

    assert place("self_attn.q_proj") == place("self_attn.k_proj") == place("self_attn.v_proj")
    assert place("mlp.gate_proj") == place("mlp.up_proj")
    assert len({place(name) for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")}) == 4


LLAMA = tf.LlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000
)


@pytest.mark.parametrize("n", [1, 4, 32])
def test_counts_are_those_of_the_trains_whatever_the_number_of_blocks(n: int) -> None:
    """Two places in each of 32 layers of 4,096 features."""
    assert count_parameters(LLAMA, TTEtherConfig(r=4, n=n)).adapter == 2 * 4 * (2 * 32 + 4096)
    assert count_parameters(LLAMA, TTEtherConfig(r=4, n=n, tied=True)).adapter == 4 * (2 * 2 * 32 + 4096)
    assert count_parameters(LLAMA, TTEtherConfig(r=64, n=n, tied=True)).adapter == 64 * (2 * 2 * 32 + 4096)
    for full in ({"r": None}, {"r": None, "tied": True}, {"r": 64}, {"r": 128, "tied": True}):
        assert count_parameters(LLAMA, TTEtherConfig(n=n, **full)).adapter == 2 * (2 * 32) * 4096


@each_train
def test_exports_and_merges_compute_the_same(r: int | None, tied: bool, tmp_path: Path) -> None:
    base = models.llama().double()
    model = perturb(get_peft_model(base, TTEtherConfig(r=r, n=3, tied=tied, task_type="CAUSAL_LM")), spread=0.1)
    expected = logits(model)
    report = export_lora(model, tmp_path, dtype=torch.float64)
    assert report.rank == 2 * 3
    exported = PeftModel.from_pretrained(models.llama().double(), tmp_path, autocast_adapter_dtype=False).eval()
    torch.testing.assert_close(logits(exported), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, rtol=1e-10, atol=1e-10)


def test_a_place_of_its_own_vectors_is_turned_as_ether_plus_does() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 8), Conv1D(12, 8))
    ours = perturb(get_peft_model(copy.deepcopy(base), TTEtherConfig(r=None, n=3, target_modules=["0", "1"])))
    theirs = get_peft_model(base, EtherConfig(n=3, sides="input", target_modules=["0", "1"])).eval()
    for k in range(2):
        turns, alone = (m.base_model.model[k].networks["default"] for m in (ours, theirs))
        alone.input.mirror.data.copy_(turns.shared.mirror.features[0])
        alone.input.restore.data.copy_(turns.shared.restore.features[0])
    x = torch.randn(5, 12)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r is 0; expected an integer of at least 1"),
        ({"r": 1, "tied": True}, "r is 1 with tied=True, where both vectors of every turn are one direction"),
        ({"n": 0}, "n is 0; expected an integer of at least 1"),
        ({"scale": float("inf")}, "scale is inf; expected a finite number"),
        ({"rank_pattern": {"q_proj": 2}}, "tt_ether shares one network between all modules of a shape"),
        ({"init_weights": "tt_svd"}, "init_weights is 'tt_svd'; expected one of True, False"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TTValueError, match=message):
        TTEtherConfig(**options)


def test_a_single_input_cannot_be_turned() -> None:
    with pytest.raises(TTValueError, match="names a layer with one input, and a single number cannot be turned"):
        get_peft_model(nn.Sequential(nn.Linear(1, 8)), TTEtherConfig(target_modules=["0"]))
