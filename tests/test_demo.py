"""The demo: its task is what it says it is, and a short run leaves everything that it promises."""

import json
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import demo.__main__
from demo import data
from demo.data import AREAS, MASK, Area, load, prose
from demo.settings import Size
from ttnet.errors import TTError, TTValueError

SMALL = [area for area in AREAS if area.name in ("networkx", "hub", "stdlib")]


@pytest.fixture(scope="module")
def task():
    return load(20, 8, areas=SMALL)


def test_the_task_is_balanced_and_the_same_every_time(task):
    assert task.names == tuple(area.name for area in SMALL)
    for split, size in ((task.train, 20), (task.validation, 8)):
        assert [sum(label == k for _, label in split) for k in range(len(SMALL))] == [size] * len(SMALL)
    assert load(20, 8, areas=SMALL) == task


def test_no_text_is_in_both_splits_or_twice(task):
    texts = [re.sub(r"[\d\W]+", " ", text.lower()) for text, _ in task.train + task.validation]
    assert len(set(texts)) == len(texts)


def test_the_names_of_the_libraries_are_masked(task):
    for text, _ in task.train + task.validation:
        assert not re.search(r"\b(?:torch|numpy|scipy|pandas|matplotlib|transformers|networkx|sympy)\b", text, re.I)
    assert any(MASK in text for text, _ in task.train)


def test_a_longer_validation_split_keeps_the_shorter_one(task):
    """The split goes by a hash of the text, so it does not shuffle when a size changes."""
    more = load(20, 9, areas=SMALL)
    kept = set(task.validation) & set(more.validation + more.train)
    assert len(kept) > len(task.validation) // 2


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Sum of it.\n\nParameters\n----------\nx : array", "Sum of it."),
        ("Sum of it.\n\nReturns:\n    The sum.", "Sum of it."),
        ("Sum of it.\n\n>>> f(1)\n1", "Sum of it."),
        ("Args:\n    x: Nothing else.", ""),
        ("See ``scipy.linalg.svd`` and :class:`~torch.nn.Linear`.", "See svd and Linear."),
        ("The torchvision way, on Pandas.", f"The {MASK}vision way, on {MASK}."),
        ("", ""),
    ],
)
def test_prose(docstring, expected):
    assert prose(docstring) == expected


def test_two_areas_share_no_text(monkeypatch):
    shared = "the very same words, in the documentation of two different libraries, word by word, more than eighty"
    own = {"a": [f"a says {'x' * k} of its own" for k in range(9)], "b": [f"b says {'y' * k} too" for k in range(9)]}
    monkeypatch.setattr(data, "_docstrings", lambda area: iter([shared, *own[area.name]]))
    found = load(3, 1, areas=[Area("a", ()), Area("b", ())])
    assert shared not in {text for text, _ in found.train + found.validation}


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (-1, 5)])
def test_a_size_below_one_is_refused(sizes):
    with pytest.raises(TTValueError, match=r"train_per_area|validation_per_area"):
        load(*sizes, areas=SMALL)


def test_a_missing_library_is_named():
    with pytest.raises(TTError, match=r"'nowhere' has 0 docstrings.*28 are needed"):
        load(20, 8, areas=[Area("nowhere", ("no/such/package",))])


def check(folder, output):
    assert "8,280" in output
    assert {file.name for file in folder.parent.iterdir()} == {"run"}
    report = (folder / "report.md").read_text()
    assert "| LoRETTA_rep | 8,280 |" in report
    assert "identical, bit for bit" in report
    difference = float(re.search(r"logits differ by at most ([\d.e+-]+)", report)[1])
    assert difference < 1e-4
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((folder / "loretta-rep" / "results.json").read_text())
    assert results["after"].keys() == {"accuracy"}


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(demo.__main__.main)
    return lambda *arguments: CliRunner().invoke(app, ["--quick", *map(str, arguments)])


def test_a_short_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo.__main__, "QUICK", Size(train_per_area=3, validation_per_area=2, epochs=1, evaluations=1))
    done = run("--methods", "loretta-rep", "--output", tmp_path / "run")
    assert done.exit_code == 0, done.output
    check(tmp_path / "run", done.output)


@pytest.mark.slow
def test_a_short_run_of_all_methods(tmp_path):
    command = [sys.executable, "-m", "demo", "--quick", "--output", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(tmp_path / "run", done.stdout)
    report = (tmp_path / "run" / "report.md").read_text()
    for title in ("TT-ETHER r=4", "LoRETTA_rep", "LoRA r=1", "LoRA r=8", "Head only"):
        assert f"| {title} |" in report
    assert report.count("identical, bit for bit") == 5


def test_an_unknown_method_is_one_sentence(run, tmp_path):
    done = run("--methods", "loretto", "--output", tmp_path / "run")
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code != 0
    assert "loretto" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
