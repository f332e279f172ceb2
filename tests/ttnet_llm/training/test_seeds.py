"""The same training by several seeds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerCallback
from typer.testing import CliRunner

import ttnet_llm
from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.command_line.cli import app
from ttnet_llm.command_line.options import parse_seeds
from ttnet_llm.loading import load_adapter
from ttnet_llm.training import FinetuneSettings, evaluate, finetune, finetune_seeds


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    save_model(folder / "model")
    save_rows(folder / "train.jsonl", rows(24))
    save_rows(folder / "validation.jsonl", rows(16))
    return folder


def settings(place: Path, output: Path, **changes: object) -> FinetuneSettings:
    data = {"train": str(place / "train.jsonl"), "validation": str(place / "validation.jsonl")}
    how = {"epochs": 2, "batch_size": 8, "max_length": 16, "learning_rate": 0.03, "seeds": (3, 1, 2)}
    return FinetuneSettings(str(place / "model"), str(output), **data | how | changes)


@pytest.fixture(scope="module")
def done(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run by three seeds, to read from."""
    output = tmp_path_factory.mktemp("done") / "run"
    command = [
        *("finetune", place / "model", "--train", place / "train.jsonl", "--validation", place / "validation.jsonl"),
        *(
            "--epochs",
            2,
            "--batch-size",
            8,
            "--max-length",
            16,
            "--lr",
            0.03,
            "--seeds",
            "3,1,2",
            "--output",
            output,
            "--json",
        ),
    ]
    found = CliRunner().invoke(app, [str(word) for word in command])
    assert found.exit_code == 0, found.output
    (output.parent / "printed.json").write_text(found.stdout)
    return output


def test_each_is_the_run_that_its_seed_gives_alone(place: Path, done: Path, tmp_path: Path) -> None:
    alone = finetune(settings(place, tmp_path / "alone", seed=1, seeds=()))
    stored = json.loads((done / "seed-1" / "results.json").read_text())
    assert stored["losses"] == [list(pair) for pair in alone.losses]
    assert stored["settings"]["output"] == str(done / "seed-1")
    assert stored["adapter"] == str(done / "seed-1" / "adapter")
    logits = [np.load(folder / "logits.npy") for folder in (tmp_path / "alone", done / "seed-1", done / "seed-2")]
    assert np.array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])
    assert not done.with_name("run.partial").exists()


def test_mean_and_spread_are_reported(done: Path) -> None:
    each = [json.loads((done / f"seed-{seed}" / "results.json").read_text())["after"]["accuracy"] for seed in (3, 1, 2)]
    mean, spread = np.mean(each), np.std(each, ddof=1)
    assert spread > 0
    stored = json.loads((done / "results.json").read_text())
    assert stored["mean"]["accuracy"] == pytest.approx(mean)
    assert stored["spread"]["accuracy"] == pytest.approx(spread)
    printed = json.loads((done.parent / "printed.json").read_text())
    assert printed == {name: stored[name] for name in ("seeds", "mean", "spread")} | {"output": str(done)}
    assert list(printed["seeds"]) == ["3", "1", "2"]
    scores = " | ".join(f"{value:.4f}" for value in (mean, spread, *each))
    report = (done / "report.md").read_text()
    assert "|  | mean | spread | seed 3 | seed 1 | seed 2 |" in report
    assert f"| validation accuracy | {scores} |" in report
    said = f"| scores by the seeds 3, 1, 2, mean and sample standard deviation | accuracy {mean:.4f} ± {spread:.4f} |"
    for seed in (3, 1, 2):
        card = (done / f"seed-{seed}" / "adapter" / "README.md").read_text()
        assert said in card
        assert f"| seed | {seed} |" in card
        assert "| classes | bad, good |" in card


def test_it_is_repeated_by_its_own_file(place: Path, done: Path, tmp_path: Path) -> None:
    command = [
        "finetune",
        "--config",
        str(done / "settings.yaml"),
        "--output",
        str(tmp_path / "again"),
        "--seeds",
        "1,2",
    ]
    assert CliRunner().invoke(app, command).exit_code == 0
    mean = json.loads((tmp_path / "again" / "results.json").read_text())["seeds"]
    before = json.loads((done / "results.json").read_text())["seeds"]
    assert mean == {seed: before[seed] for seed in ("1", "2")}


class Interrupt(TrainerCallback):
    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        if state.global_step == 4:
            raise KeyboardInterrupt


def test_what_is_done_is_skipped_when_it_is_resumed(place: Path, done: Path, tmp_path: Path) -> None:
    chosen, started = settings(place, tmp_path / "run"), []

    def interrupted(seed: int) -> list[TrainerCallback]:
        started.append(seed)
        return [Interrupt()] if seed == 1 else []

    with pytest.raises(KeyboardInterrupt):
        finetune_seeds(chosen, callbacks=interrupted)
    partial = tmp_path / "run.partial"
    assert {path.name for path in partial.glob("seed-*")} == {"seed-3", "seed-1.partial"}
    with pytest.raises(TTFileError, match=r"interrupted run is in .*--resume"):
        finetune_seeds(chosen)
    with pytest.raises(TTValueError, match=r"seeds is \[3, 1\] but was \[3, 1, 2\] when the run began"):
        finetune_seeds(replace(chosen, seeds=(3, 1)), resume=True)
    first = (partial / "seed-3" / "results.json").read_bytes()
    result = finetune_seeds(chosen, resume=True, callbacks=lambda seed: started.append(seed) or [])
    assert started == [3, 1, 1, 2]
    assert (tmp_path / "run" / "seed-3" / "results.json").read_bytes() == first
    assert result.by_seed == json.loads((done / "results.json").read_text())["seeds"]
    # Another may take its place, as all in it is known.
    finetune_seeds(replace(chosen, seeds=(5, 6), epochs=1), overwrite=True)
    assert {path.name for path in (tmp_path / "run").glob("seed-*")} == {"seed-5", "seed-6"}
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_refusals_leave_nothing_behind(place: Path, tmp_path: Path) -> None:
    with pytest.raises(TTValueError, match="has no column 'mark'"):
        finetune_seeds(settings(place, tmp_path / "run", label_column="mark"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TTValueError, match="seeds is empty; name several, or call finetune"):
        finetune_seeds(settings(place, tmp_path / "run", seeds=()))
    with pytest.raises(TTValueError, match="this trains once; call finetune_seeds"):
        finetune(settings(place, tmp_path / "run"))
    for seeds in ((1,), (1, 1)):
        with pytest.raises(TTValueError, match="expected several, each another; one is named with seed"):
            settings(place, tmp_path / "run", seeds=seeds)
    with pytest.raises(TTValueError, match="seed is -1; expected an integer from 0"):
        settings(place, tmp_path / "run", seeds=(0, -1))
    with pytest.raises(TTValueError, match="seeds is '0;1'; expected integers with commas between"):
        parse_seeds("0;1")


def test_one_of_them_has_to_be_named_to_be_used(place: Path, done: Path) -> None:
    data = place / "validation.jsonl"
    for use in (ttnet_llm.load, load_adapter, lambda folder: evaluate(folder, data)):
        with pytest.raises(
            TTFileError, match=r"runs by several seeds, .* name one of them: .*seed-1, .*seed-2, .*seed-3"
        ):
            use(done)
    stored = json.loads((done / "results.json").read_text())["seeds"]
    assert evaluate(done / "seed-2", data).measures == stored["2"]
