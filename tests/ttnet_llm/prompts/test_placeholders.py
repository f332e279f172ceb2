"""Placeholders put before texts, in batches and by tokenizers."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import get_peft_model
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers import models as token_models
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.tiny import save_model
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import DeptConfig, prepend_prompt, prompted
from ttnet_llm.prompts import longest_text, placeholders

MARKS = [64, 65, 66]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return get_peft_model(models.bert(), DeptConfig(num_virtual_tokens=3, r=2, max_length=6))


@pytest.fixture(scope="module")
def t5() -> nn.Module:
    return get_peft_model(models.t5(), DeptConfig(num_virtual_tokens=3, r=2, max_length=6))


def test_every_field_of_a_batch_grows_by_the_prompt(model: nn.Module) -> None:
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 0]])
    batch = {
        "input_ids": torch.tensor([[0, 5, 6, 7], [8, 9, 4, 0]]),
        "attention_mask": mask,
        "token_type_ids": torch.tensor([[0, 0, 0, 1], [0, 1, 1, 0]]),
        "special_tokens_mask": torch.tensor([[1, 0, 0, 1], [1, 0, 1, 1]]),
        "labels": torch.tensor([[-100, 1, 0, 1], [1, 0, 0, -100]]),
        "start_positions": torch.tensor([1, 0]),
        "end_positions": torch.tensor([2, 1]),
        "names": ["a", "b"],
    }
    before = copy.deepcopy(batch)
    found = prepend_prompt(batch, model)
    assert found["input_ids"].tolist() == [[0, *MARKS, 5, 6, 7], [*MARKS, 8, 9, 4, 0]]
    assert found["attention_mask"].tolist() == [[0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0]]
    assert found["token_type_ids"].tolist() == [[0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 1, 0]]
    assert found["special_tokens_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 0, 1, 1]]
    assert found["labels"].tolist() == [[-100, -100, -100, -100, 1, 0, 1], [-100, -100, -100, 1, 0, 0, -100]]
    assert found["start_positions"].tolist() == [4, 3]
    assert found["end_positions"].tolist() == [5, 4]
    assert found["names"] == ["a", "b"]
    assert all(torch.equal(batch[name], value) for name, value in before.items() if name != "names")


def test_labels_of_whole_texts_and_of_decoders_stay(model: nn.Module, t5: nn.Module) -> None:
    ids = torch.tensor([[5, 6], [7, 8]])
    for labels in (torch.tensor([0, 1]), torch.tensor([[0.0, 1.0], [1.0, 1.0]])):
        assert prepend_prompt({"input_ids": ids, "labels": labels}, model)["labels"] is labels
    written = {"labels": ids, "decoder_input_ids": ids, "decoder_attention_mask": torch.ones_like(ids)}
    found = prepend_prompt({"input_ids": ids} | written, t5)
    assert found["input_ids"].shape == (2, 5)
    assert all(found[name] is value for name, value in written.items())


def test_without_an_active_prompt_a_batch_stays_as_it_is(model: nn.Module) -> None:
    batch = {"input_ids": torch.tensor([[5, 6]])}
    assert prepend_prompt(batch, models.bert()) == batch
    assert (placeholders(models.bert()), longest_text(models.bert())) == (range(0), None)
    assert (placeholders(model), longest_text(model)) == (range(64, 67), 6)
    with model.disable_adapter():
        assert prepend_prompt(batch, model) == batch


@pytest.mark.parametrize(
    ("ids", "what"),
    [
        ([[1, 2]], "a list"),
        (torch.ones(2, 3), "a Tensor of shape"),
        (torch.arange(3), "a Tensor of shape"),
        (None, "a N"),
    ],
)
def test_ids_that_are_none_are_refused(model: nn.Module, ids: Any, what: str) -> None:
    with pytest.raises(TTTypeError, match=f"input_ids is {what}.*; expected a tensor of integers of shape"):
        prepend_prompt({"input_ids": ids}, model)


def test_what_a_prompt_has_no_answer_to_is_refused(model: nn.Module) -> None:
    ids = torch.tensor([[5, 6]])
    with pytest.raises(TTValueError, match=r"position_ids has an entry for every token, .* for the 3 placeholders"):
        prepend_prompt({"input_ids": ids, "position_ids": ids}, model)


def test_a_prompt_is_put_in_once(model: nn.Module) -> None:
    batch = prepend_prompt({"input_ids": torch.tensor([[5, 6]])}, model)
    with pytest.raises(TTValueError, match=r"input_ids has placeholders already \(ids from 64 on\); put them in once"):
        prepend_prompt(batch, model)


def test_masks_of_pairs_of_tokens_are_refused(model: nn.Module) -> None:
    with pytest.raises(TTValueError, match=r"attention_mask has the shape \(1, 1, 2, 2\), and input_ids \(1, 2\)"):
        prepend_prompt({"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 1, 2, 2)}, model)


def words(processor: Any = None, **options: Any) -> Any:
    vocabulary = {word: k for k, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", "a", "b", "c", "d"])}
    tokenizer = Tokenizer(token_models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if processor is not None:
        tokenizer.post_processor = processor
    specials = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials | options)


PROCESSORS = [
    None,
    processors.BertProcessing(("</s>", 2), ("<s>", 1)),
    processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),
    processors.ByteLevel(),
    processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]),
    processors.TemplateProcessing(single="<s> $A", pair="<s>:1 $B:1 <s> $A", special_tokens=[("<s>", 1)]),
    processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]),
        ]
    ),
]


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_tokenizers_write_the_prompt_as_a_batch_gets_it(model: nn.Module, processor: Any, side: str) -> None:
    """Whatever they write around texts and pairs, and wherever they pad."""
    plain = words(processor, padding_side=side)
    ours = prompted(plain, model)
    assert type(ours).__name__ == type(plain).__name__
    assert isinstance(ours, type(plain))
    for given in ((["a b c", "d"],), (["a b", "d"], ["c", "b a"])):
        options = {"padding": True, "return_tensors": "pt", "return_token_type_ids": True}
        options["return_special_tokens_mask"] = True
        expected, found = prepend_prompt(plain(*given, **options), model), ours(*given, **options)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
    assert ours("a b", add_special_tokens=False)["input_ids"] == [4, 5]
    encoded = ours([["a", "b"]], is_split_into_words=True)
    assert [k for k in encoded.word_ids(0) if k is not None] == [0, 1]


def test_cut_texts_have_room_for_the_prompt_and_for_the_adapter(model: nn.Module) -> None:
    ours = prompted(words(PROCESSORS[1]), model)
    long = " ".join("abcd" * 5)
    assert ours(long, truncation=True, max_length=7)["input_ids"] == [*MARKS, 1, 4, 5, 2]
    assert len(ours(long, truncation=True, max_length=100)["input_ids"]) == 3 + 6
    assert len(ours(long, truncation=True)["input_ids"]) == 3 + 6
    assert len(ours(long)["input_ids"]) == 3 + 2 + 20  # not cut
    with pytest.raises(
        TTValueError, match="max_length is 5, of which the prompt takes 3 and tokens that stand around tex"
    ):
        ours(long, truncation=True, max_length=5)


def test_texts_to_write_have_no_prompt(t5: nn.Module) -> None:
    ours = prompted(words(PROCESSORS[4]), t5)
    both = ours("a b", text_target="c d")
    assert both["input_ids"] == [*MARKS, 4, 5, 2]
    assert both["labels"] == [6, 7, 2]
    assert ours(text_target="c")["input_ids"] == [6, 2]
    assert ours(text_target="a b c d a b", truncation=True, max_length=4)["input_ids"] == [4, 5, 6, 2]
    assert ours("a")["input_ids"] == [*MARKS, 4, 2]


class OfLanguages(tf.PreTrainedTokenizerFast):
    """A tokenizer that writes another token before texts to read than before those to write, as mBART's does."""

    def _switch_to_input_mode(self) -> None:
        self._tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])

    def _switch_to_target_mode(self) -> None:
        self._tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])


