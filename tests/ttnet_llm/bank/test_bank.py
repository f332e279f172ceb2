"""A bank's adapters against the same adapters on PEFT's own way, for every method and mix."""

import asyncio
import copy
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch._dynamo.utils import counters

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import METHODS, Method
from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, LotrConfig, MeloraConfig, NeuronLoraConfig
from ttnet_llm.bank import AdapterBank
from ttnet_llm.bank.layer import BankLayer

STACKED = [method for method in METHODS if method.config_cls is not NeuronLoraConfig]
NAMES = ("ann", "bob", "cyd")
by_method = pytest.mark.parametrize("method", STACKED, ids=[method.name for method in STACKED])


def peft_model(base: nn.Module, config: Any) -> PeftModel:
    """A model with three different adapters."""
    model = get_peft_model(copy.deepcopy(base), copy.deepcopy(config), adapter_name=NAMES[0])
    for name in NAMES[1:]:
        model.add_adapter(name, copy.deepcopy(config))
    models.perturb(model)
    return model.eval()


def bank_of(model: PeftModel, base: nn.Module, config: Any, **options: Any) -> AdapterBank:
    bank = AdapterBank(copy.deepcopy(base), config, **options)
    for name in NAMES:
        bank.add(name, model, adapter=name)
    bank.model.eval()
    return bank


def alone(model: PeftModel, name: str | None, **inputs: torch.Tensor) -> torch.Tensor:
    if name is None:
        with model.disable_adapter(), torch.no_grad():
            return model(**inputs).logits
    model.set_adapter(name)
    with torch.no_grad():
        return model(**inputs).logits


@by_method
def test_rows_are_those_of_each_adapter_alone(method: Method) -> None:
    base = models.llama()
    config = method(init_weights=False, target_modules=["q_proj", "v_proj", "down_proj"])
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    ids = torch.randint(1, 60, (6, 5))
    names = ["bob", None, "ann", "bob", "cyd", "ann"]
    with torch.no_grad(), bank.use(names):
        mixed = bank.model(input_ids=ids).logits
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], alone(model, name, input_ids=ids)[row], atol=2e-5, rtol=1e-4)
    with torch.no_grad():
        for name in NAMES:
            with bank.use(name):
                one = bank.model(input_ids=ids).logits
            torch.testing.assert_close(one, alone(model, name, input_ids=ids), atol=2e-5, rtol=1e-4)
        plain = base(input_ids=ids).logits
        assert torch.equal(bank.model(input_ids=ids).logits, plain)
        with bank.use([None] * 6):
            assert torch.equal(bank.model(input_ids=ids).logits, plain)
        with bank.use(["ann", None, None, None, None, None]):
            torch.testing.assert_close(bank.model(input_ids=ids).logits[1:], plain[1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("build", [models.bert, models.gpt2, models.opt, models.t5])
@pytest.mark.parametrize("config", [LorettaRepConfig, LorettaAdpConfig])
def test_architectures(build: Callable[[], nn.Module], config: Any) -> None:
    base = build()
    config = config(init_weights=False)
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    inputs = {"input_ids": torch.randint(3, 60, (4, 6))}
    if build is models.t5:
        inputs["decoder_input_ids"] = torch.randint(3, 60, (4, 3))
    names = ["cyd", "ann", None, "ann"]
    with torch.no_grad(), bank.use(names):
        mixed = bank.model(**inputs).logits
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], alone(model, name, **inputs)[row], atol=2e-5, rtol=1e-4)


