"""Fine-tuning language models on texts, prompts with completions, and chats."""

import json
import logging
import math
import sys

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.ttnet_llm.tiny import WORDS, save_rows
from ttnet.errors import MissingExtraError, TTFileError, TTValueError
from ttnet_llm.training import METHODS, FinetuneSettings, evaluate, finetune, load_finetuned
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.kinds.causal import Chat, Passage, encode, token_sums
from ttnet_llm.training.kinds.chats import Message

# ChatML, which TRL does not know in this spelling.
TEMPLATE = (
    "{% for m in messages %}{{ '<im> ' + m.role + ' ' + m.content + ' </im> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<im> assistant ' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<im> ' + m.role + ' ' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + ' </im>' }}{% endgeneration %}{{ ' ' }}{% else %}{{ m.content + ' </im> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<im> assistant ' }}{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'user' or loop.last %}{{ '<im> ' + m.role + ' ' + m.content + ' </im> ' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<im> assistant ' }}{% endif %}"
)


def save_language_model(folder, template=TEMPLATE, **tokens):
    specials = ["<pad>", "<unk>", "</s>", "<im>", "</im>"]
    words = [*specials, "user", "assistant", "system", "say", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = {"pad_token": "<pad>", "eos_token": "</s>"} | tokens
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        additional_special_tokens=["<im>", "</im>"],
        **{name: token for name, token in tokens.items() if token},
    )
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=128,
            initializer_range=0.2,
        )
    ).save_pretrained(folder)
    return folder


def texts(count):
    return [{"text": f"the {WORDS[8 + k % 4]} was {WORDS[k % 8]} say good"} for k in range(count)]


def pairs(count):
    """The completion says an adjective that the prompt settles."""
    return [{"prompt": f"the {WORDS[8 + k % 4]} was", "completion": f" {WORDS[k % 4]} say"} for k in range(count)]


def chats(count):
    def turns(k):
        return [
            {"role": "system", "content": "say"},
            {"role": "user", "content": f"the {WORDS[8 + k % 4]}"},
            {"role": "assistant", "content": f"was {WORDS[k % 4]}"},
            {"role": "user", "content": f"{WORDS[k % 8]} song"},
            {"role": "assistant", "content": "say nice"},
        ]

    return [{"messages": turns(k)} for k in range(count)]


SHAPES = {"texts": texts, "pairs": pairs, "chats": chats}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("causal")
    save_language_model(folder / "model")
    for name, rows in SHAPES.items():
        save_rows(folder / f"{name}.jsonl", rows(32))
    return folder


def make(place, output, rows="pairs", **changes):
    options = {
        "model": str(place / "model"),
        "output": str(output),
        "train": str(place / f"{rows}.jsonl"),
        "validation": str(place / f"{rows}.jsonl"),
        "epochs": 4,
        "batch_size": 8,
        "max_length": 32,
        "learning_rate": 1e-2,
        "device": "cpu",
    }
    return FinetuneSettings(**options | changes)


def test_prompts_before_texts_are_for_models_with_an_encoder(place, tmp_path):
    with pytest.raises(TTValueError, match="DePT is not for language models that read and write in one"):
        finetune(make(place, tmp_path / "run", method="dept"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("head", "dept")])
def test_every_method_learns_saves_and_loads(place, tmp_path, method):
    rate = 1e-3 if method == "full" else 1e-2
    result = finetune(make(place, tmp_path / "run", method=method, epochs=6, learning_rate=rate))
    assert result.kind == "causal"
    assert result.after["loss"] < 0.9 * result.before["loss"]
    assert result.after["perplexity"] == pytest.approx(math.exp(result.after["loss"]))
    assert result.after["token_accuracy"] >= result.before["token_accuracy"]
    assert result.scores[0] == (0, result.before["loss"])
    assert result.scores[-1] == (result.steps, result.after["loss"])
    assert result.tokens_per_second > 0
    assert result.peak_memory > 2**20
    assert (result.parameters.frozen == 0) == (method == "full")
    found = evaluate(tmp_path / "run", place / "pairs.jsonl")
    assert found.measures == result.after
    assert np.array_equal(found.logits, np.load(tmp_path / "run" / "losses.npy"))
    report = (tmp_path / "run" / "report.md").read_text()
    assert "prompts in the column prompt and completions in completion, with the loss on the completions" in report
    assert "perplexity" in report


