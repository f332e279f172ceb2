"""Pictures of runs: what is written beside points stays apart."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from ttnet_llm.training.pictures import Curve, _against_parameters, _apart, draw_curves

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


@pytest.mark.parametrize("without", [{0}, {1}, {0, 1}])
def test_names_stand_at_their_own_curves_where_a_run_has_no_losses(tmp_path, monkeypatch, without):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    curves = [Curve(f"run {k}", [] if k in without else [(1, 1.0 + k), (2, 1.0 + k)], [(2, 0.5)], 7) for k in range(3)]
    draw_curves(curves, tmp_path / "a.png", measure="accuracy", title="runs")
    losses, scores = drawn[0].axes
    assert {text.get_text(): text.xy[1] for text in losses.texts} == {f"run {k}": 1.0 + k for k in {0, 1, 2} - without}
    colours = {text.get_text(): text.get_color() for text in scores.texts}
    assert colours == colours | {text.get_text(): text.get_color() for text in losses.texts}
