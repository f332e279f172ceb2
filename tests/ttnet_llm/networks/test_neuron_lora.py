"""NeuronLoRA: which inputs it picks and when, and that it is a LoRA of them."""

from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from ttnet.errors import TTValueError
from ttnet_llm import NeuronLoraConfig
from ttnet_llm.networks.neuron_lora import NeuronLoraNetwork


def adapted(base: nn.Module, neurons: int | None, **options: object) -> tuple[nn.Module, NeuronLoraNetwork]:
    model = get_peft_model(nn.Sequential(base), NeuronLoraConfig(neurons=neurons, target_modules=["0"], **options))
    return model, model.base_model.model[0].networks["default"]


def tokens_with_activity(active: torch.Tensor, size: int) -> torch.Tensor:
    """Make tokens of which some inputs, and no others, are large."""
    x = 0.1 * torch.rand(2, 3, size, dtype=torch.float64)
    x[..., active] += 1
    return x


@given(size=st.integers(1, 12), out=st.integers(1, 5), r=st.integers(1, 3), data=st.data())
def test_the_first_batch_of_a_training_settles_the_inputs(size: int, out: int, r: int, data: st.DataObject) -> None:
    neurons = data.draw(st.integers(1, size))
    first, second = (torch.randperm(size)[:neurons].sort().values for _ in range(2))
    base = nn.Linear(size, out).double()
    model, network = adapted(base, neurons, r=r)
    before = network.picked.clone()
    x = tokens_with_activity(second, size)
    assert torch.equal(model.eval()(x), base(x))
    assert torch.equal(network.picked, before)  # nothing is trained yet
    x = tokens_with_activity(first, size)
    assert torch.equal(model.train()(x), base(x))
    assert network.picked.tolist() == first.tolist()
    model(tokens_with_activity(second, size))
    assert network.picked.tolist() == first.tolist()
    nn.init.normal_(network.B)
    expected = torch.zeros(size, out, dtype=torch.float64)
    expected[first] = 2 / r * network.A @ network.B
    torch.testing.assert_close(model.base_model.model[0].get_delta_weight("default"), expected.T)


@pytest.mark.parametrize("start", [True, False])
def test_what_has_learnt_keeps_its_inputs(start: bool, tmp_path: Path) -> None:
    base = nn.Linear(12, 4)
    model, network = adapted(base, 3, init_weights=start)
    x = tokens_with_activity(torch.tensor([1, 4, 7]), 12).float()
    if start:
        model(x)
        nn.init.normal_(network.B)
    picked, expected = network.picked.clone(), model.eval()(x)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(nn.Sequential(base), tmp_path, is_trainable=True)
    torch.testing.assert_close(loaded(x), expected)
    loaded.train()(tokens_with_activity(torch.tensor([0, 2, 3]), 12).float())
    assert torch.equal(loaded.base_model.model[0].networks["default"].picked, picked)


def test_an_embedding_picks_the_most_frequent_tokens() -> None:
    model, network = adapted(nn.Embedding(9, 4), 3)
    model(torch.tensor([[8, 2, 2, 5], [5, 8, 8, 1]]))
    assert network.picked.tolist() == [2, 5, 8]


@pytest.mark.parametrize("neurons", [12, 400, None])
def test_of_all_inputs_it_is_lora(neurons: int | None) -> None:
    base = nn.Linear(12, 5)
    model, network = adapted(base, neurons, r=2, alpha=3)
    nn.init.normal_(network.B)
    lora = get_peft_model(nn.Sequential(base), LoraConfig(r=2, lora_alpha=3, target_modules=["0"]))
    layer = lora.base_model.model[0]
    layer.lora_A["default"].weight.data = network.A.data.T
    layer.lora_B["default"].weight.data = network.B.data.T
    x = torch.randn(4, 12)
    torch.testing.assert_close(model(x), lora(x))
    assert model.get_nb_trainable_parameters() == lora.get_nb_trainable_parameters()


@pytest.mark.parametrize(
    ("kind", "layers"),
    [("bert", ["0.output.dense", "1.output.dense"]), ("llama", ["down_proj"]), ("gpt2", ["mlp.c_proj"])],
)
def test_it_adapts_the_ends_of_the_feed_forward_blocks(kind: str, layers: list[str]) -> None:
    model = get_peft_model(getattr(models, kind)(), NeuronLoraConfig())
    found = {name for name, _ in model.base_model.layers_with("default")}
    assert len(found) == 2
    assert all(any(f".{name}".endswith(f".{layer}") for layer in layers) for name in found)


@pytest.mark.parametrize(("neurons", "expected"), [(500, 600), (4, 8), (None, 600)])
def test_a_sum_has_room_for_the_neurons_of_all(neurons: int | None, expected: int) -> None:
    model, _ = adapted(nn.Linear(600, 4), neurons, init_weights=False)
    model.add_adapter("b", NeuronLoraConfig(neurons=neurons, target_modules=["0"], init_weights=False))
    layer = model.base_model.model[0]
    model.add_weighted_adapter(["default", "b"], [1.0, -0.5], "sum", combination_type="cat")
    assert len(layer.networks["sum"].picked) == expected
    torch.testing.assert_close(
        layer.get_delta_weight("sum"), layer.get_delta_weight("default") - 0.5 * layer.get_delta_weight("b")
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_activities_do_not_overflow(dtype: torch.dtype) -> None:
    model, network = adapted(nn.Linear(64, 4), 4)
    model.to(dtype)
    x = torch.full((2, 64), 300.0, dtype=dtype)
    x[:, [40, 50, 60, 63]] = 3000
    model(x)
    assert network.picked.tolist() == [40, 50, 60, 63]


@pytest.mark.parametrize("nothing", [torch.zeros(2, 12), torch.zeros(0, 12), torch.full((2, 12), float("inf"))])
def test_a_batch_that_says_nothing_settles_nothing(nothing: torch.Tensor) -> None:
    model, network = adapted(nn.Linear(12, 4), 3)
    before = network.picked.clone()
    model(nothing)
    assert torch.equal(network.picked, before)
    network.requires_grad_(False)
    x = tokens_with_activity(torch.tensor([1, 4, 7]), 12).float()
    model(x)
    assert torch.equal(network.picked, before)
    network.requires_grad_(True)
    model(x)
    assert network.picked.tolist() == [1, 4, 7]


def test_an_offloaded_adapter_picks_too() -> None:
    model, network = adapted(nn.Linear(12, 4), 3)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert network.A.is_meta
    model(tokens_with_activity(torch.tensor([1, 4, 7]), 12).float())
    assert network.picked.tolist() == [1, 4, 7]


def test_a_sum_keeps_the_largest_rows() -> None:
    model, network = adapted(nn.Linear(12, 4), 2, init_weights=False)
    model.add_adapter("b", NeuronLoraConfig(neurons=2, target_modules=["0"], init_weights=False))
    other = model.base_model.model[0].networks["b"]
    network.picked.copy_(torch.tensor([3, 5]))
    other.picked.copy_(torch.tensor([5, 8]))
    with torch.no_grad():
        other.A[1] *= 1e-3
        network.A[0] *= 1e-3
    model.add_weighted_adapter(["default", "b"], [1.0, 1.0], "sum")
    assert 5 in model.base_model.model[0].networks["sum"].picked


@pytest.mark.parametrize("neurons", [0, 1.5, True])
def test_a_wrong_number_of_neurons_is_refused(neurons: object) -> None:
    with pytest.raises(TTValueError, match=f"neurons is {neurons}; expected an integer of at least 1"):
        NeuronLoraConfig(neurons=neurons)
