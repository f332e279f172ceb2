"""Models with trains in training: healed, adapted, and thinned out on the way."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import Method, each
from tests.ttnet_llm.models import IDS, logits, perturb
from ttnet import TensorTrain
from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import TTLinear, TTWeight
from ttnet_llm import LorettaAdpConfig, LorettaRepConfig, MetaTTConfig, RankSchedule, TTLoraConfig, load_tensorized
from ttnet_llm.tensorize import save_tensorized, tensorize, train_trains_only
from ttnet_llm.tensorize.adapters import find_adapters
from ttnet_llm.tensorize.rounding import carry_over, round_cores, tails
from ttnet_llm.tensorize.schedule import round_trains


def small(make: Any = models.bert, targets: Any = ("intermediate.dense", "word_embeddings"), **options: Any) -> Any:
    model = make()
    tensorize(model, targets=list(targets), progress=False, **(options or {"ratio": 0.6}))
    return model


class Texts(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        return {"input_ids": IDS[k % 3].roll(k // 3), "labels": torch.tensor(k % 2)}


def trainer(model: nn.Module, folder: Path, steps: int = 8, callbacks: Any = (), **options: Any) -> tf.Trainer:
    options = {"save_strategy": "no"} | options
    arguments = tf.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=6,
        learning_rate=1e-2,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    return tf.Trainer(
        model=model, args=arguments, train_dataset=Texts(), eval_dataset=Texts(), callbacks=list(callbacks)
    )


def weights(model: nn.Module) -> list[TTWeight]:
    return [module for module in model.modules() if isinstance(module, TTWeight)]


# --- healing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loaded", [False, True])
def test_trainer_heals_the_trains_and_nothing_else(loaded: bool, tmp_path: Path) -> None:
    model = small()
    if loaded:
        save_tensorized(model, tmp_path / "x")
        model = load_tensorized(tmp_path / "x")
    count = train_trains_only(model)
    assert count == sum(weight.layout.num_parameters for weight in weights(model))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer(model, tmp_path).train()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if ".tt.cores." in name}
    assert train_trains_only(model, biases=True) > count
    with pytest.raises(TTValueError, match="has no layers with trains"):
        train_trains_only(models.bert())


# --- adapters on top --------------------------------------------------------------------------


@each()
def test_adapters_go_on_trains(config_cls: Method, tmp_path: Path) -> None:
    save_tensorized(small(models.llama, ["q_proj", "o_proj", "up_proj", "down_proj"]), tmp_path / "base")
    model = load_tensorized(tmp_path / "base")
    expected = logits(model)
    model = get_peft_model(model, config_cls(target_modules=["o_proj", "down_proj"])).eval()
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    perturb(model)
    adapted = logits(model)
    assert not torch.allclose(adapted, expected, atol=1e-3)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(
        load_tensorized(tmp_path / "base"), tmp_path / "adapter", is_trainable=True
    ).eval()
    torch.testing.assert_close(logits(again), adapted, rtol=1e-5, atol=1e-5)
    again.train()
    again(input_ids=IDS, labels=IDS).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in again.parameters())
    assert not any(".tt." in name for name, p in again.named_parameters() if p.requires_grad)
    with pytest.raises(TTTypeError, match=r"Keep the adapter beside it|cannot be merged"):
        model.merge_and_unload()
    assert isinstance(again.unload().model.layers[0].mlp.down_proj, TTLinear)


def test_adapters_go_on_tables_and_start_from_trains() -> None:
    model = small(models.llama, ["embed_tokens", "q_proj"])
    expected = logits(model)
    model = get_peft_model(model, LorettaRepConfig(target_modules=["embed_tokens", "q_proj"], init_weights="tt_svd"))
    torch.testing.assert_close(logits(model.eval()), expected, rtol=1e-4, atol=1e-4)
    perturb(model)
    assert not torch.allclose(logits(model), expected, atol=1e-3)


def test_lora_goes_on_the_dense_layers(tmp_path: Path) -> None:
    model = get_peft_model(small(models.llama, ["up_proj"]), LoraConfig(target_modules=["q_proj"]))
    perturb(model)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(small(models.llama, ["up_proj"]), tmp_path)
    torch.testing.assert_close(logits(again.eval()), logits(model.eval()))
    with pytest.raises(ValueError, match="TTLinear"):
        get_peft_model(small(models.llama, ["up_proj"]), LoraConfig(target_modules=["up_proj"]))


# --- rounding with the optimiser's state ------------------------------------------------------


def train_of(ranks: list[int], seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    modes = [3, 4, 2, 5]
    return [torch.randn(a, n, b, dtype=torch.float64) for a, n, b in zip([1, *ranks], modes, [*ranks, 1], strict=True)]


def fattened(cores: list[torch.Tensor], extra: int) -> list[torch.Tensor]:
    """The same train with larger ranks, in a random basis."""
    torch.manual_seed(9)
    out = list(cores)
    for k in range(len(cores) - 1):
        r = out[k].shape[-1]
        wide = torch.randn(r, r + extra, dtype=torch.float64)
        out[k] = torch.tensordot(out[k], wide, 1)
        out[k + 1] = torch.tensordot(torch.linalg.pinv(wide), out[k + 1], 1)
    return out


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("scale", [1e-80, 1.0, 1e80])
def test_gradients_are_carried_over_by_the_chain_rule(extra: int, scale: float) -> None:
    old = [core * scale**0.25 for core in fattened(train_of([2, 3, 2]), extra)]
    rounded = round_cores(old, eps=1e-10)
    assert [core.shape[-1] for core in rounded.cores] == [2, 3, 2, 1]
    torch.testing.assert_close(TensorTrain(rounded.cores).full() / scale, TensorTrain(old).full() / scale)
    target = torch.randn(3, 4, 2, 5, dtype=torch.float64)

    def gradients(cores: list[torch.Tensor]) -> list[torch.Tensor]:
        leaves = [core.clone().requires_grad_() for core in cores]
        (TensorTrain(leaves).full() / scale * target).sum().backward()
        return [leaf.grad for leaf in leaves]  # type: ignore[misc]

    for k, (before, after) in enumerate(zip(gradients(old), gradients(rounded.cores), strict=True)):
        torch.testing.assert_close(rounded.first(k, before), after, rtol=1e-6, atol=1e-6 * float(after.abs().max()))


def test_squares_stay_at_least_zero_and_scale_like_gradients() -> None:
    old = train_of([2, 3, 2])
    rounded = round_cores([core * 3 for core in old], ranks=[1, 2, 1])
    for k, core in enumerate(old):
        assert bool((rounded.squares(k, core**2) >= 0).all())
    one = [torch.full((1, 2, 1), 3.0), torch.full((1, 2, 1), 1.0)]
    found = round_cores(one, ranks=[1])
    moment = torch.full((1, 2, 1), 0.5, dtype=torch.float64)
    for k in range(2):
        torch.testing.assert_close(found.squares(k, moment**2), found.first(k, moment) ** 2)


def test_tails_are_what_a_cut_loses() -> None:
    cores = train_of([2, 3, 2])
    dense = TensorTrain(cores).full()
    for bond, tail in enumerate(tails(cores), 1):
        values = torch.linalg.svdvals(dense.reshape(12 if bond == 2 else (3 if bond == 1 else 24), -1))
        for rank, left in enumerate(tail):
            assert left == pytest.approx(float((values[rank:] ** 2).sum() / (values**2).sum()), abs=1e-12)
    assert tails([torch.zeros(1, 2, 1), torch.zeros(1, 2, 1)])[0][-1] == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
        lambda p: torch.optim.Adagrad(p),
        lambda p: torch.optim.Adadelta(p),
    ],
)
def test_optimisers_go_on_with_the_new_cores(make: Any) -> None:
    model = small()
    optimizer = make(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=IDS).logits.square().mean().backward()
        optimizer.step()
    found = round_trains(model, optimizer, max_rank=3)
    assert found.parameters[1] < found.parameters[0]
    assert 0 < found.error < 1
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert {id(p) for p in optimizer.state} <= held
    for parameter, state in optimizer.state.items():
        assert all(v.shape in (parameter.shape, torch.Size([])) for v in state.values() if isinstance(v, torch.Tensor))
    before = [core.detach().clone() for weight in weights(model) for core in weight.cores]
    optimizer.zero_grad()
    model(input_ids=IDS).logits.square().mean().backward()
    optimizer.step()
    after = [core for weight in weights(model) for core in weight.cores]
    assert all(not torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: tf.Adafactor(p, lr=1e-3, relative_step=False, scale_parameter=False),
        lambda p: tf.Adafactor(p, lr=1e-3, relative_step=False, scale_parameter=False, beta1=0.9),
        lambda p: torch.optim.Adafactor(p),
    ],
    ids=["transformers", "with first moments", "torch"],
)
def test_factored_moments_start_anew(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = small()
    train_trains_only(model)
    optimizer = make([p for p in model.parameters() if p.requires_grad])

    def step() -> None:
        optimizer.zero_grad()
        model(input_ids=IDS).logits.square().mean().backward()
        optimizer.step()

    step()
    round_trains(model, optimizer, max_rank=2)
    cores = [core for weight in weights(model) for core in weight.cores]
    assert not any(optimizer.state.get(core) for core in cores)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "row" in warning
    assert "of a core cannot be carried over; it starts anew" in warning
    before = [core.detach().clone() for core in cores]
    step()
    assert all(not torch.equal(a, b) and bool(a.isfinite().all()) for a, b in zip(cores, before, strict=True))
    for core in cores:  # as an optimiser that had never seen the old ones
        fresh = make([core])
        fresh.step()
        assert {k: v.shape for k, v in fresh.state[core].items() if isinstance(v, torch.Tensor)} == {
            k: v.shape for k, v in optimizer.state[core].items() if isinstance(v, torch.Tensor)
        }


def test_a_budget_goes_where_trains_lose_most() -> None:
    model = small(nn_model, ["0", "1"], eps=1e-4)
    a, b = (model[k].tt.layout.ranks[1] for k in (0, 1))
    assert a == 20
    assert b == 20
    with torch.no_grad():  # the second one is nearly of rank 2
        u, s, v = torch.linalg.svd(model[1].weight.mT.detach(), full_matrices=False)
        s[2:] *= 1e-4
        model[1].tt.set_value(TensorTrain([(u * s)[None, :, :20], v[:20, :, None]]))
    total = sum(weight.layout.num_parameters for weight in weights(model))
    found = round_trains(model, budget=int(0.6 * total))
    assert found.parameters[1] <= 0.6 * total
    assert model[0].tt.layout.ranks == (1, 20, 1)
    assert model[1].tt.layout.ranks == (1, 4, 1)
    with pytest.raises(TTValueError, match="budget is 5; expected at least"):
        round_trains(model, budget=5)


def nn_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.randn(64, 20) @ torch.randn(20, 64))
    return model


# --- the schedule -----------------------------------------------------------------------------


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
