"""What a trained model says of inputs: classes with probabilities, scores, tags of words, texts, or vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.inference.generation import Generation, generate
from ttnet_llm.training.kinds import find_kind
from ttnet_llm.training.kinds.embed import cut
from ttnet_llm.training.kinds.words import CUT, encode_words

LENGTH = 512  # tokens, where neither training nor the model says
SURE = 0.5  # the probability from which one of several labels counts


class Predictor:
    """A model with its tokenizer, and what it is asked for.

    Args:
        model: A transformers model, with or without an adapter, as `ttnet_llm.load` gives it.
        tokenizer: Its tokenizer.
        max_length: Tokens to cut inputs to, at least 1; `None` takes what the model can take, 512 at most.
        generation: How texts are written, for language models.

    Raises:
        TTTypeError: If the model says nothing of texts that people read, or there is no tokenizer.
        TTValueError: If `max_length` is below 1.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        >>> Predictor(BertForSequenceClassification(config), tokenizer=object()).kind
        'classes'
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, max_length: int | None = None, generation: Generation | None = None
    ) -> None:
        if tokenizer is None:
            raise TTTypeError("The model has no tokenizer that can be loaded; save its tokenizer in the same folder.")
        if max_length is not None and max_length < 1:
            raise TTValueError(f"max_length is {max_length}; expected an integer of at least 1.")
        self.model, self.tokenizer, self.generation = model.eval(), tokenizer, generation
        self.kind = _kind(model)
        config: Any = find_kind("embed").core(model).config if self.kind == "vectors" else model.config
        self.config = config
        most = getattr(config.get_text_config(), "max_position_embeddings", None) or LENGTH
        self.max_length = max_length or min(most, LENGTH)

    def __call__(self, given: Sequence[Any], *, batch_size: int = 32) -> Iterator[dict[str, Any]]:
        """Say what the model makes of inputs, a batch at a time.

        Args:
            given: Texts, or pairs of texts. For tags also lists of words; for texts to be written prompts, or chats as
                lists of `{"role": ..., "content": ...}`.
            batch_size: Inputs in a batch, at least 1.

        Yields:
            For each input its `prediction`: a class, with its `probability` and the `probabilities` of all by their
            names; a list of classes that may hold at once, with the same; a number; a list of tags, with the `words`;
            or a text; or the numbers of a vector.

        Raises:
            TTValueError: If `batch_size` is below 1.
        """
        if batch_size < 1:
            raise TTValueError(f"batch_size is {batch_size}; expected an integer of at least 1.")
        for start in range(0, len(given), batch_size):
            batch = list(given[start : start + batch_size])
            if self.kind == "texts":
                written = generate(self.model, self.tokenizer, batch, self.generation, max_length=self.max_length)
                yield from ({"prediction": text} for text in written)
            elif self.kind == "vectors":
                yield from self._vectors(batch)
            elif self.kind == "tags":
                yield from self._tags(batch)
            else:
                yield from self._of_whole_texts(batch)

    def _of_whole_texts(self, batch: list[Any]) -> Iterator[dict[str, Any]]:
        pairs = isinstance(batch[0], tuple)
        columns = [list(part) for part in zip(*batch, strict=True)] if pairs else [batch]
        for row in self._logits(self.tokenizer(*columns, **self._padded())):  # (classes,)
            if self.kind == "scores":
                yield {"prediction": float(row[0])}
                continue
            shares = row.softmax(0) if self.kind == "classes" else row.sigmoid()
            by_name = {self.config.id2label[k]: float(share) for k, share in enumerate(shares)}
            if self.kind == "classes":
                best = max(by_name, key=lambda name: by_name[name])
                yield {"prediction": best, "probability": by_name[best], "probabilities": by_name}
            else:
                yield {"prediction": [n for n, share in by_name.items() if share >= SURE], "probabilities": by_name}

    def _vectors(self, batch: list[Any]) -> Iterator[dict[str, Any]]:
        model: Any = self.model
        cut(model, self.max_length)
        yield from ({"prediction": row.tolist()} for row in model.encode(batch, show_progress_bar=False))

    def _tags(self, batch: list[Any]) -> Iterator[dict[str, Any]]:
        words = [text.split() if isinstance(text, str) else list(text) for text in batch]
        encoded, firsts = encode_words(self.tokenizer, words, **self._padded())
        names = self.config.id2label
        for each, first, logits in zip(words, firsts, self._logits(encoded), strict=True):  # logits: (tokens, tags)
            tags = [None if position == CUT else names[int(logits[position].argmax())] for position in first]
            yield {"words": each, "prediction": tags}

    def _padded(self) -> dict[str, Any]:
        return {"truncation": True, "max_length": self.max_length, "padding": True, "return_tensors": "pt"}

    def _logits(self, encoded: Any) -> Tensor:
        with torch.inference_mode():
            return self.model(**encoded.to(next(self.model.parameters()).device)).logits.float().cpu()


def _kind(model: nn.Module) -> str:
    if find_kind("embed").judges(model):
        return "vectors"
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    config, name = base.config, type(base).__name__
    if name.endswith("ForSequenceClassification"):
        if config.num_labels == 1 or config.problem_type == "regression":
            return "scores"
        return "labels" if config.problem_type == "multi_label_classification" else "classes"
    if name.endswith("ForTokenClassification"):
        return "tags"
    if hasattr(base, "can_generate") and base.can_generate():
        return "texts"
    raise TTTypeError(
        f"The model is a {name}, which says nothing of a text that could be written down; name one that classifies, "
        "rates, tags, embeds or writes texts."
    )
