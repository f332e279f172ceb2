"""A step by two processes is the step by one, with DDP and with a base sharded by FSDP2."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.ttnet_llm.methods import Method
from tests.ttnet_llm.two_processes import IDS, STEPPED, make, step, trained


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("steps")
    command = [sys.executable, "-m", "tests.ttnet_llm.two_processes", str(folder)]
    # A thread of gloo's sometimes aborts a process of a crowded machine, which no Python code can: once more, then.
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "signal SIGABRT" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-10_000:]
    return folder


@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
@pytest.mark.parametrize("config_cls", STEPPED, ids=lambda method: method.name)
def test_a_step_of_two_processes_is_a_step_of_one(two_processes: Path, config_cls: Method, way: str) -> None:
    model: nn.Module = make(config_cls)
    before = trained(model)
    step(model, IDS)
    expected = trained(model)
    found = torch.load(two_processes / f"{way}-{config_cls.name}.pt")
    assert found.keys() == expected.keys()
    assert any(not torch.equal(expected[name], before[name]) for name in expected)
    for name, parameter in expected.items():
        torch.testing.assert_close(found[name], parameter, rtol=1e-4, atol=1e-6)
