"""The demo of a chat model: its chats are what they say they are, and a short run leaves all that it promises."""

import json
import re

import pytest
import typer
from typer.testing import CliRunner

import demo.chat.__main__
from demo.chat.pirate import ASKED, CLOSINGS, OPENINGS, chats, speak
from demo.chat.report import Answers, Checks
from tests.ttnet_llm.training.test_causal import save_language_model

NAMES = ("loretta-rep", "neuron-lora", "lora-1", "lora-8")


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(demo.chat.__main__.main)
    return lambda *arguments: CliRunner().invoke(app, ["--quick", *map(str, arguments)])


def test_no_question_is_held_out_and_learnt_or_asked():
    train, held_out = chats()
    questions = [[chat["messages"][0]["content"] for chat in part] for part in (train, held_out)]
    assert len(train) == 4 * len(held_out) == 64
    assert len({*questions[0], *questions[1], *ASKED}) == 80 + len(ASKED)


def test_every_answer_sounds_like_a_pirate():
    for chat in (chat for part in chats() for chat in part):
        answer = chat["messages"][1]["content"]
        assert answer.startswith(OPENINGS)
        assert answer.endswith(CLOSINGS)
        assert not re.search(r"\b(?:is|are|has|you|the|of|and)\b|\w{3,}[aeiou]\w*ing\b", answer, re.I), answer


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ("You are singing.", "Arr! Ye be singin'. Yo ho ho!"),
        ("Bring a ring.", "Arr! Bring a ring. Yo ho ho!"),
        ("It is theirs, and it is 42.", "Arr! It be theirs, an' it be 42. Yo ho ho!"),
    ],
)
def test_words_are_said_whole(plain, said):
    assert speak(plain, 0) == said


def test_differences_are_told():
    said = Checks(1.5e-3, 8, 2_000_000, 3, 4).sentences()
    assert "up to 1.5e-03 apart" in said[0]
    assert said[1].startswith("Exported to LoRA of rank 8 (2.0 MB)")
    assert "3 of 4 answers are the same" in said[1]
    assert Answers(["q"], ["b"], ["a"]).rows() == [("q", "b", "a")]


def test_a_missing_model_is_one_sentence(run, tmp_path):
    done = run("--model", tmp_path / "nowhere", "--output", tmp_path / "run")
    assert done.exit_code == 1
    assert "There is no model in" in done.stderr
    assert "make demo-lm" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_short_run(run, tmp_path):
    save_language_model(tmp_path / "model")
    done = run("--model", tmp_path / "model", "--output", tmp_path / "run")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "run"
    for name in NAMES:
        assert {"report.html", "report.md", "adapter"} <= {file.name for file in (folder / name).iterdir()}
    assert {file.name for file in tmp_path.iterdir()} == {"model", "run"}
    report = (folder / "report.md").read_text()
    losses = {name: json.loads((folder / name / "results.json").read_text())["after"]["loss"] for name in NAMES}
    for name, title in zip(NAMES, ("LoRETTA_rep", "NeuronLoRA r=1", "LoRA r=1", "LoRA r=8"), strict=True):
        assert re.search(rf"^\| {title} \|.* \| {losses[name]:.3f} \|", report, re.MULTILINE)
    assert "bit for bit" in report or "apart" in report
    assert f"of {len(ASKED)} answers are the same, word for word" in report
    assert json.loads((folder / "lora" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    for question in ASKED:
        assert f"**{question}**" in report
    assert not [file for file in folder.rglob("*.json") if f".{folder.name}-" in file.read_text()]
