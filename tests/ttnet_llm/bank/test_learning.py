"""Adapters of a bank that learn: together as alone, and no others along with them."""

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.bank.shared import NAMES, alone, bank_of, checkpoint_layers, peft_model
from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm import LorettaRepConfig
from ttnet_llm.bank import AdapterBank


@pytest.mark.parametrize("optimiser", ["SGD", "AdamW"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_that_learn_together_end_as_if_each_had_learnt_alone(optimiser: str, checkpointing: bool) -> None:
    base = models.llama()
    config = LorettaRepConfig(r=4, tt_rank=3, init_weights=False)
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    bank.model.train()
    if checkpointing:
        checkpoint_layers(bank)
    ids = torch.randint(1, 60, (3, 7))
    names = ["cyd", "ann", "bob"]
    optimise = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}[optimiser]

    def losses(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none").mean(1)

    together = optimise(bank.trainable(names), lr=0.05)
    for _ in range(5):
        together.zero_grad()
        with bank.use(names):
            loss = losses(bank.model(input_ids=ids).logits, ids).sum()
        loss.backward()
        together.step()
    bank.freeze()
    model.train()
    for row, name in enumerate(names):
        model.set_adapter(name)
        own = optimise([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(5):
            own.zero_grad()
            losses(model(input_ids=ids[row : row + 1]).logits, ids[row : row + 1]).sum().backward()
            own.step()
        bank.add(f"{name} alone", model, adapter=name)
        for key, value in bank.tensors(name).items():
            torch.testing.assert_close(value, bank.tensors(f"{name} alone")[key], atol=1e-5, rtol=1e-4)


def test_only_what_is_trainable_learns_and_a_row_of_the_table_is_what_learns() -> None:
    bank = AdapterBank(models.llama(), LorettaRepConfig(r=4, init_weights=False))
    for name in NAMES:
        bank.add(name)
    before = {name: bank.tensors(name) for name in NAMES}
    (parameter,) = bank.trainable("bob")
    assert parameter.shape == (bank.parameters_each,)
    assert bank.trainable(["bob"])[0] is parameter
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    with bank.use(list(NAMES)):
        bank.model(input_ids=torch.randint(1, 60, (3, 5))).logits.square().sum().backward()
    optimiser.step()
    assert all(torch.equal(before["ann"][key], value) for key, value in bank.tensors("ann").items())
    assert any(not torch.equal(before["bob"][key], value) for key, value in bank.tensors("bob").items())
    bank.freeze(["bob"])
    with bank.use("bob"):
        assert not bank.model(input_ids=torch.randint(1, 60, (1, 5))).logits.requires_grad


def test_steps_inside_one_use_see_what_was_learnt_before() -> None:
    bank = AdapterBank(models.llama(), LorettaRepConfig(r=4, init_weights=False))
    bank.add("ann")
    optimiser = torch.optim.SGD(bank.trainable("ann"), lr=0.1)
    ids, losses = torch.randint(1, 60, (1, 5)), []
    with torch.inference_mode():
        inside = bank.use("ann")
        inside.__enter__()  # what was in force then does not matter later
    for _ in range(3):
        optimiser.zero_grad()
        loss = bank.model(input_ids=ids).logits.square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    inside.__exit__(None, None, None)
    assert losses[0] > losses[1] > losses[2]


def test_an_optimiser_does_not_reach_what_has_left(tmp_path: Path) -> None:
    bank = AdapterBank(models.llama(), LorettaRepConfig(r=4, init_weights=False))
    bank.add("ann")
    (parameter,) = bank.trainable("ann")
    bank.remove("ann")
    bank.add("bob")
    before = bank.tensors("bob")
    with torch.no_grad():
        parameter.add_(1)
    assert all(torch.equal(before[key], value) for key, value in bank.tensors("bob").items())
    with pytest.raises(TTValueError, match="There is no adapter 'zed'"):
        bank.freeze("zed")
    (parameter,) = bank.trainable("bob")
    bank.freeze("bob")
    with torch.no_grad():
        parameter.add_(1)
    assert all(torch.equal(before[key], value) for key, value in bank.tensors("bob").items())


def test_checkpointed_layers_are_computed_once_more_with_the_adapters_that_they_had() -> None:
    """Also where several adapters' losses have one backward pass."""
    bank = AdapterBank(models.llama().train(), LorettaRepConfig(r=4, init_weights=False))
    bank.add("ann")
    bank.add("bob")
    ids, gradients = torch.randint(1, 60, (2, 5)), []
    for checkpointing in (False, True):
        parameters = bank.trainable(["ann", "bob"])
        if checkpointing:
            checkpoint_layers(bank)
        losses = []
        for name in ("ann", "bob"):
            with bank.use(name):
                losses.append(bank.model(input_ids=ids).logits.square().mean())
        gradients.append(torch.autograd.grad(losses[0] + losses[1], parameters))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    bank.freeze()
    bank.model.requires_grad_(True)  # the base model learns, with no adapter
    bank.model(input_ids=ids).logits.square().mean().backward()
    # Nobody has said so: an error, and not another adapter's gradient.
    bank.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    bank.trainable("ann")
    with bank.use("ann"):
        loss = bank.model(input_ids=ids).logits.square().mean()
    with bank.use("bob"), pytest.raises(TTValueError, match=r"'context_fn': bank.checkpointing"):
        loss.backward()


def test_backward_passes_of_other_threads_compute_checkpointed_layers_with_the_same_adapters() -> None:
    base = models.llama()
    bank = AdapterBank(base.train(), LorettaRepConfig(r=4, init_weights=False))
    bank.add("ann")
    checkpoint_layers(bank)
    ids, gradients = torch.randint(1, 60, (2, 5)), []
    for elsewhere in (False, True):
        (parameter,) = bank.trainable("ann")
        parameter.grad = None
        with bank.use("ann"):
            loss = base(input_ids=ids).logits.square().mean()
        if elsewhere:
            thread = threading.Thread(target=loss.backward)
            thread.start()
            thread.join()
        else:
            loss.backward()
        assert parameter.grad is not None
        gradients.append(parameter.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])
    assert bool(gradients[0].any())


def test_adapters_that_count_from_a_start_are_used_and_not_trained() -> None:
    base = models.llama()
    config = LorettaRepConfig(r=4, init_weights="tt_svd")
    model = peft_model(base, config)
    bank = bank_of(model, base, config)
    ids = torch.randint(1, 60, (2, 5))
    with torch.no_grad(), bank.use(["ann", "bob"]):
        mixed = bank.model(input_ids=ids).logits
    torch.testing.assert_close(mixed[1], alone(model, "bob", input_ids=ids)[1], atol=2e-5, rtol=1e-4)
    with pytest.raises(TTTypeError, match="count from a start, which must not learn"):
        bank.trainable("ann")
    with pytest.raises(TTTypeError, match="by which an adapter starts from something; a bank draws no such"):
        bank.add("fresh")
