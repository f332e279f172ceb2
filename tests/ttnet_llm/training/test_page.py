"""The page of a run: one file, well formed, in which no text of the data's does anything."""

import base64
import hashlib
import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet_llm.training import FinetuneSettings, finetune, load_finetuned
from ttnet_llm.training.kinds.shown import Shown, show_classes, show_losses, show_numbers
from ttnet_llm.training.page import write_page
from ttnet_llm.training.page.adapter import spectra_of
from ttnet_llm.training.page.charts import MOST, Line, chart, ticks
from ttnet_llm.training.page.html import escape
from ttnet_llm.training.page.look import SCRIPT

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" onload='alert(3)' &amp; \x00\u202e"
EMPTY = {"meta", "path", "circle"}  # elements without an end: HTML's own, and those that SVG closes itself


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, and its text by the element that it stands in."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.open = [], {}, []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        inner = self.open[-1] if self.open else ""
        self.text.setdefault(inner, []).append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)

    def attributes(self, tag, name):
        return [attributes[name] for kind, attributes in self.elements if kind == tag and name in attributes]


def is_one_safe_file(html):
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    for _, attributes in page.elements:
        assert not {"src", "href", "action", "srcdoc", "data", "style"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    assert page.count("script") == page.count("style") == page.count("h1") == page.count("title") == 1
    assert not re.search(r"url\(|@import|https?:|//[a-z]", "".join(page.text["style"] + page.text["script"]))
    script = "".join(page.text["script"])
    assert script == SCRIPT
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.attributes("meta", "content")[0]
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert page.attributes("meta", "name") == ["viewport"]
    assert "prefers-color-scheme: dark" in page.text["style"][0]
    return page


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    save_model(folder / "model")
    save_rows(folder / "train.jsonl", rows(64))
    # Some labels are wrong, so that some are judged wrongly.
    turned, records = {"good": "bad", "bad": "good"}, rows(32)
    for row in records[::8]:
        row["label"], row["text"] = turned[row["label"]], f"{row['text']} {HOSTILE}"
    save_rows(folder / "validation.jsonl", records)
    return folder


def run(place, output, **changes):
    options = {"train": str(place / "train.jsonl"), "validation": str(place / "validation.jsonl"), "epochs": 8}
    options |= {"model": str(place / "model"), "output": str(output), "batch_size": 8, "learning_rate": 1e-2}
    return finetune(FinetuneSettings(**options | changes, device="cpu"))


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    result = run(place, folder, evaluations=2)
    return folder, result, (folder / "report.html").read_text(encoding="utf-8")


def test_it_is_one_file_with_everything_in_it(whole):
    _, result, html = whole
    page = is_one_safe_file(html)
    assert page.text["h2"] == [
        *("The course of training", "Before and after", "Held-out examples", "What the adapter is made of", "The run")
    ]
    words = " ".join(text for texts in page.text.values() for text in texts)
    accuracy = f"{result.after['accuracy']:.1%}"
    for expected in (accuracy, f"{result.parameters.trainable:,}", "of the process", "8 / 8 / 128"):
        assert expected in words
    assert page.text["h3"] == ["Wrong, the surest first", "Right, and not before", "Right, as before"]


def test_texts_of_the_data_stay_texts(whole):
    page = is_one_safe_file(whole[2])
    shown = HOSTILE.replace("\x00", "\ufffd")
    assert any(shown in text for text in page.text["blockquote"])
    assert page.count("img") == 0


def test_names_of_files_and_classes_stay_texts(place, tmp_path):
    label = '<b onclick="x">&'
    records = [row | {"label": label if row["label"] == "good" else "bad"} for row in rows(16)]
    file = save_rows(tmp_path / "<i>'&.jsonl", records)
    run(place, tmp_path / "run", train=file, validation=file, epochs=1)
    page = is_one_safe_file((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    assert page.text["h1"] == ["LoRETTA_rep on <i>'&.jsonl"]
    assert any(label in text for text in page.text["dd"])
    assert page.count("b") == page.count("i") == 0


def test_the_points_are_those_of_the_run(whole):
    _, result, html = whole
    said = Page(html).attributes("circle", "data-say")
    expected = [f"step {step}, training loss: {loss:.4g}" for step, loss in result.losses]
    expected += [f"step {step}, accuracy: {score:.4g}" for step, score in result.scores]
    assert said[: len(expected)] == expected


def test_the_singular_values_are_those_of_the_updates(whole):
    folder, _, html = whole
    said = Page(html).attributes("circle", "data-say")
    model = load_finetuned(folder)[0]
    name = "bert.encoder.layer.1.attention.self.value"
    layer = model.get_submodule(f"base_model.model.{name}")
    values = torch.linalg.svdvals(layer.get_delta_weight("default").double())
    drawn = [float(text.rpartition(" ")[2]) for text in said if f", {name}: " in text]
    np.testing.assert_allclose(drawn, values[: len(drawn)], rtol=1e-3)
    assert float(values[len(drawn)]) < 1e-5 * float(values[0])


@pytest.mark.parametrize("method", ["loretta-adp", "lora", "tt-ether", "head", "full"])
def test_what_is_said_of_the_adapter_fits_the_method(place, tmp_path, method):
    run(place, tmp_path / "run", method=method, epochs=1)
    page = is_one_safe_file((tmp_path / "run" / "report.html").read_text(encoding="utf-8"))
    spectra = any("index 1, bert" in text for text in page.attributes("circle", "data-say"))
    assert spectra == (method in ("lora", "tt-ether"))
    assert ("What the adapter is made of" in page.text["h2"]) == (method not in ("head", "full"))
    assert any("no update of a weight" in text for text in page.text["p"]) == (method == "loretta-adp")


def test_a_run_that_went_astray_has_a_page(whole, tmp_path):
    folder, result, _ = whole
    nan = float("nan")
    astray = replace(
        result, losses=[(1, nan), (2, math.inf), (3, 2.0)], scores=[(0, 0.5), (1, nan)], after={"accuracy": nan}
    )
    write_page(astray, tmp_path, shown={"Wrong": [Shown("a", "b", "c", "d")]})
    page = is_one_safe_file((tmp_path / "report.html").read_text(encoding="utf-8"))
    said = page.attributes("circle", "data-say")
    assert said == ["step 3, training loss: 2", "step 0, accuracy: 0.5"]
    write_page(replace(astray, losses=[], scores=[]), tmp_path)
    assert "Nothing to draw." in (tmp_path / "report.html").read_text(encoding="utf-8")
    model = load_finetuned(folder)[0]
    assert spectra_of(model, folder / "adapter")
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "loretta" in name).fill_(nan)
    assert spectra_of(model, folder / "adapter") == []


def test_classes_are_sorted_by_right_and_wrong():
    before = np.array([[0.0, 1], [1, 0], [0, 1], [0, 1]])
    after = np.array([[0.0, 1], [0, 3], [9, 0], [5, 0]])
    shown = show_classes(["a", ("b", "c"), "d", "e"], np.array([1, 1, 1, 1]), before, after, ("no", "yes"))
    assert {title: [example.given for example in chosen] for title, chosen in shown.items()} == {
        "Wrong, the surest first": ["d", "e"],
        "Right, and not before": ["b\nc"],
        "Right, as before": ["a"],
    }
    assert shown["Wrong, the surest first"][0] == Shown("d", "yes", "yes (73%)", "no (100%)", right=False)


def test_numbers_and_losses_are_sorted_by_how_far_off_they_are():
    numbers = show_numbers(["a", "b", "c"], np.array([1.0, 2, 3]), np.zeros((3, 1)), np.array([[1.5], [2], [0]]))
    assert [example.given for example in numbers["Nearest"]] == ["b", "a", "c"]
    assert numbers["Farthest off"][0] == Shown("c", "3", "0", "0")
    texts = [("p", "a"), ("q", "b"), ("r", "c")]
    losses = show_losses(texts, np.array([2.0, 2, np.nan]), np.array([1.0, 0.5, np.nan]))
    assert losses["Lowest loss"] == [
        Shown("q", "b", "loss 2.000", "loss 0.500"),
        Shown("p", "a", "loss 2.000", "loss 1.000"),
    ]
    assert losses["Highest loss"] == losses["Lowest loss"][::-1]


@given(st.text())
def test_what_is_escaped_is_read_back(text):
    """What HTML cannot hold becomes a mark; everything else is as it was, but for line ends."""
    page = Page(f'<p title="{escape(text)}">{escape(text)}</p>')
    expected = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", text)
    assert "".join(page.text.get("p", [])) == expected
    assert page.attributes("p", "title") == [expected]
    escape(text).encode()


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_within(low, span):
    high = low + span
    assume(high - low > 1e-9 * abs(low) + 1e-9)
    found = ticks(low, high)
    slack = 1e-6 * span
    assert 3 <= len(found) <= 10
    assert all(low - slack <= value <= high + slack for value in found)
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(1e-30, 1e30)), min_size=1, max_size=8), st.booleans())
def test_charts_stay_within_their_frame(points, log):
    points = sorted(points)
    page = Page(chart("t", [Line("l", points)], x_label="x", log=log))
    places = zip(page.attributes("circle", "cx"), page.attributes("circle", "cy"), strict=True)
    assert all(0 <= float(x) <= 560 and 0 <= float(y) <= 270 for x, y in places)
    assert page.count("circle") == len(points)


def test_long_courses_are_thinned_out():
    page = Page(chart("t", [Line("l", [(k, float(k)) for k in range(10 * MOST)])], x_label="x"))
    assert MOST / 2 < page.count("circle") <= MOST
    assert Counter(tag for tag, _ in page.elements)["svg"] == 1
