"""Questions with choices from files: trained, judged and predicted by the commands."""

import json
import logging

import numpy as np
import pytest
from typer.testing import CliRunner

import ttnet_llm
from tests.ttnet_llm.models import llama
from tests.ttnet_llm.tiny import BAD, GOOD, WORDS, save_rows
from tests.ttnet_llm.training.test_causal import save_language_model
from tests.ttnet_llm.training.test_seq2seq import save_writer
from ttnet.errors import TTValueError
from ttnet_llm.command_line.cli import app
from ttnet_llm.inference import Chooser
from ttnet_llm.training import FinetuneSettings, evaluate, finetune, load_finetuned
from ttnet_llm.training.choices import Template, rank_classify
from ttnet_llm.training.choices.reading import read_choices, read_right
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.open_task import guess_kind, open_task
from ttnet_llm.training.run import prepare
from ttnet_llm.training.settings_file import read_settings
from ttnet_llm.training.tables import Table
from ttnet_llm.training.trainer import training_arguments

TEMPLATE = "{sentence} say {}"


def asked(count):
    """The right word is the one that the question has; every third question has three choices."""
    found = []
    for k in range(count):
        words = (GOOD[k % 4], BAD[k % 4], "film")[: 2 + (k % 3 == 0)]
        found.append(
            {"question": f"the {WORDS[8 + k % 4]} was {words[k % 2]}", "choices": list(words), "answer": k % 2}
        )
    return found


