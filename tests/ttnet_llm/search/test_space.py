"""Points and their coordinates."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.search import Choice, Log, Space, Whole

SCALARS = st.one_of(st.integers(-9, 9), st.floats(-9, 9), st.text(max_size=3), st.booleans(), st.none())
CHOICES = st.lists(SCALARS, min_size=1, max_size=5, unique_by=json.dumps).map(lambda values: Choice(*values))
WHOLES = st.tuples(st.integers(-50, 50), st.integers(0, 60)).map(lambda pair: Whole(pair[0], pair[0] + pair[1]))
LOGS = st.tuples(st.floats(1e-9, 1e3), st.floats(1.01, 1e6)).map(lambda pair: Log(pair[0], pair[0] * pair[1]))
SPACES = st.dictionaries(st.text(min_size=1, max_size=3), st.one_of(CHOICES, WHOLES, LOGS), min_size=1).map(Space)


@given(space=SPACES, seed=st.integers(0, 99))
def test_a_point_is_found_again_by_its_coordinates(space, seed):
    for point in (space.draw(random.Random(seed)), space.middle):
        coordinates = space.coordinates(point)
        assert space.at(coordinates) == point
        assert json.loads(json.dumps(point)) == point
        for dimension, coordinate in zip(space.dimensions.values(), coordinates, strict=True):
            assert 0 <= coordinate <= (1 if dimension.size is None else dimension.size - 1)


@given(space=st.dictionaries(st.text(max_size=3), st.one_of(CHOICES, WHOLES), min_size=1, max_size=2).map(Space))
def test_all_points_are_counted_once(space):
    points = [json.dumps(space.nth(number)) for number in range(space.size)]
    assert len(set(points)) == space.size


def test_factors_count_in_a_log():
    space = Space({"x": Log(1e-4, 1.0)})
    rng = random.Random(0)
    drawn = [space.draw(rng)["x"] for _ in range(4000)]
    for low in (1e-4, 1e-3, 1e-2, 1e-1):
        assert 0.22 < sum(low <= value < 10 * low for value in drawn) / len(drawn) < 0.28
    assert all(1e-4 <= value <= 1 for value in drawn)
    assert Space({"x": Log(1.2345, 9)}).at([0.0]) == {"x": 1.2345}


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: Choice(), TTValueError, "at least one value, and each once"),
        (lambda: Choice(1, 2, 1), TTValueError, "at least one value, and each once"),
        (lambda: Choice([1, 2]), TTTypeError, r"Choice was given \[1, 2\]; expected texts, numbers"),
        (lambda: Choice(float("nan")), TTTypeError, "Choice was given nan"),
        (lambda: Whole(1.0, 2), TTTypeError, r"Whole\(1.0, 2\) was asked for; expected two integers"),
        (lambda: Whole(3, 2), TTValueError, r"Whole\(3, 2\) was asked for; expected the smaller number first"),
        (lambda: Log("a", 2), TTTypeError, "expected two numbers"),
        (lambda: Log(0, 2), TTValueError, r"Log\(0, 2\) was asked for; expected two numbers above 0"),
        (lambda: Log(2, 2), TTValueError, "the smaller one first"),
        (lambda: Space({}), TTValueError, "The space is empty"),
        (lambda: Space({"r": [1, 2]}), TTTypeError, r"The space says r is \[1, 2\]; expected a Choice, Whole or Log"),
        (lambda: Space({"r": Whole(1, 2)}).coordinates({"n": 1}), TTValueError, "names n; the space has r"),
        (lambda: Space({"r": Whole(1, 2)}).coordinates({"r": 3}), TTValueError, r"r is 3; expected .* Whole\(1, 2\)"),
        (lambda: Space({"r": Choice(1, 2)}).coordinates({"r": True}), TTValueError, "r is True; expected a value from"),
        (lambda: Space({"r": Log(1, 2)}).coordinates({"r": 2.5}), TTValueError, "r is 2.5; expected a value from"),
    ],
)
def test_mistakes_are_named(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()