def test_evaluation_takes_the_batches_of_training(place, tmp_path, monkeypatch):
    sizes, judge = [], find_kind("causal").judge

    def record(model, tokenizer, rows, details, *, batch_size=None, **more):
        sizes.append(batch_size)
        return judge(model, tokenizer, rows, details, batch_size=batch_size, **more)

    monkeypatch.setattr(find_kind("causal"), "judge", record, raising=False)
    finetune(make(place, tmp_path / "run", epochs=1))
    in_training = set(sizes)
    evaluate(tmp_path / "run", place / "pairs.jsonl")
    evaluate(tmp_path / "run", place / "pairs.jsonl", batch_size=3)
    assert (in_training, sizes[-2:]) == ({8}, [8, 3])


def test_the_adapter_is_an_ordinary_peft_checkpoint(place, tmp_path):
    finetune(make(place, tmp_path / "run", epochs=1))
    model, tokenizer, _ = load_finetuned(tmp_path / "run")
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "adapter").eval()
    ids = tokenizer("the film was", return_tensors="pt")["input_ids"]
    assert torch.equal(plain(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("rows", SHAPES)
def test_every_shape_is_told_and_learnt(place, tmp_path, rows, caplog):
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        result = finetune(make(place, tmp_path / "run", rows))
    assert result.after["loss"] < result.before["loss"]
    words = {
        "texts": "texts in the column text",
        "pairs": "prompts in the column prompt",
        "chats": "chats in the column",
    }
    assert f"are taken as {words[rows]}" in caplog.text
    assert "The kind is causal, as" in caplog.text
    assert words[rows] in result.labels


@pytest.mark.parametrize("rows", ["texts", "chats"])
def test_packed_rows_do_not_see_each_other(place, tmp_path, rows):
    """One step on all examples at once is the same, packed or not."""
    options = {"rows": rows, "epochs": 1, "batch_size": 32, "warmup": 0.0, "method": "lora"}
    apart = finetune(make(place, tmp_path / "apart", **options))
    packed = finetune(make(place, tmp_path / "packed", packing=True, max_length=32 * 32, **options))
    assert apart.steps == packed.steps == 1
    assert packed.losses[0][1] == pytest.approx(apart.losses[0][1], rel=1e-4)
    assert packed.after["loss"] == pytest.approx(apart.after["loss"], rel=1e-4)
    assert packed.labels.endswith(", packed")


def test_long_texts_are_cut_into_pieces_when_packed(place, tmp_path):
    file = save_rows(tmp_path / "long.jsonl", [{"text": " ".join(["the film was good"] * 20)} for _ in range(4)])
    options = {"train": file, "validation": file, "epochs": 1, "max_length": 16, "batch_size": 1}
    result = finetune(make(place, tmp_path / "run", packing=True, **options))
    assert result.steps == math.ceil(4 * 81 / 16)


def test_accumulating_and_recomputing_change_nothing(place, tmp_path):
    expected = finetune(make(place, tmp_path / "whole", epochs=1, batch_size=16))
    parts = finetune(make(place, tmp_path / "parts", epochs=1, batch_size=4, gradient_accumulation=4))
    again = finetune(make(place, tmp_path / "again", epochs=1, batch_size=16, gradient_checkpointing=True))
    assert parts.steps == again.steps == expected.steps == 2
    assert again.after["loss"] == pytest.approx(expected.after["loss"], rel=1e-5)
    assert parts.after["loss"] == pytest.approx(expected.after["loss"], rel=1e-3)


def test_schedule_dtype_and_targets_are_heeded(place, tmp_path):
    steady = finetune(make(place, tmp_path / "steady", schedule="constant_with_warmup", warmup=0.0, epochs=1))
    falling = finetune(make(place, tmp_path / "falling", schedule="linear", warmup=0.0, epochs=1))
    assert steady.after != falling.after
    half = finetune(make(place, tmp_path / "half", dtype="bfloat16", targets=("q_proj",), epochs=1))
    model, _, _ = load_finetuned(tmp_path / "half")
    assert half.after["loss"] < half.before["loss"]
    adapted = {name.split(".")[-2] for name, p in model.named_parameters() if "lora" in name or "loretta" in name}
    assert {name for name, module in model.named_modules() if name.endswith("q_proj")}
    assert model.peft_config["default"].target_modules == {"q_proj"}, adapted


def reference_loss(model, tokenizer, prompt, text):
    ids = tokenizer(prompt + text, return_tensors="pt")["input_ids"]
    labels = ids.clone()
    labels[:, : len(tokenizer(prompt)["input_ids"])] = -100
    return model(input_ids=ids, labels=labels).loss.item()


def test_the_loss_is_that_of_transformers(place):
    kind = find_kind("causal")
    model, tokenizer = kind.load(str(place / "model"), kind.configure(str(place / "model"), None))
    rows = [Passage(row["prompt"], row["completion"]) for row in pairs(3)] + [Passage("the", " film was good say nice")]
    with torch.inference_mode():
        sums = token_sums(model, [encode(tokenizer, row, 32) for row in rows], tokenizer.pad_token_id)
    expected = [reference_loss(model, tokenizer, row.prompt, row.text + " </s>") for row in rows]
    np.testing.assert_allclose(sums[:, 0] / sums[:, 2], expected, rtol=1e-5)
    assert sums[:, 2].tolist() == [3, 3, 3, 6]


def said(tokenizer, messages):
    row = encode(tokenizer, Chat(tuple(Message(**turn) for turn in messages)), None)
    return tokenizer.decode([token for token in row["labels"] if token != -100]).split()


@pytest.mark.parametrize("template", [TEMPLATE, MARKED], ids=["plain", "marked"])
def test_only_the_assistants_turns_count(tmp_path, template):
    save_language_model(tmp_path, template)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    expected = ["was", "good", "</im>", "say", "nice", "</im>"]
    assert said(tokenizer, chats(1)[0]["messages"]) == expected


def test_a_template_known_to_trl_is_taken_in_its_version_with_marks(tmp_path):
    from trl.chat_template_utils import qwen3_chat_template

    save_language_model(tmp_path, qwen3_chat_template)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    spoken = said(tokenizer, chats(1)[0]["messages"])
    assert "good" in " ".join(spoken)
    assert "film" not in " ".join(spoken)


@pytest.mark.parametrize("spelling", ["sharegpt", "json in a csv"])
def test_chats_in_other_spellings(place, tmp_path, spelling):
    turns = chats(8)
    if spelling == "sharegpt":
        names = {"user": "human", "assistant": "gpt", "system": "system"}
        rows = [
            {"conversations": [{"from": names[t["role"]], "value": t["content"]} for t in row["messages"]]}
            for row in turns
        ]
        file = save_rows(tmp_path / "chats.jsonl", rows)
    else:
        lines = ['"' + json.dumps(row["messages"]).replace('"', '""') + '"' for row in turns]
        file = tmp_path / "chats.csv"
        file.write_text("\n".join(["messages", *lines]) + "\n")
    expected = finetune(make(place, tmp_path / "a", "chats", train=str(place / "chats.jsonl"), epochs=1, limit=8))
    found = finetune(make(place, tmp_path / "b", "chats", train=str(file), validation=str(file), epochs=1))
    assert found.examples == (8, 8)
    assert expected.before["loss"] > 0 < found.before["loss"]
    assert evaluate(tmp_path / "b", file).measures == found.after


CHAT = {"role": "user", "content": "the film"}, {"role": "assistant", "content": "was good"}


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (
            [{"a": "x", "b": "y"}] * 4,
            {"kind": "causal"},
            "has no column of texts, prompts and completions, or",
        ),
        (
            [{"a": "x", "b": "y"}] * 4,
            {},
            r"What .* is for is unclear, as its columns are a, b; say with kind",
        ),
        ([{"a": "x"}] * 4, {"messages_column": "m"}, "has no column 'm'; its columns are a"),
        (
            [{"a": "x"}] * 4,
            {"prompt_column": "a"},
            "prompt is 'a' and completion is None; name the columns of both",
        ),
        ([{"messages": "x"}] * 4, {}, "Row 1 of .* holds the str 'x' where a chat should be; expected a list of"),
        ([{"messages": [CHAT[0]]}] * 4, {}, "chat in row 1 of .* has no turn of the assistant's after another"),
        ([{"messages": [*CHAT, {"role": "user"}]}] * 4, {}, "A turn of the chat in row 1 .* is the dict .* expected"),
        ([{"text": None}] * 4, {}, "4 rows of .* have no text in the column 'text'"),
        (
            pairs(4),
            {"max_length": 2},
            "Nothing is left to learn of the first 2 tokens of any example; raise",
        ),
        (pairs(4), {"measures": ("f1",)}, "measures names 'f1', but the kind causal has loss, perplexity"),
    ],
)
def test_unfit_rows_leave_nothing_behind(place, tmp_path, rows, changes, message):
    (tmp_path / "data").mkdir()
    file = save_rows(tmp_path / "data" / "rows.jsonl", rows)
    with pytest.raises(TTValueError, match=message):
        finetune(make(place, tmp_path / "run", train=file, validation=file, **changes))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_the_model_lacks_is_named(place, tmp_path):
    save_language_model(tmp_path / "bare", template=None)
    with pytest.raises(TTValueError, match="has no template for chats; take a model that was tuned for chats"):
        finetune(make(place, tmp_path / "run", "chats", model=str(tmp_path / "bare")))
    save_language_model(tmp_path / "forgetful", template=FORGETFUL)
    with pytest.raises(TTValueError, match="writes a turn in another way once more turns follow"):
        finetune(make(place, tmp_path / "run", "chats", model=str(tmp_path / "forgetful")))
    save_language_model(tmp_path / "endless", pad_token=None, eos_token=None)
    with pytest.raises(TTFileError, match="has neither a token to pad with nor one that ends texts; set its pad_token"):
        finetune(make(place, tmp_path / "run", model=str(tmp_path / "endless")))
    assert not list(tmp_path.glob("run*"))


