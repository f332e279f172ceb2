"""Masks learnt during a training: what is of no use shrinks, in any loop, and nothing stays behind."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainingArguments

from tests.ttnet_llm.slim_models import build
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import MeloraConfig
from ttnet_llm.search import allocate
from ttnet_llm.slim import LearnMasks, axes, learn_masks, masked, plan, slim

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 64,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.2,
}
HEADS, NEURONS = "encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense"


def regressor(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = tf.BertConfig(**SMALL, num_labels=8, problem_type="regression")
    return tf.BertForSequenceClassification(config).eval().requires_grad_(False)


@torch.no_grad()
def own_answers(model: PreTrainedModel, seed: int, count: int = 8) -> list[dict[str, Tensor]]:
    """Batches whose labels are what the whole model answers, so that all that takes part in its answers is of use."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(count):
        ids = torch.randint(1, 64, (8, 10), generator=generator)
        batches.append({"input_ids": ids, "labels": model(input_ids=ids).logits})
    return batches


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
def test_a_head_and_neurons_that_do_nothing_are_the_first_to_go(seed: int) -> None:
    """One head of each layer writes nothing, and a third of all neurons."""
    model = regressor(seed)
    generator = torch.Generator().manual_seed(seed)
    idle_heads = [int(torch.randint(4, (1,), generator=generator)) for _ in range(2)]
    idle = torch.randperm(96, generator=generator)[:32]
    idle_neurons = [sorted((idle[idle // 48 == k] % 48).tolist()) for k in range(2)]
    with torch.no_grad():
        layers: Any = model.base_model.encoder.layer
        for layer, head, neurons in zip(layers, idle_heads, idle_neurons, strict=True):
            for parameter in layer.attention.self.value.parameters():
                parameter[8 * head : 8 * head + 8] = 0
            for parameter in layer.intermediate.dense.parameters():
                parameter[neurons] = 0  # and gelu(0) is 0
    masks = learn_masks(model, own_answers(model, seed), steps=200, l1=1e-5)
    chosen = plan(model, masks, heads=1 / 4, neurons=1 / 3)
    for k in range(2):
        kept = chosen.kept[HEADS.format(k)].tolist()
        assert set(range(4)) - set(kept) == {idle_heads[k]}
        kept = chosen.kept[NEURONS.format(k)].tolist()
        assert sorted(set(range(48)) - set(kept)) == idle_neurons[k]


def test_masks_move_by_the_gradient_and_the_penalty() -> None:
    """One step of Adam is the learning rate, against the sign of the whole gradient."""
    model = regressor()
    batch = own_answers(model, 0, 1)[0]
    batch["labels"] = batch["labels"] + torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    values = {axis.name: torch.ones(axis.groups, requires_grad=True) for axis in axes(model)}
    with masked(model, values):
        model(**batch).loss.backward()
    gradients = torch.cat([mask.grad for mask in values.values() if mask.grad is not None])
    penalty = float(gradients.abs().median())  # so that it turns some signs
    for l1 in (0.0, penalty):
        masks = torch.cat(list(learn_masks(model, [batch], l1=l1, learning_rate=1e-3).values()))
        torch.testing.assert_close(masks, 1 - 1e-3 * (gradients + l1).sign(), rtol=0, atol=2e-5)
    assert not torch.equal(gradients.sign(), (gradients + penalty).sign())


def test_the_gradient_of_a_mask_is_that_of_the_loss() -> None:
    model = build("opt", torch.float64)
    ids = torch.tensor([[5, 9, 11]])
    name = axes(model)[0].name
    mask = torch.ones(4, dtype=torch.float64, requires_grad=True)

    def loss(values: Tensor) -> Tensor:
        with masked(model, {name: values}):
            found: Tensor = model(input_ids=ids).logits.square().mean()  # losses of its own are in single precision
        return found

    assert torch.autograd.gradcheck(loss, (mask,))


def test_the_base_model_stays_and_the_adapter_is_trained_along() -> None:
    base = regressor()
    before = {key: value.clone() for key, value in base.state_dict().items()}
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["query", "dense"], task_type="SEQ_CLS"))
    start = {key: value.clone() for key, value in model.state_dict().items() if "lora_B" in key}
    labelled = [batch | {"labels": batch["labels"] + 1} for batch in own_answers(base, 0)]
    masks = learn_masks(model, labelled, steps=10)
    assert all(bool((model.state_dict()[key] != value).any()) for key, value in start.items())
    plain = model.unload()
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items() if "classifier" not in key)
    assert not any(module._forward_pre_hooks for module in plain.modules())
    slim(plain, plan(plain, masks))


def test_masks_are_taken_out_when_something_fails() -> None:
    model = regressor().train()
    with pytest.raises(TTTypeError, match="model gives no loss; give it batches with labels"):
        learn_masks(model, [{"input_ids": torch.tensor([[5, 9]])}])
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_trainer_learns_the_same_masks(accumulation: int, tmp_path: Any) -> None:
    """The penalty counts once for a step, into however many batches that is split."""
    model = regressor()
    rows = [
        {"input_ids": ids, "labels": labels + 1}
        for batch in own_answers(model, 0, 6)
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    whole = [{key: torch.stack([row[key] for row in rows[k : k + 8]]) for key in rows[0]} for k in range(0, 48, 8)]
    expected = learn_masks(model, whole, l1=1e-2, learning_rate=1e-2)
    learning = LearnMasks(l1=1e-2, learning_rate=1e-2)
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        max_grad_norm=0,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    model.classifier.requires_grad_(True)  # a trainer needs something to train
    arguments.learning_rate = 0.0

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(rows)

    trainer = InOrder(model, arguments, train_dataset=rows, callbacks=[learning])
    trainer.model_accepts_loss_kwargs = False  # or it takes the loss of a batch for that of a whole step
    trainer.train()
    assert expected.keys() == learning.masks.keys()
    for name, mask in learning.masks.items():
        assert float((mask - 1).abs().max()) > 0.02
        torch.testing.assert_close(mask, expected[name], rtol=0, atol=2e-4)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_budget_is_shared_out_on_what_is_left() -> None:
    """The adapter's modules and ranks are chosen as for any other model."""
    model = regressor()
    batches = own_answers(model, 0)
    slim(model, plan(model, learn_masks(model, batches)))
    adapted = get_peft_model(
        model, MeloraConfig(task_type="SEQ_CLS", r=4, n=1, target_modules="all-linear", init_weights=False)
    )
    allocation = allocate(adapted, 2000, inputs=[{"input_ids": batch["input_ids"]} for batch in batches])
    assert allocation.parameters <= 2000
    layer: Any = model.base_model.encoder.layer[0]
    narrow = layer.intermediate.dense.base_layer.out_features
    assert narrow < 48
    assert allocation.costs["bert.encoder.layer.0.intermediate.dense"] == {r: r * (32 + narrow) for r in (1, 2, 4)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"l1": -1.0}, "l1 is -1.0; expected a number of at least 0"),
        ({"l1": float("nan")}, "l1 is nan"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a number above 0"),
        ({"adapter_learning_rate": -1.0}, "adapter_learning_rate is -1.0; expected"),
        ({"steps": 0}, "steps is 0; expected an integer of at least 1"),
        ({"steps": True}, "steps is True; expected an integer"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    model = regressor()
    with pytest.raises(TTValueError, match=words):
        learn_masks(model, own_answers(model, 0, 1), **options)


def test_batches_are_begun_again_where_they_can_be() -> None:
    model, seen = regressor(), []
    once = own_answers(model, 0, 3)

    class Loader:
        def __iter__(self) -> Iterator[Any]:
            seen.append(len(seen))
            return iter(once)

    learn_masks(model, Loader(), steps=7)  # type: ignore[arg-type]
    assert seen == [0, 1, 2]
    with pytest.raises(TTValueError, match="batches came to an end after 3 and cannot be begun again"):
        learn_masks(model, iter(once), steps=7)


def test_batches_that_say_nothing_are_refused() -> None:
    model = regressor()
    with pytest.raises(TTValueError, match="batches holds no batch; expected at least one"):
        learn_masks(model, [])
    with pytest.raises(TTTypeError, match=r"model is a T5Stack, which has nothing in encoder\.block or"):
        learn_masks(build("t5").get_encoder(), [{"input_ids": torch.tensor([[5, 9]])}])
    batch = own_answers(model, 0, 1)[0]
    with pytest.raises(TTValueError, match=r"The gradient of the mask of 'encoder.*' is not finite"):
        learn_masks(model, [batch | {"labels": batch["labels"] * torch.inf}])
    idle = regressor()
    layers: Any = idle.base_model.encoder.layer
    layers[1].forward = lambda hidden_states, *_, **__: hidden_states
    with pytest.raises(TTValueError, match=r"The loss does not depend on the mask of 'encoder.*'; give batches"):
        learn_masks(idle, [batch])


def test_several_processes_and_scaled_gradients_are_refused() -> None:
    arguments = SimpleNamespace(world_size=1, fp16=True)
    with pytest.raises(TTValueError, match="fp16 is True, by which gradients of masks are not to scale; take bf16"):
        LearnMasks().on_train_begin(arguments, tf.TrainerState(), tf.TrainerControl(), model=regressor())
    arguments = SimpleNamespace(world_size=2, fp16=False)
    with pytest.raises(TTValueError, match="Masks are learnt in one process, and there are 2; start one"):
        LearnMasks().on_train_begin(arguments, tf.TrainerState(), tf.TrainerControl(), model=regressor())
