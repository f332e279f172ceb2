"""Ranks that fall while trains and adapters are trained."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import logits, perturb
from tests.ttnet_llm.tensorized import small, trainer, weights
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, MetaTTConfig, RankSchedule, TTLoraConfig, load_tensorized
from ttnet_llm.tensorize.adapters import find_adapters
from ttnet_llm.tensorize.rounding import carry_over, round_cores
from ttnet_llm.tensorize.schedule import round_trains


@pytest.mark.parametrize(
    "options", [{"max_ranks": [6, 3]}, {"eps": [0.3, 0.6]}, {"eps": 0.5}, {"budgets": [3000, 1500]}]
)
def test_ranks_fall_in_training(options: dict[str, Any], tmp_path: Path) -> None:
    model = small()
    schedule = RankSchedule([2, 4], **options)
    run = trainer(model, tmp_path, callbacks=[schedule])
    run.train()
    assert [rounding.step for rounding in schedule.history] == [2, 4]
    sizes = [size for rounding in schedule.history for size in rounding.parameters]
    assert sizes[0] > sizes[1] >= sizes[3]
    if "budgets" in options:
        assert sizes[3] <= 1500
    if "max_ranks" in options:
        assert max(max(weight.layout.ranks) for weight in weights(model)) == 3
    model.save_pretrained(tmp_path / "x")
    torch.testing.assert_close(logits(load_tensorized(tmp_path / "x")), logits(model.eval()))


def test_a_run_with_falling_ranks_is_resumed(tmp_path: Path) -> None:
    def make(steps: int) -> tf.Trainer:
        options = {"save_strategy": "steps", "save_steps": 3, "seed": 0, "lr_scheduler_type": "constant"}
        return trainer(small(), tmp_path, steps, [RankSchedule([2, 5], max_ranks=[6, 3])], **options)

    whole = make(7)
    whole.train()
    again = make(7)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [w.layout.ranks for w in weights(again.model)] == [w.layout.ranks for w in weights(whole.model)]
    torch.testing.assert_close(logits(again.model.eval()), logits(whole.model.eval()), rtol=1e-3, atol=1e-3)
    loaded = load_tensorized(tmp_path / "checkpoint-6")
    assert max(max(weight.layout.ranks) for weight in weights(loaded)) == 3


@pytest.mark.parametrize("options", [{"max_ranks": [3, 2]}, {"eps": [0.2, 0.9]}, {"budgets": [1500, 900]}])
@pytest.mark.parametrize("tensorised", [False, True])
def test_adapters_have_falling_ranks_and_load(options: dict[str, Any], tensorised: bool, tmp_path: Path) -> None:
    make = (lambda: small(models.bert, ["query"])) if tensorised else models.bert
    base = make()
    if tensorised:
        base.requires_grad_(False)
    model = get_peft_model(base, LorettaRepConfig(task_type="SEQ_CLS", tt_rank=5, modes={"36x8": [[6, 6], [8]]}))
    perturb(model, spread=0.05)
    schedule = RankSchedule([2, 4], **options)
    trainer(model, tmp_path, callbacks=[schedule]).train()
    assert schedule.history[-1].parameters[1] < schedule.history[0].parameters[0]
    if "budgets" in options:
        assert schedule.history[-1].parameters[1] <= 900
    assert_loads_as_it_is(model, make, tmp_path)


def assert_loads_as_it_is(model: Any, make: Any, folder: Path) -> None:
    model.eval()
    model.save_pretrained(folder / "a")
    again = PeftModel.from_pretrained(make(), folder / "a").eval()
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)
    config = model.peft_config["default"]
    assert again.peft_config["default"].rank_pattern == config.rank_pattern


@pytest.mark.parametrize("options", [{"max_ranks": [3, 2]}, {"eps": 0.4}, {"budgets": [0.9, 0.8]}])
@pytest.mark.parametrize(
    "config",
    [
        TTLoraConfig(task_type="SEQ_CLS", tt_rank=6),
        LorettaAdpConfig(task_type="SEQ_CLS", tt_rank=6, bottleneck=8),
        LorettaRepConfig(task_type="SEQ_CLS", tt_rank=6, layout="interleaved"),
        LorettaRepConfig(task_type="SEQ_CLS", tt_rank=6, rank_pattern={"query": {"r": 4}}, alpha_pattern={"value": 3}),
        LorettaRepConfig(task_type="SEQ_CLS", target_modules=["query", "word_embeddings"], modes={"36x8": [[36], [8]]}),
    ],
    ids=["tt_lora", "loretta_adp", "interleaved", "patterns", "given modes"],
)
def test_methods_made_of_trains_have_falling_ranks(config: Any, options: dict[str, Any], tmp_path: Path) -> None:
    model = get_peft_model(models.bert(), copy.deepcopy(config))
    perturb(model, spread=0.05)
    if "budgets" in options:
        (adapter,) = find_adapters(model)
        size = sum(core.numel() for train in adapter.trains for core in train.parameters)
        options = {"budgets": [int(share * size) for share in options["budgets"]]}
    schedule = RankSchedule([2, 4], **options)
    run = trainer(model, tmp_path, callbacks=[schedule], save_strategy="steps", save_steps=3)
    run.train()
    sizes = [rounding.parameters for rounding in schedule.history]
    assert sizes[0][0] > sizes[0][1] >= sizes[1][1]
    if "budgets" in options:
        assert sizes[1][1] <= options["budgets"][1]
    assert_loads_as_it_is(model, models.bert, tmp_path)
    PeftModel.from_pretrained(models.bert(), tmp_path / "checkpoint-3")

    again = get_peft_model(models.bert(), copy.deepcopy(config))
    resumed = trainer(again, tmp_path, callbacks=[RankSchedule([2, 4], **options)])
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    shapes = [[p.shape for p in each.parameters()] for each in (again, model)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("config_cls", [TTLoraConfig, LorettaRepConfig])
@pytest.mark.parametrize("options", [{"max_rank": 2}, {"eps": 0.6}])
def test_trains_over_experts_are_rounded_and_load(config_cls: Any, options: dict[str, Any], tmp_path: Path) -> None:
    model = perturb(get_peft_model(models.mixtral(), config_cls(target_modules="all-linear", tt_rank=4)))
    rounding = round_trains(model, **options)
    assert rounding.parameters[1] < rounding.parameters[0]
    assert_loads_as_it_is(model, models.mixtral, tmp_path)


def test_a_budget_is_spent_over_adapters_and_layers_alike() -> None:
    model = get_peft_model(small(models.bert, ["intermediate.dense"]), LorettaRepConfig(target_modules=["query"]))
    perturb(model)
    for weight in weights(model):
        weight.requires_grad_(True)
    (adapter,) = find_adapters(model)
    zero = adapter.trains[0]
    with torch.no_grad():  # nothing is lost of it
        zero.matrix.cores[0].zero_()
    found = round_trains(model, budget=1500)
    assert found.parameters[0] > 1500 >= found.parameters[1]
    assert set(zero.inner_ranks) == {1}
    assert len({tuple(train.inner_ranks) for train in adapter.trains}) > 1
    assert adapter.config.rank_pattern


def test_a_run_of_adapters_is_resumed(tmp_path: Path) -> None:
    def make() -> tf.Trainer:
        torch.manual_seed(0)
        model = get_peft_model(models.bert(), LorettaRepConfig(task_type="SEQ_CLS", tt_rank=5))
        options = {"save_strategy": "steps", "save_steps": 3, "seed": 0, "lr_scheduler_type": "constant"}
        return trainer(model, tmp_path, 7, [RankSchedule([2, 5], max_ranks=[3, 2])], **options)

    whole = make()
    whole.train()
    again = make()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.model.peft_config["default"].tt_rank == 2
    shapes = [[p.shape for p in run.model.parameters()] for run in (whole, again)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "config",
    [
        LorettaRepConfig(task_type="SEQ_CLS", tt_rank=6),
        LorettaRepConfig(task_type="SEQ_CLS", tt_rank=6, layout="interleaved"),
        LorettaRepConfig(
            task_type="SEQ_CLS", tt_rank=5, rank_pattern={"query": {"tt_rank": 6}}, modes={"36x8": [[6, 6], [8]]}
        ),
        LorettaAdpConfig(task_type="SEQ_CLS", tt_rank=6, bottleneck=8),
        TTLoraConfig(task_type="SEQ_CLS", tt_rank=6),
    ],
    ids=["loretta_rep", "interleaved", "patterns", "loretta_adp", "tt_lora"],
)
@pytest.mark.parametrize("options", [{"max_ranks": [4, 2]}, {"eps": [0.3, 0.6]}])
def test_the_best_checkpoint_of_adapters_is_loaded_at_the_end(
    config: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    model = get_peft_model(models.bert(), copy.deepcopy(config))
    perturb(model, spread=0.05)

    def shapes(model: nn.Module) -> list[torch.Size]:
        return [core.shape for adapter in find_adapters(model) for train in adapter.trains for core in train.parameters]

    first = shapes(model)
    run = trainer(
        model,
        tmp_path,
        callbacks=[RankSchedule([3, 6], **options), BestAt(2)],
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="own",
        greater_is_better=True,
    )
    run.train()
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    assert shapes(model) == first
    saved = PeftModel.from_pretrained(models.bert(), tmp_path / "checkpoint-2").eval()
    torch.testing.assert_close(logits(model.eval()), logits(saved))
    for field in ("tt_rank", "rank_pattern"):
        assert getattr(model.peft_config["default"], field) == getattr(saved.peft_config["default"], field)
    assert_loads_as_it_is(model, models.bert, tmp_path)


class BestAt(tf.TrainerCallback):
    """Lets an evaluation be the best."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        metrics["eval_own"] = float(state.global_step == self.step)


