"""Two processes that train together come to what one does with batches twice as large."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import BertModel

from tests.ttnet_llm.tiny import rows, save_model, save_rows
from tests.ttnet_llm.training.test_causal import save_language_model
from tests.ttnet_llm.training.test_choices_kind import asked
from tests.ttnet_llm.training.test_embed import partners
from ttnet.errors import TTValueError
from ttnet_llm.training import FinetuneSettings, evaluate, finetune
from ttnet_llm.training.processes import join
from ttnet_llm.training.trainer import training_arguments

ROOT = Path(__file__).parents[3]
LAUNCHERS = {
    "torchrun": "torch.distributed.run --standalone --nproc-per-node 2",
    # With --cpu, accelerate would start a single process, whatever their number.
    "accelerate": "accelerate.commands.accelerate_cli launch --multi_gpu --num_processes 2 --num_machines 1 "
    "--mixed_precision no --dynamo_backend no",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    save_model(folder / "model")
    # Without dropout, which is each process's own.
    model = BertModel.from_pretrained(folder / "model")
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(folder / "model")
    save_rows(folder / "train.jsonl", rows(32))
    save_rows(folder / "validation.jsonl", rows(16))
    return folder


FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer",
}


def launched(folder: Path, launcher: str) -> dict[str, Any]:
    """Repeat the run in `one` by two processes, with half of its batches each, in `two`."""
    command = [sys.executable, "-m", *LAUNCHERS[launcher].split(), "-m", "ttnet_llm.command_line.cli", *repeat(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[-5000:]
    return found(folder, done.stdout)


def repeat(folder: Path) -> list[str]:
    settings, output = str(folder / "one" / "settings.yaml"), str(folder / "two")
    return ["finetune", "--json", "--config", settings, "--batch-size", "4", "--output", output]


def found(folder: Path, said: str) -> dict[str, Any]:
    assert json.loads(said)["after"]  # one of them speaks
    stored: dict[str, Any] = json.loads((folder / "two" / "results.json").read_text())
    return stored


Repeat = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def repeat_by_two() -> Iterator[Repeat]:
    """Do as `launched`, by processes that are forked from one for all tests."""
    command = [sys.executable, "-m", "tests.ttnet_llm.training.forked"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=ROOT, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(
            folder: Path, *options: str, program: str = "ttnet_llm.command_line.cli", **variables: str
        ) -> dict[str, Any]:
            arguments = [*repeat(folder), *options]
            order = {"program": program, "arguments": arguments, "variables": variables, "folder": str(folder)}
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            done = json.loads(process.stdout.readline())
            assert not done["failure"], done["failure"] + done["stderr"][-5000:]
            return found(folder, done["stdout"])

        yield run
        process.stdin.close()


@pytest.mark.parametrize("launcher", ["fork", *(pytest.param(name, marks=pytest.mark.slow) for name in LAUNCHERS)])
def test_two_processes_are_one_with_twice_the_batch(
    place: Path, tmp_path: Path, repeat_by_two: Repeat, launcher: str
) -> None:
    data = {"train": str(place / "train.jsonl"), "validation": str(place / "validation.jsonl")}
    how = {"epochs": 2, "max_length": 16, "learning_rate": 1e-2, "device": "cpu", "method": "lora"}
    one = FinetuneSettings(str(place / "model"), str(tmp_path / "one"), batch_size=8, **data | how)
    expected = finetune(one)
    stored = repeat_by_two(tmp_path) if launcher == "fork" else launched(tmp_path, launcher)
    assert (stored["processes"], stored["steps"]) == (2, expected.steps)
    assert stored["before"] == expected.before
    assert stored["after"] == expected.after
    assert_close([loss for _, loss in stored["losses"]], [loss for _, loss in expected.losses], rtol=1e-3, atol=1e-4)
    weights = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    assert_close(*weights, rtol=1e-3, atol=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    assert evaluate(tmp_path / "two", place / "validation.jsonl").measures == expected.after


@pytest.mark.parametrize(
    "method", ["loretta-rep", *(pytest.param(m, marks=pytest.mark.slow) for m in ("metatt", "full"))]
)
def test_a_model_that_is_shared_out_learns_the_same(
    place: Path, tmp_path: Path, repeat_by_two: Repeat, method: str
) -> None:
    data = {"train": str(place / "train.jsonl"), "validation": str(place / "validation.jsonl")}
    how = {"epochs": 2, "max_length": 16, "learning_rate": 1e-2, "device": "cpu", "method": method}
    one = FinetuneSettings(str(place / "model"), str(tmp_path / "one"), batch_size=8, **data | how)
    expected = finetune(one)
    stored = repeat_by_two(tmp_path, program="tests.ttnet_llm.training.fsdp_on_cpu", **FSDP)
    assert (stored["processes"], stored["steps"]) == (2, expected.steps)
    assert (stored["before"], stored["after"]) == (expected.before, expected.after)
    assert stored["parameters"] == json.loads((tmp_path / "one" / "results.json").read_text())["parameters"]
    assert_close([loss for _, loss in stored["losses"]], [loss for _, loss in expected.losses], rtol=1e-3, atol=1e-4)
    files = [load_file(next((tmp_path / name).glob("*/*.safetensors"))) for name in ("one", "two")]
    for weights in files:  # the gradients of keys' biases are 0, so that AdamW makes steps of what rounding leaves
        for key in [key for key in weights if key.endswith("key.bias")]:
            del weights[key]
    assert_close(*files, rtol=1e-3, atol=1e-4)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}
    assert evaluate(tmp_path / "two", place / "validation.jsonl").measures == expected.after


def test_choices_of_any_number_and_length_are_divided_by_those_of_all_processes(
    tmp_path: Path, repeat_by_two: Repeat
) -> None:
    save_language_model(tmp_path / "model")
    file = save_rows(tmp_path / "rows.jsonl", asked(32))
    how = {"epochs": 2, "max_length": 32, "learning_rate": 1e-2, "device": "cpu", "targets": "all-linear"}
    settings = FinetuneSettings(
        str(tmp_path / "model"), str(tmp_path / "one"), train=file, validation=file, batch_size=8, **how
    )
    expected = finetune(settings)
    stored = repeat_by_two(tmp_path)
    assert (stored["kind"], stored["processes"], stored["steps"]) == ("choices", 2, expected.steps)
    assert stored["after"] == expected.after
    assert_close([loss for _, loss in stored["losses"]], [loss for _, loss in expected.losses], rtol=1e-3, atol=1e-4)
    weights = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    assert_close(*weights, rtol=1e-3, atol=1e-4)


def test_embeddings_are_those_of_one_process_whose_steps_have_as_many_batches(
    tmp_path: Path, repeat_by_two: Repeat
) -> None:
    save_model(tmp_path / "model")
    model = BertModel.from_pretrained(tmp_path / "model")
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(tmp_path / "model")
    file = save_rows(tmp_path / "rows.jsonl", partners(32))
    # The negatives of a pair are those of its batch, whichever process has it.
    how = {"epochs": 2, "max_length": 16, "learning_rate": 1e-2, "kind": "embed", "gradient_accumulation": 2}
    settings = FinetuneSettings(
        str(tmp_path / "model"), str(tmp_path / "one"), train=file, validation=file, batch_size=4, device="cpu", **how
    )
    expected = finetune(settings)
    stored = repeat_by_two(tmp_path, "--gradient-accumulation", "1")
    assert (stored["kind"], stored["processes"], stored["steps"]) == ("embed", 2, expected.steps)
    assert stored["before"] == expected.before
    assert stored["after"] == expected.after
    assert_close([loss for _, loss in stored["losses"]], [loss for _, loss in expected.losses], rtol=1e-3, atol=1e-4)
    weights = [load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two")]
    assert_close(*weights, rtol=1e-3, atol=1e-4)
    assert evaluate(tmp_path / "two", file).measures == stored["after"]
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


def test_batches_that_make_a_step_are_one_of_their_size(place: Path, tmp_path: Path) -> None:
    data = {"train": str(place / "train.jsonl"), "validation": str(place / "validation.jsonl")}
    how = {"epochs": 1, "max_length": 16, "learning_rate": 1e-2, "device": "cpu", "method": "lora"}
    one, parts = (
        finetune(FinetuneSettings(str(place / "model"), str(tmp_path / name), **data | how | size))
        for name, size in (("one", {"batch_size": 8}), ("parts", {"batch_size": 4, "gradient_accumulation": 2}))
    )
    assert_close([loss for _, loss in parts.losses], [loss for _, loss in one.losses], rtol=1e-4, atol=1e-5)


def test_steps_are_counted_over_all_processes(tmp_path: Path) -> None:
    settings = FinetuneSettings("model", "run", train="rows.jsonl", epochs=10, warmup=0.5, evaluations=2)
    size = {"learning_rate": 1e-3, "batch_size": 4, "examples": 100, "measure": "accuracy"}
    two, one = (
        training_arguments(settings, tmp_path, **size, processes=2),
        training_arguments(settings, tmp_path, **size | {"batch_size": 8}),
    )
    assert {name for name in one if one[name] != two[name]} == {
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
    }
    assert one["warmup_steps"] == 65


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, r"by DeepSpeed, .* launch them without, .* or with --use_fsdp"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"},
            r"by FSDP of version 1; expected 2 \(--fsdp_version 2\)",
        ),
        (FSDP, "accelerate does on several accelerators alone: .* Launch them without --use_fsdp"),
    ],
)
def test_other_ways_of_sharing_the_model_out_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TTValueError, match=message):
        join(FinetuneSettings("model", "run", train="rows.jsonl", device="cpu"))


@pytest.mark.parametrize(("name", "value"), [("early_stopping", 3), ("resume", True)])
def test_checkpoints_of_models_that_are_shared_out_are_not_taken_back(
    monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    for variable, setting in FSDP.items():
        monkeypatch.setenv(variable, setting)
    stopping = value if name == "early_stopping" else None
    settings = FinetuneSettings("model", "run", train="rows.jsonl", device="cpu", early_stopping=stopping)
    with pytest.raises(TTValueError, match=f"{name} is {value}, but weights of a checkpoint are not taken back"):
        join(settings, resume=name == "resume")
