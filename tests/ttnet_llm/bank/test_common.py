"""Banks whose adapters have cores in common: each is one task's core, and computes what its task does."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm import LorettaRepConfig, LortaConfig, MetaTTConfig, set_task
from ttnet_llm.bank import AdapterBank

TASKS = 4


def trained(base: nn.Module, **options: Any) -> PeftModel:
    """A model with one adapter of several tasks, none of which does what another does."""
    config = MetaTTConfig(r=3, num_tasks=TASKS, init_weights=False, **options)
    model = get_peft_model(copy.deepcopy(base), config)
    models.perturb(model)
    return model.eval()


def bank_of(model: PeftModel, base: nn.Module, **options: Any) -> AdapterBank:
    bank = AdapterBank(copy.deepcopy(base), model.peft_config["default"], common=model, **options)
    for task in range(TASKS):
        bank.add(f"task-{task}", model, task=task)
    bank.model.eval()
    return bank


def of_task(model: PeftModel, task: int | None, x: Any) -> torch.Tensor:
    if task is None:
        with model.disable_adapter(), torch.no_grad():
            return model(**x).logits if isinstance(x, dict) else model(x)
    set_task(model, task)
    with torch.no_grad():
        return model(**x).logits if isinstance(x, dict) else model(x)


@given(
    st.lists(st.sampled_from([*range(TASKS), None]), min_size=1, max_size=5),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_rows_are_those_of_each_task_alone(
    tasks: list[int | None], tokens: int, keeps: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 8)).to(dtype)
    model = trained(base, target_modules=["0", "2", "3"]).to(dtype)
    bank = bank_of(model, base, dtype=dtype, keep_bytes=2**20 if keeps else 0)
    x = torch.randn(len(tasks), tokens, 12, dtype=dtype)
    with torch.no_grad(), bank.use([None if task is None else f"task-{task}" for task in tasks]):
        mixed = bank.model(x)
    for row, task in enumerate(tasks):
        expected = of_task(model, task, x)[row]
        allowed = 50 * torch.finfo(dtype).eps * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(mixed[row], expected, rtol=0, atol=allowed)


def test_a_language_models_rows_and_what_is_held() -> None:
    base = models.llama()
    model = trained(base)
    bank = bank_of(model, base)
    inputs = {"input_ids": torch.randint(1, 60, (TASKS + 1, 5))}
    names = [*(f"task-{task}" for task in range(TASKS)), None]
    with torch.no_grad(), bank.use(names):
        mixed = bank.model(**inputs).logits
    for row, task in enumerate([*range(TASKS), None]):
        torch.testing.assert_close(mixed[row], of_task(model, task, inputs)[row], atol=2e-5, rtol=1e-4)
    shapes = sum(key.endswith(".tasks") for key in bank.tensors("task-0"))
    assert bank.parameters_each == shapes * 3**2
    assert bank.parameters_common + TASKS * bank.parameters_each == model.get_nb_trainable_parameters()[0]
    for k in range(252):  # a block of 256 rows is full
        bank.add(f"more-{k}")
    assert sum(bank._storage.bytes_in_memory()) == 256 * bank.parameters_each * 4
    with torch.no_grad(), bank.use("more-0"):  # fresh ones are the identity between the common cores
        fresh = bank.model(**inputs).logits
    with torch.no_grad():
        for key, value in model.named_parameters():
            if key.endswith(".tasks"):
                value.copy_(torch.eye(3))
    torch.testing.assert_close(fresh, of_task(model, 0, inputs), atol=2e-5, rtol=1e-4)


def test_an_export_is_the_ordinary_checkpoint_of_one_task_and_comes_back(tmp_path: Path) -> None:
    base = models.llama()
    model = trained(base)
    bank = bank_of(model, base)
    bank.export("task-2", tmp_path / "two")
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "two").eval()
    inputs = {"input_ids": torch.randint(1, 60, (2, 5))}
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, of_task(model, 2, inputs))
    bank.add("again", tmp_path / "two")
    bank.add("tensors", bank.tensors("task-2"))
    set_task(model, 2)
    model.save_pretrained(str(tmp_path / "all"))
    bank.add("by its config", tmp_path / "all")
    bank.add("by number", tmp_path / "all", task=2)
    other = AdapterBank(copy.deepcopy(base), loaded.peft_config["default"], common=tmp_path / "all")
    other.add("by number", tmp_path / "all", task=2)
    for each, name in [
        *((bank, name) for name in ("again", "tensors", "by its config", "by number")),
        (other, "by number"),
    ]:
        for key, value in bank.tensors("task-2").items():
            assert torch.equal(each.tensors(name)[key], value)
    assert any(not torch.equal(bank.tensors("task-1")[key], value) for key, value in bank.tensors("task-2").items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_bank_is_loaded_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    base = models.llama()
    bank = bank_of(trained(base), base, dtype=dtype)
    bank.remove("task-1")
    bank.save(tmp_path)
    loaded = AdapterBank.load(tmp_path, copy.deepcopy(base))
    assert loaded.names == bank.names
    assert (loaded.parameters_each, loaded.parameters_common) == (bank.parameters_each, bank.parameters_common)
    for name in bank.names:
        assert all(torch.equal(value, loaded.tensors(name)[key]) for key, value in bank.tensors(name).items())
    ids = torch.randint(1, 60, (2, 5))
    with torch.no_grad(), bank.use(["task-0", "task-3"]), loaded.use(["task-0", "task-3"]):
        assert torch.equal(bank.model(input_ids=ids).logits, loaded.model(input_ids=ids).logits)
    loaded.add("new")
    loaded.save(tmp_path)
    assert len(list(tmp_path.glob("common-*"))) == 1
    (file,) = tmp_path.glob("common-*")
    file.write_bytes(b"x")
    with pytest.raises(TTFileError, match="it holds what all adapters of the bank have in common: restore it"):
        AdapterBank.load(tmp_path, copy.deepcopy(base))
    index = json.loads((tmp_path / "bank.json").read_text())
    (tmp_path / "bank.json").write_text(json.dumps(index | {"common": "../x"}))
    with pytest.raises(TTFileError, match="names common cores that are none of a bank's files"):
        AdapterBank.load(tmp_path, copy.deepcopy(base))


def test_rows_and_common_cores_are_read_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    def model(first: str, second: str) -> nn.Module:
        torch.manual_seed(0)
        layers = {"q": nn.Linear(8, 8), "v": nn.Linear(6, 8)}
        return nn.ModuleDict({name: layers[name] for name in (first, second)})

    config = MetaTTConfig(r=2, num_tasks=1, target_modules=["q", "v"], init_weights=False)
    bank = AdapterBank(model("q", "v"), config, common=True)
    bank.add("ann")
    with torch.no_grad():
        for parameter in bank.trainable("ann", common=True):
            parameter.add_(torch.randn_like(parameter))
    bank.freeze()
    bank.save(tmp_path)
    loaded = AdapterBank.load(tmp_path, model("v", "q"))
    with bank.use("ann"), loaded.use("ann"):
        for name, size in (("q", 8), ("v", 6)):
            x = torch.randn(1, size)
            assert torch.equal(bank.model[name](x), loaded.model[name](x))


@pytest.mark.parametrize("common", [False, True])
def test_tasks_learn_in_one_step_with_their_common_cores_or_without(common: bool, tmp_path: Path) -> None:
    """As the tasks of one PEFT model do whose losses are summed."""
    base = models.llama().double()
    model = trained(base).double()
    bank = bank_of(model, base, dtype=torch.float64)
    ids = torch.randint(1, 60, (TASKS, 5))
    names, before = bank.names, bank.tensors("task-0")
    parameters = bank.trainable(names, common=common)
    assert len(parameters) == TASKS + common
    together = torch.optim.SGD(parameters, lr=0.05)
    own = [p for name, p in model.named_parameters() if p.requires_grad and (common or name.endswith(".tasks"))]
    single = torch.optim.SGD(own, lr=0.05)
    for _ in range(3):
        together.zero_grad()
        with bank.use(names):
            bank.model(input_ids=ids).logits.square().mean((1, 2)).sum().backward()
        together.step()
        single.zero_grad()
        for task in range(TASKS):
            set_task(model, task)
            model(input_ids=ids[task : task + 1]).logits.square().mean((1, 2)).sum().backward()
        single.step()
    bank.save(tmp_path)  # while they learn
    bank.freeze()
    learnt = bank.tensors("task-0")
    saved = AdapterBank.load(tmp_path, base).tensors("task-0")
    assert all(torch.equal(saved[key], value) for key, value in learnt.items())
    assert any(not torch.equal(before[key], learnt[key]) for key in learnt if not key.endswith(".tasks")) == common
    parameters[-1].data.add_(1)  # which no longer reaches the bank
    assert all(torch.equal(value, learnt[key]) for key, value in bank.tensors("task-0").items())
    for task in range(TASKS):
        with torch.no_grad(), bank.use(f"task-{task}"):
            found = bank.model(input_ids=ids).logits
        torch.testing.assert_close(found, of_task(model, task, {"input_ids": ids}), atol=1e-9, rtol=1e-9)


def test_mistakes_get_a_sentence() -> None:
    base = models.llama()
    model = trained(base)
    flags = [parameter.requires_grad for parameter in base.parameters()]
    config = model.peft_config["default"]
    for wrong, common, error, message in [
        (LorettaRepConfig(), True, TTTypeError, "adapters of loretta_rep have no cores that several tasks share"),
        (LortaConfig(), model, TTTypeError, "adapters of lorta have no cores that several tasks share"),
        (
            MetaTTConfig(r=3),
            model,
            TTTypeError,
            "num_tasks of the config is None: its adapters have no core for a task",
        ),
        (MetaTTConfig(r=2, num_tasks=2), model, TTValueError, "r of common is 3, and the bank's is 2"),
        (config, {}, TTValueError, "common lacks .*; expected an adapter of the bank's configuration"),
        (config, 3, TTTypeError, "source is a int; expected a folder"),
    ]:
        with pytest.raises(error, match=message):
            AdapterBank(base, wrong, common=common)  # type: ignore[arg-type]
        assert type(base.model.layers[0].self_attn.q_proj) is nn.Linear
        assert [parameter.requires_grad for parameter in base.parameters()] == flags
    bank = bank_of(model, base)
    for task, message in [(4, "task is 4; expected an integer from 0 to 3"), (True, "task is True; expected an int")]:
        with pytest.raises(TTValueError, match=message):
            bank.add("new", model, task=task)
    tensors = {key.replace(".default", ""): value for key, value in model.state_dict().items() if "metatt_" in key}
    several = {key: value.repeat(2, 1, 1) if key.endswith(".tasks") else value for key, value in tensors.items()}
    with pytest.raises(
        TTValueError, match="the adapter 'new' has 8 tasks, and a bank with common cores keeps one; say"
    ):
        bank.add("new", several)
    other = trained(base)
    with torch.no_grad():
        next(value for key, value in other.named_parameters() if key.endswith(".inputs"))[0, 0] += 1
    with pytest.raises(
        TTValueError,
        match=rf"The common cores of the adapter 'new' differ from the bank's in [\d,]+ of {bank.parameters_common:,}",
    ):
        bank.add("new", other)
    assert "new" not in bank
    plain = AdapterBank(base, config)
    with pytest.raises(TTValueError, match="task is 1; the adapters of a bank without common have all of their tasks"):
        plain.add("new", model, task=1)
    plain.add("new", model)
    with pytest.raises(TTTypeError, match="common is True; the adapters of this bank have no cores in common"):
        plain.trainable("new", common=True)