@pytest.mark.parametrize("change", [None, (0, 0, -1), (0, 0, 1), (1, 0, 0), (0, 1, 0)])
def test_ranks_of_no_train_are_not_adopted(change: Any, tmp_path: Path) -> None:
    model = get_peft_model(models.bert(), LorettaRepConfig(target_modules=["query"], tt_rank=2))
    trainer(model, tmp_path, callbacks=[RankSchedule([1], max_ranks=[1])])
    (adapter,) = find_adapters(model)
    first = adapter.trains[0].parameters[0]
    name = next(name for name, parameter in model.named_parameters() if parameter is first)
    state = model.state_dict()
    del state[name]
    if change is not None:
        state[name] = torch.ones([size + more for size, more in zip(first.shape, change, strict=True)])
    before = [train.inner_ranks for train in adapter.trains]
    with pytest.raises(RuntimeError, match="Missing key" if change is None else "size mismatch"):
        model.load_state_dict(state)
    assert [train.inner_ranks for train in adapter.trains] == before


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MetaTTConfig(task_type="SEQ_CLS"), "is of metatt, whose config has no ranks of single trains"),
        (LorettaRepConfig(task_type="SEQ_CLS", init_weights="tt_svd"), "counts from its start"),
        (LorettaRepConfig(task_type="SEQ_CLS", tt_head=True), "tt_head"),
        (
            LorettaRepConfig(task_type="SEQ_CLS", tt_rank=2, rank_pattern={"query": {"tt_rank": 9}}),
            "trains of the same shape and of different modes",
        ),
    ],
)
def test_adapters_that_could_not_be_loaded_are_refused(config: Any, reason: str, tmp_path: Path) -> None:
    model = get_peft_model(models.bert(), config)
    with pytest.raises(TTTypeError, match=f"{reason}.*could not be loaded after its ranks have changed"):
        trainer(model, tmp_path, callbacks=[RankSchedule([1], max_ranks=[2])])


