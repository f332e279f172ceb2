"""Texts with several labels at once: from lists and separated cells to measures, predictions and the card."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from peft import AutoPeftModelForSequenceClassification
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, BertConfig
from typer.testing import CliRunner

import ttnet_llm
from tests.ttnet_llm.tiny import GOOD, WORDS, save_model, save_rows
from ttnet.errors import TTValueError
from ttnet_llm.command_line.cli import app
from ttnet_llm.inference import Predictor
from ttnet_llm.training import FinetuneSettings, evaluate, finetune, load_finetuned
from ttnet_llm.training.evaluation import guess_details
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.metrics import macro_f1, micro_f1, subset_accuracy
from ttnet_llm.training.open_task import open_task
from ttnet_llm.training.tables import Table

MEASURES = ["micro_f1", "macro_f1", "subset_accuracy"]


def reviews(count):
    """What the text is about, and whether it praises: some have both labels, some have one, some none."""
    rows = []
    for k in range(count):
        thing, adjective = WORDS[8 + k % 4], WORDS[(k // 4) % 8]
        labels = [*(["art"] if thing in ("film", "song") else []), *(["praise"] if adjective in GOOD else [])]
        rows.append({"text": f"the {thing} was {adjective}", "labels": labels})
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    save_model(folder / "model")
    save_rows(folder / "rows.jsonl", reviews(32))
    lines = ["text,labels", *(f"{row['text']},{' ; '.join(row['labels'])}" for row in reviews(32))]
    (folder / "rows.csv").write_text("\n".join(lines))
    return folder


def make(place, output, **changes):
    file = str(place / "rows.jsonl")
    options = {"epochs": 12, "batch_size": 8, "max_length": 16, "learning_rate": 1e-2, "device": "cpu"}
    return FinetuneSettings(
        str(place / "model"), str(output), **{"train": file, "validation": file} | options | changes
    )


@pytest.fixture(scope="module")
def run(place, tmp_path_factory):
    """The folder of a run, and its result."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, finetune(make(place, folder, targets="all-linear", epochs=20))


def test_it_learns_says_what_it_took_and_is_loaded(place, run, monkeypatch, capsys):
    folder, result = run
    assert (result.kind, list(result.after)) == ("classify", MEASURES)
    assert result.after["micro_f1"] > 0.9 > result.before["micro_f1"]
    assert result.labels == "2 classes (art, praise), of which a text may have several, as the labels are lists"
    found = evaluate(folder, place / "rows.jsonl")
    assert found.measures == result.after
    assert found.labels.tolist()[:2] == [[1.0, 1.0], [0.0, 1.0]]
    model, tokenizer = ttnet_llm.load(folder)
    again, *_ = load_finetuned(folder)
    assert model.config.problem_type == again.config.problem_type == "multi_label_classification"
    plain = AutoPeftModelForSequenceClassification.from_pretrained(folder / "adapter").eval()
    assert plain.config.id2label == {0: "art", 1: "praise"}
    texts = [row["text"] for row in reviews(32)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.equal(plain(**inputs).logits, logits)
    answers = list(Predictor(model, tokenizer)(texts))
    names = ("art", "praise")
    for row, answer, said in zip(logits.sigmoid(), answers, found.predictions, strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx(row.tolist(), abs=1e-6)
        assert answer["prediction"] == said == [name for name, share in zip(names, row, strict=True) if share >= 0.5]
    assert {len(answer["prediction"]) for answer in answers} == {0, 1, 2}
    page = (folder / "report.html").read_text()
    assert "<h3>Right, and not before</h3>" in page
    assert "<dt>wanted</dt><dd>art, praise</dd>" in page
    monkeypatch.chdir(folder / "adapter")
    card = (folder / "adapter" / "README.md").read_text()
    exec(card.split("```python")[1].split("```")[0], {})
    assert "'probabilities': {'art': " in capsys.readouterr().out
    assert "| classes | art, praise |" in card


def test_a_whole_model_keeps_what_it_is(place, tmp_path):
    result = finetune(make(place, tmp_path / "run", method="full", epochs=1))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert model.config.problem_type == "multi_label_classification"
    assert evaluate(tmp_path / "run", place / "rows.jsonl").measures == result.after
    (tmp_path / "run" / "model" / "finetune.json").unlink()  # as of models from elsewhere
    found = evaluate(tmp_path / "run" / "model", place / "rows.jsonl")
    assert list(found.measures) == MEASURES
    assert found.measures == pytest.approx(result.after)


def test_cells_are_separated_when_that_is_said(place, tmp_path):
    file = str(place / "rows.csv")
    split = {"train": file, "validation": file, "label_separator": ";", "epochs": 1}
    result = finetune(make(place, tmp_path / "run", **split))
    assert result.labels.endswith("of which a text may have several, as ';' stands between the labels of a cell")
    lists = finetune(make(place, tmp_path / "lists", epochs=1))
    assert result.after == lists.after
    assert evaluate(tmp_path / "run", file).measures == result.after
    assert evaluate(tmp_path / "run", place / "rows.jsonl").measures == result.after
    with pytest.raises(TTValueError, match=r"Row 1 of .* holds the str 'art ; praise' where a list of labels should"):
        evaluate(tmp_path / "lists", file)
    both = [row for row in reviews(32) if row["labels"]]
    lines = ["text,label", *(f"{row['text']},{';'.join(row['labels'])}" for row in both)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    _, task = open_task(FinetuneSettings("model", "out", train=str(tmp_path / "rows.csv")))
    assert task.names == ("art", "art;praise", "praise")  # nobody said that these are two


def test_weights_of_half_the_size_learn_too(place, tmp_path):
    result = finetune(make(place, tmp_path / "run", dtype="bfloat16", epochs=1))
    assert np.isfinite(result.losses[-1][1])


CHOSEN = arrays.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 4)))


