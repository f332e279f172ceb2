"""What a run takes from files: the kind, the columns, and what is held out."""

import json
import logging
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ttnet_llm.tiny import rows, save_rows
from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.training import FinetuneSettings
from ttnet_llm.training.data import Split
from ttnet_llm.training.details import Columns, Details
from ttnet_llm.training.kinds import KINDS
from ttnet_llm.training.kinds.kind import Task
from ttnet_llm.training.open_task import hold_out, open_task
from ttnet_llm.training.settings import KINDS as NAMES


def settings(train, **changes):
    return FinetuneSettings("model", "output", train=str(train), **changes)


def test_the_settings_know_the_kinds():
    assert tuple(KINDS) == NAMES


@given(
    texts=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_input_is_on_both_sides(texts, share, seed):
    split = Split(texts, np.arange(len(texts)))
    task = Task(split, None, Details(Columns(("text",), "label"), 8, ("accuracy",)), "classes")
    if len(set(texts)) < 2:
        with pytest.raises(TTValueError, match="hold 1 different examples, of which none can be held out; name a"):
            hold_out(task, share, seed)
        return
    found = hold_out(task, share, seed)
    assert found.train.texts
    assert found.validation.texts
    assert not set(found.train.texts) & set(found.validation.texts)
    together = [*found.train.labels.tolist(), *found.validation.labels.tolist()]
    assert sorted(together) == list(range(len(texts)))
    assert [texts[k] for k in found.validation.labels] == found.validation.texts
    assert hold_out(task, share, seed).validation.texts == found.validation.texts
    # No more is held out than asked for but by the last draw, whose copies go along.
    most = max(texts.count(text) for text in texts)
    assert len(found.validation) < share * len(texts) + most


def test_another_seed_holds_out_others_and_that_is_told(tmp_path, caplog):
    records = [{"text": f"the film was {k}", "label": "good" if k % 2 else "bad"} for k in range(50)]
    file = save_rows(tmp_path / "rows.jsonl", records)
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        _, first = open_task(settings(file))
    assert "5 of the 50 examples are held out to validate on, by the seed 0" in caplog.text
    assert (len(first.train), len(first.validation)) == (45, 5)
    _, other = open_task(settings(file, seed=1, validation_share=0.3))
    assert len(other.validation) == 15
    assert first.validation.texts != other.validation.texts[:5]


def test_examples_in_both_files_are_told(tmp_path, caplog):
    train = save_rows(tmp_path / "train.jsonl", rows(8))
    both = save_rows(tmp_path / "both.jsonl", [*rows(3), {"text": "the new one", "label": "good"}])
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        open_task(settings(train, validation=both))
    assert "3 of the 4 validation examples are in the training data, too" in caplog.text


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"text": "a", "label": "x"}, "classify"),
        ({"text": "a", "score": 0.5}, "regress"),
        ({"text": "a", "labels": ["x", "y"]}, "classify"),
        ({"text": "a"}, "causal"),
        ({"essay": "a"}, "causal"),
        ({"instruction": "a", "output": "b", "id": 1}, "causal"),
        ({"tokens": ["a", "b"], "ner_tags": ["B-X", "O"]}, "tokens"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "causal"),
    ],
)
def test_the_kind_is_guessed_and_said(tmp_path, caplog, row, kind):
    other = {name: f"{value}y" if isinstance(value, str) else value for name, value in row.items()}
    if "messages" in row:
        other["messages"] = [{"role": "user", "content": "c"}, row["messages"][1]]
    if "tokens" in row:
        other["tokens"] = ["c", "d"]
    if "score" in row:
        other["score"] = 1.5
    file = save_rows(tmp_path / "rows.jsonl", [row, other])
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        found, _ = open_task(settings(file))
    assert found.name == kind
    assert f"The kind is {kind}, as " in caplog.text
    assert caplog.text.count("2 classes") == (kind == "classify")  # what the labels are is said once


def test_words_without_tags_are_no_texts(tmp_path):
    file = save_rows(tmp_path / "rows.jsonl", [{"tokens": ["Ada", "sings"]}])
    with pytest.raises(TTValueError, match=r"What '.*rows.jsonl' is for is unclear, as its columns are tokens; say"):
        open_task(settings(file))


def test_a_folder_and_every_column_by_name(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for k in range(2):
        save_rows(folder / f"{k}.jsonl", [{"body": f"{k} {j}", "stars": j % 2} for j in range(4)])
    _, task = open_task(settings(folder, text_columns=("body",), label_column="stars"))
    assert len(task.train) + len(task.validation) == 8
    assert task.details.columns == Columns(("body",), "stars")


def test_a_data_set_of_the_hub(tmp_path, monkeypatch, caplog):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    split = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 1]}, features=features)
    held = datasets.DatasetDict({"train": split, "validation": split})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: held)
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        kind, task = open_task(settings("owner/reviews"))
    assert (kind.name, task.names) == ("classify", ("no", "yes"))
    assert task.train.labels.tolist() == task.validation.labels.tolist() == [0, 1, 1]
    assert "'owner/reviews' is read from the hub or its cache: train and validation" in caplog.text
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict({"test": split}))
    with pytest.raises(TTFileError, match="'owner/reviews' has no split 'train' but test; save one as a file"):
        open_task(settings("owner/reviews"))


def test_what_is_neither_here_nor_on_the_hub(monkeypatch):
    def absent(name):
        raise datasets.exceptions.DatasetNotFoundError(name)

    monkeypatch.setattr(datasets, "load_dataset", absent)
    with pytest.raises(TTFileError, match="'nobody/nothing' is neither a file or a folder, nor a data set"):
        open_task(settings("nobody/nothing"))
    with pytest.raises(TTFileError, match=r"There is no file 'reviews\.csv'; check the path"):
        open_task(settings("reviews.csv"))


def test_details_of_the_first_version_are_read(tmp_path):
    from ttnet_llm.training.details import DETAILS, find_saved, read_details

    (tmp_path / "adapter").mkdir()
    first = {"text_columns": ["a", "b"], "label_column": "c", "max_length": 8, "measures": ["f1"]}
    Path(tmp_path, "adapter", DETAILS).write_text(json.dumps(first))
    found = read_details(find_saved(tmp_path))
    assert found == Details(Columns(("a", "b"), "c"), 8, ("f1",), "classify")
    found.write(tmp_path / "adapter")
    assert read_details(find_saved(tmp_path)) == found
