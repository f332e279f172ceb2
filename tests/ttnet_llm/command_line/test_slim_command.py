"""`ttnet-llm slim`, and the other commands on what it writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from typer.testing import CliRunner

import ttnet_llm
from tests.ttnet_llm import models
from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet_llm.command_line.cli import app
from ttnet_llm.slim import load_slim
from ttnet_llm.tensorize import save_tensorized, tensorize


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, texts, and a slim model that is made of them."""
    folder = tmp_path_factory.mktemp("slim")
    save_model(folder / "model")
    save_rows(folder / "train.jsonl", rows(64))
    save_rows(folder / "test.jsonl", rows(16, start=64))
    code, output = run(*command(folder), "--output", folder / "slim")
    assert code == 0, output
    return folder


def command(place: Path) -> tuple[object, ...]:
    files = ("--train", place / "train.jsonl", "--validation", place / "test.jsonl")
    return ("slim", place / "model", *files, "--method", "lora", "--epochs", 2, "--heads", "1/2", "--neurons", "25%")


def test_the_command_says_what_is_left(place: Path) -> None:
    code, output = run(*command(place), "--output", place / "again")
    assert code == 0, output
    assert "0.attention.output.dense (heads) 1 2" in output
    assert "parameters are left of" in output
    assert "by masks learnt in 4 steps" in output
    assert "train an adapter on it with finetune" in output
    files = {file.name for file in (place / "again").iterdir()}
    assert files >= {"config.json", "slim.json", "slim.safetensors", "slim.png", "tokenizer.json", "ttnet_llm.json"}
    assert "learning" not in files
    told = json.loads((place / "again" / "slim.json").read_text())
    assert told["learnt"] == {"steps": 4, "heads": 0.5, "neurons": 0.25, "l1": 1e-4}
    kept = [row["kept"] for row in told["axes"].values() if row["kind"] == "neurons"]
    assert sum(kept) == 2 * 64 * 3 // 4
    loaded = load_slim(place / "again")
    assert loaded.num_parameters() == told["parameters"]["after"]
    assert tf.AutoTokenizer.from_pretrained(place / "again").tokenize("the film") == ["the", "film"]
    before = {name: (place / "again" / name).read_bytes() for name in ("slim.json", "slim.safetensors")}
    code, output = run(*command(place), "--output", place / "again", "--quiet")  # in the place of the other
    assert (code, output) == (0, "")
    assert before == {name: (place / "again" / name).read_bytes() for name in before}  # the same seed


def test_the_result_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = CliRunner().invoke(app, [str(each) for each in (*command(place), "--output", place / "json", "--json")])
    values = json.loads(result.stdout)
    assert values["output"] == str(place / "json")
    assert values["kept"]["encoder.layer.1.attention.output.dense"] == 1
    assert values["parameters"]["after"] < values["parameters"]["before"]


def test_everything_takes_the_folder(place: Path) -> None:
    data = ("--train", place / "train.jsonl", "--validation", place / "test.jsonl")
    runs = place / "runs"
    code, output = run("finetune", place / "slim", *data, "--method", "tt-lora", "--epochs", 4, "--output", runs / "tt")
    assert code == 0, output
    code, output = run("evaluate", runs / "tt", "--data", place / "test.jsonl")
    assert code == 0, output
    assert "accuracy" in output
    code, output = run("predict", runs / "tt", "--text", "the film was good")
    assert code == 0, output
    assert "good" in output or "bad" in output
    code, output = run("merge", runs / "tt", "--output", place / "merged")
    assert code == 0, output
    code, merged = run("evaluate", place / "merged", "--data", place / "test.jsonl")
    assert code == 0, merged
    code, output = run("params", place / "slim", "--method", "tt-lora")
    assert code == 0, output
    narrow = load_slim(place / "slim").num_parameters()
    assert f"{840 / (840 + narrow):.4%}" in output  # of all parameters
    code, output = run(
        "allocate",
        place / "slim",
        *data,
        *("--method", "melora", "--method-option", "n=1"),
        *("--targets", "all-linear", "--epochs", 1, "--budget", 1500, "--output", place / "shared"),
    )
    assert code == 0, output
    code, output = run("finetune", "--config", place / "shared" / "settings.yaml", "--output", runs / "shared")
    assert code == 0, output
    code, output = run("export", runs / "tt", "--output", place / "lora")
    assert code == 0, output
    code, output = run("export", runs / "tt", "--output", place / "grown", "--whole")
    assert code == 0, output
    assert f"for {place / 'model'}" in output
    grown, _ = ttnet_llm.load(place / "grown")
    assert grown.get_base_model().bert.encoder.layer[0].intermediate.dense.out_features == 64
    code, output = run("export", runs / "tt", "--output", place / "other", "--whole", "--rank", 2)
    assert (code, "--rank is 2, which does not go with --whole" in output) == (1, True)