def phrases(count):
    return [
        {"sentence": f"the {WORDS[8 + k % 4]} was {(BAD, GOOD)[k % 2][k // 2 % 4]}", "label": k % 2}
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices")
    save_language_model(folder / "decoder")
    save_writer(folder / "writer")
    save_rows(folder / "asked.jsonl", asked(24))
    save_rows(folder / "phrases.jsonl", phrases(24))
    return folder


def make(place, output, data="asked", model="decoder", **changes):
    file = str(place / f"{data}.jsonl")
    options = {"epochs": 12, "max_length": 32, "learning_rate": 2e-2, "device": "cpu", "targets": "all-linear"}
    return FinetuneSettings(str(place / model), str(output), **{"train": file, "validation": file} | options | changes)


@pytest.fixture(scope="module", params=["decoder", "writer"])
def run(request, place, tmp_path_factory):
    """The folder of a run on questions with choices, and its result."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, finetune(make(place, folder, model=request.param))


def test_it_learns_says_what_it_took_and_is_loaded(place, run):
    folder, result = run
    assert (result.kind, list(result.after)) == ("choices", ["accuracy"])
    assert result.after["accuracy"] > max(result.before["accuracy"], 0.7)
    assert result.losses[-1][1] < result.losses[0][1]
    assert result.labels == (
        "questions by the template '{question} {}', with choices in the column choices and the right one in answer"
    )
    found = evaluate(folder, place / "asked.jsonl")
    assert found.measures == result.after
    assert np.array_equal(found.logits, np.load(folder / "scores.npy"))
    right = [row["choices"][row["answer"]] for row in asked(24)]
    assert np.mean([a == b for a, b in zip(found.predictions, right, strict=True)]) == result.after["accuracy"]
    model, tokenizer, details = load_finetuned(folder)
    table = Table("a.jsonl", {"question": ["was"], "choices": [["good", "bad"]], "answer": [0]})
    rows = find_kind("choices").rows(table, details, model.config)
    loaded, _ = ttnet_llm.load(folder)
    assert np.array_equal(rank_classify(model, tokenizer, rows), rank_classify(loaded, tokenizer, rows))
    page = (folder / "report.html").read_text()
    assert "Right, and not before" in page


def test_it_predicts_what_it_was_judged_by(place, run, tmp_path, monkeypatch, capsys):
    folder, _ = run
    unlabelled = save_rows(
        tmp_path / "new.jsonl", [{k: v for k, v in row.items() if k != "answer"} for row in asked(24)]
    )
    done = CliRunner().invoke(app, ["predict", str(folder), "--data", unlabelled])
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["prediction"] for record in records] == evaluate(folder, place / "asked.jsonl").predictions
    assert all(sum(record["probabilities"].values()) == pytest.approx(1) for record in records)
    assert list(records[0]["probabilities"]) == asked(1)[0]["choices"]
    assert records[1]["probability"] == max(records[1]["probabilities"].values())
    out = tmp_path / "out.jsonl"
    done = CliRunner().invoke(
        app, ["evaluate", str(folder), "--data", str(place / "asked.jsonl"), "--predictions", str(out)]
    )
    assert done.exit_code == 0, done.output
    lines = [json.loads(line, parse_constant=pytest.fail) for line in out.read_text().splitlines()]
    assert lines[1]["scores"][2] is None  # that question has two choices
    monkeypatch.chdir(folder / "adapter")
    exec((folder / "adapter" / "README.md").read_text().split("```python")[1].split("```")[0], {})
    assert "{'prediction': '" in capsys.readouterr().out


def test_texts_with_classes_are_asked_by_a_template(place, tmp_path, caplog):
    folder = tmp_path / "run"
    data = str(place / "phrases.jsonl")
    with caplog.at_level(logging.INFO, "ttnet_llm"):
        done = CliRunner().invoke(
            app,
            [
                *("finetune", str(place / "decoder"), "--output", str(folder), "--train", data, "--validation", data),
                *("--template", TEMPLATE, "--label-words", "negative=bad,positive=good", "--few-shot", "12", "--json"),
                *("--epochs", "12", "--lr", "2e-2", "--targets", "all-linear", "--device", "cpu"),
                *("--max-length", "32"),
            ],
        )
    assert done.exit_code == 0, done.output
    assert "The kind is choices, as there is the template" in caplog.text
    stored = json.loads((folder / "results.json").read_text())
    assert stored["examples"] == [12, 24]
    assert stored["names"] == ["negative", "positive"]
    assert "with a word for each class in label (negative: bad, positive: good)" in stored["labels"]
    assert stored["after"]["accuracy"] > 0.7
    found = evaluate(folder, data)
    assert found.measures == stored["after"]
    assert set(found.predictions) == {"negative", "positive"}
    done = CliRunner().invoke(app, ["predict", str(folder), "--text", "the film was nice", "--json"])
    assert list(json.loads(done.stdout)["probabilities"]) == ["negative", "positive"]
    shown = CliRunner().invoke(app, ["predict", str(folder), "--text", "the film was nice"])
    assert "positive" in shown.stdout or "negative" in shown.stdout
    model, tokenizer = ttnet_llm.load(folder)
    template = Template(TEMPLATE, {"negative": "bad", "positive": "good"})
    answers = list(Chooser(model, tokenizer, max_length=32)([template.ask({"sentence": "the film was nice"})]))
    assert {"text": "the film was nice"} | answers[0] == json.loads(done.stdout)
    for extra, message in [
        (["--text", "x", "--text-column", "sentence"], "The model's template names its columns, sentence; leave out"),
        (["--data", str(place / "asked.jsonl")], "has no column 'sentence'; its columns are question, choices, answer"),
    ]:
        done = CliRunner().invoke(app, ["predict", str(folder), *extra])
        assert done.exit_code == 1
        assert message in " ".join(done.output.split())


def test_texts_are_asked_by_several_templates(place, tmp_path):
    folder, data = tmp_path / "run", str(place / "phrases.jsonl")
    ways = (TEMPLATE, "say {} of {sentence}")
    done = CliRunner().invoke(
        app,
        [
            *("finetune", str(place / "decoder"), "--output", str(folder), "--train", data, "--validation", data),
            *("--template", ways[0], "--template", ways[1], "--label-words", "negative=bad,positive=good"),
            *("--epochs", "6", "--lr", "2e-2", "--targets", "all-linear", "--device", "cpu", "--max-length", "32"),
        ],
    )
    assert done.exit_code == 0, done.output
    stored = json.loads((folder / "results.json").read_text())
    assert "by the template '{sentence} say {}' and 1 more, with a word for each class" in stored["labels"]
    assert stored["steps"] == 6 * 2 * 24 // 8  # every row in both ways
    found = evaluate(folder, data)
    assert found.measures == stored["after"]
    model, tokenizer, details = load_finetuned(folder)
    rows = find_kind("choices").rows(Table("a.jsonl", {"sentence": ["was"], "label": [0]}), details, model.config)
    words = {"negative": "bad", "positive": "good"}
    alone = [rank_classify(model, tokenizer, [Template(way, words).ask({"sentence": "was"})]) for way in ways]
    np.testing.assert_allclose(rank_classify(model, tokenizer, rows), np.mean(alone, axis=0), atol=1e-5)
    done = CliRunner().invoke(app, ["predict", str(folder), "--text", "the film was nice", "--json"])
    assert list(json.loads(done.stdout)["probabilities"]) == ["negative", "positive"]
    settings = FinetuneSettings(**read_settings(folder / "settings.yaml"))
    assert settings.template == ways


def test_few_shots_are_balanced_by_the_right_answer(place, tmp_path):
    few = make(place, tmp_path / "run", "phrases", template=TEMPLATE, few_shot=6)
    train = prepare(few).task.train
    assert sorted(row.names[row.right] for row in train) == ["0"] * 3 + ["1"] * 3
    limited = prepare(make(place, tmp_path / "run", "phrases", template=TEMPLATE, limit=5)).task.train
    assert len(limited) == 5


def test_weights_of_the_loss_are_told_to_it(place, tmp_path):
    settings = make(place, tmp_path / "run", unlikelihood=0.0, ranking=2.0)
    ready = prepare(settings)
    arguments = training_arguments(settings, tmp_path, learning_rate=0.1, batch_size=8, examples=24, measure="accuracy")
    loss = ready.kind.trainer(ready.model, ready.tokenizer, ready.task, settings, arguments).compute_loss_func
    assert (loss.unlikelihood, loss.ranking, loss.shift) == (0.0, 2.0, True)


@pytest.mark.parametrize(
    ("columns", "changes", "kind"),
    [
        (("question", "choices", "answer"), {}, "choices"),
        (("prompt", "options", "label"), {}, "choices"),
        (("text", "label"), {"template": "{text} {}"}, "choices"),
        (("q", "c", "label"), {"choices_column": "c"}, "choices"),
        (("question", "choices"), {}, None),
        (("text", "label"), {}, "classify"),
    ],
)
def test_the_kind_is_told_by_columns_and_template(columns, changes, kind):
    cells = {name: [["a", "b"]] * 2 if name in ("choices", "options", "c") else [0, 1] for name in columns}
    table = Table("a.jsonl", cells | {name: ["x", "y"] for name in columns if name in ("text", "question", "prompt")})
    settings = FinetuneSettings("model", "out", train="a.jsonl", **changes)
    found = find_kind("choices").recognise(table, settings)
    assert (found is not None) == (kind == "choices")
    if kind:
        assert guess_kind(table, settings)[0] == kind


@pytest.mark.parametrize(
    ("cell", "choices", "typed", "index"),
    [
        (1, ["yes", "no"], True, 1),
        (1.0, ["yes", "no"], True, 1),
        ("1", ["yes", "no"], False, 1),
        ("1", ["yes", "no"], True, 1),
        (" no ", ["yes", "no"], False, 1),
        ("B", ["yes", "no"], True, 1),
        ("A", ["B", "A"], True, 1),  # quotes say that it is a text
        ("2", ["4", "3", "2"], False, 2),
        ("4", ["4", "3", "2"], False, 0),
        (4, ["4", "3", "2"], True, 0),
    ],
)
def test_the_right_one_is_named_by_text_number_or_letter(cell, choices, typed, index):
    assert read_right(cell, choices, 1, "a", typed=typed) == index


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: read_right(2, ["yes", "no"], 3, "a.csv"),
            "Row 3 of 'a.csv' says that the int 2 is right, of the choices",
        ),
        (lambda: read_right(None, ["yes", "no"], 3, "a.csv"), "says that the NoneType None is right"),
        (lambda: read_right(True, ["yes", "no"], 3, "a.csv"), "says that the bool True is right"),
        (lambda: read_right("C", ["yes", "no"], 3, "a.csv"), "says that the str 'C' is right"),
        (
            lambda: read_right("0", ["1", "0"], 3, "a.csv", typed=False),
            "says that 0 is right, which is both the text of",
        ),
        (
            lambda: read_right(1, ["1", "0"], 3, "a.jsonl"),
            "which is both the text of a choice and the place of another",
        ),
        (
            lambda: read_choices("yes, no", 2, "a.csv"),
            r"Row 2 of 'a.csv' holds the str 'yes, no' where choices should be",
        ),
        (lambda: read_choices(["a", {"b": 1}], 2, "a.jsonl"), "where choices should be; write a list of texts"),
        (lambda: read_choices(["a"], 2, "a.jsonl"), r"has the choices \['a'\]; write at least two, each another"),
        (lambda: read_choices(["a", "a "], 2, "a.jsonl"), "write at least two, each another"),
    ],
)
def test_cells_that_say_nothing_are_refused(act, message):
    with pytest.raises(TTValueError, match=message):
        act()


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        ("phrases", {"kind": "choices"}, "has no column of choices that is named as usual, such as choices, options"),
        ("phrases", {"template": "{review} {}"}, "has no column 'review'; its columns are sentence, label"),
        ("phrases", {"template": (TEMPLATE, "It was {}")}, "The template 'It was {}' names no column; put the names"),
        ("phrases", {"template": "It was {}"}, "The template 'It was {}' names no column; put the names of columns"),
        ("phrases", {"template": TEMPLATE, "prompt_column": "sentence"}, "names the columns, and so does 'sentence'"),
        ("phrases", {"template": TEMPLATE, "label_column": "x"}, "has no column 'x'; its columns are"),
        (
            "phrases",
            {"template": TEMPLATE, "label_words": {"0": "bad", "2": "good"}},
            "outside the range of the training",
        ),
        (
            "phrases",
            {"template": TEMPLATE, "measures": ("f1",)},
            "measures names 'f1', but the kind choices has accuracy",
        ),
        ("asked", {"label_column": "gold"}, "has no column 'gold'"),
        ("asked", {"choices_column": "gold"}, "has no column 'gold'"),
        ("asked", {"kind": "choices", "text_columns": ("a", "b")}, "text_columns names 2 columns; say with --template"),
        ("other", {"kind": "choices"}, "has no column of questions that is named as usual, such as question, prompt"),
        ("unlabelled", {"kind": "choices"}, "has no column named answer, label, correct or target; say --label"),
        ("asked", {"kind": "causal", "few_shot": 4}, "few_shot was asked for, which the kind causal does not heed"),
        (
            "phrases",
            {"kind": "classify", "ranking": 0.0},
            "ranking was asked for, which the kind classify does not heed",
        ),
    ],
)
def test_what_does_not_fit_is_refused(place, tmp_path, data, changes, message):
    save_rows(tmp_path / "other.jsonl", [{"a": "x", "choices": ["b", "c"]}] * 2)
    save_rows(tmp_path / "unlabelled.jsonl", [{"question": "x", "choices": ["b", "c"]}] * 2)
    folder = place if data in ("asked", "phrases") else tmp_path
    with pytest.raises(TTValueError, match=message):
        open_task(FinetuneSettings("model", "out", train=str(folder / f"{data}.jsonl"), **changes))


def test_settings_that_do_not_go_together_are_refused(place, tmp_path):
    with pytest.raises(TTValueError, match="few_shot is 99, but there are 24 training examples; name at most so many"):
        prepare(make(place, tmp_path / "run", few_shot=99))
    for changes, message in [
        ({"few_shot": 0}, "few_shot is 0; expected an integer of at least 1"),
        ({"ranking": -1.0}, "ranking is -1.0; expected a number of at least 0"),
        ({"few_shot": 4, "limit": 4}, "limit and few_shot were both given; leave out one of them"),
        ({"choices_column": "a", "label_words": {"0": "b"}}, "choices_column and label_words were both given"),
    ]:
        with pytest.raises(TTValueError, match=message):
            FinetuneSettings("model", "out", train="a.jsonl", **changes)
    with pytest.raises(TTValueError, match=r"template is '\{text\} \{\}', but the task 'sst2' settles that; leave it"):
        FinetuneSettings("model", "out", task="sst2", template="{text} {}")


def test_a_separator_of_labels_is_for_texts_with_labels(place, run):
    with pytest.raises(TTValueError, match="label_separator was given, which the kind choices does not heed; leave it"):
        evaluate(run[0], place / "asked.jsonl", label_separator=";")


@pytest.mark.parametrize(("act", "error"), [({"tokenizer": None}, TypeError), ({"max_length": 1}, TTValueError)])
def test_a_chooser_needs_a_tokenizer_and_some_length(act, error):
    with pytest.raises(error, match=r"tokenizer that can be loaded|max_length is 1; expected an integer of at least 2"):
        Chooser(llama(), **{"tokenizer": object()} | act)
    with pytest.raises(TTValueError, match="batch_size is 0; expected an integer of at least 1"):
        list(Chooser(llama(), object())([], batch_size=0))
