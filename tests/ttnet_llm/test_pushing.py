"""What is put on the hub, by a hub that is not there."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from peft import get_peft_model
from typer.testing import CliRunner

from tests.ttnet_llm import models
from tests.ttnet_llm.slim_models import saved
from ttnet.errors import TTError, TTFileError
from ttnet_llm import TTLoraConfig
from ttnet_llm.command_line.cli import app
from ttnet_llm.pushing import push


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A folder as a run leaves it."""
    model = models.llama()
    model.name_or_path = str(tmp_path / "secret" / "llama")
    adapter = tmp_path / "run" / "adapter"
    get_peft_model(model, TTLoraConfig(task_type="CAUSAL_LM")).save_pretrained(adapter)
    (adapter / "README.md").write_text("---\nlibrary_name: peft\n---\n\n| base model | llama |\n")
    (adapter / "ttnet_llm.json").write_text("{}")
    return tmp_path / "run"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Notes what would be sent."""
    seen: dict[str, Any] = {}

    class Api:
        def create_repo(self, repo: str, **options: Any) -> None:
            seen["made"] = (repo, options)

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> str:
            seen["files"] = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
            seen["message"] = commit_message
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return seen


def test_the_adapter_goes_without_paths(run_folder: Path, hub: dict[str, Any], tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in run_folder.rglob("*") if file.is_file()}
    assert push(run_folder, "me/llama") == "https://hub/me/llama"
    assert hub["made"] == ("me/llama", {"private": False, "exist_ok": True})
    assert set(hub["files"]) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert json.loads(hub["files"]["adapter_config.json"])["base_model_name_or_path"] == "llama"
    assert not any(str(tmp_path).encode() in content for content in hub["files"].values())
    assert before == {file: file.read_bytes() for file in run_folder.rglob("*") if file.is_file()}


def test_the_command_names_the_base_model(run_folder: Path, hub: dict[str, Any]) -> None:
    arguments = ["push", str(run_folder), "me/llama", "--private", "--message", "First"]
    done = CliRunner().invoke(app, [*arguments, "--base", "org/llama"])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "Pushed to https://hub/me/llama.\n", "")
    assert (hub["made"][1]["private"], hub["message"]) == (True, "First")
    assert json.loads(hub["files"]["adapter_config.json"])["base_model_name_or_path"] == "org/llama"
    assert hub["files"]["README.md"].decode() == (
        "---\nbase_model: org/llama\nlibrary_name: peft\n---\n\n| base model | org/llama |\n"
    )
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(done.stdout) == {"repo": "me/llama", "address": "https://hub/me/llama"}
    assert "tell others which model that is with --base" in " ".join(done.stderr.split())


def test_a_slim_model_names_its_base_model_without_a_path(hub: dict[str, Any], tmp_path: Path) -> None:
    saved("bert", tmp_path)
    push(tmp_path / "slim", "me/slim")
    assert json.loads(hub["files"]["slim.json"])["base"] == "base"
    assert not any(str(tmp_path).encode() in content for content in hub["files"].values())
    done = CliRunner().invoke(app, ["push", str(tmp_path / "slim"), "me/slim"])
    assert "The model was cut out of the folder" in " ".join(done.stderr.split())
    CliRunner().invoke(app, ["push", str(tmp_path / "slim"), "me/slim", "--base", "org/bert"])
    assert json.loads(hub["files"]["slim.json"])["base"] == "org/bert"


def test_whole_models_go_as_they_are(hub: dict[str, Any], tmp_path: Path) -> None:
    models.bert().save_pretrained(tmp_path)
    push(tmp_path, "me/bert")
    assert set(hub["files"]) == {"config.json", "model.safetensors"}


def test_a_hub_that_cannot_be_reached_is_a_sentence(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("there is no network.")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(TTError, match=r"'me/llama' cannot be written on the hub: there is no network\. Look"):
        push(run_folder, "me/llama")
    with pytest.raises(TTFileError, match="There is no folder"):
        push(run_folder / "nowhere", "me/llama")
