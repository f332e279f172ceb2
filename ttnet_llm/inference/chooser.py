"""Which of some texts a model takes for the likeliest answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.training.choices import Question, rank_classify

LENGTH = 512  # tokens, where training does not say


class Chooser:
    """A model that writes texts with its tokenizer, asked to choose.

    Args:
        model: A transformers model, with or without an adapter, as `ttnet_llm.load` gives it.
        tokenizer: Its tokenizer.
        max_length: Tokens to cut questions to, at least 2.

    Raises:
        TTTypeError: If there is no tokenizer.
        TTValueError: If `max_length` is below 2.

    Example:
        >>> from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration
        >>> sizes = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
        >>> model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))
        >>> (answer,) = Chooser(model, ByT5Tokenizer())([Question("Is it? ", ("yes", "no"))])
        >>> sorted(answer["probabilities"])
        ['no', 'yes']
    """

    kind = "choices"

    def __init__(self, model: nn.Module, tokenizer: Any, *, max_length: int | None = None) -> None:
        if tokenizer is None:
            raise TTTypeError("The model has no tokenizer that can be loaded; save its tokenizer in the same folder.")
        if max_length is not None and max_length < 2:
            raise TTValueError(f"max_length is {max_length}; expected an integer of at least 2.")
        self.model, self.tokenizer, self.max_length = model.eval(), tokenizer, max_length or LENGTH

    def __call__(self, given: Sequence[Question], *, batch_size: int = 8) -> Iterator[dict[str, Any]]:
        """Choose, a batch at a time.

        Args:
            given: Questions, such as a template makes of rows.
            batch_size: Questions in a batch, at least 1.

        Yields:
            For each question the name of the likeliest choice as `prediction`, its `probability` beside the others, by
            the means of their tokens, and the `probabilities` of all by their names.

        Raises:
            TTValueError: If `batch_size` is below 1, or a question does not fit.
        """
        if batch_size < 1:
            raise TTValueError(f"batch_size is {batch_size}; expected an integer of at least 1.")
        for start in range(0, len(given), batch_size):
            batch = given[start : start + batch_size]
            scores = rank_classify(self.model, self.tokenizer, batch, max_length=self.max_length, batch_size=batch_size)
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            for question, row in zip(batch, powers / powers.sum(axis=1, keepdims=True), strict=True):
                by_name = dict(zip(question.names, row.tolist(), strict=False))  # a row may be longer
                best = max(by_name, key=lambda name: by_name[name])
                yield {"prediction": best, "probability": by_name[best], "probabilities": by_name}
