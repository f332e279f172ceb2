"""A budget filled exactly: the multiple-choice knapsack, by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def fill(
    scores: Mapping[str, Mapping[int, float]], costs: Mapping[str, Mapping[int, int]], budget: int
) -> dict[str, int]:
    """Choose at most one option for every name, so that the scores add up to the most within a budget.

    Of choices of equal score the one that costs more is taken, so that nothing more fits: where higher options score
    and cost no less than lower ones, no option left could be had for what remains. Memory holds a byte for every name
    and unit of the budget, the unit being the greatest common divisor of the costs.

    Args:
        scores: By name, the score of each of its options, at least 0.
        costs: The same options' costs, at least 1.
        budget: What the costs may add up to.

    Returns:
        The chosen options by name, in the order of the names; names without one are left out.

    Example:
        >>> fill({"a": {1: 5.0, 2: 6.0}, "b": {1: 2.0, 2: 4.0}}, {"a": {1: 3, 2: 6}, "b": {1: 3, 2: 6}}, 10)
        {'a': 1, 'b': 2}
    """
    unit = math.gcd(*(cost for options in costs.values() for cost in options.values())) or 1
    most = sum(max(options.values()) for options in costs.values())
    room = min(budget, most) // unit
    best = np.full(room + 1, -math.inf)  # the best score of choices that cost so many units
    best[0] = 0.0
    taken = np.zeros((len(scores), room + 1), dtype=np.uint8)  # which option of a name that takes, counted from 1
    for row, (name, options) in enumerate(scores.items()):
        after = best.copy()
        for number, (option, score) in enumerate(options.items(), 1):
            cost = costs[name][option] // unit
            if cost > room:
                continue
            with_it = best[: room + 1 - cost] + score
            better = with_it > after[cost:]
            after[cost:][better] = with_it[better]
            taken[row, cost:][better] = number
        best = after
    place = room - int(np.argmax(best[::-1]))
    chosen = {}
    for row, (name, options) in reversed(list(enumerate(scores.items()))):
        if number := int(taken[row, place]):
            option = list(options)[number - 1]
            chosen[name] = option
            place -= costs[name][option] // unit
    return dict(reversed(chosen.items()))
