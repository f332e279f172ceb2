"""What importing the packages and asking the commands for help load, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertConfig

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "transformers", "peft", "tensorly", "matplotlib", "pandas", "datasets")
# What pip writes for an entry point; whether modules were loaded is told at the end, whatever the command said.
SCRIPT = """
import atexit, sys
heavy = {heavy}
atexit.register(lambda: print("loaded:", [name for name in heavy if name in sys.modules], file=sys.stderr))
from {module} import main
main()
"""


def run(tmp_path, name, *arguments):
    module = {"ttnet": "ttnet.cli", "ttnet-llm": "ttnet_llm.command_line.cli"}[name]
    script = tmp_path / name
    script.write_text(SCRIPT.format(heavy=HEAVY, module=module))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path
    )


@pytest.mark.parametrize(
    "command",
    [
        "ttnet --help",
        "ttnet --version",
        "ttnet decompose --help",
        "ttnet-llm --help",
        "ttnet-llm finetune --help",
        "ttnet-llm --version",
        "ttnet-llm chat --help",
    ],
)
def test_help_loads_nothing_heavy(tmp_path, command):
    name, *arguments = command.split()
    done = run(tmp_path, name, *arguments)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout
    assert done.stderr.strip() == "loaded: []"


def test_help_of_the_module_loads_nothing_heavy(tmp_path):
    """As launchers of several processes start it."""
    command = [sys.executable, "-X", "importtime", "-m", "ttnet_llm.command_line.cli", "finetune", "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "--seeds" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "ttnet_llm.command_line" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_wrong_usage_loads_nothing_heavy(tmp_path):
    done = run(tmp_path, "ttnet-llm", "merge", "--adaptor", "x")
    assert done.returncode == 2
    assert "loaded: []" in done.stderr


def test_a_command_knows_the_methods(tmp_path):
    BertConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    ).save_pretrained(tmp_path / "bert")
    done = run(tmp_path, "ttnet-llm", "params", "bert", "--method", "metatt", "--method-option", "r=2")
    assert done.returncode == 0, done.stderr
    assert "MetaTT" in done.stdout


def test_a_command_works_with_trains(tmp_path):
    done = run(tmp_path, "ttnet", "info", "nowhere.safetensors")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1,
        "Error: There is no file 'nowhere.safetensors'; check the path.",
    )


def test_importing_ttnet_loads_torch_and_little_else():
    code = "import json, sys, ttnet; print(json.dumps([n for n in sys.argv[1:] if n in sys.modules]))"
    names = [*HEAVY, "torch._dynamo", "scipy", "safetensors", "wrapt", "ttnet.trains", "ttnet.nn"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, env=environment, check=True
    )
    assert set(json.loads(done.stdout)) <= {"torch", "numpy", "ttnet.trains"}
