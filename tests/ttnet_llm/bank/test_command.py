"""`ttnet-llm bank`."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tests.ttnet_llm import models
from ttnet_llm import LorettaRepConfig, MetaTTConfig
from ttnet_llm.bank import AdapterBank
from ttnet_llm.command_line.cli import app


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["bank", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A base model, and three adapters on it."""
    models.llama().save_pretrained(tmp_path / "base")
    for name in ("ann", "bob", "cyd"):
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        model = get_peft_model(base, LorettaRepConfig(r=4, init_weights=False, task_type="CAUSAL_LM"))
        folder = tmp_path / name if name != "cyd" else tmp_path / "run" / "adapter"
        model.save_pretrained(str(folder))
    return tmp_path


def test_adapters_are_kept_in_a_folder(place: Path) -> None:
    bank = place / "bank"
    code, output = run("add", bank, place / "ann", f"bobby={place / 'bob'}")
    assert code == 0, output
    assert "2 adapters of" in output
    code, output = run("add", bank, place / "run", "--json")
    assert code == 0, output
    assert json.loads(output[output.index("{") :])["added"] == ["run"]
    code, output = run("add", bank, f"x=y={place / 'ann'}", "--capacity", 4)
    assert code == 0, output
    code, output = run("add", bank, f"more={place / 'ann'}")
    assert "holds 4 adapters, its capacity" in output
    assert run("remove", bank, "x=y", "x=y", "--quiet") == (0, "")
    assert run("add", bank, f"ann2={place / 'ann'}", "--capacity", 10_000)[0] == 0
    assert run("remove", bank, "ann2")[0] == 0
    code, output = run("list", bank, "--json")
    assert json.loads(output)["adapters"] == ["ann", "bobby", "run"]
    code, output = run("list", bank)
    assert "3 of at most 10,000 adapters of LORETTA_REP" in output
    code, output = run("export", bank, "bobby", "--output", place / "out")
    assert code == 0, output
    ids = torch.randint(1, 60, (1, 5))
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place / "base"), place / "bob")
    found = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place / "base"), place / "out")
    assert torch.equal(expected(input_ids=ids).logits, found(input_ids=ids).logits)
    opened = AdapterBank.load(bank, AutoModelForCausalLM.from_pretrained(place / "base"))
    with opened.use("bobby"):
        torch.testing.assert_close(opened.model(input_ids=ids).logits, expected(input_ids=ids).logits)
    code, output = run("remove", bank, "ann", "run")
    assert code == 0, output
    assert run("list", bank, "--json")[1] == run("list", bank, "--json")[1]
    assert json.loads(run("list", bank, "--json")[1])["adapters"] == ["bobby"]


def test_mistakes_get_a_sentence(place: Path) -> None:
    bank = place / "bank"
    for arguments, sentence in [
        (("list", bank), "holds no bank"),
        (("remove", bank, "ann"), "holds no bank"),
        (("add", bank, place / "base"), "holds no adapter"),
        (("add", bank, place / "ann", f"ann={place / 'bob'}"), "Two adapters would be called 'ann'"),
    ]:
        code, output = run(*arguments)
        assert code == 1
        assert sentence in output
        assert not bank.exists()
    run("add", bank, place / "ann")
    for arguments, sentence in [
        (("add", bank, place / "ann"), "There is an adapter 'ann' already"),
        (("remove", bank, "anne"), "Did you mean 'ann'?"),
        (("export", bank, "bob", "--output", place / "out"), "There is no adapter 'bob'"),
        (("export", bank, "ann", "--output", place / "bob"), "which would be lost"),
    ]:
        code, output = run(*arguments)
        assert code == 1
        assert sentence in output


def test_tasks_with_common_cores(tmp_path: Path) -> None:
    base = models.llama()
    base.save_pretrained(tmp_path / "base")
    config = MetaTTConfig(r=2, num_tasks=3, init_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config)
    models.perturb(model)
    model.save_pretrained(str(tmp_path / "all"))
    bank = tmp_path / "bank"
    code, output = run("add", bank, f"two={tmp_path / 'all'}", "--common", tmp_path / "all", "--task", 2)
    assert code == 0, output
    assert "1 adapters of 8 numbers each" in output
    code, output = run("add", bank, tmp_path / "all")  # the task that its config says
    assert code == 0, output
    loaded = AdapterBank.load(bank, base)
    for key, value in loaded.tensors("two").items():
        assert torch.equal(value, loaded.tensors("all")[key]) == (not key.endswith(".tasks"))
    code, output = run("add", bank, tmp_path / "all", "--common", tmp_path / "all")
    assert code == 1, output
    assert "it is for new ones" in output