def test_whole_fine_tuning_on_a_slim_model_is_saved_whole(place: Path) -> None:
    data = ("--train", place / "train.jsonl", "--validation", place / "test.jsonl", "--epochs", 1)
    code, output = run("finetune", place / "slim", *data, "--method", "full", "--output", place / "full")
    assert code == 0, output
    model, _ = ttnet_llm.load(place / "full")
    assert model.bert.encoder.layer[0].attention.self.query.out_features == 16
    code, output = run("evaluate", place / "full", "--data", place / "test.jsonl")
    assert code == 0, output


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--heads", "1"), "heads is 1.0; expected the share that goes, at least 0 and below 1"),
        (("--neurons", "x"), "neurons is 'x'; expected a share such as 1/3, 0.33 or 33%"),
        (("--heads", "1/0"), "heads is '1/0'; expected a share"),
        (("--l1", "-1"), "l1 is -1.0; expected a number of at least 0"),
        (("--mask-lr", "0"), "learning_rate is 0.0; expected a number above 0"),
    ],
)
def test_mistakes_get_a_sentence_before_the_training(
    options: tuple[str, ...], words: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttnet_llm.slim.finetuning.finetune", interrupted)
    code, output = run(*command(place), "--output", place / "mistaken", *options)
    assert (code, words in output) == (1, True), output
    assert not (place / "mistaken").exists()


def test_a_slim_model_in_few_bits_gets_a_sentence(place: Path) -> None:
    data = ("--train", place / "train.jsonl", "--output", place / "bits", "--method", "lora", "--load-in-4bit")
    code, output = run("finetune", place / "slim", *data)
    assert (code, "is slim, which bitsandbytes does not load; leave load_in_4bit out" in output) == (1, True), output


def slimmed(place: Path) -> Path:
    return place / "slim"


def with_trains(place: Path) -> Path:
    model = tf.AutoModel.from_pretrained(place / "model")
    tensorize(model, targets=["intermediate.dense"], ratio=0.5, progress=False)
    save_tensorized(model, place / "trains", tokenizer=tf.AutoTokenizer.from_pretrained(place / "model"))
    return place / "trains"


@pytest.mark.parametrize(("make", "words"), [(slimmed, "model is cut already"), (with_trains, "model has trains")])
def test_models_that_cannot_be_cut_get_a_sentence(make: Callable[[Path], Path], words: str, place: Path) -> None:
    command_, _, *others = command(place)
    code, output = run(command_, make(place), *others, "--output", place / "refused")
    assert (code, words in output) == (1, True), output
    assert not (place / "refused").exists()


def test_what_is_there_is_not_lost(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, output = run(*command(place), "--output", place / "model")
    assert (code, "which is read" in output) == (1, True), output
    (place / "mine").mkdir(exist_ok=True)
    (place / "mine" / "a.txt").write_text("mine")
    code, output = run(*command(place), "--output", place / "mine")
    assert (code, "'a.txt', which would be lost" in output) == (1, True), output
    before = (place / "slim" / "slim.json").read_text()
    monkeypatch.setattr("ttnet_llm.slim.finetuning.finetune", interrupted)
    code, output = run(*command(place), "--output", place / "slim")
    assert (code, "Interrupted; run the command again" in output) == (130, True), output
    assert (place / "slim" / "slim.json").read_text() == before
    assert not [file for file in place.iterdir() if file.name.startswith(".")]


def test_the_help_says_what_it_does() -> None:
    code, output = run("slim", "--help")
    assert code == 0
    for words in ("--heads", "--neurons", "--l1", "--mask-lr", "--train", "Share of every layer's attention heads"):
        assert words in output
    assert "--resume" not in output


def test_language_models_lose_heads_and_neurons_as_well(place: Path) -> None:
    pytest.importorskip("trl")
    tf.AutoTokenizer.from_pretrained(place / "model").save_pretrained(place / "llama")
    models.llama().save_pretrained(place / "llama")
    (place / "texts.txt").write_text("\n\n".join(str(row["text"]) for row in rows(32)))
    data = ("--train", place / "texts.txt", "--kind", "causal", "--epochs", 1)
    code, output = run("slim", place / "llama", *data, "--method", "lora", "--heads", "1/2", "--output", place / "lm")
    assert code == 0, output
    code, output = run("finetune", place / "lm", *data, "--method", "tt-lora", "--output", place / "lm-run")
    assert code == 0, output
    model, tokenizer = ttnet_llm.load(place / "lm-run")
    assert tokenizer is not None
    assert model.get_base_model().model.layers[0].self_attn.k_proj.out_features == 8
    code, output = run("predict", place / "lm-run", "--text", "the film")
    assert code == 0, output


def test_sentence_embeddings_learn_masks_as_well(place: Path) -> None:
    pytest.importorskip("sentence_transformers")
    pairs: list[dict[str, object]] = [
        {"anchor": f"the film was {word}", "positive": f"the book was {word}"} for word in ("good", "bad", "fine") * 8
    ]
    save_rows(place / "pairs.jsonl", pairs)
    code, output = run(
        *("slim", place / "model", "--train", place / "pairs.jsonl", "--kind", "embed", "--method", "lora"),
        *("--text", "anchor", "--text", "positive", "--epochs", 1, "--output", place / "embedding"),
    )
    assert code == 0, output
    numbers = load_slim(place / "embedding")(torch.tensor([[2, 5, 3]])).last_hidden_state
    assert bool(numbers.isfinite().all())
