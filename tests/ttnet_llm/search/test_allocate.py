"""Modules and ranks within a budget: found where they were planted, and an ordinary config in the end."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from transformers import TrainerCallback
from typer.testing import CliRunner

from benchmarks.planted import BUDGET, FEATURES, PLANTED, WIDE, by_ranks, drawn, plant, train
from tests.ttnet_llm import models
from tests.ttnet_llm.models import perturb
from tests.ttnet_llm.tiny import rows, save_model, save_rows
from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm import EtherConfig, LorettaRepConfig, LotrConfig, MeloraConfig, TTEtherConfig, TTLoraConfig
from ttnet_llm.budget import count_parameters, split_parameters
from ttnet_llm.command_line.cli import app
from ttnet_llm.search import allocate
from ttnet_llm.search.allocating import allocate_finetuning
from ttnet_llm.training import FinetuneSettings
from ttnet_llm.training.settings_file import read_settings


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
def test_what_was_planted_is_found(seed: int) -> None:
    base, batches = plant(seed)
    wide, _ = train(base, WIDE, batches, steps=400)
    for candidates in (None, range(1, 9)):
        for inputs in (None, [x for x, _ in batches]):
            allocation = allocate(wide, BUDGET, candidates=candidates, inputs=inputs)
            assert {name: allocation.ranks[name] for name in PLANTED} == PLANTED
            assert count_parameters(base, allocation.config).adapter == allocation.parameters == 9 * 2 * FEATURES
            assert allocation.kept > 0.9
            assert allocate(wide, BUDGET, candidates=candidates, inputs=inputs).ranks == allocation.ranks


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_it_learns_far_more_than_random_choices_of_equal_size(seed: int) -> None:
    base, batches = plant(seed)
    wide, _ = train(base, WIDE, batches, steps=400)
    allocation = allocate(wide, BUDGET)
    _, loss = train(base, allocation.config, batches, steps=300)
    names = list(allocation.scores)
    others = [train(base, by_ranks(drawn(names, 20 * seed + k)), batches, steps=300)[1] for k in range(20)]
    assert loss < min(others) / 5


@pytest.mark.parametrize(
    "config",
    [
        MeloraConfig(r=4, n=1, target_modules="all-linear"),
        MeloraConfig(r=4, n=3, alpha=3.0, target_modules="all-linear", rank_pattern={"v_proj": 2}),
        MeloraConfig(r=4, alpha_pattern={"q_proj": 5.0}, layers_to_transform=[1], target_modules=["q_proj", "v_proj"]),
        LorettaRepConfig(r=8, tt_rank=3, target_modules="all-linear"),
        TTLoraConfig(tt_rank=4, target_modules="all-linear"),
    ],
    ids=lambda config: config.method,
)
@pytest.mark.parametrize("share", [0.1, 0.5, 2.0])
def test_every_method_gets_a_config_that_fits_and_keeps_its_scale(config: Any, share: float, tmp_path: Path) -> None:
    model = perturb(get_peft_model(models.llama(), copy.deepcopy(config)))
    budget = max(int(share * split_parameters(model).adapter), 60)  # or no module fits
    allocation = allocate(model, budget, inputs=[{"input_ids": models.IDS}])
    assert allocation.parameters <= budget
    built = get_peft_model(models.llama(), copy.deepcopy(allocation.config))
    layers = dict(built.base_model.layers_with("default"))
    before = dict(model.base_model.layers_with("default"))
    assert list(layers) == list(allocation.ranks)
    assert split_parameters(built).adapter == allocation.parameters
    for name, layer in layers.items():
        assert layer.scalings["default"] == pytest.approx(before[name].scalings["default"])
    held = [allocation.costs[name][rank] for name, rank in allocation.ranks.items()]
    assert sum(held) == allocation.parameters
    for name, options in allocation.costs.items():
        worth, rank = allocation.scores[name], allocation.ranks.get(name)
        floor = (0, 0.0) if rank is None else (options[rank], worth[rank])
        assert not any(
            0 < options[other] - floor[0] <= budget - allocation.parameters and worth[other] >= floor[1]
            for other in options
        )
    # Saved and loaded it is the same config, and trains by itself.
    allocation.config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert count_parameters(models.llama(), loaded).adapter == allocation.parameters


def test_scores_are_of_what_is_added_to_outputs() -> None:
    model = perturb(get_peft_model(models.llama(), MeloraConfig(r=3, n=2, target_modules="all-linear"))).eval()
    plain = allocate(model, 10**6, candidates=[1, 3])
    weighed = allocate(model, 10**6, candidates=[1, 3], inputs=[{"input_ids": models.IDS}])
    for name, layer in model.base_model.layers_with("default"):
        seen: list[Tensor] = []
        handle = layer.get_base_layer().register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            model(models.IDS)
        handle.remove()
        x = torch.cat([each.flatten(0, -2) for each in seen]).double()
        delta = layer.get_delta_weight("default").detach().double().mT  # (in, out)
        assert delta.shape == (layer.in_features, layer.out_features)
        for scores, matrix in ((plain.scores, delta), (weighed.scores, x @ delta / len(x) ** 0.5)):
            squares = torch.linalg.svdvals(matrix).square()
            assert scores[name][1] == pytest.approx(squares[:2].sum().item(), rel=1e-5)  # n blocks of rank 1
            assert scores[name][3] == pytest.approx(squares.sum().item(), rel=1e-5)
    assert list(plain.scores) != []


def test_a_table_counts_by_the_rows_that_are_read() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 6), nn.Linear(6, 5)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.words(ids))

    model = perturb(get_peft_model(Words(), MeloraConfig(r=2, n=1, target_modules=["words", "head"])))
    ids = torch.tensor([[1, 1, 4]])
    scores = allocate(model, 1000, inputs=[ids]).scores["words"]
    layer = dict(model.base_model.layers_with("default"))["words"]
    left, right = layer.update("default")
    read = (left @ right).detach()[ids.flatten()]
    assert scores[2] == pytest.approx(read.square().sum().item() / 3, rel=1e-5)


def test_a_name_that_ends_another_is_not_taken_for_it() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(8, 8)
            self.block = nn.ModuleDict({"up": nn.Linear(8, 8)})

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.block["up"](x))

    model = perturb(get_peft_model(Twice(), MeloraConfig(r=2, n=1, target_modules=["up"])))
    with torch.no_grad():
        model.base_model.model.up.networks["default"].B.mul_(100)
    allocation = allocate(model, 32)
    assert allocation.ranks == {"up": 2}
    built = get_peft_model(Twice(), allocation.config)
    assert [name for name, _ in built.base_model.layers_with("default")] == ["up"]


def test_what_cannot_be_shared_out_is_refused() -> None:
    fresh = get_peft_model(models.llama(), MeloraConfig(r=2, n=1))
    with pytest.raises(TTValueError, match="'default' has learnt nothing: all of its updates are 0"):
        allocate(fresh, 10**6)
    model = perturb(fresh)
    cheapest = min(cost for options in allocate(model, 10**6).costs.values() for cost in options.values())
    assert allocate(model, cheapest).parameters == cheapest
    for arguments, sentence in (
        ((cheapest - 1,), f"budget is {cheapest - 1}; expected an integer of at least {cheapest}, the parameters of"),
        ((True,), "budget is True"),
        ((10**6, []), r"candidates is \[\]; expected integers, each once"),
        ((10**6, [1, 1]), "expected integers, each once"),
        ((10**6, [0, 1]), "expected ranks of at least 1"),
    ):
        with pytest.raises(TTValueError, match=sentence):
            allocate(model, arguments[0], candidates=arguments[1] if len(arguments) > 1 else None)
    with pytest.raises(TTTypeError, match="adapters are 'default'; expected a PeftModel with an adapter 'other'"):
        allocate(model, 10**6, adapter="other")
    for config, sentence in (
        (LotrConfig(r=2), "lotr shares one network between its modules, which has one rank"),
        (TTEtherConfig(r=2), "tt_ether shares one network"),
        (EtherConfig(n=2), "ether turns inputs and outputs"),
        (LoraConfig(r=2), "MELoRA with n=1 is LoRA"),
    ):
        with pytest.raises(TTTypeError, match=sentence):
            allocate(get_peft_model(models.llama(), config), 10**6)
    ranks = get_peft_model(models.llama(), TTLoraConfig(tt_rank=2))
    ranks.peft_config["default"].tt_rank = [2, 3, 2]
    with pytest.raises(TTValueError, match=r"no one rank; say which ranks to choose among with candidates"):
        allocate(ranks, 10**6)
    with torch.no_grad():
        next(iter(dict(model.base_model.layers_with("default")).values())).networks["default"].A.fill_(torch.nan)
    with pytest.raises(TTValueError, match="are NaN or infinite; train it by a lower rate"):
        allocate(model, 10**6)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


def test_the_command_writes_settings_that_finetune_takes(tmp_path: Path) -> None:
    model, data = save_model(tmp_path / "model"), save_rows(tmp_path / "train.jsonl", rows(24))
    arguments = (
        "allocate", model, "--train", data, "--method", "melora", "--method-option", "r=4", "--targets", "all-linear",
        "--epochs", 4, "--batch-size", 8, "--output", tmp_path / "out",
    )  # fmt: skip
    code, output = run(*arguments, "--budget", "600")
    assert code == 0, output
    assert "modules, with " in output
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        *("ranks.png", "report.md", "results.json", "settings.yaml", "wide", "ttnet_llm.json")
    }
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["parameters"] <= 600
    code, output = run("finetune", "--config", tmp_path / "out" / "settings.yaml", "--output", tmp_path / "run")
    assert code == 0, output
    trained = json.loads((tmp_path / "run" / "results.json").read_text())
    assert trained["parameters"]["adapter"] == found["parameters"]
    settings = FinetuneSettings(**read_settings(tmp_path / "run" / "settings.yaml"))
    assert len(settings.method_options["target_modules"]) == len(found["ranks"])

    files = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.suffix in (".md", ".yaml")}
    for changed, sentence in (
        ((*arguments, "--budget", 600), "is not empty; say --overwrite to replace what is in it"),
        ((*arguments, "--overwrite", "--budget", 5), "budget is 5; expected an integer of at least 64"),
        ((*arguments, "--overwrite", "--budget", "few"), "budget is 'few'; expected a number of parameters"),
        ((*arguments, "--overwrite", "--budget", 600, "--candidates", "1;2"), "candidates is '1;2'; expected ranks"),
        ((*arguments[:-1], tmp_path / "new", "--budget", 600, "--method", "ether"), "ether turns inputs and outputs"),
        ((*arguments, "--overwrite", "--budget", 600, "--kind", "embed"), "leave the inputs unweighed (--no-weigh)"),
    ):
        if "ether" in changed:
            changed = tuple(each for each in changed if each not in ("--method-option", "r=4"))
        code, output = run(*changed)
        assert code == 1, output
        assert sentence in output
        assert not (tmp_path / "new").exists()
    assert {file: file.read_bytes() for file in files} == files
    assert run(*arguments)[0] == 2
    code, output = run(*arguments, "--overwrite", "--budget", 600, "--candidates", "2", "--no-weigh", "--json")
    assert code == 0, output
    assert set(json.loads(output[output.index("{") :])["ranks"].values()) == {2}


class Interrupt(TrainerCallback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.at:
            raise KeyboardInterrupt


def test_an_interrupted_wide_training_goes_on_to_the_same_allocation(tmp_path: Path) -> None:
    given = {
        "model": str(save_model(tmp_path / "model")),
        "train": save_rows(tmp_path / "train.jsonl", rows(24)),
        "method": "melora",
        "method_options": {"n": 1, "r": 4, "target_modules": "all-linear"},
        "epochs": 4,
        "batch_size": 8,
    }
    whole = allocate_finetuning(FinetuneSettings(**given, output=str(tmp_path / "whole")), 600)
    settings = FinetuneSettings(**given, output=str(tmp_path / "out"))
    with pytest.raises(TTFileError, match=r"There is no interrupted training in .* to resume; leave out --resume"):
        allocate_finetuning(settings, 600, resume=True)
    with pytest.raises(KeyboardInterrupt):
        allocate_finetuning(settings, 600, callbacks=[Interrupt(1)])
    assert not (tmp_path / "out").exists()  # there was no checkpoint yet
    with pytest.raises(KeyboardInterrupt):
        allocate_finetuning(settings, 600, callbacks=[Interrupt(7)])
    with pytest.raises(TTFileError, match="is not empty; say --resume to go on, --overwrite to replace what is in it"):
        allocate_finetuning(settings, 600)
    with pytest.raises(TTValueError, match="resume and overwrite were both given"):
        allocate_finetuning(settings, 600, resume=True, overwrite=True)
    found = allocate_finetuning(settings, 600, resume=True)
    assert found.allocation.ranks == whole.allocation.ranks
    assert found.wide.losses == whole.wide.losses
    assert (tmp_path / "out" / "settings.yaml").is_file()
