"""What labels mean: classes or numbers, one class however it is written, and what would be a gamble."""

import csv
import datetime
import json
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttnet.errors import TTValueError
from ttnet_llm.training.data import load_files
from ttnet_llm.training.labels import encode, key_of, settle

DIGITS = [str(k) for k in range(11)]
WORDS = st.sampled_from(
    ["0", "1", "2", "10", "01", "1.0", "-1", "1e1", "true", "False", "yes", "no", "nan", "inf", " 2 "]
)


def save(path: Path, labels: list[object]) -> Path:
    rows = [{"text": f"text {k}", "label": label} for k, label in enumerate(labels)]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("train", ["quoted.jsonl", "numbers.jsonl", "a.csv", "quoted.parquet", "numbers.parquet"])
@pytest.mark.parametrize("test", ["quoted.jsonl", "numbers.jsonl", "floats.jsonl", "a.csv", "floats.parquet"])
def test_classes_named_by_numbers_are_the_same_in_all_files(tmp_path: Path, train: str, test: str) -> None:
    written = [*DIGITS, "10", "2"]
    kinds = {"quoted": str, "numbers": int, "floats": float, "a": str}
    train_path, test_path = (
        save(tmp_path / f"{k}-{name}", [kinds[name.split(".")[0]](label) for label in written])
        for k, name in enumerate((train, test))
    )
    task = load_files(train_path, test_path)
    assert task.names == tuple(DIGITS)  # in the order of the numbers, so that positions say the same
    assert task.train.labels.tolist() == task.validation.labels.tolist() == [int(label) for label in written]
    # Names in alphabetical order, as other programs sort them.
    alphabetical = sorted(DIGITS)
    found = encode([kinds[test.split(".")[0]](label) for label in written], test, alphabetical)
    assert [alphabetical[k] for k in found] == written


@given(st.lists(WORDS, min_size=2, max_size=6, unique_by=key_of), st.data(), st.booleans())
def test_a_label_is_never_another_class_than_the_one_that_it_names(
    train: list[str], data: st.DataObject, as_numbers: bool
) -> None:
    labels = data.draw(st.lists(st.sampled_from(train), min_size=1) | st.lists(WORDS, min_size=1))
    if as_numbers:
        labels = [float(label) if isinstance(key_of(label), int | float) else label for label in labels]
    names = settle(train, "train", kind="classify", typed=False).names
    assert names is not None
    keys, expected = set(map(key_of, names)), [key_of(label) for label in labels]
    if set(expected) <= keys:
        assert [key_of(names[k]) for k in encode(labels, "test", names)] == expected
    elif all(isinstance(key, str) for key in keys) and set(expected) <= set(range(len(names))):
        assert encode(labels, "test", names).tolist() == expected
    else:
        with pytest.raises(TTValueError):
            encode(labels, "test", names)


@pytest.mark.parametrize("names", [("01", "1"), ("1", "1.0"), ("true", "True")])
def test_what_may_be_either_of_two_classes_is_refused(names: tuple[str, str]) -> None:
    assert encode(list(names), "test", names).tolist() == [0, 1]
    number = True if "true" in names else 1
    with pytest.raises(
        TTValueError, match=f"The label {number} of 'test' may be any of the classes {names[0]}, {names[1]}"
    ):
        encode([number], "test", names)
    with pytest.raises(TTValueError, match=f"'{names[0]}' and '{names[1]}' of 'train' are one and the same"):
        settle([*names, "x"], "train", kind="classify")


@pytest.mark.parametrize(
    ("labels", "names", "unknown"),
    [
        ([0, 1, 2], ["1", "2", "3"], "0"),  # positions, but names go first
        ([0, 1], ["1", "2"], "0"),
        ([2], ["0", "1", "unknown"], "2"),  # nor is a position right for a class that is named otherwise
        ([True], ["0", "1"], "True"),
        ([1], ["False", "True"], "1"),
        (["good", 0], ["bad", "good"], "0"),  # names and positions in one file
        ([0, 2], ["bad", "good"], "2"),
        ([0.5], ["bad", "good"], "0.5"),
        (["Good"], ["bad", "good"], "Good"),
    ],
)
def test_positions_are_taken_for_words_only(labels: list[object], names: list[str], unknown: str) -> None:
    with pytest.raises(
        TTValueError, match=f"'test' has the label {unknown}, which is outside the range of the training"
    ):
        encode(labels, "test", names)


