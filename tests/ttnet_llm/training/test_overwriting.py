"""What `finetune` may replace: its own runs, and nothing that it reads or has not written."""

import shutil
from pathlib import Path

import pytest
from transformers import TrainerCallback

from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.folders import MARKER
from ttnet_llm.training import FinetuneSettings, finetune


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_model(tmp_path / "model")
    save_rows(tmp_path / "rows.jsonl", rows(16))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(**changes: object) -> FinetuneSettings:
    data = {"train": "rows.jsonl", "validation": "rows.jsonl", "epochs": 1, "batch_size": 8, "max_length": 16}
    return FinetuneSettings(**{"model": "model", "output": "run"} | data | changes)


def snapshot(place: Path) -> dict[str, bytes]:
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


class Interrupt(TrainerCallback):
    def on_train_begin(self, *args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("options", [{"overwrite": True}, {}])
@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("model", "'model' would be replaced, and with it 'model', which is read"),
        ("thesis/../model", "would be replaced, and with it 'model'"),
        ("link", "'link' would be replaced, and with it 'model'"),
        ("data", "'data' would be replaced, and with it 'data/rows.jsonl', which is read"),
        (".", "'.' would be replaced, and with it"),
        ("..", "'..' would be replaced, and with it"),
        ("thesis", r"holds 'thesis\.tex', which would be lost; name a new folder"),
        ("rows.jsonl", "is a file; name a folder"),
        ("half", r"half\.partial' holds 'notes\.txt', which would be lost"),
        ("linked", r"work in '.*linked\.partial', which is a link"),
    ],
)
def test_what_is_no_run_stays(place: Path, output: str, message: str, options: dict[str, bool]) -> None:
    for name, file in (("thesis", "thesis.tex"), ("half.partial", "notes.txt")):
        Path(name).mkdir()
        Path(name, file).write_text("years of work")
    Path("data").mkdir()
    data = shutil.copy("rows.jsonl", "data")
    Path("link").symlink_to("model")
    Path("linked.partial").symlink_to("thesis")
    before = snapshot(place)
    with pytest.raises(TTFileError, match=message):
        finetune(settings(output=output, train=data), **options)
    assert snapshot(place) == before


def test_a_run_whose_model_or_data_lie_in_it_stays(place: Path) -> None:
    finetune(settings(method="full"))
    with pytest.raises(TTFileError, match="'run' would be replaced, and with it 'run/model', which is read"):
        finetune(settings(model="run/model"), overwrite=True)
    save_rows(place / "run" / "model" / "rows.jsonl", rows(8))
    with pytest.raises(TTFileError, match=r"holds 'model/rows\.jsonl', which would be lost"):
        finetune(settings(), overwrite=True)


def test_a_run_behind_a_link_is_replaced(place: Path) -> None:
    Path("disk").mkdir()
    Path("link").symlink_to("disk/run")
    finetune(settings(output="link"))
    first = snapshot(place / "disk" / "run")
    with pytest.raises(TTFileError, match="'link' is not empty; say --overwrite to replace the run in it"):
        finetune(settings(output="link"))
    finetune(settings(output="link", seed=1), overwrite=True)
    assert Path("link").is_symlink()
    second = snapshot(place / "disk" / "run")
    assert second.keys() == first.keys() >= {MARKER, "report.md", "adapter/adapter_config.json"}
    assert second["adapter/adapter_model.safetensors"] != first["adapter/adapter_model.safetensors"]


def test_an_interrupted_run_stays_until_the_next_one_starts(place: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        finetune(settings(), callbacks=[Interrupt()])
    before = snapshot(place)
    with pytest.raises(TTValueError, match="has no column 'mark'"):
        finetune(settings(label_column="mark"), overwrite=True)
    assert snapshot(place) == before
    Path("run.partial", "notes.txt").write_text("mine")
    with pytest.raises(TTFileError, match=r"run\.partial' holds 'notes\.txt', which would be lost"):
        finetune(settings(seed=1), overwrite=True)
    Path("run.partial", "notes.txt").unlink()
    finetune(settings(seed=1), overwrite=True)
    assert not Path("run.partial").exists()


def test_what_comes_while_a_run_trains_stays_and_the_run_can_go_on(place: Path) -> None:
    class Intrude(TrainerCallback):
        def on_train_end(self, *args: object, **kwargs: object) -> None:
            Path("run").mkdir()
            Path("run", "notes.txt").write_text("mine")

    with pytest.raises(TTFileError, match=r"holds 'notes\.txt', which would be lost"):
        finetune(settings(), callbacks=[Intrude()])
    assert Path("run", "notes.txt").read_text() == "mine"
    Path("run", "notes.txt").unlink()
    assert finetune(settings(), resume=True).steps == 2
    assert Path("run", "report.md").is_file()
