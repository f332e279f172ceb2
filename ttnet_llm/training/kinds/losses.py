"""How well texts are foretold, token by token: what language models with and without an encoder are judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttnet.errors import TTValueError
from ttnet_llm.training.details import Details
from ttnet_llm.training.kinds.kind import Judgement, OnBatch, batches

IGNORED = -100  # where a token's loss does not count
Encoded = dict[str, list[int]]


def judge_tokens(
    rows: list[Encoded],
    sums_of: Callable[[list[Encoded]], NDArray[Any]],
    details: Details,
    *,
    batch_size: int,
    on_batch: OnBatch | None,
) -> Judgement:
    """Judge by all tokens together that count, of all examples.

    Args:
        rows: Encoded examples, which go through the model by their length.
        sums_of: Gives losses, tokens foretold, and tokens of some examples, shape `(n, 3)`.
        details: The measures.
        batch_size: Examples in a batch, at least 1.
        on_batch: Called with the number of examples done.

    Returns:
        The mean loss, its exponential, and the share of tokens foretold; and the mean loss of every example, shape
        `(n,)`, not a number where none of its tokens counts.

    Raises:
        TTValueError: If no token counts.
    """
    sums = np.zeros((len(rows), 3))
    by_length = sorted(range(len(rows)), key=lambda row: -len(rows[row]["input_ids"]))
    with torch.inference_mode():
        for batch in batches(len(rows), batch_size):
            chosen = [by_length[k] for k in batch]
            sums[chosen] = sums_of([rows[row] for row in chosen])
            if on_batch:
                on_batch(batch.stop)
    losses, foretold, tokens = sums.sum(axis=0)
    if not tokens:
        raise TTValueError(
            f"No token of the {len(rows)} examples to judge by counts within the first {details.max_length}; raise "
            "max_length (--max-length)."
        )
    loss = float(losses / tokens)
    found = {"loss": loss, "perplexity": float(np.exp(loss)), "token_accuracy": float(foretold / tokens)}
    each: NDArray[Any] = sums[:, 0] / np.where(sums[:, 2] == 0, np.nan, sums[:, 2])
    return Judgement({name: found[name] for name in details.measures}, each)


def sum_losses(logits: Tensor, wanted: Tensor) -> NDArray[Any]:  # (n, tokens, words of the vocabulary), (n, tokens)
    """Sum over the tokens that count.

    Args:
        logits: What is foretold.
        wanted: The tokens, `IGNORED` where one does not count.

    Returns:
        Losses, tokens foretold, and tokens of every row, float64, shape `(n, 3)`.

    Example:
        >>> sum_losses(torch.zeros(1, 2, 4), torch.tensor([[0, IGNORED]])).round(3).tolist()
        [[1.386, 1.0, 1.0]]
    """
    sums = []
    for row, targets in zip(logits, wanted, strict=True):  # one at a time, as float32 logits of all may be large
        counts = targets != IGNORED
        scores, targets = row[counts].float(), targets[counts]
        loss = nn.functional.cross_entropy(scores, targets, reduction="sum")
        sums.append([float(loss), int((scores.argmax(-1) == targets).sum()), len(targets)])
    return np.array(sums)