@pytest.mark.parametrize("labels", [[1, 0], ["1", "0"], [1.0, 0.0], [Decimal(1), Decimal(0)]])
def test_positions_of_words(labels: list[object]) -> None:
    assert encode(labels, "test", ["bad", "good"]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "typed", "names"),
    [
        (["good", "bad"], True, ("bad", "good")),
        ([1, 0, 2], True, ("0", "1", "2")),
        (["1", "0", "2"], False, ("0", "1", "2")),
        (["10", "9", "1"], True, ("1", "9", "10")),  # quoted, so that they are names
        ([0.0, 1.0], True, ("0", "1")),
        (["0", 1, "unknown"], True, ("0", "1", "unknown")),
        ([True, False], True, ("False", "True")),
        (["true", "false"], False, ("false", "true")),
        ([" good", "bad", "good "], False, ("bad", "good")),
        (["1,5", "one"], False, ("1,5", "one")),
        ([0.0, 1.0, 2.0, 5.0], True, None),
        (["0.0", "3.0", "5.0"], False, None),
        (["1.5", "2", "-1"], False, None),
        ([Decimal("1.5"), Decimal(2)], True, None),
    ],
)
def test_the_guess(labels: list[object], typed: bool, names: tuple[str, ...] | None) -> None:
    assert settle(labels, "train", typed=typed).names == names


@pytest.mark.parametrize(
    ("labels", "typed", "message"),
    [
        ([1, 2, 3, 4, 5], True, r"are 1, 2, 3, 4, 5: integers, but not 0, 1, \.\.\. without a gap"),
        (["1", "2", "5"], False, r"are 1, 2, 5: integers, but not"),
        ([-1, 0, 1], True, r"1 of 3 rows of 'train' have no label \(empty or -1\); use .* or if -1 is a label"),
        (["0.5", "1.5", "n/a"], False, "are decimal numbers, such as 0.5, and words, such as 'n/a'; correct them"),
        (["0.5", "1.5"], True, "such as '0.5', may be names or numbers; write numbers with a point and without quotes"),
        (["0,5", "1,5", "2"], False, "such as '0,5', may be names or numbers; write numbers with a point"),
    ],
)
def test_what_may_be_either_is_asked_for(labels: list[object], typed: bool, message: str) -> None:
    with pytest.raises(
        TTValueError, match=message + r".* say with kind \(--kind\) whether they are classes \(classify\)"
    ):
        settle(labels, "train", typed=typed)
    assert settle(labels, "train", typed=typed, kind="classify").names is not None


def test_what_was_asked_for_is_taken() -> None:
    assert settle([3, 1, 5], "train", kind="classify").names == ("1", "3", "5")
    assert settle([-1, 1.0, 0], "train", kind="classify").names == ("-1", "0", "1")
    assert settle([0.5, 1.0], "train", kind="classify").names == ("0.5", "1")
    meaning = settle(["1", "5"], "train", kind="regress")
    assert meaning.names is None
    assert meaning.reason == "numbers from 1 to 5 for a regression, as kind says"
    assert encode(["1", 5, 2.5, "1e-1"], "test", None).tolist() == pytest.approx([1, 5, 2.5, 0.1])
    assert encode([-1], "test", ["-1", "1"]).tolist() == [0]
    with pytest.raises(TTValueError, match="kind is 'rank'; expected 'classify', 'regress', or None for a guess"):
        settle([0, 1], "train", kind="rank")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("good", "row 2 of 'test' is 'good', no number as a regression needs it; correct it"),
        ("1,5", "row 2 of 'test' is '1,5', no number .*; write decimals with a point"),
        ("nan", "row 2 of 'test' is 'nan', no number"),
        (True, "row 2 of 'test' is True, no number"),
        ("1e39", "row 2 of 'test' is '1e39', which is too large for float32"),
    ],
)
def test_what_is_no_number_is_named(label: object, message: str) -> None:
    with pytest.raises(TTValueError, match=message):
        encode([1.0, label], "test", None)
    with pytest.raises(TTValueError, match=message.replace("test", "train")):
        settle([1.0, label], "train", kind="regress")


