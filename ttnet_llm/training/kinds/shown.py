"""Held-out examples for a reader to look at, with what the model says before and after training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

EACH = 4  # examples of a sort


@dataclass(frozen=True)
class Shown:
    """An example, in words.

    Args:
        given: What the model was given.
        wanted: What it should have said.
        before: What came of it before training.
        after: What came of it after training.
        right: Whether that is as wanted; `None` where it is a matter of degree.
    """

    given: str
    wanted: str
    before: str
    after: str
    right: bool | None = None


def first_of(order: ArrayLike, show: Callable[[int], Shown], count: int = EACH) -> list[Shown]:
    """Show the first examples of an order.

    Args:
        order: Row numbers, shape `(n,)`.
        show: What to make of a row.
        count: How many at most.

    Returns:
        The examples.
    """
    return [show(int(row)) for row in np.asarray(order)[:count]]


def show_classes(
    texts: Sequence[Any],
    labels: NDArray[Any],  # (n,)
    before: NDArray[Any],  # logits, (n, classes)
    after: NDArray[Any],  # (n, classes)
    names: Sequence[str],
) -> dict[str, list[Shown]]:
    """Choose examples of a classifier's: where it errs and is sure of it, what it has learnt, and what it is sure of.

    Args:
        texts: Texts, or pairs of them.
        labels: The indices of the right classes.
        before: Logits before training.
        after: Logits after training.
        names: The classes.

    Returns:
        Examples under headings.

    Example:
        >>> before, after = np.array([[1.0, 0.0]] * 2), np.array([[0.0, 2.0], [0.0, 1.0]])
        >>> shown = show_classes(["a", "b"], np.array([1, 0]), before, after, ("bad", "good"))
        >>> shown["Wrong, the surest first"][0].after, shown["Right, and not before"][0].given
        ('good (73%)', 'a')
    """
    sure, said = _shares(after).max(axis=1), after.argmax(axis=1)
    right, was_right = said == labels, before.argmax(axis=1) == labels

    def say(row: NDArray[Any]) -> str:
        return f"{names[int(row.argmax())]} ({_shares(row).max():.0%})"

    def show(row: int) -> Shown:
        return Shown(
            in_words(texts[row]), names[int(labels[row])], say(before[row]), say(after[row]), right=bool(right[row])
        )

    return _by_sureness(sure, right, was_right, show)


def show_choices(
    questions: Sequence[tuple[str, Sequence[str], int]],
    before: NDArray[Any],  # scores, (n, choices)
    after: NDArray[Any],  # (n, choices)
) -> dict[str, list[Shown]]:
    """Choose questions: answered wrongly and surely, learnt, and right all along.

    Args:
        questions: What was asked, what the choices are called, and the index of the right one.
        before: Scores before training; minus infinity where a question has fewer choices.
        after: The same after training.

    Returns:
        Examples under headings.
    """
    right = np.array([index for _, _, index in questions])

    def say(row: int, scores: NDArray[Any]) -> str:
        return f"{questions[row][1][int(scores[row].argmax())]} ({_shares(scores[row]).max():.0%})"

    def show(row: int) -> Shown:
        given, names, index = questions[row]
        return Shown(given, names[index], say(row, before), say(row, after), right=bool(said[row] == index))

    said = after.argmax(axis=1)
    return _by_sureness(_shares(after).max(axis=1), said == right, before.argmax(axis=1) == right, show)


def show_numbers(
    texts: Sequence[Any],
    labels: NDArray[Any],  # (n,)
    before: NDArray[Any],  # (n, 1)
    after: NDArray[Any],  # (n, 1)
) -> dict[str, list[Shown]]:
    """Choose examples of a regression's: the farthest from their numbers, and the nearest.

    Args:
        texts: Texts, or pairs of them.
        labels: The right numbers.
        before: What was said before training.
        after: What was said after training.

    Returns:
        Examples under headings.
    """

    def show(row: int) -> Shown:
        said = f"{before[row, 0]:.3g}", f"{after[row, 0]:.3g}"
        return Shown(in_words(texts[row]), f"{labels[row]:.3g}", *said)

    nearest = np.argsort(np.abs(after[:, 0] - labels), kind="stable")
    return {"Farthest off": first_of(nearest[::-1], show), "Nearest": first_of(nearest, show)}


def show_losses(
    texts: Sequence[tuple[str, str]],
    before: NDArray[Any],  # (n,)
    after: NDArray[Any],  # (n,)
) -> dict[str, list[Shown]]:
    """Choose examples of a language model's: the highest losses, and the lowest.

    Args:
        texts: What the model was given, and what it had to say.
        before: Mean losses before training; not a number where there is none.
        after: The same after training.

    Returns:
        Examples under headings.
    """

    def show(row: int) -> Shown:
        given, wanted = texts[row]
        return Shown(given, wanted, f"loss {before[row]:.3f}", f"loss {after[row]:.3f}")

    counted = np.flatnonzero(np.isfinite(after))
    lowest = counted[np.argsort(after[counted], kind="stable")]
    return {"Highest loss": first_of(lowest[::-1], show), "Lowest loss": first_of(lowest, show)}


def show_tags(
    sentences: Sequence[Sequence[str]],
    wanted: Sequence[Sequence[str]],
    before: Sequence[Sequence[str | None]],
    after: Sequence[Sequence[str | None]],
) -> dict[str, list[Shown]]:
    """Choose sentences: with the most wrong tags, learnt, and right all along.

    Args:
        sentences: Their words.
        wanted: The right tag of every word.
        before: What was said before training; `None` where a word was cut off.
        after: The same after training.

    Returns:
        Examples under headings. Words without a tag, or with `O`, are left out of what is said.

    Example:
        >>> shown = show_tags([["Ada", "was"]], [["B-PER", "O"]], [["O", "O"]], [["B-PER", "O"]])
        >>> shown["Right, and not before"][0].wanted
        'Ada/B-PER'
    """

    def say(row: int, tags: Sequence[str | None]) -> str:
        found = [f"{word}/{tag}" for word, tag in zip(sentences[row], tags, strict=True) if tag not in (None, "O")]
        return " ".join(found) or "nothing"

    def errors(row: int, tags: Sequence[str | None]) -> int:
        return sum(said != right for said, right in zip(tags, wanted[row], strict=True))

    def show(row: int) -> Shown:
        said = say(row, before[row]), say(row, after[row])
        return Shown(" ".join(sentences[row]), say(row, wanted[row]), *said, right=after[row] == wanted[row])

    wrong = np.array([errors(row, tags) for row, tags in enumerate(after)])
    was_wrong = np.array([errors(row, tags) for row, tags in enumerate(before)])
    return _by_errors(wrong, was_wrong, show)


def show_labels(
    texts: Sequence[Any],
    labels: NDArray[Any],  # (n, classes)
    before: NDArray[Any],  # logits, (n, classes)
    after: NDArray[Any],  # (n, classes)
    names: Sequence[str],
) -> dict[str, list[Shown]]:
    """Choose texts that may have several labels: with the most wrong ones, learnt, and right all along.

    Args:
        texts: Texts, or pairs of them.
        labels: 1 for every class that a text has, and 0 for the others.
        before: Logits before training.
        after: Logits after training.
        names: The classes.

    Returns:
        Examples under headings.

    Example:
        >>> before, after = np.array([[-1.0, -1.0]]), np.array([[1.0, 2.0]])
        >>> show_labels(["a"], np.array([[1, 1]]), before, after, ("red", "round"))["Right, and not before"][0].after
        'red, round'
    """

    def say(chosen: NDArray[Any]) -> str:
        return ", ".join(name for name, counts in zip(names, chosen, strict=True) if counts) or "none"

    def show(row: int) -> Shown:
        said = say(before[row] >= 0), say(after[row] >= 0)
        return Shown(in_words(texts[row]), say(labels[row] > 0), *said, right=not wrong[row])

    wrong, was_wrong = (((logits >= 0) != (labels > 0)).sum(axis=1) for logits in (after, before))
    return _by_errors(wrong, was_wrong, show)


def _by_sureness(
    sure: NDArray[Any], right: NDArray[Any], was_right: NDArray[Any], show: Callable[[int], Shown]
) -> dict[str, list[Shown]]:
    """Choose examples by how sure the model is, and whether it is right and was so before; all of shape `(n,)`."""
    surest = np.argsort(-sure, kind="stable")
    sorts = {
        "Wrong, the surest first": ~right,
        "Right, and not before": right & ~was_right,
        "Right, as before": right & was_right,
    }
    return {title: first_of(surest[chosen[surest]], show) for title, chosen in sorts.items()}


def _by_errors(wrong: NDArray[Any], was_wrong: NDArray[Any], show: Callable[[int], Shown]) -> dict[str, list[Shown]]:
    """Choose examples by their numbers of errors after training and before, both of shape `(n,)`."""
    most = np.argsort(-wrong, kind="stable")
    return {
        "Wrong, the most errors first": first_of(most[wrong[most] > 0], show),
        "Right, and not before": first_of(np.flatnonzero((wrong == 0) & (was_wrong > 0)), show),
        "Right, as before": first_of(np.flatnonzero((wrong == 0) & (was_wrong == 0)), show),
    }


def show_closeness(
    texts: Sequence[tuple[str, ...]],
    scores: NDArray[Any] | None,  # (n,)
    before: NDArray[Any],  # (n,)
    after: NDArray[Any],  # (n,)
) -> dict[str, list[Shown]]:
    """Choose examples of embeddings': the farthest off, and the best.

    Args:
        texts: Pairs, or triplets.
        scores: How alike pairs should be; `None` where the second is to be nearer than others.
        before: Cosines of scored pairs, or how much nearer the second is, before training.
        after: The same after training.

    Returns:
        Examples under headings. Scores and cosines are compared by their ranks.
    """
    if scores is None:
        error, what, right = -after, "nearer by", after > 0
    else:
        error, what, right = np.abs(after.argsort().argsort() - scores.argsort().argsort()), "cosine", None

    def show(row: int) -> Shown:
        given = in_words(texts[row] if scores is not None else texts[row][:1])
        wanted = f"score {scores[row]:.3g}" if scores is not None else texts[row][1]
        said = f"{what} {before[row]:.3f}", f"{what} {after[row]:.3f}"
        return Shown(given, wanted, *said, right=None if right is None else bool(right[row]))

    best = np.argsort(error, kind="stable")
    return {"Farthest off": first_of(best[::-1], show), "Best": first_of(best, show)}


def in_words(text: str | tuple[str, ...]) -> str:
    """Write a text, or one under the other those of a pair."""
    return text if isinstance(text, str) else "\n".join(text)


def _shares(logits: NDArray[Any]) -> NDArray[Any]:  # both (..., classes)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: NDArray[Any] = powers / powers.sum(axis=-1, keepdims=True)
    return shares