@given(st.lists(st.sampled_from([*NAMES, None]), min_size=1, max_size=5), st.integers(1, 3), st.booleans())
def test_any_mix_of_any_rows(names: list[str | None], tokens: int, keeps: bool) -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 6)).double()
    config = LorettaRepConfig(r=3, tt_rank=2, init_weights=False, target_modules=["0", "2"])
    model = get_peft_model(copy.deepcopy(base), copy.deepcopy(config), adapter_name="ann")
    for name in NAMES[1:]:
        model.add_adapter(name, copy.deepcopy(config))
    bank = AdapterBank(copy.deepcopy(base), config, dtype=torch.float64, keep_bytes=2**20 if keeps else 0)
    for name in NAMES:
        bank.add(name, model, adapter=name)
    x = torch.randn(len(names), tokens, 12, dtype=torch.float64)
    with bank.use(names), torch.no_grad():
        first, second = bank.model(x), bank.model(x)
    assert torch.equal(first, second)
    for row, name in enumerate(names):
        if name is None:
            expected = base(x[row])
        else:
            model.set_adapter(name)
            expected = model(x[row])
        torch.testing.assert_close(first[row], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
@pytest.mark.parametrize("build", [models.llama, models.t5])
def test_generation_with_beams_padding_and_cache(build: Callable[[], nn.Module], options: dict[str, int]) -> None:
    base = build()
    config = LorettaRepConfig(r=4, init_weights=False)
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    ids = torch.randint(3, 60, (3, 6))
    mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
    names = ["bob", "ann", None]
    given = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, **options}
    with bank.use(names):
        mixed = bank.model.generate(input_ids=ids, attention_mask=mask, **given)
    several = options.get("num_return_sequences", 1)
    for row, name in enumerate(names):
        one = {"input_ids": ids[row : row + 1], "attention_mask": mask[row : row + 1]}
        with bank.use(name):
            expected = bank.model.generate(**one, **given)
        mine = mixed[row * several : (row + 1) * several]
        width = min(mine.shape[1], expected.shape[1])
        assert torch.equal(mine[:, :width], expected[:, :width])
        assert set(mine[:, width:].flatten().tolist()) <= {0, 2}  # padding, by either of the model's tokens for it
        if name is not None:
            model.set_adapter(name)
            assert torch.equal(model.generate(**one, **given), expected)


def test_adapters_come_and_go() -> None:
    base = models.llama()
    bank = AdapterBank(base, LorettaRepConfig(r=4), capacity=4)
    bank.add("ann")
    bank.add("bob")
    assert (bank.names, len(bank), "bob" in bank, list(bank)) == (["ann", "bob"], 2, True, ["ann", "bob"])
    first = bank.tensors("ann")
    bank.rename("ann", "eve")
    assert bank.names == ["eve", "bob"]
    assert all(torch.equal(first[key], value) for key, value in bank.tensors("eve").items())
    bank.remove("bob")
    bank.add("fay", first)
    assert all(torch.equal(first[key], value) for key, value in bank.tensors("fay").items())
    assert len(bank._storage.blocks) == 1
    bank.add("gus")
    bank.add("hal")
    with pytest.raises(TTValueError, match="holds 4 adapters, its capacity; remove some, or raise it with"):
        bank.add("ida")
    with pytest.raises(TTValueError, match="capacity is 3; expected an integer of at least 4"):
        bank.set_capacity(3)
    bank.set_capacity(5)
    bank.add("ida")
    assert bank.unload() is base
    assert not any(isinstance(module, BankLayer) for module in base.modules())
    assert type(base.model.layers[0].self_attn.q_proj) is nn.Linear
    assert not hasattr(base, "peft_config")


@by_method
def test_a_fresh_adapter_is_one_that_peft_would_start(method: Method) -> None:
    base = models.llama()
    bank = AdapterBank(copy.deepcopy(base).double(), method(), dtype=torch.float64)
    bank.add("new")
    bank.add("other")
    ids = torch.randint(1, 60, (2, 5))
    with torch.no_grad(), bank.use(["new", None]):
        mixed = bank.model(input_ids=ids).logits
    torch.testing.assert_close(mixed, base.double()(input_ids=ids).logits, atol=1e-9, rtol=1e-9)
    if method.method not in ("ether", "tt_ether", "metatt", "lotr", "lorta"):
        tensors = bank.tensors("new")
        assert any(not torch.equal(value, bank.tensors("other")[key]) for key, value in tensors.items())
    fresh = get_peft_model(copy.deepcopy(base), method())
    assert bank.parameters_each == fresh.get_nb_trainable_parameters()[0]


