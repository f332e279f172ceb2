"""Pictures of runs: what is written beside points stays apart."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from ttnet_llm.training.pictures import Curve, _against_parameters, _apart

NUMBERS = st.floats(-10, 10)


@given(st.lists(NUMBERS, min_size=1, max_size=8), st.floats(0.1, 3))
def test_heights_are_moved_apart_in_their_order(heights, gap):
    moved = _apart(heights, gap)
    assert abs(sum(moved) - sum(heights)) < 1e-9
    for (a, x), (b, y) in itertools.combinations(zip(heights, moved, strict=True), 2):
        assert abs(x - y) > gap - 1e-9
        assert a == b or (a < b) == (x < y)


@given(st.lists(st.tuples(st.integers(1, 10**7), st.floats(0, 1)), min_size=2, max_size=6))
def test_labels_of_points_do_not_overlap(points):
    figure = Figure(figsize=(4.9, 4.6), layout="constrained")
    axis = figure.subplots()
    curves = [Curve("LoRETTA_rep", [], [(0, score)], size) for size, score in points]
    _against_parameters(axis, curves, "accuracy")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axis.texts]
    assert len(boxes) == len(points)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
