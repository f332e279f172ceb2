"""Model cards say what is known, nothing of the machine, and how to load; evaluation takes all that they stand in."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers as tf
from peft import LoraConfig, PeftModel
from typer.testing import CliRunner

import ttnet_llm
from tests.ttnet_llm import models
from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import TTWeight
from ttnet_llm.cards import lora_card
from ttnet_llm.command_line.cli import app
from ttnet_llm.training import evaluate
from ttnet_llm.training.evaluation import guess_details
from ttnet_llm.training.tables import Table


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three classes, and what the other commands make of it."""
    folder = tmp_path_factory.mktemp("cards")
    save_model(folder / "model")
    data = [{**row, "label": ("good", "bad", "so|so")[k % 3]} for k, row in enumerate(rows(24))]
    save_rows(folder / "train.jsonl", data)
    run(
        "finetune", folder / "model", "--train", folder / "train.jsonl", "--validation", folder / "train.jsonl",
        "--epochs", 1, "--output", folder / "run", "--method-option", "tt_rank=3", "--seed", 7,
    )  # fmt: skip
    run("export", folder / "run", "--output", folder / "lora")
    run("export", folder / "run", "--output", folder / "lora")  # over the first, with all that it has written
    run("compress", folder / "lora", "--output", folder / "compressed", "--method", "loretta-rep")
    run("merge", folder / "run", "--output", folder / "merged")
    run("tensorize", folder / "merged", "--output", folder / "dense", "--eps", 1e-6)  # which no train is worth
    run("tensorize", folder / "merged", "--output", folder / "small", "--ratio", 0.9)
    return folder


def run_code(card: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(folder)
    namespace: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    return namespace


def test_the_card_of_a_run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    card = (place / "run" / "adapter" / "README.md").read_text()
    result = json.loads((place / "run" / "results.json").read_text())
    assert "More Information Needed" not in card
    assert str(place) not in card
    assert "base_model:" not in card  # which is no id on the hub
    for fact in (
        "# LoRETTA_rep on model",
        "pipeline_tag: text-classification",
        "| base model | model |",
        "| method | LoRETTA_rep (tt_rank = 3) |",
        f"{result['parameters']['adapter']:,} of the adapter",
        f"| accuracy, before and after | {result['before']['accuracy']:.4f}, {result['after']['accuracy']:.4f} |",
        "| trained on | 24 examples |",
        "| seed | 7 |",
        r"| classes | bad, good, so\|so |",
    ):
        assert fact in card, fact
    run_code(card, place / "run" / "adapter", monkeypatch)
    assert "'prediction': " in capsys.readouterr().out


def test_the_card_of_an_export_needs_plain_peft_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (place / "lora" / "README.md").read_text()
    assert str(place) not in card
    model = run_code(card, place / "lora", monkeypatch)["model"]
    assert isinstance(model, PeftModel)
    assert model.config.num_labels == 3


def test_cards_without_a_task_and_of_models_on_the_hub() -> None:
    config = LoraConfig(r=4, base_model_name_or_path="org/model")
    card = lora_card(config, 1234, {}).text
    assert "base_model: org/model\n" in card
    assert "| parameters | 1,234 |" in card
    assert "PeftModel.from_pretrained(base_model" in card
    assert "# LoRA\n" in lora_card(LoraConfig(), 1, {}).text


@pytest.mark.parametrize("folder", ["lora", "compressed", "merged", "dense", "small"])
def test_evaluation_takes_whatever_the_commands_write(folder: str, place: Path) -> None:
    data = place / "train.jsonl"
    found = evaluate(place / folder, data)
    if folder != "small":
        assert found.measures == evaluate(place / "run", data).measures
    (place / folder / "finetune.json").rename(place / "aside")  # as it is of models from elsewhere
    try:
        assert evaluate(place / folder, data).measures == found.measures
    finally:
        (place / "aside").rename(place / folder / "finetune.json")


def test_a_tensorised_model_is_healed_and_stays_one_that_others_do_not_misread(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("finetune", place / "small", "--train", place / "train.jsonl", "--validation", place / "train.jsonl",
        "--epochs", 1, "--method", "full", "--output", place / "healed")  # fmt: skip
    model = place / "healed" / "model"
    assert (model / "trains.safetensors").exists()
    assert not (model / "model.safetensors").exists()
    assert any(isinstance(module, TTWeight) for module in ttnet_llm.load(place / "healed")[0].modules())
    result = json.loads((place / "healed" / "results.json").read_text())
    assert evaluate(place / "healed", place / "train.jsonl").measures == result["after"]
    card = (model / "README.md").read_text()
    assert "A whole model, fine-tuned" in card
    run_code(card, model, monkeypatch)
    assert "'prediction': " in capsys.readouterr().out


def test_evaluation_guesses_what_a_model_is_judged_by() -> None:
    chats = Table("a.jsonl", {"prompt": ["x"], "completion": ["y"]})
    assert guess_details(models.llama(), chats).kind == "causal"
    assert guess_details(models.gpt2(), Table("a.jsonl", {"text": ["x"]})).columns.text == ("text",)
    rated = tf.BertForSequenceClassification(tf.BertConfig(**models.ENCODER, num_labels=1))
    assert guess_details(rated, Table("a.jsonl", {"text": ["x"], "label": [1.5]})).kind == "regress"
    with pytest.raises(TTTypeError, match="is a ViTForImageClassification; expected one that was trained for"):
        guess_details(models.vit(), chats)
    with pytest.raises(TTValueError, match="has no column of texts"):
        guess_details(models.llama(), Table("a.jsonl", {"a": ["x"], "b": ["y"]}))


def test_a_model_that_nobody_can_feed(tmp_path: Path) -> None:
    models.bert().save_pretrained(tmp_path / "model")
    save_rows(tmp_path / "data.jsonl", [{"text": "x", "label": "y"}])
    with pytest.raises(TTTypeError, match="has no tokenizer that can be loaded; save one beside it"):
        evaluate(tmp_path / "model", tmp_path / "data.jsonl")
