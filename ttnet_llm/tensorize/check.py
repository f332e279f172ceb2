"""What tensorising has done to a model, seen on some texts: before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttnet.errors import TTValueError


@dataclass(frozen=True)
class Check:
    """What a model has lost.

    Args:
        measure: `"perplexity"` of a language model, `"agreement"` of the likeliest classes or words with those of the
            dense model, or `"similarity"`, the cosine of mean outputs with those of the dense model.
        before: Of the dense model; 1 for what is compared with itself.
        after: Of the model with trains.
        texts: Number of texts.
        seen: Whether the trains were calibrated on these texts.

    Example:
        >>> Check("perplexity", 20.0, 25.0, 64).loss, Check("agreement", 1.0, 0.75, 64).loss
        (0.25, 0.25)
        >>> print(Check("agreement", 1.0, 0.75, 64))
        On 64 texts, the agreement with the dense model is 75.0%.
    """

    measure: str
    before: float
    after: float
    texts: int
    seen: bool = False

    @property
    def loss(self) -> float:
        """How much worse it is: the perplexity relative to that before, or what is missing to 1."""
        return self.after / self.before - 1 if self.measure == "perplexity" else self.before - self.after

    def __str__(self) -> str:
        texts = f"{self.texts} texts{' of the calibration' if self.seen else ''}"
        if self.measure == "perplexity":
            return f"On {texts}, the perplexity is {self.after:.4g}, and was {self.before:.4g}."
        return f"On {texts}, the {self.measure} with the dense model is {self.after:.1%}."


class QuickCheck:
    """Looks at a model before it is changed, and once more afterwards.

    Args:
        model: The dense model.
        batches: Texts as the model takes them, with an `attention_mask`; at least one batch.
        seen: Whether the trains will be calibrated on these texts.

    Raises:
        TTValueError: If there is no batch, or no text of a language model has more than one token.
    """

    def __init__(self, model: nn.Module, batches: Sequence[dict[str, Tensor]], *, seen: bool = False) -> None:
        if not batches:
            raise TTValueError("batches is empty; expected at least one batch of texts.")
        self._model, self._batches, self._seen = model, batches, seen
        self._measure, self._dense = self._look()
        if not len(self._dense):
            raise TTValueError(
                "No text in batches has more than one token, so there is no perplexity; give longer ones."
            )

    def compare(self) -> Check:
        """Look once more.

        Returns:
            What the model has lost.
        """
        _, now = self._look()
        texts = sum(len(batch["input_ids"]) for batch in self._batches)
        if self._measure == "perplexity":
            before, after = (math.exp(min(float(losses.mean()), 700.0)) for losses in (self._dense, now))
            return Check("perplexity", before, after, texts, self._seen)
        if self._measure == "agreement":
            return Check("agreement", 1.0, float((now == self._dense).double().mean()), texts, self._seen)
        similar = nn.functional.cosine_similarity(now, self._dense, dim=-1).mean()
        return Check("similarity", 1.0, float(similar), texts, self._seen)

    def _look(self) -> tuple[str, Tensor]:
        """Give losses of tokens, likeliest classes, or mean outputs, one after the other."""
        model: Any = self._model
        training = model.training
        model.eval()
        device = next(model.parameters()).device
        found = []
        with torch.inference_mode():
            for batch in self._batches:
                inputs = {key: value.to(device) for key, value in batch.items()}
                measure, values = _of_batch(model, inputs)
                found.append(values.cpu())
        model.train(training)
        return measure, torch.cat(found)


def _of_batch(model: Any, inputs: dict[str, Tensor]) -> tuple[str, Tensor]:
    mask = inputs["attention_mask"].bool()  # (texts, tokens)
    output = model(**inputs)
    logits = getattr(output, "logits", None)
    if logits is None:
        states, weights = output.last_hidden_state.float(), mask[..., None]
        return "similarity", (states * weights).sum(1) / weights.sum(1)
    if type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        counts = mask[:, 1:] & mask[:, :-1]
        losses = nn.functional.cross_entropy(
            logits[:, :-1][counts].float(), inputs["input_ids"][:, 1:][counts], reduction="none"
        )
        return "perplexity", losses
    best = logits.argmax(-1)
    return "agreement", best[mask] if best.ndim == 2 else best
