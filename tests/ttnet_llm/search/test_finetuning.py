"""Searching settings of runs: a tiny classifier, a few steps each."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft import TaskType
from typer.testing import CliRunner

from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet.errors import TTConvergenceError, TTFileError, TTValueError
from ttnet_llm.budget import count_parameters
from ttnet_llm.command_line.cli import app
from ttnet_llm.search import Choice, Log, Space, Whole, finetuning
from ttnet_llm.search.finetuning import default_space, tune_finetuning
from ttnet_llm.training import FinetuneSettings, finetune, make_config
from ttnet_llm.training.model import load_config
from ttnet_llm.training.run_folder import read_result
from ttnet_llm.training.settings_file import read_settings

SPACE = Space({"learning_rate": Log(1e-4, 1e-1), "r": Choice(1, 2, 4, 8)})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("files")
    return {
        "model": str(save_model(place / "model")),
        "train": save_rows(place / "train.jsonl", rows(24)),
        "validation": save_rows(place / "validation.jsonl", rows(8, start=24)),
    }


def settings_for(files: dict[str, str], output: Path, **others: Any) -> FinetuneSettings:
    given: dict[str, Any] = {"method": "melora", "epochs": 1, "batch_size": 12, "validation_share": 0.25} | others
    return FinetuneSettings(**files, output=str(output), **given)


@pytest.mark.usefixtures("whole_pictures")
def test_the_best_settings_are_found_and_repeat_the_run(files: dict[str, str], tmp_path: Path) -> None:
    settings = settings_for(files, tmp_path / "out")
    budget = 1000
    found = tune_finetuning(settings, SPACE, evaluations=3, engine="random", budget=budget)
    output = tmp_path / "out"
    assert found.tuned.trials[0].point == {"learning_rate": 0.00316, "r": 2}  # the middle
    assert found.score == max(score for score in found.scores if score is not None)
    best = read_result(output / "best")
    assert best.after[found.measure] == found.score
    assert best.settings.learning_rate == found.tuned.best["learning_rate"]
    assert best.settings.validation is None
    assert best.examples == (18, 6)
    assert found.final is not None
    assert found.final.examples == (24, 8)
    assert {file.name for file in output.iterdir()} == {
        *("best", "final", "history.jsonl", "base.yaml", "report.md", "results.json", "settings.yaml", "tune.png"),
        "ttnet_llm.json",
    }
    report = (output / "report.md").read_text()
    assert "on data that the search has not seen" in report
    assert report.count("\n| ") == 2 + 3
    # The settings that are written are those of the last run, to the number.
    again = FinetuneSettings(**read_settings(output / "settings.yaml") | {"output": str(tmp_path / "again")})
    assert finetune(again).after == found.final.after
    config = load_config(files["model"])
    for trial in found.tuned.trials:
        assert count_parameters(config, make_config("melora", {"r": trial.point["r"]})).adapter <= budget

    longer = tune_finetuning(settings, SPACE, evaluations=5, engine="random", budget=budget, resume=True)
    assert longer.tuned.trials[:3] == found.tuned.trials
    assert len(longer.tuned.trials) == 5
    assert read_result(output / "best").after[longer.measure] == longer.score >= found.score


def test_trials_that_fail_are_in_the_report(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(settings: FinetuneSettings, **options: Any) -> Any:
        if settings.method_options["r"] != 4:
            raise RuntimeError("CUDA out of memory | tried")
        return finetune(settings, **options)

    monkeypatch.setattr(finetuning, "finetune", failing)
    settings = settings_for(files, tmp_path / "out")
    found = tune_finetuning(settings, Space({"r": Choice(1, 2, 4)}), evaluations=9, engine="random")
    assert found.scores.count(None) == 2
    assert found.tuned.best == {"r": 4}
    assert "RuntimeError: CUDA out of memory / tried" in (tmp_path / "out" / "report.md").read_text()
    with pytest.raises(TTConvergenceError, match=r"All 2 trials failed, .* CUDA out of memory"):
        tune_finetuning(settings, Space({"r": Choice(1, 2)}), evaluations=9, engine="random", overwrite=True)


def test_an_interrupted_search_keeps_the_best_and_goes_on(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[FinetuneSettings] = []

    def stopping(settings: FinetuneSettings, **options: Any) -> Any:
        runs.append(settings)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return finetune(settings, **options)

    monkeypatch.setattr(finetuning, "finetune", stopping)
    arguments = (
        "tune", files["model"], "--train", files["train"], "--validation-share", 0.25, "--epochs", 1, "--try",
        "r=2,4", "--try", "lr=1e-3..1e-1", "--evaluations", 4, "--engine", "random", "--method", "melora", "--output",
        tmp_path / "out",
    )  # fmt: skip
    code, output = run(*arguments)
    assert code == 130, output
    assert "Interrupted; say --resume to go on." in output
    assert "2 of 4 trials" in (tmp_path / "out" / "report.md").read_text()
    code, output = run(*arguments, "--resume")
    assert code == 0, output
    assert len(runs) == 3 + 2
    assert "Trial 4/4" in output
    assert "promises a little more than it keeps" in (tmp_path / "out" / "report.md").read_text()
    code, output = run(*arguments, "--resume", "--json")
    assert json.loads(output[output.index("{") :])["trials"] == 4
    assert len(runs) == 5


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


def test_what_is_searched_by_default_begins_with_the_methods_own(files: dict[str, str]) -> None:
    for method, point in (
        ("melora", {"learning_rate": 2e-3, "r": 8}),
        ("loretta-rep", {"learning_rate": 3e-3, "r": 8}),
        ("tt-lora", {"learning_rate": 1e-2, "tt_rank": 5}),
        ("lora", {"learning_rate": 1e-3, "r": 8}),
        ("head", {"learning_rate": 1e-2}),
        ("full", {"learning_rate": 5e-5}),
    ):
        assert default_space(method).middle == point
    assert set(default_space("melora", {"r": 2}).dimensions) == {"learning_rate"}
    assert default_space("neuron-lora").middle["learning_rate"] == 0.01
    assert default_space("neuron-lora", task_type=TaskType.CAUSAL_LM).middle["learning_rate"] == 0.03


def test_mistakes_get_a_sentence(files: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    out = ("--output", tmp_path / "out", "--train", files["train"], "--method", "melora")
    for arguments, sentence in (
        ((*out, "--try", "r"), "--try is 'r'; expected NAME=FROM..TO or NAME=VALUE,VALUE"),
        ((*out, "--try", "r=2..x"), "--try is 'r=2..x'; expected NAME=FROM..TO"),
        ((*out, "--try", "r=4..2"), "--try is 'r=4..2': Whole(4, 2) was asked for; expected the smaller number first"),
        (
            (*out, "--try", "model=a,b"),
            "The space names model, which is nothing to search for with the method 'melora'",
        ),
        ((*out, "--budget", "no"), "budget is 'no'; expected a number of parameters"),
        ((*out, "--engine", "grid"), "engine is 'grid'; expected one of random, tpe, nomad"),
        ((*out, "--engine", "radom"), "engine is 'radom'; did you mean 'random'? expected one of"),
        ((*out, "--resume"), "There is no search in"),
        ((*out, "--resume", "--overwrite"), "resume and overwrite were both given"),
        ((*out, "--budget", 1, "--engine", "random", "--try", "r=2,4"), "allowed refuses all 2 points"),
        ((*out, "--evaluations", 0), "evaluations is 0"),
        ((*out, "--label", "nothing"), "nothing"),
        ((*out[2:], "--output", tmp_path / "full"), "holds 'mine.txt', which would be lost"),
    ):
        code, output = run("tune", files["model"], *arguments)
        assert code == 1, (arguments, output)
        assert sentence in output
        assert not (tmp_path / "out").exists()  # so that the next attempt needs no --overwrite
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    settings = settings_for(files, tmp_path / "seeds", seeds=(0, 1))
    with pytest.raises(TTValueError, match="trials have one seed"):
        tune_finetuning(settings)
    with pytest.raises(TTValueError, match="budget is 0"):
        tune_finetuning(settings_for(files, tmp_path / "seeds"), budget=0)


@pytest.mark.parametrize("engine", ["random", "tpe", "nomad"])
def test_a_budget_that_nothing_fits_is_told_after_one_count_of_each_adapter(
    files: dict[str, str], tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine != "random":
        pytest.importorskip({"tpe": "optuna", "nomad": "PyNomad"}[engine], reason="the engine's package is optional")
    counted = []

    def count(*arguments: Any) -> Any:
        counted.append(arguments)
        return count_parameters(*arguments)

    monkeypatch.setattr(finetuning, "count_parameters", count)
    smallest = count_parameters(load_config(files["model"]), make_config("melora", {"r": 1})).adapter
    sentence = rf"budget is {smallest - 1}, and the smallest adapter among them has {smallest} parameters"
    with pytest.raises(TTValueError, match=sentence):
        tune_finetuning(settings_for(files, tmp_path / "out"), SPACE, engine=engine, budget=smallest - 1)
    assert len(counted) == 4  # of thousands of points


def test_a_search_goes_on_by_its_own_settings_only(files: dict[str, str], tmp_path: Path) -> None:
    space = Space({"r": Whole(1, 2)})
    tune_finetuning(settings_for(files, tmp_path / "out"), space, evaluations=1, engine="random")
    with pytest.raises(TTFileError, match="is not empty; say --resume to go on"):
        tune_finetuning(settings_for(files, tmp_path / "out"), space, evaluations=1, engine="random")
    other = settings_for(files, tmp_path / "out", epochs=2)
    with pytest.raises(TTValueError, match=r"epochs is 2 but was 1.0 when the search began"):
        tune_finetuning(other, space, evaluations=1, engine="random", resume=True)
    found = tune_finetuning(other, space, evaluations=1, engine="random", overwrite=True)
    assert found.settings.epochs == 2
