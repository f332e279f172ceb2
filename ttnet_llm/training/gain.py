"""Telling a run whose training has gained nothing, and what to do then."""

from __future__ import annotations

from collections.abc import Mapping

from ttnet_llm.training.metrics import SMALLER_IS_BETTER


def nothing_gained(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    without_reading: tuple[str, Mapping[str, float]] | None = None,
    learning_rate: float,
) -> str | None:
    """Say that a model judges no better than it did, or than what can be said of an example unread.

    Args:
        before: The measures before training, the one that counts first.
        after: The same after it.
        without_reading: An answer that needs no example, in words, and its measures.
        learning_rate: The peak rate of the run.

    Returns:
        A sentence or two; `None` where something was gained.

    Example:
        >>> nothing_gained({"loss": 2.5}, {"loss": 2.75}, learning_rate=0.5)
        'Nothing was gained: the loss is 2.7500 after training, 2.5000 before. Try another ...'
        >>> nothing_gained({"loss": 2.5}, {"loss": 2.25}, learning_rate=0.5) is None
        True
    """
    name = next(iter(after))
    sign = -1 if name in SMALLER_IS_BETTER else 1

    def is_better_than(others: Mapping[str, float]) -> bool:  # not so where the score is no number
        return sign * after[name] > sign * others[name]

    said = f"the {name.replace('_', ' ')} is {after[name]:.4f} after training"
    if not is_better_than(before):
        said += f", {before[name]:.4f} before"
    elif without_reading is not None and not is_better_than(without_reading[1]):
        said += f", and {without_reading[0]} has {without_reading[1][name]:.4f}"
    else:
        return None
    return (
        f"Nothing was gained: {said}. Try another learning rate (it was {learning_rate:g}), a tenth of it first if the "
        "training loss has not fallen, or more epochs or examples."
    )
