"""A bank's adapters against the same adapters on PEFT's own way, for every method and mix."""

import asyncio
import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch import nn
from torch._dynamo.utils import counters

from tests.ttnet_llm import models
from tests.ttnet_llm.bank.shared import NAMES, alone, bank_of, by_method, peft_model
from tests.ttnet_llm.methods import Method
from ttnet.errors import TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, LotrConfig, TTLoraConfig
from ttnet_llm.bank import AdapterBank
from ttnet_llm.bank.forms import LinearForm
from ttnet_llm.bank.layer import BankLayer


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


@pytest.mark.parametrize("config", [LorettaRepConfig(r=3, tt_rank=2), TTLoraConfig(tt_rank=2)], ids=["rep", "tt_lora"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@given(names=st.lists(st.sampled_from([*NAMES, None]), min_size=1, max_size=5), tokens=st.integers(1, 3))
def test_core_by_core_is_what_factors_give(config: Any, dropout: float, names: list[str | None], tokens: int) -> None:
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    config.target_modules, config.init_weights, config.dropout = {"0", "2"}, False, dropout
    base = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 12)).double()
    bank = AdapterBank(base, config, dtype=torch.float64, keep_bytes=0)
    for name in NAMES:
        bank.add(name)
    x = torch.randn(len(names), tokens, 24, dtype=torch.float64)
    found = []
    for takes_cores in (False, True):
        with pytest.MonkeyPatch.context() as patch, bank.use(names):
            patch.setattr(LinearForm, "takes_cores", lambda form, tokens: takes_cores)  # noqa: B023
            if takes_cores:
                patch.setattr(LinearForm, "after", None)  # nor asked for
            torch.manual_seed(1)
            found.append(base(x))
    if not any(names):
        return
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_few_tokens_go_core_by_core_where_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    base, ways = nn.Sequential(nn.Linear(768, 768)), []
    for way in ("make", "multiply"):
        real = getattr(LinearForm, way)
        monkeypatch.setattr(LinearForm, way, lambda *args, real=real, way=way: ways.append(way) or real(*args))
    bank = AdapterBank(base, LorettaRepConfig(target_modules=["0"], init_weights=False), keep_bytes=0)
    bank.add("ann")
    bank.add("bob")
    assert next(iter(bank._pattern.forms.values())).network.moves == (10880, 648)
    with bank.use(["ann", "bob"]):
        ways.clear()
        for tokens in (1, 2, 3):  # 6 * 2 * 648 < 10880 < 6 * 3 * 648
            base(torch.randn(2, tokens, 768))
    assert ways == ["multiply", "multiply", "make"]
    bank.keep_bytes = 2**20
    with bank.use(["ann", "bob"]):
        ways.clear()
        base(torch.randn(2, 1, 768))
    assert ways == []
    parameters = bank.trainable(["ann", "bob"])  # of which nothing is kept
    with bank.use(["ann", "bob"]):
        base(torch.randn(2, 1, 768)).square().sum().backward()
    assert ways == ["multiply"]
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in parameters)


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


def test_models_in_evaluation_have_no_dropout() -> None:
    base = models.llama().eval()
    bank = AdapterBank(base, LorettaRepConfig(r=4, dropout=0.5, init_weights=False))
    bank.add("ann")
    ids = torch.randint(1, 60, (1, 5))
    with torch.no_grad(), bank.use("ann"):
        assert torch.equal(base(input_ids=ids).logits, base(input_ids=ids).logits)
        base.train()
        assert not torch.equal(base(input_ids=ids).logits, base(input_ids=ids).logits)


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


def test_ten_threads_add_remove_and_use_at_once() -> None:
    base = models.llama()
    config = LorettaRepConfig(r=4, init_weights=False)
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    ids = torch.randint(1, 60, (2, 5))
    expected = {name: alone(model, name, input_ids=ids) for name in (*NAMES, None)}
    wrong: list[str] = []
    began = threading.Barrier(10)

    def check(what: str, found: torch.Tensor, names: list[str | None]) -> None:
        for row, name in enumerate(names):
            if not torch.allclose(found[row], expected[name][row], atol=2e-5, rtol=1e-4):
                wrong.append(f"{what}: {name}")

    def serve(number: int) -> None:
        own, other = NAMES[number % 3], NAMES[(number + 1) % 3]
        began.wait()
        try:
            for turn in range(6):
                added = f"{own} of {number}, {turn}"
                bank.add(added, bank.tensors(own))
                with torch.no_grad(), bank.use([added, other]):
                    first = bank.model(input_ids=ids).logits
                    if turn % 2:
                        bank.remove(added)  # while it is in use
                    again = bank.model(input_ids=ids).logits
                check("first", first, [own, other])
                check("again", again, [own, other])
                if not turn % 2:
                    bank.rename(added, f"{added}, renamed")
                    with torch.no_grad(), bank.use([None, f"{added}, renamed"]):
                        check("renamed", bank.model(input_ids=ids).logits, [None, own])
                    bank.remove(f"{added}, renamed")
                check("none", bank.model(input_ids=ids).logits.detach(), [None, None])
        except Exception as error:  # of a thread, which nobody would see
            wrong.append(repr(error))

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert bank.names == list(NAMES)
    for name in NAMES:  # whose rows others were never written over
        with torch.no_grad(), bank.use(name):
            check("after", bank.model(input_ids=ids).logits, [name, name])


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
