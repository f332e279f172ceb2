"""Reading labelled text: kinds of files, columns, labels, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from ttnet.errors import TTError, TTFileError, TTValueError
from ttnet_llm.training import metrics
from ttnet_llm.training.data import find_columns, load_files, load_glue
from ttnet_llm.training.tables import Table, read_table

FRAME = pd.DataFrame({"sentence": ["NA", "two", "three"], "label": [0, 1, 0]})


def write(frame, path):
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_kind_of_file_gives_the_same_task(tmp_path, suffix):
    path = write(FRAME, tmp_path / f"a{suffix}")
    task = load_files(path, path)
    assert task.train.texts == ["NA", "two", "three"]  # a word, and not a missing value
    assert task.train.labels.tolist() == [0, 1, 0]
    assert task.names == ("0", "1")
    assert task.measures == ("accuracy",)


def test_pairs_strings_and_fractions(tmp_path):
    pairs = pd.DataFrame({"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": ["yes", "no"]})
    path = write(pairs, tmp_path / "pairs.csv")
    task = load_files(path, path)
    assert task.train.texts == [("a", "c"), ("b", "d")]
    assert task.names == ("no", "yes")
    assert task.train.labels.tolist() == [1, 0]
    path = write(FRAME.assign(label=[0.5, -1.0, 2.0]), tmp_path / "regression.csv")
    task = load_files(path, path)
    assert task.names is None
    assert task.measures == ("pearson",)
    assert task.train.labels.tolist() == [0.5, -1.0, 2.0]


def test_named_columns_win_over_guesses(tmp_path):
    frame = FRAME.assign(title=["x", "y", "z"], stars=["low", "high", "low"])
    columns = find_columns(Table("f", frame.to_dict("list")), ["title"], "stars")
    assert (columns.text, columns.label) == (("title",), "stars")


def test_take_draws_by_seed(tmp_path):
    frame = pd.DataFrame({"text": [str(k) for k in range(50)], "label": [k % 2 for k in range(50)]})
    split = load_files(*[write(frame, tmp_path / "a.csv")] * 2).train
    assert split.take(10, 0).texts == split.take(10, 0).texts != split.take(10, 1).texts
    drawn = split.take(10, 0)
    assert [int(text) % 2 for text in drawn.texts] == drawn.labels.tolist()
    assert split.take(None, 0) is split


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (FRAME, {"text_columns": ["body"]}, "no column 'body'; its columns are sentence, label"),
        (FRAME, {"label_column": "stars"}, "no column 'stars'; its columns are sentence, label"),
        (FRAME, {"text_columns": ["a", "b", "c"]}, "text_columns names 3"),
        (FRAME.drop(columns="label"), {}, "say --label-column"),
        (FRAME.rename(columns={"sentence": "x"}).assign(y="b"), {}, "say --text-column, one of x, label, y"),
        (FRAME.assign(label=[0, -1, 1]), {}, "1 of 3 rows .* have no label"),
        (FRAME.assign(label=["a", None, "b"]), {}, "1 of 3 rows .* have no label"),
        (
            FRAME.assign(label=[0, 2, 0]),
            {},
            r"labels of .* are 0, 2: integers, but not 0, 1, \.\.\. without a gap; say with kind",
        ),
        (FRAME.assign(label=[0, 0, 0]), {}, "labels of .* are 0; expected two or more"),
        (FRAME.assign(sentence=["a", None, "b"]), {}, "1 rows of .* have no text in the column 'sentence'"),
    ],
)
def test_what_is_refused(tmp_path, frame, options, message):
    path = write(frame, tmp_path / "a.jsonl")
    with pytest.raises(TTValueError, match=message):
        load_files(path, path, **options)


@pytest.mark.parametrize("labels", [[0, 1, 7], [0, 1, -2]])
def test_label_outside_the_training_range(tmp_path, labels):
    train = write(FRAME, tmp_path / "train.csv")
    validation = write(FRAME.assign(label=labels), tmp_path / "validation.csv")
    with pytest.raises(TTValueError, match=rf"has the label {labels[2]}, which is outside the range .*\(0, 1\)"):
        load_files(train, validation)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "There is no file"),
        ("a.pdf", "x", r"expected a file ending in \.csv, \.tsv, \.json, \.jsonl, \.parquet, \.txt"),
        ("a.jsonl", "{broken", "not a well-formed jsonl file"),
        ("a.parquet", "not parquet", "not a well-formed parquet file"),
        ("a.csv", "text,label\n", "holds no rows"),
        ("b.csv", "", "holds no rows"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(TTFileError, match=message):
        read_table(tmp_path / name)


def test_glue_offline_says_what_to_do(tmp_path, monkeypatch):
    import datasets

    with pytest.raises(TTValueError, match=r"task is 'sst3'; did you mean 'sst2'\? expected one of .*sst2"):
        load_glue("sst3")

    def offline(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(TTError, match="name files with --train and --validation"):
        load_glue("sst2")


def test_glue_keeps_its_names_and_measures(monkeypatch):
    import datasets

    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["not_equivalent", "equivalent"]),
        }
    )
    split = datasets.Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "label": [1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a: {"train": split, "validation": split})
    task = load_glue("mrpc")
    assert task.names == ("not_equivalent", "equivalent")
    assert task.measures == ("accuracy", "f1")
    assert task.train.texts == [("a", "b")]


def test_measures_agree_with_their_definitions():
    rng = np.random.default_rng(0)
    predictions, labels = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    tp, tn = np.sum(predictions & labels), np.sum((1 - predictions) & (1 - labels))
    fp, fn = np.sum(predictions & (1 - labels)), np.sum((1 - predictions) & labels)
    root = np.sqrt(float((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))
    assert metrics.matthews(predictions, labels) == pytest.approx((tp * tn - fp * fn) / root)
    assert metrics.f1(predictions, labels) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert metrics.accuracy(predictions, labels) == pytest.approx((tp + tn) / 200)
    x, y = rng.normal(size=50), rng.normal(size=50)
    assert metrics.pearson(x * 1e-200, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert metrics.pearson(np.ones(5), np.arange(5)) == 0.0
    assert metrics.f1(np.zeros(3), np.zeros(3)) == 0.0
