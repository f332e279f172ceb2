"""What a language model learns of questions: the right choice, not the wrong ones, and which is the likeliest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ttnet.errors import TTValueError

IGNORED = -100  # of tokens that belong to no choice


@dataclass(frozen=True)
class ChoiceLoss:
    """T-Few's loss, for `compute_loss_func` of any trainer of transformers': three parts, added up.

    The loss of a language model on the right choices, the mean over their tokens; the unlikelihood of the wrong ones,
    the mean of `-log(1 - p + floor)` over theirs; and the cross entropy of which choice is right, by the mean
    log-probability of each one's tokens.

    Args:
        unlikelihood: Weight of the second part, at least 0.
        ranking: Weight of the third part, at least 0.
        length_norm: Log-probabilities of choices are divided by this power of their numbers of tokens, at least 0.
        floor: Keeps the second part finite where a wrong token is certain, at least 0; with 0 it is the paper's.
        shift: Whether logits foretell the next token, as those of causal models do. A decoder beside an encoder, which
            is given the choices shifted, foretells the one at the same place.

    Raises:
        TTValueError: If a number is negative or not finite.

    Example:
        >>> logits, labels = torch.zeros(2, 3, 5), torch.tensor([[[-100, 1, 2], [-100, 4, -100]]])
        >>> [round(float(part), 3) for part in ChoiceLoss().parts(logits, labels)]
        [1.609, 0.211, 0.693]

    Source:
        H. Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", 2022,
        equations 1 to 3; the floor is that of the authors' program.
    """

    unlikelihood: float = 1.0
    ranking: float = 1.0
    length_norm: float = 1.0
    floor: float = 1e-2
    shift: bool = True

    def __post_init__(self) -> None:
        for name in ("unlikelihood", "ranking", "length_norm", "floor"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise TTValueError(f"{name} is {value}; expected a number of at least 0.")

    def __call__(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Add up the parts.

        Args:
            outputs: Of the model, with `logits`, shape `(rows, tokens, words of the vocabulary)`.
            labels: As a `ChoiceCollator` gives them, shape `(examples, choices, tokens)`.
            num_items_in_batch: What a trainer counts of the batches of a step: the three numbers that `count` gives,
                of all of them together, or `None` if these are all. `choosing` makes trainers that count so.

        Returns:
            The loss, a scalar, float32 or wider.

        Raises:
            TTValueError: If there are not as many rows as choices, an example lacks its right choice, or the number is
                one that the parts of a step with other batches cannot be divided by.
        """
        counts = self.count(labels)
        if num_items_in_batch is not None and not _is_counts(num_items_in_batch):
            counted = int(torch.as_tensor(num_items_in_batch).flatten()[0])
            if counted != (here := int(counts[:2].sum())):
                raise TTValueError(
                    f"num_items_in_batch is {counted}, but the choices of this batch have {here} tokens: a step is of "
                    "several batches, by each of whose three numbers the parts are to be divided; make the trainer "
                    "with ttnet_llm.training.choices.choosing, which counts them."
                )
        elif num_items_in_batch is not None:
            counts = torch.as_tensor(num_items_in_batch)
        sums = self.sums(outputs.logits, labels)
        lm, unlikely, ranked = _divided(sums, counts)
        return lm + self.unlikelihood * unlikely + self.ranking * ranked

    def parts(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the three parts of a batch by itself, without their weights.

        Args:
            logits: Shape `(rows, tokens, words of the vocabulary)`.
            labels: Shape `(examples, choices, tokens)`.

        Returns:
            Scalars; 0 for a part with nothing to count, such as wrong choices where there are none.
        """
        return _divided(self.sums(logits, labels), self.count(labels))

    def sums(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the parts before they are divided by what `count` gives; 0 for one whose weight is 0.

        Args:
            logits: As the loss itself takes them.
            labels: The same.

        Returns:
            The likelihood of the right choices, the unlikelihood of the wrong ones, and the ranking, all summed up.
        """
        scores, counts = token_scores(logits, labels, shift=self.shift)  # (examples, choices, tokens)
        if not (there := counts[:, 0].any(-1)).all():
            missing = int((~there).nonzero()[0])
            raise TTValueError(f"labels have no token of the first choice, the right one, in example {missing}.")
        none = scores.new_zeros(())
        unlikely = ranked = none
        if self.unlikelihood:
            wrong = scores[:, 1:][counts[:, 1:]]
            unlikely = -torch.log(self.floor - torch.expm1(wrong)).sum()  # precise where p is near 1 or 0
        if self.ranking:
            by_choice = mean_scores(scores, counts, self.length_norm)
            ranked = -by_choice.log_softmax(-1)[:, 0].sum()
        return -scores[:, 0].sum(), unlikely, ranked

    def count(self, labels: Tensor) -> Tensor:
        """Count what the parts are means over.

        Args:
            labels: Shape `(examples, choices, tokens)`.

        Returns:
            Numbers of tokens of right choices, of tokens of wrong ones, and of examples, float64, shape `(3,)`.
        """
        counts = (labels[..., 1:] if self.shift else labels) != IGNORED
        right, wrong = counts[:, 0].sum(), counts[:, 1:].sum()
        return torch.stack([right, wrong, torch.full_like(right, len(labels))]).double()


def token_scores(logits: Tensor, labels: Tensor, *, shift: bool) -> tuple[Tensor, Tensor]:
    """Give the log-probability of every token of every choice.

    Args:
        logits: Shape `(rows, tokens, words of the vocabulary)`, with a row for every choice that has tokens.
        labels: Shape `(examples, choices, tokens)`, `IGNORED` where a token belongs to no choice; without any in
            choices that an example lacks.
        shift: Whether logits foretell the next token.

    Returns:
        Log-probabilities in float32 or wider, 0 elsewhere; and where there are some; shape `(examples, choices, n)`
        with one token less if they are shifted.

    Raises:
        TTValueError: If there are not as many rows as choices.
    """
    if shift:
        logits, labels = logits[:, :-1], labels[..., 1:]
    counts = labels != IGNORED
    wanted = labels[counts.any(-1)]  # (rows, tokens)
    if wanted.shape != logits.shape[:2]:
        raise TTValueError(
            f"logits are of {tuple(logits.shape[:2])} rows and tokens, but the labels have {tuple(wanted.shape)} in "
            "choices that are there; take both from one batch of a ChoiceCollator."
        )
    chosen = wanted != IGNORED
    # Of these tokens alone, as float32 logits of all may be large; summed float16 would not be precise.
    found = logits[chosen].to(torch.promote_types(logits.dtype, torch.float32))  # (all tokens, words)
    scores = -torch.nn.functional.cross_entropy(found, wanted[chosen], reduction="none")
    return scores.new_zeros(counts.shape).masked_scatter(counts, scores), counts


def mean_scores(scores: Tensor, counts: Tensor, length_norm: float) -> Tensor:
    """Give every choice's log-probability by its length.

    Args:
        scores: As `token_scores` gives them, shape `(examples, choices, tokens)`.
        counts: The same.
        length_norm: The power of the length to divide by.

    Returns:
        Shape `(examples, choices)`; minus infinity for choices that an example lacks.
    """
    lengths = counts.sum(-1)
    return (scores.sum(-1) / lengths.clamp(min=1).to(scores.dtype) ** length_norm).masked_fill(lengths == 0, -torch.inf)


def choosing(trainer_cls: Any) -> Any:
    """Make a trainer class that divides a `ChoiceLoss` by what a whole step counts.

    A step is then the same, however it is cut into batches (`gradient_accumulation_steps`) and shared out among
    processes. Without it, and by the mean of batches, short choices would count more in one than in the other.

    Args:
        trainer_cls: transformers' `Trainer`, or a class made of it.

    Returns:
        The class. Its objects are made with `compute_loss_func=ChoiceLoss(...)` and a `ChoiceCollator`.

    Example:
        >>> from transformers import Trainer
        >>> choosing(Trainer).__name__
        'ChoosingTrainer'
    """
    return type(f"Choosing{trainer_cls.__name__}", (_WholeSteps, trainer_cls), {})


class _WholeSteps:
    loss_is_scaled_for_ga = True

    def get_batch_samples(self: Any, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """Take the batches of a step, and count them."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        return batches, self._count([batch["labels"] for batch in batches]) if batches else None

    def compute_loss(
        self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Divide by what the step counts; in evaluations by what the batch does."""
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        counts = num_items_in_batch if _is_counts(num_items_in_batch) else self._count([labels])
        loss = self.compute_loss_func(outputs, labels, num_items_in_batch=counts)
        return (loss, outputs) if return_outputs else loss

    def _count(self: Any, labels: Sequence[Tensor]) -> Tensor:
        counts = torch.stack([self.compute_loss_func.count(each) for each in labels]).sum(0)
        counts = counts.float().to(self.args.device)  # as not all devices have float64
        # Gradients are the mean of those of all processes, and are to be their sum.
        whole: Tensor = self.accelerator.reduce(counts, "sum") / self.accelerator.num_processes
        return whole


def _divided(sums: tuple[Tensor, Tensor, Tensor], counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    counts = counts.to(sums[0]).clamp(min=1e-9)  # 0 of 0 is 0
    lm, unlikely, ranked = (part / count for part, count in zip(sums, counts, strict=True))
    return lm, unlikely, ranked


def _is_counts(value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == (3,)
