"""Learning rates of single parameters."""

import re
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet.errors import TTValueError
from ttnet_llm import LorettaRepConfig
from ttnet_llm.command_line.options import parse_rates
from ttnet_llm.training import FinetuneSettings, finetune
from ttnet_llm.training.trainer import check_learning_rates, parameter_groups


def settings(**changes: object) -> FinetuneSettings:
    return FinetuneSettings(**{"model": "model", "output": "run", "train": "rows.jsonl"} | changes)


def classifier() -> nn.Module:
    return get_peft_model(models.roberta(), LorettaRepConfig(task_type="SEQ_CLS", train_norms=True))


def rates(model: nn.Module, **changes: object) -> dict[str, float]:
    groups = parameter_groups(model, settings(**changes), 1e-2)
    by_id = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(trained) == len(by_id)
    return {name: by_id[id(parameter)] for name, parameter in trained.items()}


def test_the_last_name_that_matches_counts_and_goes_before_the_heads() -> None:
    model = classifier()
    named = {"layer.0": 1e-3, "layer.*.value": 2e-3, "classifier.dense": 3e-3}
    found = rates(model, head_learning_rate=5e-3, learning_rates=named)
    assert set(found.values()) == {1e-3, 2e-3, 3e-3, 5e-3, 1e-2}
    for name, rate in found.items():
        if ".classifier." in name:
            expected = 3e-3 if ".dense." in name else 5e-3
        elif ".value." in name:
            expected = 2e-3
        else:
            expected = 1e-3 if ".layer.0." in name else 1e-2
        assert rate == expected, name


def test_groups_keep_their_weight_decay() -> None:
    model = classifier()
    for group in parameter_groups(model, settings(learning_rates={"layer.1": 1e-4}, weight_decay=0.3), 1e-2):
        assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] == 0.3}


def test_parameters_move_by_their_own_rate(tmp_path: Path) -> None:
    """AdamW's first step is the rate itself, in the direction of the gradient's sign."""
    save_model(tmp_path / "model")
    data = save_rows(tmp_path / "rows.jsonl", rows(8))
    moved = {}
    for rate in (1e-3, 4e-3):
        start = {"epochs": 1, "batch_size": 8, "warmup": 0.0, "weight_decay": 0.0, "method": "full", "max_length": 16}
        output = tmp_path / str(rate)
        named = {"attention": 1e-3, "layer.1.attention": rate}
        finetune(
            settings(
                model=str(tmp_path / "model"),
                output=str(output),
                train=data,
                validation=data,
                learning_rates=named,
                **start,
            )
        )
        before = load_file(tmp_path / "model" / "model.safetensors")
        after = load_file(output / "model" / "model.safetensors")
        for layer in (0, 1):
            key = f"encoder.layer.{layer}.attention.self.query.weight"
            moved[rate, layer] = (after[f"bert.{key}"] - before[key]).abs().max()
        assert f"| learning rate of layer.1.attention | {rate:g} |" in (output / "report.md").read_text()
    for (rate, layer), step in moved.items():
        torch.testing.assert_close(step, torch.tensor(rate if layer else 1e-3), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("quary", "did you mean 'query'? there are roberta.embeddings.LayerNorm.weight, "),
        ("layer.7", "there are roberta.embeddings.LayerNorm.weight, "),
        ("encoder.layer.1.attention.self.query.base_layer", "there are "),  # it is frozen
    ],
)
def test_a_name_that_nothing_has_is_refused(name: str, hint: str) -> None:
    message = f"learning_rates names '{name}', which no trained parameter is called; {hint}"
    with pytest.raises(TTValueError, match=re.escape(message)) as caught:
        check_learning_rates(classifier(), ["layer.0", name])
    assert str(caught.value).count("layer.*.attention.self.query.loretta_rep_network.A.cores.*") == 1


def test_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    data = save_rows(tmp_path / "rows.jsonl", rows(8))
    with pytest.raises(TTValueError, match="learning_rates names 'quary'"):
        finetune(
            settings(
                model=str(tmp_path / "model"), output=str(tmp_path / "run"), train=data, learning_rates={"quary": 1.0}
            )
        )
    assert {path.name for path in tmp_path.iterdir()} == {"model", "rows.jsonl"}


@pytest.mark.parametrize("text", ["classifier", "=1e-3", "classifier=fast", "a=1,", "a=1,=2"])
def test_pairs_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(TTValueError, match="expected NAME=RATE, such as classifier=1e-3"):
        parse_rates(text)


def test_rates_have_to_be_above_0() -> None:
    with pytest.raises(TTValueError, match=r"learning_rates gives 'a' the rate -1\.0; expected a number above 0"):
        settings(learning_rates={"a": -1.0})
