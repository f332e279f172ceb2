"""Which choice of a question a model takes for the likeliest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ttnet.errors import TTValueError
from ttnet_llm.training.choices.loss import mean_scores, token_scores
from ttnet_llm.training.choices.questions import ChoiceCollator, Question, encode


def rank_classify(
    model: nn.Module,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    max_length: int = 512,
    batch_size: int = 8,
    length_norm: float = 1.0,
    on_batch: Callable[[int], None] | None = None,
) -> NDArray[np.float64]:
    """Score the choices of questions by the mean log-probability of their tokens, and by the mean over all wordings.

    Args:
        model: One that writes texts, with or without an encoder; put into evaluation mode.
        tokenizer: Its tokenizer.
        questions: The questions; which choice is right is not looked at.
        max_length: As for `encode`.
        batch_size: Questions in a batch, at least 1. They go through the model by their length.
        length_norm: As for `ChoiceLoss`.
        on_batch: Called with the number of questions done.

    Returns:
        Scores, shape `(n, choices)`, of which the largest is the model's choice; minus infinity for choices that a
        question lacks.

    Raises:
        TTValueError: If there are no questions, `batch_size` is below 1, or a question cannot be encoded.

    Example:
        >>> from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration
        >>> sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        >>> model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))
        >>> questions = [Question("Up or down?", ("up", "down")), Question("Is it?", ("yes", "no", "maybe"))]
        >>> rank_classify(model, ByT5Tokenizer(), questions).shape
        (2, 3)

    Source:
        H. Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", 2022,
        section 3.2.
    """
    if not questions or batch_size < 1:
        raise TTValueError(
            f"There are {len(questions)} questions, and batch_size is {batch_size}; expected at least one of each."
        )
    config: Any = model.config
    decodes = bool(config.is_encoder_decoder)
    wordings = [(number, each) for number, question in enumerate(questions) for each in question.wordings]
    rows = [encode(tokenizer, each, max_length=max_length, encoder_decoder=decodes) for _, each in wordings]
    by_length = sorted(range(len(rows)), key=lambda row: -max(map(len, rows[row]["input_ids"])))
    collate, device = ChoiceCollator(tokenizer, model), next(model.parameters()).device
    each_wording = np.full((len(rows), max(len(question.choices) for question in questions)), -np.inf)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            chosen = by_length[start : start + batch_size]
            batch = {name: values.to(device) for name, values in collate([rows[row] for row in chosen]).items()}
            labels = batch.pop("labels")
            scores, counts = token_scores(model(**batch).logits, labels, shift=not decodes)
            each_wording[chosen, : labels.shape[1]] = mean_scores(scores, counts, length_norm).double().cpu().numpy()
            if on_batch:
                on_batch(min(start + batch_size, len(rows)) * len(questions) // len(rows))
    found = np.zeros((len(questions), each_wording.shape[1]))
    for (number, _), row in zip(wordings, each_wording, strict=True):
        found[number] += row / len(questions[number].wordings)
    return found
