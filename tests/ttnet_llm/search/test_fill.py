"""The knapsack, beside all choices that there are."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ttnet_llm.search.fill import fill


def all_choices(costs):
    for options in itertools.product(*[[None, *each] for each in costs.values()]):
        yield {name: option for name, option in zip(costs, options, strict=True) if option is not None}


@st.composite
def problems(draw):
    scores, costs = {}, {}
    unit = draw(st.sampled_from([1, 3, 64]))
    for name in range(draw(st.integers(1, 4))):
        ranks = draw(st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(sorted))
        gains = draw(st.lists(st.integers(0, 8), min_size=len(ranks), max_size=len(ranks)))
        prices = draw(st.lists(st.integers(1, 9), min_size=len(ranks), max_size=len(ranks)))
        scores[str(name)] = dict(zip(ranks, map(float, itertools.accumulate(gains)), strict=True))
        costs[str(name)] = dict(zip(ranks, (unit * cost for cost in itertools.accumulate(prices)), strict=True))
    return scores, costs, draw(st.integers(0, 60 * unit))


@given(problem=problems())
def test_no_other_choice_within_the_budget_is_worth_more(problem):
    scores, costs, budget = problem

    def worth(chosen):
        return sum(scores[name][rank] for name, rank in chosen.items())

    def cost(chosen):
        return sum(costs[name][rank] for name, rank in chosen.items())

    chosen = fill(scores, costs, budget)
    assert cost(chosen) <= budget
    assert list(chosen) == [name for name in scores if name in chosen]
    within = [choice for choice in all_choices(costs) if cost(choice) <= budget]
    assert worth(chosen) == max(map(worth, within))
    # Of equals the dearest, so that no step upwards is left that fits.
    assert cost(chosen) == max(cost(choice) for choice in within if worth(choice) == worth(chosen))
    for name, options in costs.items():
        held = options[chosen[name]] if name in chosen else 0
        steps = [price - held for price in options.values() if price > held]
        assert not steps or min(steps) > budget - cost(chosen)
    assert fill(scores, costs, budget) == chosen


def test_a_large_budget_takes_all_and_costs_no_memory():
    scores = {"a": {1: 1.0, 8: 2.0}, "b": {1: 1.0, 8: 2.0}}
    costs = {"a": {1: 64, 8: 512}, "b": {1: 96, 8: 768}}
    assert fill(scores, costs, 10**15) == {"a": 8, "b": 8}
