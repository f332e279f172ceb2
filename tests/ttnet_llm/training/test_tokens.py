"""Token classification: words and their tags, from files to measures, predictions and the card."""

import json
import logging
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import AutoPeftModelForTokenClassification
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertConfig, PreTrainedTokenizerFast
from typer.testing import CliRunner

import ttnet_llm
from tests.ttnet_llm.tiny import WORDS, save_model, save_rows
from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm.command_line.cli import app
from ttnet_llm.inference import Predictor
from ttnet_llm.training import FinetuneSettings, evaluate, finetune, load_finetuned
from ttnet_llm.training.data import load_hub
from ttnet_llm.training.entities import entity_f1, find_entities, mark_entities
from ttnet_llm.training.evaluation import guess_details, write_predictions
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.kinds.tokens import IGNORED, Sentence, tokenize
from ttnet_llm.training.kinds.words import CUT, encode_words
from ttnet_llm.training.open_task import open_task
from ttnet_llm.training.tables import Table, read_table

TAG = {"film": "B-ART", "song": "B-ART", "good": "I-ART", "great": "I-ART"}


def sentences(count):
    """Some words begin an entity, and adjectives that follow go on with it."""
    return [
        {
            "tokens": (words := ["the", WORDS[8 + k % 4], WORDS[k % 8], "was"]),
            "tags": ["O", tag := TAG.get(words[1], "O"), TAG.get(words[2], "O") if tag != "O" else "O", "O"],
        }
        for k in range(count)
    ]


def as_conll(rows):
    lines = ["-DOCSTART- -X- O", ""]
    for row in rows:
        lines += [f"{word}\t_ {tag}" for word, tag in zip(row["tokens"], row["tags"], strict=True)] + [""]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    save_model(folder / "model")
    save_rows(folder / "rows.jsonl", sentences(32))
    (folder / "rows.conll").write_text(as_conll(sentences(32)))
    return folder