def test_rows_too_long_to_learn_from_are_told(place, tmp_path, caplog):
    long = {"prompt": "the film was " * 20, "completion": "good"}
    file = save_rows(tmp_path / "rows.jsonl", [*pairs(7), long])
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        result = finetune(make(place, tmp_path / "run", train=file, epochs=1))
    assert "1 of the 8 training examples are left out, as nothing is to be learnt of their first 32" in caplog.text
    assert result.steps == 1
    with pytest.raises(TTValueError, match="No token of the 1 examples to judge by counts within the first 32"):
        evaluate(tmp_path / "run", save_rows(tmp_path / "long.jsonl", [long]))


def test_the_extra_is_named(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'trl'.*pip install 'ttnet-torch\[trl\]'"):
        finetune(make(place, tmp_path / "run"))


def test_a_device_that_is_not_there_is_refused(place, tmp_path):
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(TTValueError, match=f"device is '{absent}', which this machine does not have"):
        finetune(make(place, tmp_path / "run", device=absent))


def test_a_base_model_is_named_and_stays_as_it_was(place, tmp_path):
    before = AutoModelForCausalLM.from_pretrained(place / "model").state_dict()
    finetune(make(place, tmp_path / "run", epochs=1))
    after = AutoModelForCausalLM.from_pretrained(place / "model").state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert json.loads((tmp_path / "run" / "adapter" / "finetune.json").read_text())["kind"] == "causal"


def test_the_page_shows_chats_by_their_loss(place, tmp_path):
    finetune(make(place, tmp_path / "run", "chats", epochs=1))
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert html.index("<h3>Highest loss</h3>") < html.index("<h3>Lowest loss</h3>")
    assert "<blockquote>system: say\nuser: the " in html
    assert "<dt>wanted</dt><dd>say nice</dd><dt>before</dt><dd>loss " in html
