"""Masks on attention heads and feed-forward neurons, and learning them during the first steps of a training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.slim.architectures import axes, find, find_core
from ttnet_llm.tensorize.moments import in_mode

L1, RATE = 1e-4, 3e-3


@contextmanager
def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Multiply every head and neuron by its mask, while the block runs.

    Args:
        model: The model, as `axes` takes it; what adapters of the reading layers read is masked, too.
        masks: For each of its axes, by its name, a number for each group; axes without are left as they are.

    Yields:
        Nothing.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6)
        >>> model = BertModel(config)
        >>> with masked(model, {axis.name: torch.ones(axis.groups) for axis in axes(model)}):
        ...     model(torch.tensor([[5, 9]])).last_hidden_state.shape
        torch.Size([1, 2, 8])
    """
    base, handles = find_core(model).base_model, []
    try:
        for axis in axes(model):
            if axis.name in masks:
                hook = _multiply_input(masks[axis.name])
                handles += [find(base, name).register_forward_pre_hook(hook) for name in axis.readers]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiply_input(mask: Tensor) -> Callable[[nn.Module, Any], Any]:
    def hook(_: nn.Module, inputs: Any) -> Any:
        x = inputs[0]
        factors = mask.to(x.device, x.dtype).repeat_interleave(x.shape[-1] // len(mask))
        return (x * factors, *inputs[1:])

    return hook


class _Learning:
    """Masks that start at 1, with what moves them."""

    def __init__(self, model: nn.Module, l1: float, learning_rate: float) -> None:
        device = next(model.parameters()).device
        self.values = {axis.name: torch.ones(axis.groups, device=device, requires_grad=True) for axis in axes(model)}
        self._l1 = l1
        self._optimizer = torch.optim.Adam(self.values.values(), lr=learning_rate)

    def step(self) -> None:
        """Move them against the gradient of the loss that has been propagated back, and of the penalty."""
        for name, mask in self.values.items():
            if mask.grad is None:
                raise TTValueError(f"The loss does not depend on the mask of {name!r}; give batches that reach it.")
            if not bool(torch.isfinite(mask.grad).all()):
                raise TTValueError(f"The gradient of the mask of {name!r} is not finite; take a lower learning rate.")
            mask.grad += self._l1 * mask.detach().sign()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def found(self) -> dict[str, Tensor]:
        return {name: mask.detach().cpu().clone() for name, mask in self.values.items()}


def learn_masks(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    steps: int | None = None,
    l1: float = L1,
    learning_rate: float = RATE,
    adapter_learning_rate: float = 1e-3,
) -> dict[str, Tensor]:
    """Learn how much each head and each neuron counts, together with what of the model is trained.

    Every head and neuron is multiplied by a mask that starts at 1, and `l1 * sum |mask|` is added to the loss. What the
    task has no use for shrinks. The model's weights of its own are as they were afterwards, if they are frozen.

    Args:
        model: The model, as `axes` takes it; what needs a gradient in it, such as an adapter and a new head, is trained
            along by AdamW.
        batches: Dictionaries of the model's arguments, labels included; one for each step. They are iterated anew
            where there are fewer.
        steps: How many; `None` takes as many as there are batches.
        l1: Weight of the penalty, at least 0.
        learning_rate: Of the masks, above 0.
        adapter_learning_rate: Of everything else, above 0.

    Returns:
        The masks by the names of the axes, each of shape `(groups,)`, float32.

    Raises:
        TTTypeError: If the model cannot be cut, or it gives no loss.
        TTValueError: If there is no batch, or an iterator of fewer than `steps`; a number is out of range, or the loss
            does not depend on a mask.

    Source:
        Gu et al., Light-PEFT (arXiv:2406.03792), section 3.1.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6)
        >>> model = BertForSequenceClassification(config)
        >>> batch = {"input_ids": torch.tensor([[5, 9]]), "labels": torch.tensor([1])}
        >>> masks = learn_masks(model, [batch], steps=3)
        >>> [tuple(mask.shape) for mask in masks.values()]
        [(2,), (6,)]
    """
    check_rates(l1, learning_rate)
    check_rates(0, adapter_learning_rate, name="adapter_learning_rate")
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise TTValueError(f"steps is {steps!r}; expected an integer of at least 1.")
    learning = _Learning(model, l1, learning_rate)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=adapter_learning_rate) if trained else None
    rows = batches if steps is None else itertools.islice(_again(batches), steps)
    device, done = next(model.parameters()).device, False
    with in_mode(model, training=True), masked(model, learning.values):
        for batch in rows:
            inputs = {key: v.to(device) if isinstance(v, Tensor) else v for key, v in batch.items()}
            loss = cast(Any, model(**inputs)).loss
            if loss is None:
                raise TTTypeError("model gives no loss; give it batches with labels, and a head that learns them.")
            loss.backward()
            learning.step()
            done = True
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()
    if not done:
        raise TTValueError("batches holds no batch; expected at least one.")
    return learning.found()


def _again(batches: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Go through batches for ever; a loader that shuffles does so each time, and nothing is kept."""
    done = 0
    while True:
        before = done
        for batch in batches:
            done += 1
            yield batch
        if done == before:
            if done:
                raise TTValueError(
                    f"batches came to an end after {done} and cannot be begun again for the rest of steps; give a list "
                    "or a DataLoader."
                )
            return


class LearnMasks(TrainerCallback):
    """Learns masks while a `Trainer` trains, as `learn_masks` does; they are in `masks` at the end.

    Args:
        l1: Weight of the penalty, at least 0.
        learning_rate: Of the masks, above 0.

    Example:
        >>> from ttnet_llm.training import FinetuneSettings, finetune
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1)
        >>> learning = LearnMasks()
        >>> result = finetune(settings, callbacks=[learning])
        >>> [tuple(mask.shape) for mask in learning.masks.values()]
        [(2,), (64,), (2,), (64,)]
    """

    masks: dict[str, Tensor]

    def __init__(self, *, l1: float = L1, learning_rate: float = RATE) -> None:
        check_rates(l1, learning_rate)
        self.l1, self.learning_rate = l1, learning_rate
        self._stack = ExitStack()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the masks into the model."""
        if args.world_size > 1:
            raise TTValueError(f"Masks are learnt in one process, and there are {args.world_size}; start one.")
        if args.fp16:  # whose gradients are scaled for the trainer's own parameters alone
            raise TTValueError(
                "fp16 is True, by which gradients of masks are not to scale; take bf16, or leave it out."
            )
        self._stack.close()  # of a training that was interrupted
        self._learning = _Learning(kwargs["model"], self.l1, self.learning_rate)
        self._stack.enter_context(masked(kwargs["model"], self._learning.values))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move them, once a step's batches have been through."""
        self._learning.step()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take them out."""
        self._stack.close()
        self.masks = self._learning.found()


def check_rates(l1: float, learning_rate: float, *, name: str = "learning_rate") -> None:
    """Refuse settings of learning masks that are out of range.

    Args:
        l1: Weight of the penalty.
        learning_rate: A learning rate.
        name: What it is called.

    Raises:
        TTValueError: If one is.
    """
    if not 0 <= l1 < math.inf:
        raise TTValueError(f"l1 is {l1}; expected a number of at least 0.")
    if not 0 < learning_rate < math.inf:
        raise TTValueError(f"{name} is {learning_rate}; expected a number above 0.")
