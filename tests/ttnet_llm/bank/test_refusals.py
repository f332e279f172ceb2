"""What a bank refuses, before rows or adapters are mistaken for others."""

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.bank.shared import peft_model
from tests.ttnet_llm.methods import METHODS
from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, LotrConfig, MeloraConfig, NeuronLoraConfig
from ttnet_llm.bank import AdapterBank
from ttnet_llm.bank.layer import BankLayer


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


@pytest.mark.parametrize("names", [["ann", "bob"], ["ann"], ["ann", None]])
def test_more_rows_than_names_are_refused_unless_they_are_the_same(names: list[str | None]) -> None:
    bank = AdapterBank(models.llama(), LorettaRepConfig(r=2, init_weights=False))
    bank.add("ann")
    bank.add("bob")
    ids = torch.randint(1, 60, (4, 5))
    with bank.use(names), pytest.raises(TTValueError, match=rf"has 4 rows, and {len(names)} adapters were named; exp"):
        bank.model(input_ids=ids)
    repeated, mask = ids[: len(names)].repeat_interleave(2, 0), torch.ones(2 * len(names), 5)
    with torch.no_grad():
        with bank.use(names):
            found = bank.model(input_ids=repeated, attention_mask=mask).logits
        with bank.use([name for name in names for _ in range(2)]):
            torch.testing.assert_close(bank.model(input_ids=repeated, attention_mask=mask).logits, found)
    other = mask.clone()
    other[0, 0] = 0  # the same text behind another mask is another row
    with bank.use(names), pytest.raises(TTValueError, match="as generate repeats rows for beams"):
        bank.model(input_ids=repeated, attention_mask=other)
    with bank.use("ann"):
        bank.model(input_ids=ids)
    with bank.use(["ann", "bob", None]), pytest.raises(TTValueError, match="reads a tensor of shape"):
        bank.model(input_ids=ids)


def test_classifiers_adapters_with_a_head_of_their_own_are_refused(tmp_path: Path) -> None:
    config = LorettaRepConfig(r=2, init_weights=False, task_type="SEQ_CLS")
    model = get_peft_model(models.bert(), copy.deepcopy(config))
    model.save_pretrained(str(tmp_path))
    bank = AdapterBank(models.bert(), config)
    for source in (model, tmp_path):
        with pytest.raises(TTTypeError, match=r"holds '.*classifier.* without heads, norms or biases of their own"):
            bank.add("ann", source)
    assert len(bank) == 0


def test_an_adapter_of_another_model_is_told(tmp_path: Path) -> None:
    base, config = models.llama(), LorettaRepConfig(r=2, init_weights=False)
    config.base_model_name_or_path = "org/one"
    model = get_peft_model(models.llama(), copy.deepcopy(config))
    model.peft_config["default"].base_model_name_or_path = "org/one"
    model.save_pretrained(str(tmp_path))
    bank = AdapterBank(base, config)
    bank.add("ann", tmp_path)
    for name in ("/models/One", None, ""):
        model.peft_config["default"].base_model_name_or_path = name
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bank.add(f"of {name}", model)
    model.peft_config["default"].base_model_name_or_path = "org/other"
    with pytest.warns(UserWarning, match="the adapter 'bob' was trained on 'org/other', and the bank's model is 'org/"):
        bank.add("bob", model)
    assert "bob" in bank


@pytest.mark.parametrize("method", ["metatt", "lorta", "lotr", "tt_ether"])
def test_shared_networks_are_those_of_the_same_modules(method: str) -> None:
    (found,) = [each for each in METHODS if each.name == method]
    base = models.bert()
    other = get_peft_model(copy.deepcopy(base), found(target_modules=["query", "key"], init_weights=False))
    bank = AdapterBank(base, found(target_modules=["query", "value"]))
    with pytest.raises(TTValueError, match=r"target_modules of the adapter 'a' is \['key', 'query'\]"):
        bank.add("a", other)


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
        (LorettaAdpConfig(non_linearity="prelu"), "non_linearity is 'prelu', which learns; a bank's adapters have one"),
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
