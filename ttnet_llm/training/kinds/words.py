"""Sentences that are given as lists of words: their pieces, and where each word begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ttnet.errors import TTTypeError

CUT = -1  # in place of a position: the word is beyond the length, or the tokenizer makes nothing of it


def encode_words(tokenizer: Any, sentences: Sequence[Sequence[str]], **options: Any) -> tuple[Any, list[list[int]]]:
    """Tokenise sentences of words, and find the first piece of each word.

    Args:
        tokenizer: A fast tokenizer.
        sentences: Lists of words.
        **options: For the tokenizer, such as `truncation` and `padding`.

    Returns:
        What the tokenizer makes of them; and for every sentence the positions of its words' first pieces, `CUT` where
        a word has none.

    Raises:
        TTTypeError: If the tokenizer does not tell which piece is of which word.
    """
    check_fast(tokenizer)
    space = " " if _wants_spaces(tokenizer) else ""
    encoded = tokenizer([[space + word for word in words] for words in sentences], is_split_into_words=True, **options)
    positions = []
    for k, words in enumerate(sentences):
        first = [CUT] * len(words)
        for position, word in reversed(list(enumerate(encoded.word_ids(k)))):
            if word is not None:
                first[word] = position
        positions.append(first)
    return encoded, positions


def check_fast(tokenizer: Any) -> None:
    """Refuse a tokenizer that does not tell which piece is of which word.

    Args:
        tokenizer: The tokenizer.

    Raises:
        TTTypeError: If it does not.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise TTTypeError(
            f"The tokenizer {type(tokenizer).__name__} does not tell which piece is of which word; take a model with a "
            "fast tokenizer, one with a file tokenizer.json."
        )


def _wants_spaces(tokenizer: Any) -> bool:
    """Tell whether words need a space before them to be read as they are inside of texts, as for byte-level BPE."""
    whole, begin = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a a", "a"))
    natural = whole[len(begin) :]

    def second(word: str) -> list[int]:
        encoded = tokenizer([["a", word]], is_split_into_words=True, add_special_tokens=False)
        return [piece for piece, k in zip(encoded["input_ids"][0], encoded.word_ids(0), strict=True) if k == 1]

    return second("a") != natural == second(" a")