def test_an_export_is_a_checkpoint_and_comes_back(tmp_path: Path) -> None:
    base = models.llama()
    config = LotrConfig(r=2, init_weights=False)
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    bank.export("bob", tmp_path / "bob")
    loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "bob")
    ids = torch.randint(1, 60, (2, 5))
    torch.testing.assert_close(loaded(input_ids=ids).logits, alone(model, "bob", input_ids=ids), atol=1e-6, rtol=1e-5)
    bank.add("again", tmp_path / "bob")
    for key, value in bank.tensors("bob").items():
        assert torch.equal(value, bank.tensors("again")[key])
    model.save_pretrained(str(tmp_path / "saved"), selected_adapters=["cyd"])
    bank.add("saved", tmp_path / "saved" / "cyd")
    for key, value in bank.tensors("cyd").items():
        assert torch.equal(value, bank.tensors("saved")[key])


@pytest.mark.parametrize("optimiser", ["SGD", "AdamW"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_that_learn_together_end_as_if_each_had_learnt_alone(optimiser: str, checkpointing: bool) -> None:
    base = models.llama()
    config = LorettaRepConfig(r=4, tt_rank=3, init_weights=False)
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    bank.model.train()
    if checkpointing:
        checkpoint_layers(bank)
    ids = torch.randint(1, 60, (3, 7))
    names = ["cyd", "ann", "bob"]
    optimise = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}[optimiser]

    def losses(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)

    together = optimise(bank.trainable(names), lr=0.05)
    for _ in range(5):
        together.zero_grad()
        with bank.use(names):
            loss = losses(bank.model(input_ids=ids).logits, ids).sum()
        loss.backward()
        together.step()
    bank.freeze()
    model.train()
    for row, name in enumerate(names):
        model.set_adapter(name)
        own = optimise([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(5):
            own.zero_grad()
            losses(model(input_ids=ids[row : row + 1]).logits, ids[row : row + 1]).sum().backward()
            own.step()
        bank.add(f"{name} alone", model, adapter=name)
        for key, value in bank.tensors(name).items():
            torch.testing.assert_close(value, bank.tensors(f"{name} alone")[key], atol=1e-5, rtol=1e-4)


def test_only_what_is_trainable_learns_and_a_row_of_the_table_is_what_learns() -> None:
    bank = AdapterBank(models.llama(), LorettaRepConfig(r=4, init_weights=False))
    for name in NAMES:
        bank.add(name)
    before = {name: bank.tensors(name) for name in NAMES}
    (parameter,) = bank.trainable("bob")
    assert parameter.shape == (bank.parameters_each,)
    assert bank.trainable(["bob"])[0] is parameter
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    with bank.use(list(NAMES)):
        bank.model(input_ids=torch.randint(1, 60, (3, 5))).logits.square().sum().backward()
    optimiser.step()
    assert all(torch.equal(before["ann"][key], value) for key, value in bank.tensors("ann").items())
    assert any(not torch.equal(before["bob"][key], value) for key, value in bank.tensors("bob").items())
    bank.freeze(["bob"])
    with bank.use("bob"):
        assert not bank.model(input_ids=torch.randint(1, 60, (1, 5))).logits.requires_grad


def test_tasks_of_asyncio_use_their_own_adapters() -> None:
    base = models.llama()
    bank = AdapterBank(base, LorettaRepConfig(r=4, init_weights=False))
    ids, found = torch.randint(1, 60, (1, 5)), {}
    for name in NAMES:
        bank.add(name)

    def answer() -> torch.Tensor:
        with torch.no_grad():
            return base(input_ids=ids).logits

    async def serve(name: str, before: float, after: float) -> None:
        with bank.use(name):
            await asyncio.sleep(before)
            found[name] = answer()
            await asyncio.sleep(after)

    async def serve_all() -> None:
        await asyncio.gather(serve("ann", 0.05, 0), serve("bob", 0.02, 0.1), serve("cyd", 0.08, 0))

    plain = answer()
    asyncio.run(serve_all())
    assert torch.equal(answer(), plain)
    for name in NAMES:
        with bank.use(name):
            assert torch.equal(found[name], answer())


def test_steps_inside_one_use_see_what_was_learnt_before() -> None:
    bank = AdapterBank(models.llama(), LorettaRepConfig(r=4, init_weights=False))
    bank.add("ann")
    optimiser = torch.optim.SGD(bank.trainable("ann"), lr=0.1)
    ids, losses = torch.randint(1, 60, (1, 5)), []
    with torch.inference_mode():
        inside = bank.use("ann")
        inside.__enter__()  # what was in force then does not matter later
    for _ in range(3):
        optimiser.zero_grad()
        loss = bank.model(input_ids=ids).logits.square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    inside.__exit__(None, None, None)
    assert losses[0] > losses[1] > losses[2]


def test_models_in_evaluation_have_no_dropout() -> None:
    base = models.llama().eval()
    bank = AdapterBank(base, LorettaRepConfig(r=4, dropout=0.5, init_weights=False))
    bank.add("ann")
    ids = torch.randint(1, 60, (1, 5))
    with torch.no_grad(), bank.use("ann"):
        assert torch.equal(base(input_ids=ids).logits, base(input_ids=ids).logits)
        base.train()
        assert not torch.equal(base(input_ids=ids).logits, base(input_ids=ids).logits)


class TimeFirst(nn.Module):
    """A layer that reads tokens before rows, one that reads some of the tokens, and one that reads no batch at all."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.inner, self.way = nn.Linear(6, 6), way

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (rows, tokens, 6)
        if self.way == "tokens first":
            return self.inner(x.transpose(0, 1)).transpose(0, 1)
        if self.way == "some tokens":
            return self.inner(x.reshape(-1, 6)[::2])
        if self.way == "all tokens":
            return self.inner(x.reshape(-1, 6)).view(x.shape)
        return x + self.inner(torch.ones(1, 4, 6))[:, :1]


@pytest.mark.parametrize("way", ["tokens first", "some tokens", "no batch", "all tokens"])
def test_modules_whose_input_has_no_row_for_each_of_the_batch_are_refused(way: str) -> None:
    bank = AdapterBank(TimeFirst(way), LorettaRepConfig(r=2, init_weights=False, target_modules=["inner"]))
    bank.add("ann")
    bank.add("bob")
    x = torch.randn(2, 4, 6)
    with bank.use("ann"):
        alone = bank.model(x)
    with bank.use(["ann", "bob"]):
        if way == "all tokens":
            torch.testing.assert_close(bank.model(x)[0], alone[0])
        else:
            with pytest.raises(TTValueError, match=r"The module 'inner' reads a tensor of shape .* leave it out"):
                bank.model(x)


@pytest.mark.parametrize("method", ["metatt", "lorta", "lotr", "tt_ether"])
def test_shared_networks_are_those_of_the_same_modules(method: str) -> None:
    (found,) = [each for each in METHODS if each.name == method]
    base = models.bert()
    other = get_peft_model(copy.deepcopy(base), found(target_modules=["query", "key"], init_weights=False))
    bank = AdapterBank(base, found(target_modules=["query", "value"]))
    with pytest.raises(TTValueError, match=r"target_modules of the adapter 'a' is \['key', 'query'\]"):
        bank.add("a", other)


def test_an_optimiser_does_not_reach_what_has_left(tmp_path: Path) -> None:
    bank = AdapterBank(models.llama(), LorettaRepConfig(r=4, init_weights=False))
    bank.add("ann")
    (parameter,) = bank.trainable("ann")
    bank.remove("ann")
    bank.add("bob")
    before = bank.tensors("bob")
    with torch.no_grad():
        parameter.add_(1)
    assert all(torch.equal(before[key], value) for key, value in bank.tensors("bob").items())
    with pytest.raises(TTValueError, match="There is no adapter 'zed'"):
        bank.freeze("zed")
    (parameter,) = bank.trainable("bob")
    bank.freeze("bob")
    with torch.no_grad():
        parameter.add_(1)
    assert all(torch.equal(before[key], value) for key, value in bank.tensors("bob").items())


def test_the_model_is_saved_and_given_back_as_it_was(tmp_path: Path) -> None:
    base = models.llama()
    keys, flags = list(base.state_dict()), [parameter.requires_grad for parameter in base.parameters()]
    bank = AdapterBank(base, LorettaRepConfig(r=4, init_weights=False))
    bank.add("ann")
    assert sorted(base.state_dict()) == sorted(keys)
    base.load_state_dict(base.state_dict())
    base.save_pretrained(tmp_path)
    again = type(base).from_pretrained(tmp_path)
    ids = torch.randint(1, 60, (1, 5))
    assert torch.equal(again.eval()(input_ids=ids).logits, base(input_ids=ids).logits)
    copied = copy.deepcopy(base)
    with bank.use("ann"):
        assert torch.equal(copied(input_ids=ids).logits, base(input_ids=ids).logits)
    bank.unload()
    assert [parameter.requires_grad for parameter in base.parameters()] == flags
    with pytest.raises(TTValueError, match="was taken off its model"), bank.use("ann"):
        pass
    AdapterBank(base, LorettaRepConfig(r=2))


def test_nothing_is_rounded_to_the_banks_dtype() -> None:
    base = models.llama()
    bank = AdapterBank(base, LorettaRepConfig(r=4, init_weights=False), dtype=torch.bfloat16)
    bank.add("ann")
    ids = torch.randint(1, 60, (2, 5))
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        with bank.use(["ann", None]):
            torch.testing.assert_close(base(input_ids=ids).logits[1], plain[1], atol=1e-6, rtol=1e-6)


def test_adapters_that_count_from_a_start_are_used_and_not_trained() -> None:
    base = models.llama()
    config = LorettaRepConfig(r=4, init_weights="tt_svd")
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    ids = torch.randint(1, 60, (2, 5))
    with torch.no_grad(), bank.use(["ann", "bob"]):
        mixed = bank.model(input_ids=ids).logits
    torch.testing.assert_close(mixed[1], alone(model, "bob", input_ids=ids)[1], atol=2e-5, rtol=1e-4)
    with pytest.raises(TTTypeError, match="count from a start, which must not learn"):
        bank.trainable("ann")
    with pytest.raises(TTTypeError, match="by which an adapter starts from something; a bank draws no such"):
        bank.add("fresh")


def test_classifiers_adapters_are_exported_without_a_head(tmp_path: Path) -> None:
    base = models.bert()
    bank = AdapterBank(copy.deepcopy(base), LorettaRepConfig(r=4, init_weights=False, task_type="SEQ_CLS"))
    bank.add("ann")
    bank.export("ann", tmp_path / "ann")
    loaded = PeftModel.from_pretrained(base, tmp_path / "ann").eval()
    ids = torch.randint(1, 60, (1, 5))
    with torch.no_grad(), bank.use("ann"):
        expected = bank.model(input_ids=ids).logits
        torch.testing.assert_close(loaded(input_ids=ids).logits, expected, atol=1e-6, rtol=1e-5)


def test_configs_are_alike_whichever_way_they_came(tmp_path: Path) -> None:
    config = LorettaRepConfig(r=4, init_weights=False, rank_pattern={"q_proj": {"r": 2, "tt_rank": (2, 3)}})
    model = get_peft_model(models.llama(), copy.deepcopy(config))
    model.save_pretrained(str(tmp_path))
    fields = json.loads((tmp_path / "adapter_config.json").read_text())
    del fields["tt_head"]  # as an earlier version would have it
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    used_elsewhere = copy.deepcopy(config)
    get_peft_model(models.llama(hidden_size=64), used_elsewhere)
    bank = AdapterBank(models.llama(), used_elsewhere)
    bank.add("ann", model)
    bank.add("bob", tmp_path)
    assert all(torch.equal(value, bank.tensors("bob")[key]) for key, value in bank.tensors("ann").items())


def test_threads_use_their_own_adapters() -> None:
    base = models.llama()
    config = LorettaRepConfig(r=4, init_weights=False)
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    ids = torch.randint(1, 60, (1, 5))
    expected = {name: alone(model, name, input_ids=ids) for name in NAMES}
    wrong: list[str] = []

    def serve(name: str) -> None:
        for turn in range(8):
            bank.add(f"{name} {turn}", bank.tensors(name))
            with torch.no_grad(), bank.use(name):
                found = bank.model(input_ids=ids).logits
            if not torch.allclose(found, expected[name], atol=2e-5, rtol=1e-4):
                wrong.append(name)
            bank.remove(f"{name} {turn}")

    threads = [threading.Thread(target=serve, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert bank.names == list(NAMES)


def checkpoint_layers(bank: AdapterBank) -> None:
    options = {"use_reentrant": False, "context_fn": bank.checkpointing}
    bank.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)  # type: ignore[operator]


def test_checkpointed_layers_are_computed_once_more_with_the_adapters_that_they_had() -> None:
    """Also where several adapters' losses have one backward pass."""
    bank = AdapterBank(models.llama().train(), LorettaRepConfig(r=4, init_weights=False))
    bank.add("ann")
    bank.add("bob")
    ids, gradients = torch.randint(1, 60, (2, 5)), []
    for checkpointing in (False, True):
        parameters = bank.trainable(["ann", "bob"])
        if checkpointing:
            checkpoint_layers(bank)
        losses = []
        for name in ("ann", "bob"):
            with bank.use(name):
                losses.append(bank.model(input_ids=ids).logits.square().mean())
        gradients.append(torch.autograd.grad(losses[0] + losses[1], parameters))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    bank.freeze()
    bank.model.requires_grad_(True)  # the base model learns, with no adapter
    bank.model(input_ids=ids).logits.square().mean().backward()
    # Nobody has said so: an error, and not another adapter's gradient.
    bank.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    bank.trainable("ann")
    with bank.use("ann"):
        loss = bank.model(input_ids=ids).logits.square().mean()
    with bank.use("bob"), pytest.raises(TTValueError, match=r"'context_fn': bank.checkpointing"):
        loss.backward()


def test_backward_passes_of_other_threads_compute_checkpointed_layers_with_the_same_adapters() -> None:
    base = models.llama()
    bank = AdapterBank(base.train(), LorettaRepConfig(r=4, init_weights=False))
    bank.add("ann")
    checkpoint_layers(bank)
    ids, gradients = torch.randint(1, 60, (2, 5)), []
    for elsewhere in (False, True):
        (parameter,) = bank.trainable("ann")
        parameter.grad = None
        with bank.use("ann"):
            loss = base(input_ids=ids).logits.square().mean()
        if elsewhere:
            thread = threading.Thread(target=loss.backward)
            thread.start()
            thread.join()
        else:
            loss.backward()
        assert parameter.grad is not None
        gradients.append(parameter.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])
    assert bool(gradients[0].any())


@pytest.mark.slow
def test_other_adapters_are_no_recompilation() -> None:
    bank = AdapterBank(models.llama(), LorettaRepConfig(r=4, init_weights=False))
    for k in range(6):
        bank.add(f"user-{k}")
    compiled: Any = torch.compile(bank.model, backend="aot_eager", fullgraph=True)
    ids = torch.randint(1, 60, (3, 5))
    bank.model(input_ids=ids)  # transformers puts its hooks in place
    torch._dynamo.reset()
    counters.clear()
    for names in ([0, 1, None], [2, 3, 4], [0, 0, 5], [1, None, None], [4, 3, 4]):
        named = [None if name is None else f"user-{name}" for name in names]
        with torch.no_grad(), bank.use(named):
            torch.testing.assert_close(
                compiled(input_ids=ids).logits, bank.model(input_ids=ids).logits, atol=1e-5, rtol=1e-5
            )
    assert counters["stats"]["unique_graphs"] == 1

    async def serve(name: str) -> None:
        with bank.use(name):
            await asyncio.sleep(0.05)
            with pytest.raises(Exception, match="Several tasks of one thread use adapters at a time"):
                compiled(input_ids=ids)
            await asyncio.sleep(0.05)

    async def serve_all() -> None:
        await asyncio.gather(serve("user-1"), serve("user-2"))

    asyncio.run(serve_all())


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_base_models(bits: int) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="quantised layers are those of an optional package")
    base = models.llama(hidden_size=64)
    for block in base.model.layers:
        plain = block.self_attn.q_proj
        if bits == 8:
            layer = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
        else:
            layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32)
        layer.load_state_dict({"weight": plain.weight.data})
        block.self_attn.q_proj = layer.to("cpu")
    config = LorettaRepConfig(r=4, init_weights=False)
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    ids = torch.randint(1, 60, (3, 5))
    with torch.no_grad(), bank.use(["bob", None, "ann"]):
        mixed = bank.model(input_ids=ids).logits
    for row, name in enumerate(("bob", None, "ann")):
        torch.testing.assert_close(mixed[row], alone(model, name, input_ids=ids)[row], atol=1e-3, rtol=1e-3)


