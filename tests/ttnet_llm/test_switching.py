"""Adapters switched off and on, rescaled, and chosen for each row where rows are repeated."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import GenerationConfig

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import each
from tests.ttnet_llm.models import logits
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, TTLoraConfig, rescale_adapter_scale

each_method = each()


def trainable(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@each_method
@pytest.mark.parametrize("options", [{}, {"train_norms": True}], ids=["alone", "with norms"])
def test_what_was_loaded_for_inference_stays_frozen(config_cls, options, tmp_path):
    get_peft_model(models.llama(), config_cls(**options)).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(models.llama(), tmp_path)
    assert not trainable(model)
    for _ in range(2):
        with model.disable_adapter():
            model.base_model.disable_adapter_layers()  # twice is as good as once
        assert not trainable(model)


@each_method
def test_what_was_trained_is_trained_on(config_cls):
    model = get_peft_model(models.llama(), config_cls(train_norms=True))
    before = trainable(model)
    with model.disable_adapter():
        assert not [name for name in trainable(model) if "network" in name]
    assert trainable(model) == before
    model.add_adapter("other", config_cls())
    model.base_model.disable_adapter_layers()
    model.set_adapter("other")
    model.base_model.enable_adapter_layers()
    assert [name for name in trainable(model) if "network.other" in name]


def test_a_loaded_adapter_can_be_trained_on_request(tmp_path):
    get_peft_model(models.llama(), TTLoraConfig()).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(models.llama(), tmp_path, is_trainable=True)
    before = trainable(model)
    with model.disable_adapter():
        pass
    assert before
    assert trainable(model) == before


def two_adapters(make):
    model = get_peft_model(make(), LorettaRepConfig(init_weights=False, tt_rank=3), adapter_name="a")
    model.add_adapter("b", LorettaRepConfig(init_weights=False, tt_rank=3))
    return model.eval()


@pytest.mark.parametrize("make", [models.llama, models.t5], ids=["llama", "t5"])
@pytest.mark.parametrize(
    ("options", "each_row"),
    [
        ({"num_beams": 3, "num_return_sequences": 2}, 2),
        ({"num_beams": 2}, 1),
        ({"generation_config": {"num_beams": 3}}, 1),
        ({"generation_config": {"num_beams": 3, "num_return_sequences": 3}}, 3),
    ],
    ids=str,
)
def test_rows_keep_their_adapter_where_generate_repeats_them(make, options, each_row):
    model = two_adapters(make)
    ids = torch.randint(2, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    common = {"max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}

    def generate(rows, **more):
        given = dict(options)
        if "generation_config" in given:
            given = {"generation_config": GenerationConfig(**common, **given["generation_config"])}
        else:
            given |= common
        return model.generate(input_ids=ids[rows], **given, **more)

    found = generate([0, 1], adapter_names=["a", "b"])
    assert len(found) == 2 * each_row
    for row, adapter in enumerate(["a", "b"]):
        model.set_adapter(adapter)
        alone = generate([row])
        assert torch.equal(found[row * each_row : (row + 1) * each_row, : alone.shape[1]], alone)


def test_sampled_answers_come_from_the_rows_adapter():
    model = two_adapters(models.llama)
    ids = torch.randint(2, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    options = {"do_sample": True, "top_k": 1, "num_return_sequences": 3, "max_new_tokens": 6, "pad_token_id": 0}
    found = model.generate(input_ids=ids, adapter_names=["b", "a"], **options)
    for row, adapter in enumerate(["b", "a"]):
        model.set_adapter(adapter)
        assert torch.equal(found[3 * row : 3 * row + 3], model.generate(input_ids=ids[row : row + 1], **options))


def test_a_wrong_number_of_names_is_refused():
    model = two_adapters(models.llama)
    with pytest.raises(ValueError, match="number of inputs, but got 2 and 4"):
        model(input_ids=torch.ones(4, 3, dtype=torch.long), adapter_names=["a", "b"])


@pytest.mark.parametrize("config", [LorettaRepConfig, LorettaAdpConfig, TTLoraConfig])
def test_the_contribution_is_rescaled_for_a_while(config):
    base = models.llama()
    plain = logits(base)
    model = get_peft_model(base, config(init_weights=False, target_modules=["o_proj"])).eval()
    full = logits(model)
    with rescale_adapter_scale(model, 0):
        assert torch.equal(logits(model), plain)
    with rescale_adapter_scale(model, 0.5):
        assert not torch.allclose(logits(model), full)
    with pytest.raises(IndexError), rescale_adapter_scale(model, 0.5):
        model(input_ids=torch.tensor([[10**6]]))  # the scales come back after an error, too
    assert torch.equal(logits(model), full)


def test_what_cannot_be_rescaled_says_so():
    base = models.llama()
    with pytest.raises(TTTypeError, match="has no adapters of this package; add one"), rescale_adapter_scale(base, 2):
        pass
    model = get_peft_model(base, TTLoraConfig())
    for factor, kind in [("2", TTTypeError), (True, TTTypeError), (float("inf"), TTValueError)]:
        with pytest.raises(kind, match="multiplier is"), rescale_adapter_scale(model, factor):
            pass
    model.merge_adapter()
    with pytest.raises(TTValueError, match=r"is merged, .* call `unmerge_adapter"), rescale_adapter_scale(model, 2):
        pass


@each_method
def test_tasks_that_are_learnt_in_turn_leave_each_other_alone(config_cls):
    ids = torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(0))
    model = get_peft_model(models.bert(), config_cls(task_type="SEQ_CLS"), adapter_name="first")
    untouched = model(input_ids=ids).logits.detach()
    learnt = {}
    for name, labels in {"first": [0, 1, 0], "second": [1, 1, 0], "third": [1, 0, 1]}.items():
        if name != "first":
            model.add_adapter(name, config_cls(task_type="SEQ_CLS"))
        model.set_adapter(name)
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)
        for _ in range(3):
            model(input_ids=ids, labels=torch.tensor(labels)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            learnt[name] = model(input_ids=ids).logits
            assert not torch.equal(learnt[name], untouched)
            for earlier, expected in learnt.items():
                model.set_adapter(earlier)
                torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=0, atol=0)
