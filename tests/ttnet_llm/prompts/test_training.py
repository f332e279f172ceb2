"""DePT by the commands: trained, judged, used and loaded without a word about placeholders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import ttnet_llm
from tests.ttnet_llm import models
from tests.ttnet_llm.tiny import rows, save_model, save_rows
from tests.ttnet_llm.training.test_embed import partners
from tests.ttnet_llm.training.test_seq2seq import documents, save_writer
from tests.ttnet_llm.training.test_tokens import sentences
from ttnet.errors import TTValueError
from ttnet_llm.command_line.cli import app
from ttnet_llm.inference import Predictor
from ttnet_llm.prompts.layer import DeptEmbedding
from ttnet_llm.training import FinetuneSettings, evaluate, finetune, load_finetuned
from ttnet_llm.training.methods import METHODS
from ttnet_llm.training.trainer import parameter_groups

PROMPT = {"num_virtual_tokens": 4, "r": 4, "max_length": 20}


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return done.exit_code, done.stdout, " ".join(done.stderr.split())


def settings(place: Path, output: Path, **changes: Any) -> FinetuneSettings:
    file = str(place / "rows.jsonl")
    usual = {"model": str(place / "model"), "train": file, "validation": file, "device": "cpu", "epochs": 1.0}
    options = {"method": "dept", "method_options": PROMPT, "batch_size": 8, "max_length": 16}
    return FinetuneSettings(**{"output": str(output)} | usual | options | changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dept")
    save_model(folder / "model")
    save_rows(folder / "rows.jsonl", rows(32))
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    finetune(settings(place, place / "run", learning_rate=1e-2, epochs=4.0))
    return place / "run"


def test_a_run_is_loaded_with_the_tokenizer_that_it_was_trained_by(place: Path, trained: Path) -> None:
    logits = np.load(trained / "logits.npy")
    assert np.array_equal(evaluate(trained, place / "rows.jsonl").logits, logits)
    model, tokenizer = ttnet_llm.load(trained)
    text = str(rows(1)[0]["text"])
    assert tokenizer(text)["input_ids"][:5] == [19, 20, 21, 22, 2]
    (answer,) = Predictor(model, tokenizer)([text])
    with torch.no_grad():
        found = model(**tokenizer(text, return_tensors="pt")).logits[0]
    torch.testing.assert_close(found, torch.from_numpy(logits[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(list(answer["probabilities"].values())), found.softmax(0))
    assert load_finetuned(trained)[2].max_length == 16 + 4  # so that as much is read of a text as by other methods
    weights = load_file(trained / "adapter" / "adapter_model.safetensors")
    assert sum(v.numel() for key, v in weights.items() if "dept" in key) == 4 * 32 + 20 * 4 + 4 * 32


def test_the_commands_use_it(place: Path, trained: Path, tmp_path: Path) -> None:
    code, output, error = run("predict", trained, "--data", place / "rows.jsonl", "--json")
    assert (code, error) == (0, "")
    said = [json.loads(line)["prediction"] for line in output.splitlines()]
    code, output, error = run("evaluate", trained, "--data", place / "rows.jsonl", "--json")
    assert (code, error) == (0, "")
    right = np.mean([word == row["label"] for word, row in zip(said, rows(32), strict=True)])
    assert json.loads(output)["accuracy"] == pytest.approx(right)
    for command, message in (
        (
            ("export", trained, "--output", tmp_path / "out"),
            "puts a prompt before texts, and adds to words by their pla",
        ),
        (("merge", trained, "--output", tmp_path / "out"), "DePT cannot be merged: its prompt stands in places"),
    ):
        code, _, error = run(*command)
        assert code == 1
        assert message in error
    assert not (tmp_path / "out").exists()


def test_params_counts_it(place: Path) -> None:
    code, output, _ = run("params", place / "model", "--method", "dept", "--json")
    assert code == 0
    assert json.loads(output)["dept"]["adapter"] == 40 * 32 + 256 * 45 + 45 * 32


def test_the_prompt_and_its_offset_have_rates_of_their_own(place: Path, tmp_path: Path) -> None:
    own = METHODS["dept"]
    for changes, prompt, factors in (
        ({}, own.learning_rate, own.learning_rates["A"]),
        ({"learning_rate": 0.7}, 0.7, own.learning_rates["A"]),
        ({"learning_rates": {"prompt": 0.3, "dept_network.B": 5e-3, "A": 5e-3}}, 0.3, 5e-3),
    ):
        asked = settings(place, tmp_path, **changes)
        model, *_ = load_finetuned(place / "run")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("dept_network" in name)
        groups = parameter_groups(model, asked, asked.learning_rate or own.learning_rate)
        by_id = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        found = {name.rpartition(".")[2]: by_id[id(p)] for name, p in model.named_parameters() if p.requires_grad}
        assert found == {"prompt": prompt, "A": factors, "B": factors}


def test_the_report_says_the_rates(trained: Path) -> None:
    report = (trained / "report.md").read_text()
    rates = METHODS["dept"].learning_rates
    assert f"| learning rate of A | {rates['A']:g} |" in report
    assert f"| learning rate of B | {rates['B']:g} |" in report


KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "tokens": (sentences, save_model, {}),
    "embed": (partners, save_model, {}),
    "seq2seq": (documents, save_writer, {}),
    "choices": (rows, save_writer, {"template": "{text} say {}"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_with_an_encoder_takes_it(kind: str, tmp_path: Path) -> None:
    """The prompt learns, and what was judged in training is judged again from the files, to the bit."""
    make_rows, save, changes = KINDS[kind]
    save(tmp_path / "model")
    save_rows(tmp_path / "rows.jsonl", make_rows(16))
    result = finetune(settings(tmp_path, tmp_path / "run", kind=kind, learning_rate=2e-2, **changes))
    assert evaluate(tmp_path / "run", tmp_path / "rows.jsonl").measures == result.after
    model, tokenizer, _ = load_finetuned(tmp_path / "run")
    layer = next(module for module in model.modules() if isinstance(module, DeptEmbedding))
    prompt, table = layer.networks["default"].prompt, layer.base_layer.weight
    assert not (prompt[:, None] == table).all(-1).any()  # which it started as
    vocabulary = len(table)
    assert tokenizer("the film")["input_ids"][:5] == [
        *range(vocabulary, vocabulary + 4),
        tokenizer("the")["input_ids"][4],
    ]
    if kind in ("tokens", "seq2seq"):
        (answer,) = Predictor(model, tokenizer, max_length=20)(["the film"])
        assert "prediction" in answer
    if kind == "tokens":
        assert len(answer["prediction"]) == 2
    if kind == "embed":
        with torch.no_grad():
            layer.networks["default"].prompt.zero_()
        assert not np.allclose(model.encode(["the film"]), load_finetuned(tmp_path / "run")[0].encode(["the film"]))


def test_causal_models_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    models.llama().save_pretrained(tmp_path / "model")
    save_rows(tmp_path / "rows.jsonl", [{"text": row["text"]} for row in rows(8)])
    code, _, error = run(
        "finetune", tmp_path / "model", "--train", tmp_path / "rows.jsonl", "--method", "dept", "--kind", "causal",
        "--output", tmp_path / "run",
    )  # fmt: skip
    assert code == 1
    assert "task_type is 'CAUSAL_LM', and DePT is not for language models that read and write in one" in error
    assert not list(tmp_path.glob("run*"))


def test_lengths_that_the_adapter_does_not_take_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TTValueError, match=r"max_length is 21, but the adapter takes 20 tokens .* give at most 20 \(--ma"
    ):
        finetune(settings(place, tmp_path / "run", max_length=21))
    with pytest.raises(TTValueError, match="max_length is 64, of which the prompt takes 62 and tokens that stand aro"):
        finetune(settings(place, tmp_path / "run", method_options=PROMPT | {"num_virtual_tokens": 62}))
    assert not list(tmp_path.iterdir())


def test_texts_are_cut_to_what_adapter_and_model_take(place: Path, tmp_path: Path) -> None:
    for changes, length in (
        ({"max_length": None}, 20 + 4),  # the kind would cut to 128
        ({"max_length": None, "method_options": PROMPT | {"max_length": 100}}, 64),  # positions of the model
        ({"max_length": 7}, 7 + 4),
    ):
        result = finetune(settings(place, tmp_path / str(length), limit=8, **changes))
        assert result.max_length == length
