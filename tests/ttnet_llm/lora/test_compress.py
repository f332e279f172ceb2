"""A LoRA adapter as trains: within the stated error, within the budget, and the same function at no error."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from tests.examples import examples
from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, perturb
from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm.lora.checkpoint import LoraCheckpoint, write_lora
from ttnet_llm.lora.compress import METHODS, ROUNDING, compress_lora, factor_train

each_method = pytest.mark.parametrize("method", METHODS)
each_model = pytest.mark.parametrize("make", [models.llama, models.bert])


def save(path: Path, make: Callable[[], nn.Module] = models.llama, **options: object) -> nn.Module:
    if make is models.bert:
        options |= {"task_type": "SEQ_CLS"}
    model = perturb(get_peft_model(make(), LoraConfig(r=4, lora_alpha=6, **options)), spread=0.2).eval()
    model.save_pretrained(path, save_embedding_layers=False)
    return model


def deltas(model: nn.Module) -> dict[str, torch.Tensor]:
    """The dense updates of an adapter, in the orientation of its factors."""
    layers = {n: m for n, m in model.get_base_model().named_modules() if hasattr(m, "get_delta_weight")}
    linear = {n for n, m in layers.items() if isinstance(m.get_base_layer(), nn.Linear)}
    dense = {n: m.get_delta_weight("default").detach().double() for n, m in layers.items()}
    return {n: (delta.T if n in linear else delta) for n, delta in dense.items()}


@each_method
@each_model
def test_nothing_is_lost_at_no_error(make: Callable[[], nn.Module], method: str, tmp_path: Path) -> None:
    model = save(tmp_path / "lora", make, bias="all")
    report = compress_lora(tmp_path / "lora", tmp_path / "tt", method=method)
    loaded = PeftModel.from_pretrained(make(), tmp_path / "tt").eval()
    assert loaded.peft_config["default"].peft_type.value == method.upper()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)
    assert report.error <= ROUNDING
    # Two trains of one core each are LoRA's own factors, so that no more is ever needed.
    assert report.parameters <= report.lora_parameters == sum(m.lora_parameters for m in report.modules)
    network = [p for n, p in loaded.named_parameters() if f"{method}_network" in n]
    assert report.parameters == sum(p.numel() for p in network)


@each_method
@each_model
@pytest.mark.parametrize("eps", [1e-2, 0.3])
def test_every_update_is_within_the_error(
    make: Callable[[], nn.Module], method: str, eps: float, tmp_path: Path
) -> None:
    model = save(tmp_path / "lora", make, rank_pattern={r".*layer.*\.1\..*": 6}, use_rslora=True)
    report = compress_lora(tmp_path / "lora", tmp_path / "tt", method=method, eps=eps)
    loaded = PeftModel.from_pretrained(make(), tmp_path / "tt").eval()
    expected, found = deltas(model), deltas(loaded)
    assert {module.name for module in report.modules} == expected.keys() == found.keys()
    for module in report.modules:
        error = torch.linalg.norm(found[module.name] - expected[module.name])
        error /= torch.linalg.norm(expected[module.name])
        assert module.error <= eps
        assert float(error) == pytest.approx(module.error, abs=1e-6)
    if eps == 0.3:
        assert report.parameters < report.lora_parameters


@each_method
def test_both_methods_need_as_many_parameters(method: str, tmp_path: Path) -> None:
    save(tmp_path, target_modules="all-linear")
    report = compress_lora(tmp_path, method=method, eps=0.3)
    assert report.parameters == compress_lora(tmp_path, eps=0.3).parameters
    assert report.path is None
    for module in report.modules:
        assert len(module.ranks) >= 3
        assert module.ranks[0] == module.ranks[-1] == 1


@each_method
def test_embeddings_and_conv1d(method: str, tmp_path: Path) -> None:
    model = save(tmp_path / "lora", models.gpt2, target_modules=["wte", "c_attn"], fan_in_fan_out=True)
    compress_lora(tmp_path / "lora", tmp_path / "tt", method=method)
    loaded = PeftModel.from_pretrained(models.gpt2(), tmp_path / "tt").eval()
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)


@each_method
def test_ranks_are_bounded(method: str, tmp_path: Path) -> None:
    save(tmp_path / "lora")
    report = compress_lora(tmp_path / "lora", tmp_path / "tt", method=method, max_rank=2)
    assert max(max(module.ranks) for module in report.modules) == 2
    assert 0 < report.error < 1
    loaded = PeftModel.from_pretrained(models.llama(), tmp_path / "tt")
    assert max(torch.linalg.matrix_rank(delta, rtol=1e-4) for delta in deltas(loaded).values()) == 2


@each_method
def test_a_budget_is_kept_with_the_smallest_error(method: str, tmp_path: Path) -> None:
    save(tmp_path)
    whole, smallest = compress_lora(tmp_path, method=method), compress_lora(tmp_path, method=method, eps=1.0)
    assert {rank for module in smallest.modules for rank in module.ranks} == {1}
    budget = (whole.parameters + smallest.parameters) // 2
    report = compress_lora(tmp_path, method=method, budget=budget)
    assert smallest.parameters < report.parameters <= budget
    assert whole.error < report.error < smallest.error <= 1
    assert compress_lora(tmp_path, method=method, eps=report.error * 0.9).parameters > budget
    assert compress_lora(tmp_path, method=method, budget=whole.parameters).error <= ROUNDING
    assert compress_lora(tmp_path, budget=smallest.parameters).parameters == smallest.parameters
    with pytest.raises(TTValueError, match=f"of rank 1, have {smallest.parameters} parameters together"):
        compress_lora(tmp_path, method=method, budget=smallest.parameters - 1)


def test_a_fresh_lora_becomes_the_smallest_trains(tmp_path: Path) -> None:
    get_peft_model(models.llama(), LoraConfig()).save_pretrained(tmp_path / "lora")
    report = compress_lora(tmp_path / "lora", tmp_path / "tt")
    assert report.error == 0
    assert {rank for module in report.modules for rank in module.ranks} == {1}
    loaded = PeftModel.from_pretrained(models.llama(), tmp_path / "tt").eval()
    assert torch.equal(logits(loaded), logits(models.llama()))


def test_the_new_adapter_can_be_trained(tmp_path: Path) -> None:
    save(tmp_path / "lora")
    compress_lora(tmp_path / "lora", tmp_path / "tt", eps=0.3)
    model = PeftModel.from_pretrained(models.llama(), tmp_path / "tt", is_trainable=True)
    model(input_ids=models.IDS, labels=models.IDS).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in trained)


def test_the_random_numbers_of_others_stay_as_they_are(tmp_path: Path) -> None:
    save(tmp_path)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = compress_lora(tmp_path, eps=0.1)
    assert torch.equal(torch.rand(3), expected)
    assert compress_lora(tmp_path, eps=0.1) == first


@given(
    m=st.sampled_from([1, 2, 6, 12, 17, 36]),
    n=st.sampled_from([1, 3, 8, 15, 32]),
    k=st.integers(1, 6),
    rank=st.integers(0, 6),
    decay=st.floats(0.05, 1),
    eps=st.sampled_from([0.0, 1e-5, 2.0]) | st.floats(0.01, 1),
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 99),
)
@examples(2)
def test_the_error_is_guaranteed(
    m: int,
    n: int,
    k: int,
    rank: int,
    decay: float,
    eps: float,
    method: str,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("compress")
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(m, k, generator=generator) * decay ** torch.arange(k)
    right = torch.randn(k, n, generator=generator)
    right[rank:] = 0  # rank-deficient; with rank 0 the B of a LoRA that was not trained yet
    write_lora(folder / "lora", LoraCheckpoint(LoraConfig(target_modules=["0"]), {"0": (left, right)}))
    base = nn.Sequential(nn.Linear(m, n))
    report = compress_lora(folder / "lora", folder / "tt", method=method, eps=eps)
    found = deltas(PeftModel.from_pretrained(base, folder / "tt"))["0"]
    expected = left.double() @ right.double()
    distance, norm = torch.linalg.norm(found - expected), torch.linalg.norm(expected)
    assert distance <= max(eps, ROUNDING) * norm
    assert report.modules[0].error <= max(eps, ROUNDING)
    if norm:
        assert float(distance / norm) == pytest.approx(report.modules[0].error, abs=1e-6)
    if rank > 0:
        assert report.parameters <= min(rank, k, m, n) * (m + n)


@given(st.integers(1, 5), st.booleans(), st.integers(0, 99))
def test_a_train_of_factors_is_their_product(k: int, mirrored: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(12, k, generator=generator, dtype=torch.float64)
    right = torch.randn(k, 30, generator=generator, dtype=torch.float64)
    train = factor_train(left, right, (2, 6), (5, 2, 3), mirrored)
    dense = train.full()
    if mirrored:
        dense = dense.permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(dense.reshape(12, 30), left @ right)
    assert train.ranks[2] <= k


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "lotr"}, TTValueError, "method is 'lotr'; expected one of 'tt_lora', 'loretta_rep'"),
        ({"eps": -0.1}, TTValueError, "eps is -0.1; expected a relative error >= 0"),
        ({"max_rank": 0}, TTValueError, "max_rank is 0; expected an integer of at least 1"),
        ({"budget": 1.5}, TTTypeError, "budget is 1.5; expected an integer of at least 1"),
        ({"budget": 99, "eps": 0.1}, TTValueError, "eps is 0.1 and budget is 99; give one of the two"),
    ],
)
def test_wrong_arguments_are_named(
    options: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        compress_lora(tmp_path, **options)


def test_what_cannot_be_compressed_is_named(tmp_path: Path) -> None:
    with pytest.raises(TTFileError, match="holds no adapter"):
        compress_lora(tmp_path)
    save(tmp_path / "lora")
    with pytest.raises(TTFileError, match=r"would be replaced, and with it '.*lora', which is read"):
        compress_lora(tmp_path / "lora", tmp_path)
    tensors = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    next(iter(tensors.values())).fill_(float("inf"))
    save_file(tensors, tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(TTValueError, match="are NaN or infinite"):
        compress_lora(tmp_path / "lora")