def make(place, output, **changes):
    options = {
        "model": str(place / "model"),
        "output": str(output),
        "train": str(place / "rows.jsonl"),
        "validation": str(place / "rows.jsonl"),
        "epochs": 12,
        "batch_size": 8,
        "max_length": 16,
        "learning_rate": 2e-2,
        "device": "cpu",
    }
    return FinetuneSettings(**options | changes)


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    """The folder of a run, and its result."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, finetune(make(place, folder))


def test_it_learns_says_what_it_took_and_is_loaded(place, run):
    folder, result = run
    assert (result.kind, list(result.after)) == ("tokens", ["entity_f1", "accuracy"])
    assert result.after["entity_f1"] > 0.9 > result.before["entity_f1"]
    assert result.after["accuracy"] > 0.95
    words = "words in the column tokens with a tag for each in tags, of 3 tags (B-ART, I-ART, O), which mark entities"
    assert result.labels.startswith(words)
    found = evaluate(folder, place / "rows.jsonl")
    assert found.measures == result.after
    assert np.array_equal(found.logits, np.load(folder / "tags.npy"))
    assert evaluate(folder, place / "rows.conll").measures == result.after
    report = (folder / "report.md").read_text()
    assert words in report
    page = (folder / "report.html").read_text()
    assert "<h3>Right, and not before</h3>" in page
    assert "<dt>wanted</dt><dd>film/B-ART good/I-ART</dd>" in page
    card = (folder / "adapter" / "README.md").read_text()
    assert "pipeline_tag: token-classification" in card
    assert "| classes | B-ART, I-ART, O |" in card


def test_the_tags_are_those_that_the_model_gives(place, run, monkeypatch, capsys):
    folder, _ = run
    model, tokenizer = ttnet_llm.load(folder)
    plain = AutoPeftModelForTokenClassification.from_pretrained(folder / "adapter").eval()
    assert plain.config.id2label == model.config.id2label == {0: "B-ART", 1: "I-ART", 2: "O"}
    ids = tokenizer("the film good was", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        assert torch.equal(plain(input_ids=ids).logits, logits)
        assert torch.equal(load_finetuned(folder)[0](input_ids=ids).logits, logits)
    expected = [model.config.id2label[int(k)] for k in logits[0, 1:-1].argmax(-1)]
    answers = Predictor(model, tokenizer)(["the film good was", ["the", "film", "good", "was"]])
    assert [answer["prediction"] for answer in answers] == [expected, expected]
    assert expected == ["O", "B-ART", "I-ART", "O"]
    monkeypatch.chdir(folder / "adapter")
    exec((folder / "adapter" / "README.md").read_text().split("```python")[1].split("```")[0], {})
    assert "'words': ['Ada', 'Lovelace', 'was', 'here']" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".conll", ".txt"])
def test_files_of_words_in_lines(place, tmp_path, suffix, caplog):
    file = tmp_path / f"rows{suffix}"
    file.write_text(as_conll(sentences(32)))
    kind = None if suffix == ".conll" else "tokens"
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        result = finetune(make(place, tmp_path / "run", train=str(file), validation=str(file), kind=kind, epochs=1))
    assert result.examples == (32, 32)
    assert evaluate(tmp_path / "run", file).measures == result.after
    assert ("The kind is tokens, as" in caplog.text) == (kind is None)


def test_tables_of_lists(tmp_path):
    table = read_table(save_rows(tmp_path / "a.jsonl", sentences(4)))
    (tmp_path / "a.conll").write_text(as_conll(sentences(4)))
    (tmp_path / "b.conll").write_text("Ada\nsings\n\n\nHi\n")
    assert dict(read_table(tmp_path / "a.conll").columns) == dict(table.columns)
    assert dict(read_table(tmp_path / "b.conll").columns) == {"tokens": [["Ada", "sings"], ["Hi"]]}
    (tmp_path / "c.conll").write_text("Ada B-PER\nsings\n")
    with pytest.raises(TTFileError, match=r"line 2 has 1 columns where the first has 2; expected a word and its tag"):
        read_table(tmp_path / "c.conll")


def test_classes_of_a_data_set_are_tags_by_their_names(monkeypatch):
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-PER"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": tags})
    split = datasets.Dataset.from_dict({"tokens": [["Ada", "sings"]], "ner_tags": [[1, 0]]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict({"train": split}))
    assert load_hub("owner/people")["train"].cells("ner_tags") == [["B-PER", "O"]]


SCHEMES = {
    "IOB2": lambda size: ["B", *["I"] * (size - 1)],
    "BIOES": lambda size: ["S"] if size == 1 else ["B", *["I"] * (size - 2), "E"],
    "BILOU": lambda size: ["U"] if size == 1 else ["B", *["I"] * (size - 2), "L"],
}
PARTS = st.lists(st.tuples(st.sampled_from(["O", "PER", "LOC", "B-X"]), st.integers(1, 4)), max_size=8)


@given(parts=PARTS, scheme=st.sampled_from([*SCHEMES, "IOB1"]))
def test_entities_are_read_back_from_every_scheme(parts, scheme):
    tags, expected, before = [], set(), "O"
    for kind, size in parts:
        begin = len(tags)
        if kind == "O":
            tags += ["O"] * size
        else:
            first = "B" if before == kind else "I"  # IOB1 says where one begins only next to another of its type
            marks = [first, *["I"] * (size - 1)] if scheme == "IOB1" else SCHEMES[scheme](size)
            tags += [f"{mark}-{kind}" for mark in marks]
            expected.add((kind, begin, begin + size))
        before = kind
    assert find_entities(tags) == expected
    assert entity_f1([tags], [tags]) == (1.0 if expected else 0.0)
    assert mark_entities(tags) == bool(expected)


@given(st.lists(st.lists(st.sampled_from(["O", "B-A", "I-A", "B-C", None]), min_size=4, max_size=4), min_size=2))
def test_the_score_is_that_of_all_entities_together(rows):
    said, wanted = rows[: len(rows) // 2], rows[-(len(rows) // 2) :]
    ours = {(k, *entity) for k, tags in enumerate(said) for entity in find_entities(tags)}
    theirs = {(k, *entity) for k, tags in enumerate(wanted) for entity in find_entities(tags)}
    precision, recall = (len(ours & theirs) / max(1, len(side)) for side in (ours, theirs))
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert entity_f1(said, wanted) == pytest.approx(expected)


def bytes_tokenizer(**options):
    tokenizer = Tokenizer(models.BPE({c: k for k, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="!", **options)


def test_only_the_first_piece_of_a_word_counts():
    rows = [Sentence(("Ada", "is", ""), (1, 0, 1)), Sentence(("Ada",), (1,))]
    found = tokenize(bytes_tokenizer(), rows, 5)
    assert found[0]["labels"] == [1, IGNORED, IGNORED, IGNORED, 0]
    assert found[1]["labels"] == [1, IGNORED, IGNORED, IGNORED]


def test_words_are_read_as_they_are_inside_of_texts():
    tokenizer = bytes_tokenizer(padding_side="left")
    encoded, firsts = encode_words(tokenizer, [["Ada", "is", "in"], ["x"]], padding=True)
    assert encoded["input_ids"][0] == tokenizer(" Ada is in")["input_ids"]
    assert firsts == [[0, 4, 7], [8]]
    encoded, firsts = encode_words(tokenizer, [["Ada", "is", "in"]], truncation=True, max_length=6)
    assert firsts == [[0, 4, CUT]]


def test_words_that_are_cut_off_are_wrong(place, caplog):
    model = AutoModelForTokenClassification.from_pretrained(place / "model", id2label={0: "O", 1: "B-X"})
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([-99.0, 99.0]))
    kind, tokenizer = find_kind("tokens"), AutoTokenizer.from_pretrained(place / "model")
    table = Table("a.jsonl", {"words": [["the", "film", "was"]], "tags": [["B-X", "B-X", "O"]]})
    details = guess_details(model, table)
    assert (details.columns.text, details.columns.label, details.measures) == (
        ("words",),
        "tags",
        ("entity_f1", "accuracy"),
    )
    rows = kind.rows(table, details, model.config)
    assert kind.judge(model, tokenizer, rows, details).measures == {"entity_f1": 0.8, "accuracy": 2 / 3}
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        found = kind.judge(model, tokenizer, rows, replace(details, max_length=4))  # [CLS] the film [SEP]
    assert found.measures == {"entity_f1": 1.0, "accuracy": 2 / 3}
    assert kind.answers(found.outputs, None, model.config) == [["B-X", "B-X", None]]
    assert "1 words are cut off, as sentences are cut to 4 tokens" in caplog.text


def test_tags_of_single_words_have_an_accuracy_only(place, tmp_path):
    rows = [{"words": row["tokens"], "pos_tags": [WORDS.index(w) // 8 for w in row["tokens"]]} for row in sentences(16)]
    file = save_rows(tmp_path / "rows.jsonl", rows)
    result = finetune(make(place, tmp_path / "run", train=file, validation=file, epochs=8))
    assert list(result.after) == ["accuracy"]
    assert result.after["accuracy"] > 0.9
    assert "of 2 tags (0, 1), which mark single words" in result.labels
    found = evaluate(tmp_path / "run", file)
    write_predictions(found, tmp_path / "out.jsonl")
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert first == {"prediction": found.predictions[0], "tags": found.logits[0].tolist()}
    assert set(found.predictions[0]) <= {"0", "1"}
    config = BertConfig(id2label={0: "0", 1: "1"})
    assert find_kind("tokens").measures_for(config) == ("accuracy",)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([{"tokens": ["a"], "x": ["O"]}] * 4, {}, "has no columns of words and tags that are named as usual; say"),
        ([{"tokens": ["a"]}] * 4, {"label_column": "x"}, "has no column 'x'; say --text and --label, of tokens"),
        ([{"tokens": ["a", "b"], "tags": ["O"]}] * 4, {}, "Row 1 of .* has 2 words and 1 tags; expected a tag for"),
        ([{"tokens": "a b", "tags": ["O"]}] * 4, {}, "Row 1 of .* holds the str 'a b' in the column 'tokens'; expec"),
        ([{"tokens": ["a"], "tags": [1.5]}] * 4, {}, r"Row 1 of .* holds the list \[1.5\] in the column 'tags'"),
        ([{"tokens": [], "tags": []}] * 4, {}, r"Row 1 of .* holds the list \[\] in the column 'tokens'"),
        ([{"tokens": ["a"], "tags": ["O"]}] * 4, {}, "The labels of .* are O; expected two or more different ones"),
        (sentences(4), {"measures": ("loss",)}, "measures names 'loss', but the kind tokens has entity_f1, accuracy"),
    ],
)
def test_unfit_rows_are_refused(tmp_path, rows, changes, message):
    file = save_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(TTValueError, match=message):
        open_task(FinetuneSettings("model", "output", train=file, kind="tokens", **changes))


def test_columns_have_to_be_there_and_tags_known(run, tmp_path):
    for rows, message in [
        ([{"tokens": ["a"]}], "has no column 'tags'; its columns are tokens"),
        ([{"tokens": ["a"], "tags": ["B-Y"]}], "has the label B-Y, which is outside the range of the training labels"),
    ]:
        with pytest.raises(TTValueError, match=message):
            evaluate(run[0], save_rows(tmp_path / "rows.jsonl", rows))


def test_a_tokenizer_that_does_not_tell_words_apart_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(TTTypeError, match="The tokenizer Slow does not tell which piece is of which word; take"):
        encode_words(Slow(), [["a"]])


def test_words_are_tagged_from_the_command_line(run, tmp_path):
    (tmp_path / "new.conll").write_text("the\nfilm\ngood\n\nthe\nbook\n")
    done = CliRunner().invoke(app, ["predict", str(run[0]), "--data", str(tmp_path / "new.conll")])
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["prediction"] for record in records] == [["O", "B-ART", "I-ART"], ["O", "O"]]
    assert records[0]["tokens"] == ["the", "film", "good"]
