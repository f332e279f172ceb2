"""What a process of its own finds: with PEFT alone, and once the package is imported.

One process answers all of it, since starting one takes longer than the answers. It looks for what needs no package
first, then imports the package, and reloads it last, which leaves two generations of classes behind.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import METHODS
from tests.ttnet_llm.models import logits, perturb
from tests.ttnet_llm.tensorized import small
from ttnet_llm import TTLoraConfig, save_tensorized
from ttnet_llm.lora.export import export_lora

PROGRAM = f"""
import importlib, json, sys, torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification
folder, *names = sys.argv[1:]
answers = {{}}

def load(name):
    base = torch.nn.Sequential(torch.nn.Linear(12, 12, bias=False), torch.nn.Linear(12, 12, bias=False))
    [torch.nn.init.eye_(layer.weight) for layer in base]
    model = PeftModel.from_pretrained(base, f"{{folder}}/{{name}}")
    torch.save(model(torch.eye(12)), f"{{folder}}/{{name}}/out.pt")

lora = AutoPeftModelForCausalLM.from_pretrained(f"{{folder}}/lora").eval()
with torch.no_grad():
    torch.save(lora(input_ids=torch.tensor({models.IDS.tolist()})).logits, f"{{folder}}/lora/out.pt")

answers["without the import"] = {{}}
for name in names:
    try:
        load(name)
    except Exception as error:
        answers["without the import"][name] = repr(error)

for load_model in (AutoModelForSequenceClassification, BertForSequenceClassification):
    try:
        load_model.from_pretrained(f"{{folder}}/trains", ignore_mismatched_sizes=True)
    except Exception as error:
        answers[f"{{load_model.__name__}} without the import"] = str(error)

ours = ("ttnet", "ttnet_llm")
answers["modules before the import"] = [name for name in sys.modules if name.partition(".")[0] in ours]
import ttnet_llm
for name in names:
    load(name)

trains = AutoModelForSequenceClassification.from_pretrained(f"{{folder}}/trains")
with torch.no_grad():
    torch.save(trains(input_ids=torch.tensor({models.IDS.tolist()})).logits, f"{{folder}}/trains/out.pt")

import ttnet_llm.networks.loretta_rep as module
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType
member = PeftType.LORETTA_REP
fresh = importlib.reload(module).LorettaRepConfig
answers["member stays"] = PeftType.LORETTA_REP is member
answers["class is replaced"] = PEFT_TYPE_TO_CONFIG_MAPPING[member] is fresh

print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint of every method and an exported LoRA, with what their models compute."""
    folder, outputs = tmp_path_factory.mktemp("saved"), {}
    for method in METHODS:
        base = nn.Sequential(nn.Linear(12, 12, bias=False), nn.Linear(12, 12, bias=False))
        for layer in base:
            nn.init.eye_(layer.weight)
        model = perturb(get_peft_model(base, method(target_modules=["0", "1"])))
        model.save_pretrained(folder / method.name)
        outputs[method.name] = model(torch.eye(12))
    base = models.llama()
    base.save_pretrained(folder / "base")
    base.name_or_path = str(folder / "base")
    model = perturb(get_peft_model(base, TTLoraConfig(tt_rank=4, task_type="CAUSAL_LM")))
    export_lora(model, folder / "lora", pad_to="uniform")
    trains = small()
    save_tensorized(trains, folder / "trains")
    return folder, outputs | {"lora": logits(model), "trains": logits(trains)}


@pytest.fixture(scope="module")
def answers(saved: tuple[Path, dict[str, torch.Tensor]]) -> dict[str, Any]:
    folder, _ = saved
    command = [sys.executable, "-c", PROGRAM, str(folder), *(method.name for method in METHODS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.usefixtures("answers")
def test_trains_load_with_transformers_own_functions_after_the_import(
    saved: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    folder, outputs = saved
    assert torch.equal(torch.load(folder / "trains" / "out.pt"), outputs["trains"])


def test_trains_without_the_import_fail_in_words_rather_than_answer_at_random(answers: dict[str, Any]) -> None:
    for name in ("AutoModelForSequenceClassification", "BertForSequenceClassification"):
        message = answers[f"{name} without the import"]
        assert message.endswith(
            "tensor trains, which `import ttnet_llm` makes known to transformers; import it before loading the model"
        )


@pytest.mark.usefixtures("answers")
def test_a_fresh_process_needs_only_the_import(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    """Another process loads every method's checkpoint by its folder alone, once the package is imported."""
    folder, outputs = saved
    for method in METHODS:
        assert torch.equal(torch.load(folder / method.name / "out.pt"), outputs[method.name]), method.name


def test_a_process_without_the_import_fails_rather_than_ignores(answers: dict[str, Any]) -> None:
    assert answers["without the import"] == {method.name: f"KeyError('{method.method.upper()}')" for method in METHODS}


def test_a_fresh_process_needs_neither_the_import_nor_the_package(
    saved: tuple[Path, dict[str, torch.Tensor]], answers: dict[str, Any]
) -> None:
    """For a LoRA that was exported."""
    folder, outputs = saved
    assert answers["modules before the import"] == []
    torch.testing.assert_close(torch.load(folder / "lora" / "out.pt"), outputs["lora"], rtol=1e-5, atol=1e-5)


def test_reloading_the_package_replaces_its_own_classes(answers: dict[str, Any]) -> None:
    """As a notebook does."""
    assert answers["member stays"]
    assert answers["class is replaced"]


@pytest.mark.slow
def test_the_first_exponential_of_a_process_is_right() -> None:
    """Without ours before it, one in ten to one in three processes computes the second thread's part of it badly."""
    program = (
        "import torch, ttnet_llm\n"
        "torch.set_num_threads(2)\n"
        "x = torch.linspace(-5, 5, 3_000_000)\n"
        "assert torch.equal(torch.exp(x), torch.exp(x))\n"
    )
    for _ in range(6):
        subprocess.run([sys.executable, "-c", program], check=True)
