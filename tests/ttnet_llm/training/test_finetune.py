"""Fine-tuning end to end on a tiny model: every method, resuming, stopping early, and what is refused."""

import json
import shutil
import sys

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, TrainerCallback

import ttnet_llm
from tests.ttnet_llm.tiny import WORDS, rows, save_model, save_rows
from ttnet.errors import TTError, TTFileError, TTValueError
from ttnet_llm.slim.finetuning import slim_finetuning
from ttnet_llm.training import METHODS, FinetuneSettings, evaluate, finetune, load_finetuned, make_config
from ttnet_llm.training.data import load_files
from ttnet_llm.training.details import Columns, Details
from ttnet_llm.training.gain import nothing_gained
from ttnet_llm.training.kinds import KINDS
from ttnet_llm.training.model import predict
from ttnet_llm.training.seeds import finetune_seeds


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_model(folder / "model")
    save_rows(folder / "train.jsonl", rows(64))
    save_rows(folder / "validation.jsonl", rows(16))
    return folder


def make(place, output, **changes):
    options = {
        "model": str(place / "model"),
        "output": str(output),
        "train": str(place / "train.jsonl"),
        "validation": str(place / "validation.jsonl"),
        "epochs": 2,
        "batch_size": 8,
        "max_length": 16,
        "learning_rate": 1e-2,
    }
    return FinetuneSettings(**options | changes)


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """The folder of a run that was not interrupted, to read from, and its result."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, finetune(make(place, folder))


def test_a_run_that_gained_nothing_says_so(place, tmp_path):
    result = finetune(make(place, tmp_path / "run", learning_rate=1e-12, epochs=1))
    assert result.after == result.before
    assert result.warning is not None
    score = f"{result.after['accuracy']:.4f}"
    assert result.warning.startswith(f"Nothing was gained: the accuracy is {score} after training, {score} before.")
    assert "1e-12" in result.warning
    for name in ("report.md", "report.html"):
        assert result.warning in (tmp_path / "run" / name).read_text()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["warning"] == result.warning


def test_a_run_is_held_against_one_class_for_every_text(place):
    model = AutoModelForSequenceClassification.from_pretrained(place / "model", num_labels=2)
    model.config.id2label = {0: "bad", 1: "good"}
    kind, train = KINDS["classify"], load_files(str(place / "train.jsonl"), str(place / "train.jsonl"))
    answer, measures = kind.without_reading(train.validation, Details(Columns(), 16, ("accuracy", "f1")), model.config)
    shares = np.bincount(train.validation.labels) / len(train.validation)
    assert answer == f"{model.config.id2label[int(shares.argmax())]!r} for every text"
    assert measures["accuracy"] == shares.max()


def test_words_for_what_was_not_gained():
    always = ("'good' for every text", {"accuracy": 0.75})
    said = nothing_gained({"accuracy": 0.25}, {"accuracy": 0.75}, without_reading=always, learning_rate=0.1)
    assert said.startswith(
        "Nothing was gained: the accuracy is 0.7500 after training, and 'good' for every text has 0.75"
    )
    assert nothing_gained({"accuracy": 0.25}, {"accuracy": 0.8}, without_reading=always, learning_rate=0.1) is None
    assert nothing_gained({"loss": 1.0}, {"loss": 0.5}, learning_rate=0.1) is None
    assert nothing_gained({"loss": 1.0}, {"loss": float("nan")}, learning_rate=0.1).startswith("Nothing was gained")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_saves_and_loads(place, tmp_path, method):
    rate = {"full": 1e-3, "tt-ether": 4e-2, "neuron-lora": 6e-2, "dept": 0.3}.get(method, 1e-2)
    # A prompt alone does little to a random encoder, so that it is one token: that which the head reads.
    options = {"num_virtual_tokens": 1, "prompt_tuning_init_ids": [2]} if method == "dept" else {}
    changes = {"method_options": options, "learning_rate": rate}
    result = finetune(make(place, tmp_path / "run", method=method, epochs=8, **changes))
    if method != "head":  # a random encoder leaves its head little to go by
        assert result.after["accuracy"] > 0.9 > result.before["accuracy"]
        assert result.warning is None
    assert result.losses[-1][1] < result.losses[0][1]
    assert result.scores[0] == (0, result.before["accuracy"])
    assert (result.parameters.adapter == 0) == (method == "head")
    assert (result.parameters.frozen == 0) == (method == "full")
    assert {p.name for p in tmp_path.iterdir()} == {"run"}
    written = {p.name for p in (tmp_path / "run").iterdir()}
    assert written >= {
        "report.md",
        "report.html",
        "results.json",
        "curves.png",
        "model" if method == "full" else "adapter",
    }
    assert "checkpoints" not in written
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert stored["after"] == result.after
    found = evaluate(tmp_path / "run", place / "validation.jsonl")
    assert found.measures == result.after
    assert np.array_equal(found.logits, np.load(tmp_path / "run" / "logits.npy"))
    assert set(found.predictions) <= {"good", "bad"}


def test_without_matplotlib_there_is_no_picture_and_nothing_is_lost(place, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    finetune_seeds(make(place, tmp_path / "run", seeds=(0, 1), epochs=1))
    for name in ("run", "run/seed-0", "run/seed-1"):
        assert "curves.png" not in (tmp_path / name / "report.md").read_text()
        assert not (tmp_path / name / "curves.png").exists()
    assert (tmp_path / "run" / "seed-1" / "report.html").is_file()
    found = slim_finetuning(make(place, tmp_path / "slim", epochs=1))
    assert not (tmp_path / "slim" / "slim.png").exists()
    assert ttnet_llm.load(tmp_path / "slim")[0].num_parameters() < found.parameters[0]
    warned = "curves.png is not drawn: This needs the package 'matplotlib', which is not installed; run: pip install"
    assert sum(warned in record.message for record in caplog.records) == 4


def test_the_adapter_is_an_ordinary_peft_checkpoint(place, whole):
    folder, _ = whole
    model, tokenizer, details = load_finetuned(folder)
    assert model.config.id2label == {0: "bad", 1: "good"}
    split = load_files(place / "train.jsonl", place / "validation.jsonl").validation
    expected = predict(model, tokenizer, split, max_length=details.max_length)
    base = AutoModelForSequenceClassification.from_pretrained(place / "model", num_labels=2)
    ours = predict(PeftModel.from_pretrained(base, folder / "adapter"), tokenizer, split, max_length=16)
    assert np.array_equal(ours, expected)
    merged = predict(model.merge_and_unload(), tokenizer, split, max_length=16)
    np.testing.assert_allclose(merged, expected, atol=1e-5)


def test_same_seed_same_result_and_another_seed_another(place, whole, tmp_path):
    folder, result = whole
    same, other = (finetune(make(place, tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert same.losses == result.losses
    assert np.array_equal(np.load(tmp_path / "0" / "logits.npy"), np.load(folder / "logits.npy"))
    assert other.losses != result.losses


class Interrupt(TrainerCallback):
    def __init__(self, at):
        self.at = at

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["loretta-rep", "head"])
def test_an_interrupted_run_resumes_to_the_same_result(place, whole, tmp_path, method):
    folder, expected = whole
    if method == "head":
        folder = tmp_path / "whole"
        expected = finetune(make(place, folder, method=method))
    settings = make(place, tmp_path / "run", method=method)
    with pytest.raises(KeyboardInterrupt):
        finetune(settings, callbacks=[Interrupt(11)])
    assert not (tmp_path / "run").exists()
    with pytest.raises(TTFileError, match=r"interrupted run is in .*--resume .*--overwrite"):
        finetune(settings)
    with pytest.raises(TTValueError, match="seed is 5 but was 0"):
        finetune(make(place, tmp_path / "run", method=method, seed=5), resume=True)
    resumed = finetune(settings, resume=True)
    assert resumed.steps == expected.steps
    assert resumed.losses == expected.losses
    assert resumed.after == expected.after
    logits = np.load(tmp_path / "run" / "logits.npy")
    np.testing.assert_allclose(logits, np.load(folder / "logits.npy"), atol=1e-6)


def test_half_a_checkpoint_is_passed_over(place, whole, tmp_path):
    settings = make(place, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        finetune(settings, callbacks=[Interrupt(11)])
    checkpoints = tmp_path / "run.partial" / "checkpoints"
    half = checkpoints / "checkpoint-11"  # as a kill in the middle of saving leaves it
    half.mkdir()
    (half / "adapter_config.json").write_text("{")
    assert {folder.name for folder in checkpoints.iterdir()} == {"checkpoint-8", "checkpoint-11"}
    assert finetune(settings, resume=True).losses == whole[1].losses


def test_an_interrupted_overwrite_loses_nothing(place, whole, tmp_path):
    settings = make(place, tmp_path / "run", epochs=1)
    shutil.copytree(whole[0], tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    with pytest.raises(TTFileError, match=r"not empty; say --overwrite"):
        finetune(settings)
    with pytest.raises(KeyboardInterrupt):
        finetune(settings, overwrite=True, callbacks=[Interrupt(3)])
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()} == before
    finetune(settings, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"run"}


def test_early_stopping_keeps_the_best(place, tmp_path):
    result = finetune(make(place, tmp_path / "run", epochs=40, learning_rate=2e-2, early_stopping=2))
    assert result.steps < 40 * 8
    assert result.after["accuracy"] == max(score for _, score in result.scores)


def test_regression_reports_the_correlation(place, tmp_path):
    records = [{**row, "label": 4.5 if row["label"] == "good" else 0.5} for row in rows(64)]
    file = save_rows(tmp_path / "r.jsonl", records)
    result = finetune(make(place, tmp_path / "run", train=file, validation=file, epochs=8))
    assert result.after["pearson"] > 0.8
    assert result.parameters.head == 33
    found = evaluate(tmp_path / "run", file)
    assert found.measures == result.after
    assert isinstance(found.predictions[0], float)


def test_whole_ratings_are_a_regression_where_that_is_asked_for(place, tmp_path):
    records = [{**row, "label": 5 if row["label"] == "good" else 1} for row in rows(32)]
    file = save_rows(tmp_path / "r.jsonl", records)
    with pytest.raises(TTValueError, match=r"labels of .* are 1, 5: integers, but not .* say with kind \(--kind\)"):
        finetune(make(place, tmp_path / "run", train=file, validation=file))
    result = finetune(make(place, tmp_path / "run", train=file, validation=file, kind="regress", epochs=1))
    assert result.after.keys() == {"pearson"}
    reason = "numbers from 1 to 5 for a regression, as kind says"
    assert f"| data | {reason} |" in (tmp_path / "run" / "report.md").read_text()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["labels"] == reason
    assert isinstance(evaluate(tmp_path / "run", file).predictions[0], float)
    result = finetune(make(place, tmp_path / "classes", train=file, validation=file, kind="classify", epochs=1))
    assert result.labels == "2 classes (1, 5), as kind says"
    assert set(evaluate(tmp_path / "classes", file).predictions) <= {"1", "5"}


def test_classes_named_by_numbers_are_found_again_in_a_csv(place, tmp_path):
    numbers = [str(k) for k in range(11)]
    records = [{"text": f"the {WORDS[k % 11]} was", "label": numbers[k % 11]} for k in range(44)]
    file = save_rows(tmp_path / "rows.jsonl", records)
    lines = ["label;text", *(f"{row['label']};{row['text']}" for row in records)]
    (tmp_path / "rows.csv").write_text("\n".join(lines), encoding="utf-16")
    (tmp_path / "wide.csv").write_text("\n".join(lines), encoding="utf-16-le")
    result = finetune(make(place, tmp_path / "run", method="full", train=file, validation=file, epochs=15))
    assert result.after["accuracy"] > 0.9
    assert evaluate(tmp_path / "run", tmp_path / "rows.csv").measures == result.after
    assert evaluate(tmp_path / "run", tmp_path / "wide.csv", encoding="utf-16-le").measures == result.after
    # Runs from elsewhere may have the names in alphabetical order.
    for file in (tmp_path / "run" / "model").glob("config.json"):
        config = json.loads(file.read_text())
        order = sorted(numbers)
        changed = {"id2label": dict(enumerate(order)), "label2id": {name: k for k, name in enumerate(order)}}
        file.write_text(json.dumps(config | changed))
    labels = evaluate(tmp_path / "run", tmp_path / "rows.csv").labels
    assert [order[k] for k in labels] == [row["label"] for row in records]


def test_sentence_pairs_and_limit(place, tmp_path):
    records = [{"premise": row["text"], "hypothesis": "the film", "label": row["label"]} for row in rows(40)]
    file = save_rows(tmp_path / "p.jsonl", records)
    result = finetune(make(place, tmp_path / "run", train=file, validation=file, limit=16, epochs=1))
    assert result.examples == (16, 40)
    assert result.steps == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "lroa"}, r"method is 'lroa'; did you mean 'lora'\? expected one of loretta-adp, loretta-rep"),
        ({"epochs": 0}, "epochs is 0; expected a number above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"batch_size": 0}, "batch_size is 0; expected an integer of at least 1"),
        ({"limit": 0}, "limit is 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"gradient_accumulation": 0}, "gradient_accumulation is 0; expected an integer of at least 1"),
        ({"warmup": 1.0}, "warmup is 1.0; expected a share of the steps, at least 0 and below 1"),
        ({"validation_share": 0.0}, "validation_share is 0.0; expected a share of the examples, above 0 and below 1"),
        ({"schedule": "step"}, "schedule is 'step'; expected one of linear, cosine"),
        ({"dtype": "int8"}, "dtype is 'int8'; expected one of float32, bfloat16, float16"),
        ({"device": "tpu"}, "device is 'tpu'; expected one of cpu, cuda, mps"),
        ({"task": "sst2"}, "either a task, or a training file, with or without"),
        ({"train": None}, "either a task, or a training file, with or without"),
        ({"measures": ("auc",)}, r"measures is \('auc',\)"),
        ({"kind": "rank"}, "kind is 'rank'; expected one of classify, regress, causal"),
        ({"kind": "token"}, r"kind is 'token'; did you mean 'tokens'\? expected one of"),
        (
            {"task": "sst2", "train": None, "validation": None, "kind": "regress"},
            "kind is 'regress', but the task 'sst2' settles that; leave it out",
        ),
    ],
)
def test_settings_out_of_range(place, tmp_path, changes, message):
    with pytest.raises(TTValueError, match=message):
        make(place, tmp_path / "run", **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nobody/nothing"}, "model 'nobody/nothing' cannot be loaded"),
        ({"method_options": {"rank": 3}}, "rank: no such option of 'loretta-rep'; did you mean 'tt_rank'"),
        ({"method_options": {"tt_rank": 0}}, "tt_rank is 0"),
        ({"method": "full", "method_options": {"r": 3}}, "has no options, but r was given"),
        ({"method_options": {"target_modules": ["quary"]}}, "No module matches 'quary': did you mean 'query'?"),
        ({"targets": ("quary",)}, "No module matches 'quary': did you mean 'query'?"),
        ({"packing": True}, "packing was asked for, which the kind classify does not heed; leave it out"),
        ({"method": "lora", "method_options": {"target_modules": ["quary"]}}, "'quary': did you mean 'query'?"),
    ],
)
def test_refusals_leave_nothing_behind(place, tmp_path, changes, message):
    with pytest.raises((TTError, ValueError), match=message.replace("?", r"\?")):
        finetune(make(place, tmp_path / "run", **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_tokenizer_is_refused(place, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(place / "model", model, ignore=shutil.ignore_patterns("tokenizer*", "special_tokens*"))
    with pytest.raises(TTFileError, match="has no tokenizer that can be loaded; save its tokenizer in the same folder"):
        finetune(make(place, tmp_path / "run", model=str(model)))
    assert not (tmp_path / "run").exists()


def test_resume_and_load_need_something_to_work_on(place, tmp_path):
    with pytest.raises(TTFileError, match="no interrupted run"):
        finetune(make(place, tmp_path / "run"), resume=True)
    with pytest.raises(TTValueError, match="both given"):
        finetune(make(place, tmp_path / "run"), resume=True, overwrite=True)
    with pytest.raises(TTFileError, match="holds no model made by"):
        load_finetuned(tmp_path)


def test_options_of_another_kind_are_one_sentence():
    with pytest.raises(TTValueError, match="do not go together"):
        make_config("lora", {"layers_pattern": "layer"})
