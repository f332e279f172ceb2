"""Texts out of other texts, by models with an encoder and a decoder."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSeq2SeqLM
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast
from typer.testing import CliRunner

import ttnet_llm
from tests.ttnet_llm.models import llama, t5
from tests.ttnet_llm.tiny import WORDS, save_model, save_rows
from ttnet.errors import TTValueError
from ttnet_llm.command_line.cli import app
from ttnet_llm.inference import Generation, Predictor, generate
from ttnet_llm.training import FinetuneSettings, evaluate, finetune, load_finetuned
from ttnet_llm.training.evaluation import guess_details
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.kinds.causal import Passage
from ttnet_llm.training.kinds.seq2seq import encode
from ttnet_llm.training.open_task import guess_kind, open_task
from ttnet_llm.training.tables import Table


def bart():
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "init_std": 0.2}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 1}
    return BartForConditionalGeneration(BartConfig(**sizes, **heads, **tokens, vocab_size=64, forced_eos_token_id=None))


MODELS = {"t5": t5, "bart": bart}


def save_writer(folder, name="t5"):
    """A model that reads and writes, with a tokenizer that begins texts as its kind does."""
    words = ["<pad>", "</s>", "<s>", "<unk>", "say", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    begin = "<s> " if name == "bart" else ""
    specials = [("<s>", 2), ("</s>", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin}$A </s>", special_tokens=specials)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    MODELS[name]().save_pretrained(folder)
    return folder


def documents(count):
    """What is to be written is the last word of what is read."""
    return [
        {"document": f"the {WORDS[8 + k % 4]} was {WORDS[k % 4]}", "summary": f"say {WORDS[k % 4]}"}
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seq2seq")
    for name in MODELS:
        save_writer(folder / name, name)
    save_rows(folder / "rows.jsonl", documents(32))
    return folder


def make(place, output, model="t5", **changes):
    file = str(place / "rows.jsonl")
    options = {"epochs": 12, "batch_size": 8, "max_length": 16, "learning_rate": 2e-2, "device": "cpu"}
    return FinetuneSettings(
        str(place / model),
        str(output),
        **{"train": file, "validation": file, "targets": "all-linear"} | options | changes,
    )


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    """The folder of a run, and its result."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, finetune(make(place, folder))


def test_it_learns_says_what_it_took_and_is_loaded(place, run):
    folder, result = run
    assert (result.kind, list(result.after)) == ("seq2seq", ["loss", "perplexity", "token_accuracy"])
    assert result.after["loss"] < 0.5 * result.before["loss"]
    assert result.after["perplexity"] == pytest.approx(math.exp(result.after["loss"]))
    assert result.labels == "texts to read in the column document and to write in summary"
    found = evaluate(folder, place / "rows.jsonl")
    assert found.measures == result.after
    assert np.array_equal(found.logits, np.load(folder / "losses.npy"))
    model, tokenizer = ttnet_llm.load(folder)
    plain = AutoPeftModelForSeq2SeqLM.from_pretrained(folder / "adapter").eval()
    ids = tokenizer("the film was good", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids, labels=ids).logits
        assert torch.equal(plain(input_ids=ids, labels=ids).logits, logits)
        assert torch.equal(load_finetuned(folder)[0](input_ids=ids, labels=ids).logits, logits)
    assert "pipeline_tag: text2text-generation" in (folder / "adapter" / "README.md").read_text()
    page = (folder / "report.html").read_text()
    assert "<blockquote>the film was " in page
    assert "<dt>wanted</dt><dd>say " in page


def test_it_writes_what_the_model_generates(place, run, tmp_path, monkeypatch, capsys):
    folder, _ = run
    model, tokenizer = ttnet_llm.load(folder)
    ids = tokenizer("the film was good", return_tensors="pt")["input_ids"]
    expected = tokenizer.decode(model.generate(input_ids=ids, max_new_tokens=4)[0], skip_special_tokens=True)
    how = Generation(max_new_tokens=4)
    assert generate(model, tokenizer, ["the film was good", "the book was sad"], how)[0] == expected
    assert expected.startswith("say ")
    (answer,) = Predictor(model, tokenizer, generation=how)(["the film was good"])
    assert answer == {"prediction": expected}
    data = ("--data", str(place / "rows.jsonl"), "--max-new-tokens", "4")
    records = [
        json.loads(line) for line in CliRunner().invoke(app, ["predict", str(folder), *data]).stdout.splitlines()
    ]
    assert len(records) == 32
    assert {record["prediction"].split()[0] for record in records} == {"say"}
    done = CliRunner().invoke(app, ["generate", str(folder), "--prompt", "the film was good", "--max-new-tokens", "4"])
    assert done.stdout.strip() == expected
    monkeypatch.chdir(folder / "adapter")
    exec((folder / "adapter" / "README.md").read_text().split("```python")[1].split("```")[0], {})
    assert "{'prediction': '" in capsys.readouterr().out


