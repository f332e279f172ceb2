"""Questions made of rows by templates, and few examples drawn of many."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ttnet.errors import TTValueError
from ttnet_llm.training.choices.questions import Question

BLANK = "{}"


@dataclass(frozen=True)
class Template:
    """A text with columns' names in braces, and an empty pair of braces where the choice stands.

    What comes after the choice is part of it. The spaces before it are, too, as most tokenizers join them to the word.

    Args:
        text: Such as `"{sentence} It was {}."`; braces that are meant as such are written twice.
        words: What stands for each class, by its name; none where every row has choices of its own.

    Raises:
        TTValueError: If the text has not one place for the choice, its braces do not match, or two classes have the
            same word.

    Example:
        >>> template = Template("{sentence} It was {}.", {"0": "terrible", "1": "great"})
        >>> question = template.ask({"sentence": "A fine film."}, label="1")
        >>> question.prompt, question.choices, question.right
        ('A fine film. It was', (' terrible.', ' great.'), 1)
    """

    text: str
    words: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            parts = list(string.Formatter().parse(self.text))
        except ValueError as error:
            raise TTValueError(f"The template {self.text!r} cannot be read: {error}; write braces twice.") from error
        blanks = sum(name == "" for _, name, _, _ in parts)
        if blanks != 1:
            raise TTValueError(
                f"The template {self.text!r} has {blanks} places for the choice; expected {BLANK} once, as in "
                "'{sentence} It was {}.'."
            )
        for _, name, form, conversion in parts:
            if form or conversion:
                raise TTValueError(f"The template {self.text!r} says how {name!r} is written; name the column alone.")
        if len(set(self.words.values())) < len(self.words):
            raise TTValueError(f"words is {dict(self.words)}; expected another word for each class.")

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that it names, each once."""
        return tuple(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(self.text) if name))

    def ask(
        self,
        row: Mapping[str, Any],
        choices: Sequence[str] = (),
        *,
        right: int | None = None,
        label: str | None = None,
    ) -> Question:
        """Make a question of a row.

        Args:
            row: Values by the columns' names.
            choices: What may stand in the empty place, for templates without words.
            right: The index of the right choice.
            label: Or the name of the right class, for templates with words.

        Returns:
            The question.

        Raises:
            TTValueError: If a column is missing, the label is no class, or there are no choices, or two kinds of them.
        """
        if missing := [name for name in self.fields if name not in row]:
            raise TTValueError(
                f"The template {self.text!r} names {missing[0]!r}, but there are {', '.join(map(str, row))}; name one "
                "of them."
            )
        if bool(self.words) == bool(choices):
            raise TTValueError(
                f"The template has {len(self.words)} words for classes, and {len(choices)} choices were given; "
                "expected one or the other."
            )
        if label is not None:
            if label not in self.words:
                raise TTValueError(f"label is {label!r}; expected one of {', '.join(self.words)}.")
            right = list(self.words).index(label)
        before, after, seen = "", "", False
        for literal, name, _, _ in string.Formatter().parse(self.text):
            piece = literal + (str(row[name]) if name else "")
            before, after = (before, after + piece) if seen else (before + piece, after)
            seen = seen or name == ""
        prompt = re.sub(" +$", "", before)
        space = before[len(prompt) :]
        texts = tuple(f"{space}{word}{after}" for word in (self.words.values() or choices))
        return Question(prompt, texts, right, tuple(self.words or choices))


def ask_in_all_words(
    templates: Sequence[Template], row: Mapping[str, Any], choices: Sequence[str] = (), *, right: int | None = None
) -> Question:
    """Make a question of a row in the words of several templates.

    Args:
        templates: One or more, whose words are those of the same classes.
        row: As `Template.ask` takes it.
        choices: The same.
        right: The same.

    Returns:
        The question by the first template, with the others' as its other words.

    Example:
        >>> words = {"0": "bad", "1": "good"}
        >>> templates = Template("{text} It was {}.", words), Template("Is this {}? {text}", words)
        >>> question = ask_in_all_words(templates, {"text": "Fine."}, right=1)
        >>> [wording.prompt for wording in question.wordings]
        ['Fine. It was', 'Is this']
    """
    first, *others = (template.ask(row, choices, right=right) for template in templates)
    return replace(first, others=tuple(others))


def few_shot(labels: Sequence[Hashable], k: int = 32, *, seed: int = 0, balanced: bool = True) -> list[int]:
    """Draw a few examples of many.

    Args:
        labels: The class of each example, or what else they are to be balanced by.
        k: How many to draw in all, at least 1.
        seed: Of the draw.
        balanced: Whether each class has as many as another, as far as that goes.

    Returns:
        Row numbers, in their order.

    Raises:
        TTValueError: If `k` is below 1, or there are fewer examples.

    Example:
        >>> rows = few_shot([0, 0, 0, 0, 0, 0, 1, 1, 1], 4)
        >>> len(rows), sum(row >= 6 for row in rows)
        (4, 2)
    """
    if not 1 <= k <= len(labels):
        raise TTValueError(f"k is {k}; expected an integer from 1 to the number of examples, {len(labels)}.")
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    if not balanced:
        return sorted(order[:k])
    seen: Counter[Hashable] = Counter()
    turns: list[tuple[int, int, int]] = []  # the first of every class, then the second of every class, and so on
    for row in order:
        turns.append((seen[labels[row]], len(turns), row))
        seen[labels[row]] += 1
    return sorted(row for _, _, row in sorted(turns)[:k])