def test_tokenizers_of_many_languages_keep_their_modes(t5: nn.Module) -> None:
    plain = OfLanguages(tokenizer_object=words().backend_tokenizer, unk_token="<unk>")
    ours = prompted(plain, t5)
    assert ours("a", text_target="b")["input_ids"] == [*MARKS, 1, 4]
    assert ours("a", text_target="b")["labels"] == [2, 5]


def test_tokenizers_that_are_told_to_end_texts_do(model: nn.Module) -> None:
    ours = prompted(words(None, add_bos_token=False, add_eos_token=False), model)
    assert ours("a")["input_ids"] == [*MARKS, 4]
    ours.add_eos_token = True
    assert ours("a")["input_ids"] == [*MARKS, 4, 2]
    assert ours(text_target="a")["input_ids"] == [4, 2]


def test_the_tokenizer_itself_stays_and_copies_do_the_same(model: nn.Module, tmp_path: Path) -> None:
    plain = words(PROCESSORS[1])
    ours = prompted(plain, model)
    assert plain("a")["input_ids"] == [1, 4, 2]
    assert prompted(plain, models.bert()) is plain
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), prompted(ours, model)):
        assert copied("a", text_target="b").data == ours("a", text_target="b").data
        assert copied("a")["input_ids"] == [*MARKS, 1, 4, 2]
    other = get_peft_model(models.bert(), DeptConfig(num_virtual_tokens=1, r=2, max_length=20))
    assert prompted(ours, other)("a")["input_ids"] == [64, 1, 4, 2]
    assert prompted(ours, other)("a " * 40, truncation=True)["input_ids"] == [64, 1, *[4] * 18, 2]
    assert ours.decode(ours("a b")["input_ids"], skip_special_tokens=True) == "a b"