def test_prompts_are_cut_where_training_cut_them(place, run):
    model, tokenizer = ttnet_llm.load(run[0])
    how = Generation(max_new_tokens=3)
    long = "the film was good song song song"
    cut = generate(model, tokenizer, [long], how, max_length=5)
    assert encode(tokenizer, Passage(long, "say"), 5)["input_ids"] == tokenizer("the film was good")["input_ids"]
    assert cut == generate(model, tokenizer, ["the film was good"], how)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_that_of_transformers(place, name):
    kind, model_name = find_kind("seq2seq"), str(place / name)
    model, tokenizer = kind.load(model_name, kind.configure(model_name, None))
    table = Table("a.jsonl", {"source": ["the film", "book", "x"], "target": ["good", "say nice song", "say good"]})
    details = guess_details(model, table)
    rows = kind.rows(table, details, model.config)
    found = kind.judge(model, tokenizer, rows, details, batch_size=2)
    losses, counts, right = [], [], 0
    for row in rows:
        labels = tokenizer(text_target=row.text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model(**tokenizer(row.prompt, return_tensors="pt"), labels=labels)
        losses.append(out.loss.item())
        counts.append(labels.shape[1])
        right += int((out.logits.argmax(-1) == labels).sum())
    np.testing.assert_allclose(found.outputs, losses, rtol=1e-4)
    assert found.measures["loss"] == pytest.approx(np.average(losses, weights=counts), rel=1e-4)
    assert found.measures["token_accuracy"] == pytest.approx(right / sum(counts))


def test_texts_end_so_that_the_model_learns_to_stop(place):
    tokenizer = AutoTokenizer.from_pretrained(place / "t5")
    assert encode(tokenizer, Passage("the", "good"), 8)["labels"][-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in encode(tokenizer, Passage("the", "good nice film song"), 3)["labels"]
    endless = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    endless.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=endless, eos_token="</s>")
    assert encode(tokenizer, Passage("a", "a a"), 8)["labels"] == [0, 0, 1]


def test_another_architecture_and_other_columns(place, tmp_path, caplog):
    rows = [{"q": row["document"], "a": row["summary"]} for row in documents(16)]
    file = save_rows(tmp_path / "rows.jsonl", rows)
    columns = {"prompt_column": "q", "completion_column": "a"}
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        result = finetune(make(place, tmp_path / "run", "bart", train=file, validation=file, epochs=4, **columns))
    assert result.after["loss"] < result.before["loss"]
    assert "The kind is seq2seq, as " in caplog.text
    assert "has the columns q and a, and " in caplog.text


@pytest.mark.parametrize(
    ("columns", "model", "kind"),
    [
        (("source", "target"), "t5", "seq2seq"),
        (("prompt", "completion"), "t5", "seq2seq"),
        (("prompt", "completion"), "nowhere", "causal"),
        (("text", "summary"), "bart", "seq2seq"),
        (("text", "target"), "t5", "classify"),
        (("text",), "t5", "causal"),
    ],
)
def test_the_kind_is_told_by_columns_and_model(place, columns, model, kind):
    table = Table("a.jsonl", {name: ["x", "y"] for name in columns})
    assert guess_kind(table, FinetuneSettings(str(place / model), "out", train="a.jsonl"))[0] == kind


def test_what_does_not_fit_is_refused(place, tmp_path):
    save_model(tmp_path / "encoder")
    with pytest.raises(
        TTValueError, match="a bert, which has no encoder and decoder as the kind seq2seq needs them; say"
    ):
        finetune(make(place, tmp_path / "run", model=str(tmp_path / "encoder"), kind="seq2seq"))
    table = {"a": "x", "b": "y"}
    file = save_rows(tmp_path / "rows.jsonl", [table] * 2)
    for changes, message in [
        (
            {},
            "has no columns of texts to read and to write that are named as usual, such as prompt and completion; say",
        ),
        ({"prompt_column": "a"}, "prompt is 'a' and completion is None; name the columns of both, of a, b"),
        ({"prompt_column": "c"}, "has no column 'c'; its columns are a, b"),
        (
            {"prompt_column": "a", "completion_column": "b", "measures": ("accuracy",)},
            "measures names 'accuracy', but the kind seq2seq has loss, perplexity, token_accuracy",
        ),
    ]:
        with pytest.raises(TTValueError, match=message):
            open_task(FinetuneSettings("model", "out", train=file, kind="seq2seq", **changes))
    assert not find_kind("seq2seq").judges(llama())
