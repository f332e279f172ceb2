"""The command `ttnet-llm`, and the parameter budgets behind it."""

import errno
import json
import logging

import pytest
import typer
from peft import LoraConfig
from transformers import AutoConfig, MixtralConfig, RobertaConfig
from typer.testing import CliRunner

from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, TTEtherConfig, fit_to_budget
from ttnet_llm.budget import count_parameters
from ttnet_llm.command_line.cli import app
from ttnet_llm.command_line.console import one_sentence_errors
from ttnet_llm.training.kinds import KINDS
from ttnet_llm.training.methods import METHODS


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    save_model(folder / "model")
    save_rows(folder / "train.jsonl", rows(32))
    save_rows(folder / "validation.jsonl", rows(16))
    return folder


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def finetune(place, output, *more):
    return run(
        "finetune", place / "model", "--train", place / "train.jsonl", "--validation",
        place / "validation.jsonl", "--epochs", 1, "--output", output, *more,
    )  # fmt: skip


@pytest.mark.usefixtures("whole_pictures")
def test_finetune_then_evaluate(place, tmp_path):
    code, output = finetune(place, tmp_path / "run", "--method", "loretta-rep", "--method-option", "tt_rank=3")
    assert code == 0, output
    assert {"report.md", "curves.png", "adapter"} <= {p.name for p in (tmp_path / "run").iterdir()}
    code, output = run("evaluate", tmp_path / "run", "--data", place / "validation.jsonl")
    assert code == 0, output
    assert "accuracy" in output
    data = (place / "validation.jsonl").read_bytes()
    evaluate = ("evaluate", tmp_path / "run", "--data", place / "validation.jsonl", "--predictions")
    code, output = run(*evaluate, place / "validation.jsonl")
    assert code == 1
    assert "would be replaced, and with it" in " ".join(output.split())
    assert (place / "validation.jsonl").read_bytes() == data
    code, output = run(*evaluate, tmp_path / "predictions.jsonl")
    assert code == 0, output
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 16


def test_what_the_data_are_taken_as_is_said(place, tmp_path):
    (tmp_path / "rows.csv").write_text("text;stars\n" + "schön;3\nfine, good;1\n" * 4, encoding="cp1252")
    data = ("--train", tmp_path / "rows.csv", "--validation", tmp_path / "rows.csv", "--label-column", "stars")
    code, output = finetune(place, tmp_path / "run", *data)
    assert code == 1
    sentence = "is not UTF-8, as files without a mark should be: byte 0xf6 in line 2, where cp1252 would"
    assert sentence in " ".join(output.split())
    code, output = finetune(place, tmp_path / "run", *data, "--encoding", "cp1252", "--kind", "regress")
    assert code == 0, output
    output = " ".join(output.split())
    assert "rows.csv' are separated by semicolons." in output
    assert "rows.csv' is read as CP1252, as encoding says." in output
    assert "are taken as numbers from 1 to 3 for a regression, as kind says." in output
    assert "pearson" in output
    level = logging.getLogger("ttnet_llm").level
    assert (level, logging.getLogger("ttnet_llm").handlers) == (logging.NOTSET, [])
    code, output = run("evaluate", tmp_path / "run", "--data", data[1], "--encoding", "cp1252")
    assert code == 0, output


def test_labels_that_are_lists_and_words_are_one_sentence(place, tmp_path):
    records = [{"text": "the film was good", "labels": ["a", "c"]}, {"text": "the film was bad", "labels": "b"}]
    code, output = finetune(place, tmp_path / "run", "--train", save_rows(tmp_path / "rows.jsonl", records))
    assert code == 1
    assert "holds the str 'b' where a list of labels should be; write lists of words" in " ".join(output.split())
    assert "Traceback" not in output


def test_params_counts_from_the_configuration_alone(place):
    code, output = run("params", place / "model" / "config.json", "--method", "loretta-adp")
    assert code == 0, output
    assert "LoRETTA_adp" in output
    assert "LoRA r=8" in output


