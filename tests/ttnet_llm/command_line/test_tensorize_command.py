"""`ttnet-llm tensorize`."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers as tf
from typer.testing import CliRunner

from tests.ttnet_llm import models
from tests.ttnet_llm.tiny import rows, save_model
from ttnet.nn import TTWeight
from ttnet_llm import load_tensorized
from ttnet_llm.command_line.cli import app
from ttnet_llm.tensorize.loading import load_dense


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


def test_the_command(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n\n".join(str(row["text"]) for row in rows(20)))
    arguments = ("tensorize", tmp_path / "model", "--output", tmp_path / "small")
    code, output = run(
        *arguments, "--ratio", 0.5, "--calibration", tmp_path / "text.txt", "--picture", tmp_path / "a.png"
    )
    assert code == 0, output
    assert "0.intermediate.dense" in output
    assert "output error" in output
    assert (tmp_path / "a.png").is_file()
    loaded = load_tensorized(tmp_path / "small")
    assert any(isinstance(module, TTWeight) for module in loaded.modules())
    assert json.loads((tmp_path / "small" / "tensorize.json").read_text())["layers"]
    assert tf.AutoTokenizer.from_pretrained(tmp_path / "small").tokenize("the film") == ["the", "film"]
    code, output = run(*arguments, "--budget", 2000, "--target", "query", "--layout", "interleaved")
    assert code == 0, output
    assert (tmp_path / "small" / "tensorize.png").is_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        code, output = run(*arguments, "--budget", 2000, "--target", "query")
    assert code == 0, output
    assert "Not drawn: This needs the package 'matplotlib'" in output
    (tmp_path / "latin.txt").write_text("schön\n", encoding="latin-1")
    for options, message in [
        ((), "none of them given"),
        (("--ratio", 0.5, "--target", "qery"), "did you mean 'query'"),
        (("--ratio", 0.5, "--picture", "a.txt"), "expected a png"),
        (("--ratio", 0.5, "--calibration", tmp_path / "none.txt"), "There is no file"),
        (("--ratio", 0.5, "--calibration", tmp_path / "latin.txt"), "is not UTF-8, as files without a mark should be"),
        (("--ratio", 0.5, "--calibration", tmp_path / "text.txt", "--lines", 0), "lines is 0"),
        (("--ratio", 0.5, "--max-loss", -1), "--max-loss is -1.0; expected a number of at least 0"),
    ]:
        code, output = run(*arguments, *options)
        assert code == 1
        assert message in output
    code, output = run("tensorize", tmp_path / "small", "--output", tmp_path / "new", "--ratio", 0.5)
    assert (code, "has trains already" in output) == (1, True)
    assert not (tmp_path / "new").exists()


def test_the_command_says_what_was_lost(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "llama")
    models.llama().save_pretrained(tmp_path / "llama")
    (tmp_path / "text.txt").write_text("\n".join(str(row["text"]) for row in rows(20)))
    for name, target, lines, loss, words in [
        ("model", "query", 12, 0.0, "On 8 texts, the similarity with the dense model is"),
        ("model", "query", 20, 1.0, "On 20 texts of the calibration, the similarity"),
        ("llama", "q_proj", 12, 0.0, "On 8 texts, the perplexity is"),
    ]:
        arguments = (
            "tensorize",
            tmp_path / name,
            "--output",
            tmp_path / "small",
            "--ratio",
            0.3,
            "--target",
            target,
            "--calibration",
            tmp_path / "text.txt",
            "--lines",
            lines,
        )
        code, output = run(*arguments, "--max-loss", loss)
        assert code == 0, output
        assert words in output
        saved = json.loads((tmp_path / "small" / "tensorize.json").read_text())["check"]
        assert saved["texts"] == (20 if lines == 20 else 8)
        assert ("Note: On" in output) == (saved["loss"] > loss)
        assert ("heal the model" in output) == (saved["loss"] > loss)
    code, output = run("tensorize", tmp_path / "model", "--output", tmp_path / "small", "--ratio", 0.3)
    assert "What the model has lost is not measured" in output


def test_the_command_looks_at_its_output_before_it_does_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "model")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "file").write_text("mine")
    calls: list[str] = []
    monkeypatch.setattr(tf.BertModel, "from_pretrained", lambda name: calls.append(name))
    for name, message in [
        ("other", "holds 'notes.txt', which would be lost"),
        ("file", "is a file; name a folder"),
        ("model", f"would be replaced, and with it '{tmp_path}/model', which is read; name another"),
        ("link", f"would be replaced, and with it '{tmp_path}/model', which is read; name another"),
    ]:
        code, output = run("tensorize", tmp_path / "model", "--output", tmp_path / name, "--ratio", 0.5)
        assert code == 1
        assert message in output
    assert not calls
    assert {file.name for file in tmp_path.iterdir()} == {"model", "other", "link", "file"}


@pytest.mark.parametrize("make", [models.bert, models.gpt2])
def test_the_command_takes_no_tokenizer_for_one_that_knows_no_words(make: Any, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("the film was good\n")
    arguments = ("tensorize", tmp_path / "model", "--output", tmp_path / "small", "--ratio", 0.5)
    code, output = run(*arguments, "--calibration", tmp_path / "text.txt")
    assert code == 1
    assert "has no tokenizer that can be loaded; calibrate in Python" in output
    assert not (tmp_path / "small").exists()
    target = "query" if make is models.bert else "c_fc"
    code, output = run(*arguments, "--target", target, "--picture", tmp_path / "a.png")
    assert code == 0, output
    assert "it has no tokenizer that can be loaded" in output
    assert not list((tmp_path / "small").glob("tokenizer*"))


def test_tokenizers_of_bytes_have_no_vocabulary_to_store(tmp_path: Path) -> None:
    models.t5().save_pretrained(tmp_path)
    tf.ByT5Tokenizer().save_pretrained(tmp_path)
    assert isinstance(load_dense(str(tmp_path))[1], tf.ByT5Tokenizer)