@pytest.mark.parametrize(
    ("steps", "options", "error", "message"),
    [
        ([], {"eps": 0.1}, TTValueError, "at least one step"),
        ([2, 2], {"eps": 0.1}, TTValueError, "ascending"),
        ([0], {"eps": 0.1}, TTValueError, "steps holds 0"),
        ([1.5], {"eps": 0.1}, TTTypeError, "steps holds 1.5"),
        ([1], {}, TTValueError, "none of them given"),
        ([1], {"eps": 0.1, "max_ranks": [2]}, TTValueError, "max_ranks and eps given"),
        ([1, 2], {"max_ranks": [2]}, TTValueError, "expected 2 values"),
        ([1, 2], {"max_ranks": [2, 3]}, TTValueError, "numbers that fall"),
        ([1], {"budgets": [0]}, TTValueError, "budgets holds 0"),
        ([1], {"eps": -0.1}, TTValueError, "eps is -0.1"),
    ],
)
def test_bad_schedules(steps: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RankSchedule(steps, **options)


def test_a_model_without_trains_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TTValueError, match="no trainable trains"):
        trainer(models.bert(), tmp_path, callbacks=[RankSchedule([1], max_ranks=[2])]).train()


def test_unknown_state_starts_anew() -> None:
    core = nn.Parameter(torch.ones(1, 2, 1))
    optimizer = torch.optim.SGD([core], lr=0.1)
    optimizer.state[core] = {"other": torch.ones(1, 2, 1)}
    rounded = round_cores([core, torch.ones(1, 2, 1)], ranks=[1])
    new = nn.Parameter(torch.zeros(1, 2, 1))
    assert carry_over(optimizer, core, new, rounded, 0, core.shape) == "other"
    assert not optimizer.state
    assert optimizer.param_groups[0]["params"] == [new]
