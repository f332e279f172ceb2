"""Questions with choices, in tokens and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ttnet.errors import TTValueError
from ttnet_llm.training.choices.loss import IGNORED

Encoded = dict[str, list[list[int]]]


@dataclass(frozen=True)
class Question:
    """What a model is given, and what it may say then.

    Args:
        prompt: What it is given.
        choices: What may follow, at least two different texts, with the space before them if there is one.
        right: The index of the right one; `None` where it is not known.
        names: What the choices are called, as many; they themselves by default.
        others: The same in other words, with as many choices in the same order.

    Raises:
        TTValueError: If there are too few choices, two are alike, `right` is none of them, or other words ask something
            else.

    Example:
        >>> Question("Two and two are", (" four.", " five."), 0).names
        ('four.', 'five.')
    """

    prompt: str
    choices: tuple[str, ...]
    right: int | None = None
    names: tuple[str, ...] = ()
    others: tuple[Question, ...] = ()

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or len(set(self.choices)) < len(self.choices):
            raise TTValueError(f"choices is {self.choices!r}; expected at least two, each another.")
        if self.right is not None and not 0 <= self.right < len(self.choices):
            raise TTValueError(f"right is {self.right}; expected the index of one of {len(self.choices)} choices.")
        if self.names and len(self.names) != len(self.choices):
            raise TTValueError(f"names is {self.names!r}; expected one for each of {len(self.choices)} choices.")
        if not self.names:
            object.__setattr__(self, "names", tuple(choice.strip() for choice in self.choices))
        for other in self.others:
            if (len(other.choices), other.right) != (len(self.choices), self.right) or other.others:
                raise TTValueError(
                    f"others has {other.prompt!r} with {len(other.choices)} choices, of which {other.right} is right; "
                    f"expected the same question in other words: {len(self.choices)} choices, {self.right} the right "
                    "one, and no others of its own."
                )

    @property
    def wordings(self) -> tuple[Question, ...]:
        """The question in its first words alone, and in the others."""
        return (replace(self, others=()), *self.others)

    @property
    def given(self) -> str:
        """What makes two of them the same input."""
        return self.prompt

    def right_first(self) -> Question:
        """Put the right choice before the others, as the loss expects it.

        Returns:
            The question.

        Raises:
            TTValueError: If it is not known.
        """
        if self.right is None:
            raise TTValueError(f"right is None in {self.prompt!r}; say which choice is right, to learn from it.")
        order = [self.right, *(k for k in range(len(self.choices)) if k != self.right)]
        return Question(self.prompt, tuple(self.choices[k] for k in order), 0, tuple(self.names[k] for k in order))


def encode(tokenizer: Any, question: Question, *, max_length: int = 512, encoder_decoder: bool = False) -> Encoded:
    """Tokenise a question with each of its choices.

    For a causal model each choice follows the prompt, and its tokens are those after the beginning that all of them
    share with the prompt, so that the same is left out of each, wherever the tokenizer joins letters. A prompt that is
    too long loses its beginning, for all choices alike, but not the token that begins texts. For a model with an
    encoder and a decoder the prompt is read, and loses its end, and the choices are written, with the token that ends
    texts.

    Args:
        tokenizer: The model's.
        question: The question.
        max_length: Tokens that prompt and choice have together, or each of them beside an encoder, at least 2.
        encoder_decoder: Whether it is for a model with an encoder and a decoder.

    Returns:
        For every choice `input_ids`, and `labels` that are `IGNORED` where a token does not belong to it.

    Raises:
        TTValueError: If a choice has no tokens, or does not fit, or nothing stands before the choices.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> encoded = encode(ByT5Tokenizer(), Question("Is it? ", ("yes", "no")), encoder_decoder=True)
        >>> encoded["labels"]
        [[124, 104, 118, 1], [113, 114, 1]]
    """
    if encoder_decoder:
        read = list(tokenizer(question.prompt, truncation=True, max_length=max_length)["input_ids"])
        written = [_ended(list(tokenizer(text_target=choice)["input_ids"]), tokenizer) for choice in question.choices]
        _check_lengths(question, [len(ids) for ids in written], max_length)
        return {"input_ids": [read] * len(written), "labels": written}
    prompt, *wholes = tokenizer([question.prompt, *(question.prompt + choice for choice in question.choices)])[
        "input_ids"
    ]
    together = zip(prompt, *wholes, strict=False)
    shortest = min(map(len, (prompt, *wholes)))
    start = next((k for k, tokens in enumerate(together) if len(set(tokens)) > 1), shortest)
    if start == 0:
        raise TTValueError(
            f"No token stands before the choices of {question.prompt!r}, by which the first could be foretold; begin "
            "the prompt with a word."
        )
    lengths = [len(ids) - start for ids in wholes]
    _check_lengths(question, lengths, max_length - 1)
    begin = _beginning(list(prompt[:start]), max_length - max(lengths), tokenizer.bos_token_id)
    answers = [list(ids[start:]) for ids in wholes]
    return {
        "input_ids": [begin + answer for answer in answers],
        "labels": [[IGNORED] * len(begin) + answer for answer in answers],
    }


def _ended(ids: list[int], tokenizer: Any) -> list[int]:
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def _check_lengths(question: Question, lengths: Sequence[int], most: int) -> None:
    for choice, length in zip(question.choices, lengths, strict=True):
        if not length:
            raise TTValueError(f"The choice {choice!r} of {question.prompt!r} has no tokens; write a word.")
        if length > most:
            raise TTValueError(
                f"The choice {choice!r} of {question.prompt!r} has {length} tokens, but {most} fit; raise max_length "
                "(--max-length)."
            )


def _beginning(ids: list[int], most: int, bos: int | None) -> list[int]:
    """Cut what stands before the choices on its left, behind the token that begins texts if there is one."""
    kept = ids[:1] if bos is not None and ids[0] == bos and most > 1 else []
    return ids if len(ids) <= most else kept + ids[len(ids) - most + len(kept) :]


@dataclass(frozen=True)
class ChoiceCollator:
    """Puts encoded questions into a batch: a row for every choice, and labels by example and choice.

    Args:
        tokenizer: The model's; its token to pad with may be any, or none.
        model: The model; one with a decoder makes the decoder's inputs itself.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=8))
        >>> class Tokenizer:
        ...     pad_token_id = None
        >>> rows = [{"input_ids": [[5, 6], [5, 7, 7]], "labels": [[-100, 6], [-100, 7, 7]]}]
        >>> batch = ChoiceCollator(Tokenizer(), model)(rows)
        >>> batch["input_ids"].tolist(), batch["labels"].tolist()
        ([[5, 6, 0], [5, 7, 7]], [[[-100, 6, -100], [-100, 7, 7]]])
    """

    tokenizer: Any
    model: Any

    def __call__(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Make a batch.

        Args:
            rows: Questions as `encode` gives them; to be learnt from, with the right choice first.

        Returns:
            `input_ids` and `attention_mask`, shape `(rows, tokens)`; `labels`, shape `(examples, choices, tokens)`,
            without tokens in choices that an example lacks; and `decoder_input_ids` for a model with a decoder.
        """
        ids = [ids for row in rows for ids in row["input_ids"]]
        pad = self.tokenizer.pad_token_id or 0  # any will do, as the mask says where it stands
        batch = {
            "input_ids": _padded(ids, pad),
            "attention_mask": _padded([[1] * len(each) for each in ids], 0),
        }
        most = max(len(row["labels"]) for row in rows)
        by_choice = [choice for row in rows for choice in [*row["labels"], *[[]] * (most - len(row["labels"]))]]
        batch["labels"] = _padded(by_choice, IGNORED).unflatten(0, (len(rows), most))
        if self.model.config.is_encoder_decoder:
            written = batch["labels"][(batch["labels"] != IGNORED).any(-1)]  # (rows, tokens)
            batch["decoder_input_ids"] = self.model.prepare_decoder_input_ids_from_labels(labels=written)
        return batch


def _padded(rows: Sequence[list[int]], value: int) -> Tensor:
    length = max(map(len, rows))
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])