def test_half_precision_and_autocast() -> None:
    base = models.llama().to(torch.bfloat16)
    config = LorettaRepConfig(r=4, init_weights=False)
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    ids = torch.randint(1, 60, (2, 5))
    with torch.no_grad(), bank.use(["ann", "cyd"]):
        mixed = bank.model(input_ids=ids).logits
        assert mixed.dtype == torch.bfloat16
    for row, name in enumerate(("ann", "cyd")):
        torch.testing.assert_close(mixed[row], alone(model, name, input_ids=ids)[row], atol=5e-2, rtol=5e-2)
    half = AdapterBank(models.llama(), config, dtype=torch.float16)
    half.add("ann", model, adapter="ann")
    assert next(iter(half.tensors("ann").values())).dtype == torch.float16
    with torch.no_grad(), half.use("ann"), torch.autocast("cpu", torch.bfloat16):
        assert bool(torch.isfinite(half.model(input_ids=ids).logits).all())
    with pytest.raises(TTValueError, match=r"numbers that torch.float16 does not reach; give the bank a wider dtype"):
        half.add("large", {key: value * 1e9 for key, value in bank.tensors("ann").items()})


def test_mistakes_get_a_sentence(tmp_path: Path) -> None:
    base = models.llama()
    config = LorettaRepConfig(r=4, init_weights=False)
    model = peft_model(base, config)
    for wrong, error, message in [
        ((base, {"capacity": 0}), TTValueError, "capacity is 0; expected an integer of at least 1"),
        ((base, {"dtype": torch.int8}), TTTypeError, "dtype is torch.int8; expected a floating torch dtype"),
        ((model, {}), TTTypeError, "model is a PeftModel; give the bare model"),
    ]:
        with pytest.raises(error, match=message):
            AdapterBank(wrong[0], config, **wrong[1])
    for changed, message in [
        (LorettaRepConfig(train_norms=True), "train_norms is True; a bank keeps what goes around the layers"),
        (LorettaRepConfig(modules_to_save=["lm_head"]), r"modules_to_save is \['lm_head'\]; a bank keeps"),
        (LorettaRepConfig(bias="all"), "bias is 'all'; a bank keeps"),
        (NeuronLoraConfig(), "Adapters of neuron_lora keep 'picked' besides what they train"),
        (
            MeloraConfig(target_modules=["embed_tokens"]),
            "'model.embed_tokens', a Embedding, whose rows have no product",
        ),
        ({"r": 4}, "config is a dict; expected one of ttnet_llm's"),
    ]:
        with pytest.raises(TTTypeError, match=message):
            AdapterBank(base, changed)  # type: ignore[arg-type]
        assert type(base.model.layers[0].self_attn.q_proj) is nn.Linear
    bank = AdapterBank(base, config)
    with pytest.raises(TTTypeError, match="model has a bank already"):
        AdapterBank(base, config)
    with pytest.raises(TTTypeError, match=r"model has an adapter at 'model.layers.0.self_attn.q_proj' already"):
        AdapterBank(model.get_base_model(), config)
    experts = models.mixtral()
    with pytest.raises(TTTypeError, match=r"target_parameters is .*; a bank adapts linear layers"):
        AdapterBank(experts, LorettaRepConfig(target_modules="all-linear"))
    assert not any(isinstance(module, (BankLayer, BaseTunerLayer)) for module in experts.modules())
    bank.add("ann", model, adapter="ann")
    tensors = bank.tensors("ann")
    key = next(iter(tensors))
    for arguments, error, message in [
        (("ann",), TTValueError, "There is an adapter 'ann' already; remove it first"),
        (("",), TTTypeError, "name is ''; expected a text"),
        (("bob", {}), TTValueError, "the adapter 'bob' lacks .* and [0-9]+ more; expected an adapter of the bank's"),
        (("bob", {**tensors, "head": key}), TTTypeError, "holds 'head', which the bank's adapters do not have"),
        (("bob", {**tensors, key: torch.ones(2)}), TTShapeError, r"has shape \(2,\); expected"),
        (("bob", {**tensors, key: tensors[key] * torch.nan}), TTValueError, "holds NaN or infinite numbers"),
        (("bob", 3), TTTypeError, "source is a int; expected a folder, tensors by their keys, a PeftModel"),
        (("bob", tmp_path), Exception, "holds no adapter"),
    ]:
        with pytest.raises(error, match=message):
            bank.add(*arguments)  # type: ignore[arg-type]
    with pytest.raises(TTValueError, match="adapter is 'default'; the model has ann, bob, cyd"):
        bank.add("bob", model)
    other = get_peft_model(models.llama(), LorettaRepConfig(r=2))
    with pytest.raises(
        TTValueError, match="r of the adapter 'bob' is 2, and the bank's is 4; a bank keeps adapters of"
    ):
        bank.add("bob", other)
    another = get_peft_model(models.llama(), LotrConfig())
    with pytest.raises(TTValueError, match="peft_type of the adapter 'bob' is 'LOTR'"):
        bank.add("bob", another)
    for names, error, message in [
        ("anna", TTValueError, "no adapter 'anna' in the bank, which has 1. Did you mean 'ann'?"),
        ([], TTValueError, "names is empty"),
        ([3], TTTypeError, r"names is \[3\]; expected a name, or a list"),
        (3, TTTypeError, "names is 3; expected a name, or a list"),
        ({"ann"}, TTTypeError, "names is {'ann'}; expected a name, or a list"),
    ]:
        with pytest.raises(error, match=message), bank.use(names):  # type: ignore[arg-type]
            pass
    with bank.use(name for name in ["ann", None]):  # type: ignore[arg-type]
        base(input_ids=torch.randint(1, 60, (2, 4)))
    too_many = r"where the model was given 3 rows, and 2 adapters were named; expected one name for each row"
    with bank.use(["ann", None]), pytest.raises(TTValueError, match=too_many):
        base(input_ids=torch.randint(1, 60, (3, 4)))
    for call in (bank.remove, bank.tensors, lambda name: bank.rename(name, "x"), bank.trainable):
        with pytest.raises(TTValueError, match="There is no adapter 'bob' in the bank"):
            call("bob")  # type: ignore[operator]
    with pytest.raises(TTValueError, match="There is an adapter 'ann' already"):
        bank.rename("ann", "ann")
    assert bank.names == ["ann"]
