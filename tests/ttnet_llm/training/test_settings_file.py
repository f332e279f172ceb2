"""Settings in files: what is read, what is refused, and that a run's own file repeats it."""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.command_line import finetune as command
from ttnet_llm.command_line.cli import app
from ttnet_llm.training import FinetuneSettings, finetune
from ttnet_llm.training.settings_file import read_settings, write_settings


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    save_model(folder / "model")
    save_rows(folder / "train.jsonl", rows(32))
    return folder


@pytest.fixture
def file(place: Path, tmp_path: Path) -> Path:
    """A file of settings as somebody writes it, with the options' names."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"model: {place / 'model'}\ntrain: {place / 'train.jsonl'}\nepochs: 1\nbatch-size: 8\nmax_length: 16\n"
        f"lr: 1e-2\nlabel: label\ntext: [text]\ntargets: query,value\nmethod-option:\n  tt_rank: 3\n  alpha: 8.0\n"
        f"output: {tmp_path / 'run'}\n",
        encoding="utf-8",
    )
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["finetune", *map(str, arguments)])
    return result.exit_code, " ".join(result.output.split())


def stored(folder: Path) -> dict[str, object]:
    return json.loads((folder / "results.json").read_text())


def test_a_run_is_set_by_a_file_and_repeated_by_its_own(file: Path, tmp_path: Path) -> None:
    code, output = run("--config", file)
    assert code == 0, output
    first = stored(tmp_path / "run")
    assert first["learning_rate"] == 0.01
    assert first["settings"]["targets"] == ["query", "value"]
    assert first["settings"]["method_options"] == {"tt_rank": 3, "alpha": 8.0}
    code, output = run("--config", tmp_path / "run" / "settings.yaml", "--output", tmp_path / "again")
    assert code == 0, output
    again = stored(tmp_path / "again")
    assert again["losses"] == first["losses"]
    assert again["after"] == first["after"]
    assert again["settings"] == first["settings"] | {"output": str(tmp_path / "again")}


def test_options_go_before_the_file(file: Path, tmp_path: Path) -> None:
    more = ("--seed", 7, "--lr", 0.02, "--method-option", "tt_rank=2", "--output", tmp_path / "other")
    code, output = run("--config", file, *more)
    assert code == 0, output
    settings = stored(tmp_path / "other")["settings"]
    assert (settings["seed"], settings["learning_rate"]) == (7, 0.02)
    assert settings["method_options"] == {"tt_rank": 2, "alpha": 8.0}
    # Options of the file are those of its method.
    code, output = run("--config", file, "--method", "lora", "--output", tmp_path / "lora")
    assert code == 0, output
    assert stored(tmp_path / "lora")["settings"]["method_options"] == {}


def test_model_and_output_have_to_be_said_somewhere(file: Path, tmp_path: Path) -> None:
    for arguments, missing in (([], "Argument MODEL"), (["model"], "Option --output")):
        code, output = run(*arguments)
        assert code == 2
        assert f"{missing} is missing; say it here, or in a file that --config names." in output.replace("│ ", "")
    file.write_text("task: sst2\nmodel: bert\n")
    code, output = run("--config", file)
    assert code == 1
    assert f"output is neither said by --output nor in '{file}'; say it in one of them." in output


def test_every_setting_has_an_option_with_the_same_default() -> None:
    parameters = inspect.signature(command.finetune).parameters
    for field in dataclasses.fields(FinetuneSettings):
        default = field.default_factory() if callable(field.default_factory) else field.default
        expected = None if default in (dataclasses.MISSING, (), {}) else default
        assert parameters[field.name].default == expected, field.name


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    settings = FinetuneSettings(
        *("ein Modell", "run"),
        method_options={"tt_rank": 3, "alpha": 1e-7, "target_modules": ["a", "b"], "train_norms": True},
        train="größe: 1.csv",
        text_columns=("no", "1e-3"),
        label_column="null",
        learning_rate=1e-5,
        report_to=("tensorboard",),
        seed=2**32 - 1,
        targets="all-linear",
    )
    (tmp_path / "settings.yaml").write_text(write_settings(settings), encoding="utf-8")
    assert FinetuneSettings(**read_settings(tmp_path / "settings.yaml")) == settings
    assert yaml.safe_load("1e-3") == "1e-3"  # elsewhere YAML is read as before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", r"epoch in '.*' is no setting; did you mean 'epochs'\? there are model, output, method, "),
        ("epochs: many", "epochs is 'many' in '.*'; expected a number"),
        ("epochs: true", "epochs is True in '.*'; expected a number"),
        ("seed: 1.5", "seed is 1.5 in '.*'; expected an integer"),
        ("packing: 1", "packing is 1 in '.*'; expected true or false"),
        ("label_column: no", "label_column is False in '.*'; expected a text, in quotes where it looks like something"),
        ("text_columns: [1]", r"text_columns is \[1\] in '.*'; expected a text"),
        ("method_options: 3", "method_options is 3 in '.*'; expected names and values, each in a line"),
        ("seed: 1\nseed_: 2", "seed_ in '.*' is no setting; did you mean 'seed'"),
        ("batch_size: 1\nbatch-size: 2", "batch_size is said twice in '.*', the second time as batch-size; leave out"),
    ],
)
def test_settings_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(TTValueError, match=message):
        read_settings(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [", r"mine.yaml' is no YAML: while parsing"),
        (b"- 3", "holds no settings; expected lines such as `epochs: 3`"),
        (b"\xff", "cannot be read: .*; check the path"),
        (None, "cannot be read: .*No such file"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, text: bytes | None, message: str) -> None:
    if text is not None:
        (tmp_path / "mine.yaml").write_bytes(text)
    with pytest.raises(TTFileError, match=message):
        read_settings(tmp_path / "mine.yaml")


def test_a_run_that_an_earlier_version_began_goes_on(place: Path, tmp_path: Path) -> None:
    settings = FinetuneSettings(str(place / "model"), str(tmp_path / "run"), train=str(place / "train.jsonl"), epochs=1)
    (tmp_path / "run.partial").mkdir()
    old = {name: value for name, value in dataclasses.asdict(settings).items() if name not in ("measures", "packing")}
    (tmp_path / "run.partial" / "settings.json").write_text(json.dumps(old))
    with pytest.raises(TTValueError, match="seed is 1 but was 0 when the run began"):
        finetune(dataclasses.replace(settings, seed=1), resume=True)
    finetune(settings, resume=True)
    assert (tmp_path / "run" / "settings.yaml").is_file()