def test_saved_tokenizers_know_of_no_prompt(model: nn.Module, tmp_path: Path) -> None:
    """Or it would be put in twice, where an adapter lies beside its tokenizer."""
    prompted(words(PROCESSORS[1], model_max_length=50), model).save_pretrained(tmp_path)
    loaded = tf.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("a")["input_ids"] == [1, 4, 2]
    assert loaded.model_max_length == 50
    assert prompted(loaded, model)("a")["input_ids"] == [*MARKS, 1, 4, 2]


def test_slow_tokenizers_are_refused(model: nn.Module) -> None:
    with pytest.raises(
        TTTypeError, match=r"The tokenizer ByT5Tokenizer is no fast one, .* call prepend_prompt on the batc"
    ):
        prompted(tf.ByT5Tokenizer(), model)


def test_a_text_makes_the_start_of_a_prompt_and_is_saved_as_ids(tmp_path: Path) -> None:
    """The tokenizer is asked once: a saved adapter needs it no more."""
    save_model(tmp_path / "base")
    base = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    config = DeptConfig(num_virtual_tokens=5, r=2, prompt_tuning_init_text="good or bad", task_type="SEQ_CLS")
    model = get_peft_model(base, config)
    ids = tf.AutoTokenizer.from_pretrained(tmp_path / "base")("good or bad")["input_ids"]
    assert model.peft_config["default"].prompt_tuning_init_ids == ids
    table = base.bert.embeddings.word_embeddings
    assert torch.equal(table.networks["default"].prompt, table.base_layer.weight[torch.tensor(ids)[:5]])
    model.save_pretrained(tmp_path / "adapter")
    for file in (tmp_path / "base").glob("*token*"):
        file.unlink()
    again = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    again = type(model).from_pretrained(again, tmp_path / "adapter", is_trainable=True)
    assert again.peft_config["default"].prompt_tuning_init_ids == ids


@pytest.mark.parametrize(
    "ids", [[65, 66, 5], [64, 65, 66, 64, 65, 66, 5], [64, 66, 65, 5], [5, 66], [64, 5, 65, 66]], ids=str
)
def test_prompts_that_are_not_whole_once_and_in_order_are_refused(ids: list[int]) -> None:
    model = get_peft_model(models.bert(), DeptConfig(num_virtual_tokens=3, r=2, max_length=16))
    with pytest.raises(TTValueError, match=r"placeholders that are not the 3 of the adapter .default., all of them"):
        model(input_ids=torch.tensor([ids]))
    model(input_ids=torch.tensor([[0, 64, 65, 66, 5], [5, 6, 7, 0, 0]]))


def test_tables_that_are_none_of_words_are_refused() -> None:
    with pytest.raises(
        TTValueError, match=r"target_modules names .*position_embeddings., and the model looks words up"
    ):
        get_peft_model(models.bert(), DeptConfig(target_modules=["position_embeddings"]))


def test_an_encoder_alone_looks_words_up_in_its_own_table() -> None:
    config = tf.T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=64)
    model = get_peft_model(tf.T5ForTokenClassification(config), DeptConfig(num_virtual_tokens=3, r=2, max_length=16))
    batch = prepend_prompt({"input_ids": torch.tensor([[5, 6, 7]])}, model)
    assert model(**batch).logits.shape[1] == 6


def test_tokenizers_with_more_tokens_than_the_model_has_are_refused(model: nn.Module) -> None:
    tokenizer = words()
    tokenizer.add_tokens([f"new{k}" for k in range(100)])
    with pytest.raises(TTValueError, match=r"tokens, and the model embeddings of \d+, from where on ids stand for"):
        prompted(tokenizer, model)


def test_texts_have_the_positions_that_the_prompt_leaves() -> None:
    model = get_peft_model(models.bert(), DeptConfig(num_virtual_tokens=10, r=2, max_length=64))
    tokenizer = prompted(words(), model)
    ids = tokenizer("a " * 60, truncation=True, return_tensors="pt")
    assert ids["input_ids"].shape[1] == 40
    model(**ids)
    small = get_peft_model(models.bert(), DeptConfig(num_virtual_tokens=40, r=2, max_length=64))
    with pytest.raises(TTValueError, match="leaves no room beside a prompt of 40"):
        prompted(words(), small)