@pytest.mark.parametrize("number", ["600", "0.6k", "1_000", "1M"])
def test_a_budget_chooses_method_and_rank(place, number):
    config = AutoConfig.from_pretrained(place / "model")
    code, output = run("params", place / "model", "--budget", number, "--json")
    assert code == 0, output
    found = json.loads(output)
    budget = {"600": 600, "0.6k": 600, "1_000": 1000, "1M": 10**6}[number]
    assert found["tt-ether"]["adapter"] == count_parameters(config, TTEtherConfig(**found["options"])).adapter <= budget
    fitted = fit_to_budget(config, budget)
    assert found["options"] == {"r": fitted.r, "n": fitted.n, "tied": fitted.tied}
    assert found["lora-1"]["adapter"] == count_parameters(config, LoraConfig(r=1)).adapter
    code, output = run("params", place / "model", "--budget", number)
    assert f"--method-option r={found['options']['r']}" in output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--budget", "many"], "budget is 'many'; expected a number of parameters such as 5000, 50k or 1.5M"),
        (["--budget", "0"], "budget is '0'; expected a number of parameters"),
        (["--budget", "2"], "parameters is 2, but the smallest adapter of this model, TT-ETHER of rank 1, has"),
        (["--budget", "50k", "--method", "lora"], "Say either --budget, which chooses the method, or --method"),
    ],
)
def test_a_budget_that_cannot_be_met_is_told_of(place, options, sentence):
    code, output = run("params", place / "model", *options)
    assert code == 1
    assert sentence in " ".join(output.split())


def test_lora_is_counted_on_what_the_method_was_given(tmp_path):
    MixtralConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, num_local_experts=4,
    ).save_pretrained(tmp_path)  # fmt: skip
    options = ["target_modules=q_proj,", "target_parameters=mlp.experts.down_proj,mlp.experts.gate_up_proj"]
    named = [part for option in options for part in ("--method-option", option)]
    code, output = run("params", tmp_path / "config.json", "--method", "tt-lora", *named)
    assert code == 0, output
    (row,) = (line for line in output.splitlines() if "LoRA r=8" in line)
    assert f"{2 * (8 * (32 + 32) + 4 * 8 * ((48 + 32) + (96 + 32))):,}" in row


def test_budgets_are_the_published_counts():
    config = RobertaConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072)
    assert count_parameters(config, LorettaRepConfig(modes="paper")).adapter == 27_840
    assert count_parameters(config, LorettaAdpConfig(modes="paper")).adapter == 57_408
    assert count_parameters(config, LoraConfig(r=8, target_modules=["query", "value"])).adapter == 294_912


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--train", "nowhere.csv"], "nowhere.csv"),
        (["--method", "lorretta-rep"], "did you mean 'loretta-rep'? expected one of loretta-adp, loretta-rep, tt-lora"),
        (["--method-option", "x=1"], "no such option of 'loretta-rep'; it has alpha, layout, "),
        (["--method-option", "tt_rnak=1"], "did you mean 'tt_rank'?"),
        (["--text-column", "sentence"], "sentence"),
        (["--label-column", "mark"], "mark"),
        (["--method-option", "target_modules=['qeury']"], "did you mean 'query'"),
        (["--kind", "rank"], "kind is 'rank'; expected one of classify, regress, causal"),
        (["--kind", "regress"], "no number as a regression needs it"),
        (["--encoding", "utf-9"], "encoding is 'utf-9'; expected the name of a codec"),
    ],
)
def test_mistakes_get_a_sentence(place, tmp_path, changes, sentence):
    code, output = finetune(place, tmp_path / "run", *changes)
    assert code == 1, output
    assert sentence in " ".join(output.split())
    assert "Traceback" not in output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        RuntimeError("I/O: No space left on device"),
        Exception("No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_sentence(error, capsys):
    with pytest.raises(typer.Exit), one_sentence_errors():
        raise error
    assert "The disk is full; free some space, then say --resume" in " ".join(capsys.readouterr().err.split())


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), one_sentence_errors():
        raise ZeroDivisionError


def test_an_output_that_is_not_empty_is_left_alone(place, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    code, output = finetune(place, tmp_path / "run")
    assert code == 1
    assert "mine.txt" in output
    assert (tmp_path / "run" / "mine.txt").read_text() == "keep"


def test_the_shell_completes_methods_and_kinds():
    options = {parameter.name: parameter for parameter in typer.main.get_command(app).commands["finetune"].params}
    for name, known in (("method", METHODS), ("kind", KINDS)):
        words = options[name].shell_complete(None, "")
        assert {word.value for word in words} == set(known)


def test_the_version_and_a_word_that_comes_near():
    code, output = run("--version")
    assert (code, output.split()[0]) == (0, "ttnet-llm")
    code, output = run("predikt")
    assert code == 2
    assert "Did you mean 'predict'?" in output
    code, output = run("merge", "x", "--outptu", "y")
    assert code == 2
    assert "--output" in output


def test_a_label_outside_the_range_is_named(place, tmp_path):
    records = [{"text": "the film was good", "label": label} for label in (0, 1, -1, 0)]
    code, output = finetune(place, tmp_path / "run", "--train", save_rows(tmp_path / "bad.jsonl", records))
    assert code == 1
    assert "label" in output
    assert "-1" in output