@given(st.data())
def test_measures_are_those_of_scikit_learn(data):
    said = data.draw(CHOSEN)
    right = data.draw(arrays.arrays(bool, said.shape))
    for ours, average in ((micro_f1, "micro"), (macro_f1, "macro")):
        # With one column scikit-learn would take the labels for those of two classes.
        columns = [np.concatenate([side, np.ones((len(side), 1), bool)], axis=1) for side in (right, said)]
        theirs = f1_score(*columns, average=average, zero_division=0)
        assert ours(columns[1].astype(int), columns[0].astype(np.float32)) == pytest.approx(theirs)
    assert subset_accuracy(said, right.astype(np.float32)) == np.mean(
        [a.tolist() == b.tolist() for a, b in zip(said, right, strict=True)]
    )


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([["a"], "b"], {}, r"Row 2 of .* holds the str 'b' where a list of labels should be; write lists of words"),
        ([["a"], None], {}, r"Row 2 of .* holds the NoneType None where a list of labels should be"),
        ([["a"], [1.5]], {}, r"Row 2 of .* holds the list \[1.5\] where"),
        ([["a"], ["a"]], {}, "The labels of .* are a; expected two or more different ones"),
        ([["a"], ["b"]], {"kind": "regress"}, "The labels of .* are lists, which make no regression; say --kind clas"),
        ([["a"], ["b"]], {"measures": ("accuracy",)}, "measures names 'accuracy', but the labels are 2 classes"),
        (
            [1.5, 2.5],
            {"label_separator": ";", "kind": "regress"},
            "label_separator was asked for, which the kind regress",
        ),
        (
            [1.5, 2.5],
            {"label_separator": ";", "kind": "causal"},
            "label_separator was asked for, which the kind causal",
        ),
    ],
)
def test_unfit_labels_are_refused(tmp_path, rows, changes, message):
    file = save_rows(tmp_path / "rows.jsonl", [{"text": f"t{k}", "label": cell} for k, cell in enumerate(rows)])
    with pytest.raises(TTValueError, match=message):
        open_task(FinetuneSettings("model", "output", train=file, **changes))


def test_labels_have_to_be_known(run, tmp_path):
    with pytest.raises(TTValueError, match="has the label rock, which is outside the range of the training labels"):
        evaluate(run[0], save_rows(tmp_path / "rows.jsonl", [{"text": "x", "labels": ["art", "rock"]}]))


def test_cells_are_parted_where_training_had_lists(place, run):
    folder, result = run
    assert evaluate(folder, place / "rows.csv", label_separator=";").measures == result.after
    done = CliRunner().invoke(
        app, ["evaluate", str(folder), "--data", str(place / "rows.csv"), "--label-separator", ";", "--json"]
    )
    assert json.loads(done.stdout) == result.after | {"examples": 32}


def test_a_model_from_elsewhere_is_judged_by_its_own_kind():
    names = {0: "a", 1: "b"}
    config = BertConfig(id2label=names, problem_type="multi_label_classification", num_hidden_layers=1)
    model = AutoModelForSequenceClassification.from_config(config)
    details = guess_details(model, Table("a.jsonl", {"text": ["x"], "labels": [["a"]]}))
    assert (details.kind, list(details.measures)) == ("classify", MEASURES)
    assert find_kind("classify").answers(np.array([[1.0, -1.0], [2.0, 0.0]]), None, config) == [["a"], ["a", "b"]]


def test_the_separator_is_kept_beside_the_adapter(place, tmp_path):
    file = str(place / "rows.csv")
    finetune(
        make(place, tmp_path / "run", train=file, validation=file, label_separator=";", epochs=0.25, method="head")
    )
    stored = json.loads((tmp_path / "run" / "adapter" / "finetune.json").read_text())
    assert stored["options"] == {"label_separator": ";"}
