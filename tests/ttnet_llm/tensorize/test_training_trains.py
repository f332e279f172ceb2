"""Models with trains in training: healed, adapted, and rounded with the optimiser's state."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import Method, each
from tests.ttnet_llm.models import IDS, logits, perturb
from tests.ttnet_llm.tensorized import small, trainer, weights
from ttnet import TensorTrain
from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import TTLinear
from ttnet_llm import LorettaRepConfig, load_tensorized
from ttnet_llm.tensorize import save_tensorized, train_trains_only
from ttnet_llm.tensorize.rounding import round_cores, tails
from ttnet_llm.tensorize.schedule import round_trains

# --- healing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loaded", [False, True])
def test_trainer_heals_the_trains_and_nothing_else(loaded: bool, tmp_path: Path) -> None:
    model = small()
    if loaded:
        save_tensorized(model, tmp_path / "x")
        model = load_tensorized(tmp_path / "x")
    count = train_trains_only(model)
    assert count == sum(weight.layout.num_parameters for weight in weights(model))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer(model, tmp_path).train()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if ".tt.cores." in name}
    assert train_trains_only(model, biases=True) > count
    with pytest.raises(TTValueError, match="has no layers with trains"):
        train_trains_only(models.bert())


# --- adapters on top --------------------------------------------------------------------------


@each()
def test_adapters_go_on_trains(config_cls: Method, tmp_path: Path) -> None:
    save_tensorized(small(models.llama, ["q_proj", "o_proj", "up_proj", "down_proj"]), tmp_path / "base")
    model = load_tensorized(tmp_path / "base")
    expected = logits(model)
    model = get_peft_model(model, config_cls(target_modules=["o_proj", "down_proj"])).eval()
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    perturb(model)
    adapted = logits(model)
    assert not torch.allclose(adapted, expected, atol=1e-3)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        load_tensorized(tmp_path / "base"), tmp_path / "adapter", is_trainable=True
    ).eval()
    torch.testing.assert_close(logits(again), adapted, rtol=1e-5, atol=1e-5)
    again.train()
    again(input_ids=IDS, labels=IDS).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in again.parameters())
    assert not any(".tt." in name for name, p in again.named_parameters() if p.requires_grad)
    with pytest.raises(TTTypeError, match=r"keep the adapter beside it|cannot be merged"):
        model.merge_and_unload()
    assert isinstance(again.unload().model.layers[0].mlp.down_proj, TTLinear)


def test_adapters_go_on_tables_and_start_from_trains() -> None:
    model = small(models.llama, ["embed_tokens", "q_proj"])
    expected = logits(model)
    model = get_peft_model(model, LorettaRepConfig(target_modules=["embed_tokens", "q_proj"], init_weights="tt_svd"))
    torch.testing.assert_close(logits(model.eval()), expected, rtol=1e-4, atol=1e-4)
    perturb(model)
    assert not torch.allclose(logits(model), expected, atol=1e-3)


def test_lora_goes_on_the_dense_layers(tmp_path: Path) -> None:
    model = get_peft_model(small(models.llama, ["up_proj"]), LoraConfig(target_modules=["q_proj"]))
    perturb(model)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(small(models.llama, ["up_proj"]), tmp_path)
    torch.testing.assert_close(logits(again.eval()), logits(model.eval()))
    with pytest.raises(ValueError, match="TTLinear"):
        get_peft_model(small(models.llama, ["up_proj"]), LoraConfig(target_modules=["up_proj"]))


# --- rounding with the optimiser's state ------------------------------------------------------


def train_of(ranks: list[int], seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    modes = [3, 4, 2, 5]
    return [torch.randn(a, n, b, dtype=torch.float64) for a, n, b in zip([1, *ranks], modes, [*ranks, 1], strict=True)]


def fattened(cores: list[torch.Tensor], extra: int) -> list[torch.Tensor]:
    """The same train with larger ranks, in a random basis."""
    torch.manual_seed(9)
    out = list(cores)
    for k in range(len(cores) - 1):
        r = out[k].shape[-1]
        wide = torch.randn(r, r + extra, dtype=torch.float64)
        out[k] = torch.tensordot(out[k], wide, 1)
        out[k + 1] = torch.tensordot(torch.linalg.pinv(wide), out[k + 1], 1)
    return out


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("scale", [1e-80, 1.0, 1e80])
def test_gradients_are_carried_over_by_the_chain_rule(extra: int, scale: float) -> None:
    old = [core * scale**0.25 for core in fattened(train_of([2, 3, 2]), extra)]
    rounded = round_cores(old, eps=1e-10)
    assert [core.shape[-1] for core in rounded.cores] == [2, 3, 2, 1]
    torch.testing.assert_close(TensorTrain(rounded.cores).full() / scale, TensorTrain(old).full() / scale)
    target = torch.randn(3, 4, 2, 5, dtype=torch.float64)

    def gradients(cores: list[torch.Tensor]) -> list[torch.Tensor]:
        leaves = [core.clone().requires_grad_() for core in cores]
        (TensorTrain(leaves).full() / scale * target).sum().backward()
        return [leaf.grad for leaf in leaves]  # type: ignore[misc]

    for k, (before, after) in enumerate(zip(gradients(old), gradients(rounded.cores), strict=True)):
        torch.testing.assert_close(rounded.first(k, before), after, rtol=1e-6, atol=1e-6 * float(after.abs().max()))


def test_squares_stay_at_least_zero_and_scale_like_gradients() -> None:
    old = train_of([2, 3, 2])
    rounded = round_cores([core * 3 for core in old], ranks=[1, 2, 1])
    for k, core in enumerate(old):
        assert bool((rounded.squares(k, core**2) >= 0).all())
    one = [torch.full((1, 2, 1), 3.0), torch.full((1, 2, 1), 1.0)]
    found = round_cores(one, ranks=[1])
    moment = torch.full((1, 2, 1), 0.5, dtype=torch.float64)
    for k in range(2):
        torch.testing.assert_close(found.squares(k, moment**2), found.first(k, moment) ** 2)


def test_tails_are_what_a_cut_loses() -> None:
    cores = train_of([2, 3, 2])
    dense = TensorTrain(cores).full()
    for bond, tail in enumerate(tails(cores), 1):
        values = torch.linalg.svdvals(dense.reshape(12 if bond == 2 else (3 if bond == 1 else 24), -1))
        for rank, left in enumerate(tail):
            assert left == pytest.approx(float((values[rank:] ** 2).sum() / (values**2).sum()), abs=1e-12)
    assert tails([torch.zeros(1, 2, 1), torch.zeros(1, 2, 1)])[0][-1] == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
        lambda p: torch.optim.Adagrad(p),
        lambda p: torch.optim.Adadelta(p),
    ],
)
def test_optimisers_go_on_with_the_new_cores(make: Any) -> None:
    model = small()
    optimizer = make(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=IDS).logits.square().mean().backward()
        optimizer.step()
    found = round_trains(model, optimizer, max_rank=3)
    assert found.parameters[1] < found.parameters[0]
    assert 0 < found.error < 1
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert {id(p) for p in optimizer.state} <= held
    for parameter, state in optimizer.state.items():
        assert all(v.shape in (parameter.shape, torch.Size([])) for v in state.values() if isinstance(v, torch.Tensor))
    before = [core.detach().clone() for weight in weights(model) for core in weight.cores]
    optimizer.zero_grad()
    model(input_ids=IDS).logits.square().mean().backward()
    optimizer.step()
    after = [core for weight in weights(model) for core in weight.cores]
    assert all(not torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: tf.Adafactor(p, lr=1e-3, relative_step=False, scale_parameter=False),
        lambda p: tf.Adafactor(p, lr=1e-3, relative_step=False, scale_parameter=False, beta1=0.9),
        lambda p: torch.optim.Adafactor(p),
    ],
    ids=["transformers", "with first moments", "torch"],
)
def test_factored_moments_start_anew(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = small()
    train_trains_only(model)
    optimizer = make([p for p in model.parameters() if p.requires_grad])

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=IDS).logits.square().mean().backward()
        optimizer.step()

    step()
    round_trains(model, optimizer, max_rank=2)
    cores = [core for weight in weights(model) for core in weight.cores]
    assert not any(optimizer.state.get(core) for core in cores)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "row" in warning
    assert "of a core cannot be carried over; it starts anew" in warning
    before = [core.detach().clone() for core in cores]
    step()
    assert all(not torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(cores, before, strict=True))
    for core in cores:  # as an optimiser that had never seen the old ones
        fresh = make([core])
        fresh.step()
        assert {k: v.shape for k, v in fresh.state[core].items() if isinstance(v, torch.Tensor)} == {
            k: v.shape for k, v in optimizer.state[core].items() if isinstance(v, torch.Tensor)
        }


def test_a_budget_goes_where_trains_lose_most() -> None:
    model = small(nn_model, ["0", "1"], eps=1e-4)
    a, b = (model[k].tt.layout.ranks[1] for k in (0, 1))
    assert a == 20
    assert b == 20
    with torch.no_grad():  # the second one is nearly of rank 2
        u, s, v = torch.linalg.svd(model[1].weight.mT.detach(), full_matrices=False)
        s[2:] *= 1e-4
        model[1].tt.set_value(TensorTrain([(u * s)[None, :, :20], v[:20, :, None]]))
    total = sum(weight.layout.num_parameters for weight in weights(model))
    found = round_trains(model, budget=int(0.6 * total))
    assert found.parameters[1] <= 0.6 * total
    assert model[0].tt.layout.ranks == (1, 20, 1)
    assert model[1].tt.layout.ranks == (1, 4, 1)
    with pytest.raises(TTValueError, match="budget is 5; expected at least"):
        round_trains(model, budget=5)


def nn_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.randn(64, 20) @ torch.randn(20, 64))
    return model