@pytest.mark.parametrize("names", [("a", "b"), None])
@pytest.mark.parametrize(
    ("label", "message"),
    [
        (["a", "c"], r"the list \['a', 'c'\]; expected a word or a finite number"),
        ({"a": 1}, "the dict {'a': 1}; expected a word or a finite number"),
        (b"a", "the bytes b'a'"),
        (datetime.date(2020, 1, 1), "the date datetime.date"),
        (float("inf"), "the float inf"),
        (10**400, "the int 1000"),
        ([0.1] * 99, r"the list .{57}\.\.\.; expected"),
    ],
)
def test_what_is_no_label_is_named(label: object, message: str, names: tuple[str, ...] | None) -> None:
    with pytest.raises(TTValueError, match=f"The label in row 2 of 'data' is {message}"):
        encode(["a", label], "data", names)
    with pytest.raises(TTValueError, match=f"The label in row 2 of 'data' is {message}"):
        settle(["a", label], "data")


@pytest.mark.parametrize("labels", [["a", None], ["a", ""], ["a", " "]])
def test_missing_labels_are_counted(labels: list[object]) -> None:
    for call in (lambda: settle(labels, "data"), lambda: encode(labels, "data", ["a", "b"])):
        with pytest.raises(
            TTValueError, match=r"1 of 2 rows of 'data' have no label \(empty or -1\); use a labelled file"
        ):
            call()
    with pytest.raises(TTValueError, match="2 of 2 rows of 'data' have no label"):
        settle([-1, -1], "data")
    with pytest.raises(TTValueError, match="2 of 2 rows of 'data' have no label"):
        encode([-1, "-1"], "data", ["bad", "good"])


def test_one_class_is_none() -> None:
    for labels in ([0, 0], ["a", "a"], [2.5, 2.5]):
        with pytest.raises(
            TTValueError, match=f"labels of 'train' are {labels[0]}; expected two or more different ones"
        ):
            settle(labels, "train")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_texts_that_are_none_are_named(tmp_path: Path, suffix: str) -> None:
    rows = [{"text": "fine", "label": 0}, {"text": "bad", "label": 1}]
    path = save(tmp_path / f"a{suffix}", [0, 1])
    assert load_files(path, path).train.texts == ["text 0", "text 1"]
    frame = pd.DataFrame({"text": [["a", "b"], ["c"]], "label": [0, 1]})
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_json(path, orient="records", lines=True)
    with pytest.raises(
        TTValueError, match=r"Row 1 of .* holds the list \['a', 'b'\] in the column 'text'; expected a text"
    ):
        load_files(path, path)
    if suffix == ".jsonl":
        rows[1]["text"] = "half \ud83d"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(TTValueError, match=r"Row 2 of .* holds half a character in the column 'text'; mend it"):
            load_files(path, path)


def test_numbers_as_texts_are_read_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n007,a\n1.50,b\n")
    assert load_files(path, path).train.texts == ["007", "1.50"]


def test_measures_go_with_the_labels(tmp_path: Path) -> None:
    classes, numbers = save(tmp_path / "a.csv", [0, 1]), save(tmp_path / "b.csv", [0.5, 1.5])
    for path, measures in ((classes, ("pearson",)), (numbers, ("pearson", "accuracy"))):
        with pytest.raises(TTValueError, match=f"measures names '{measures[-1]}', but the labels are"):
            load_files(path, path, measures=measures)
