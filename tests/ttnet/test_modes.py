import itertools
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttnet.errors import TTTypeError, TTValueError
from ttnet.modes import capped_ranks, choose_modes, num_parameters


def ordered_factorisations(n):
    """All ways to write n as an ordered product of factors above 1; 1 itself is the one mode (1,)."""
    if n == 1:
        return [(1,)]
    found = [(n,)]
    for first in range(2, n):
        if n % first == 0:
            found += [(first, *rest) for rest in ordered_factorisations(n // first)]
    return found


def count_at_rank(modes, rank):
    return num_parameters(modes, capped_ranks(modes, rank))


@given(st.integers(1, 72), st.integers(1, 72), st.integers(1, 9))
def test_choice_is_the_best_of_all_factorisations(in_size, out_size, rank):
    candidates = [
        (count_at_rank(i + o, rank), len(i + o), [-n for n in i], [-n for n in o[::-1]], i, o)
        for i, o in itertools.product(ordered_factorisations(in_size), ordered_factorisations(out_size))
    ]
    *_, in_modes, out_modes = min(candidates)
    assert choose_modes(in_size, out_size, rank=rank) == (in_modes, out_modes)


@given(st.integers(1, 72), st.integers(1, 72), st.integers(1, 9), st.data())
def test_choice_is_the_best_of_all_with_that_many_cores(in_size, out_size, rank, data):
    splits = list(itertools.product(ordered_factorisations(in_size), ordered_factorisations(out_size)))
    num_cores = data.draw(st.sampled_from(sorted({len(i + o) for i, o in splits})))
    best = min(count_at_rank(i + o, rank) for i, o in splits if len(i + o) == num_cores)
    in_modes, out_modes = choose_modes(in_size, out_size, rank=rank, num_cores=num_cores)
    assert (math.prod(in_modes), math.prod(out_modes)) == (in_size, out_size)
    assert len(in_modes + out_modes) == num_cores
    assert count_at_rank(in_modes + out_modes, rank) == best


@pytest.mark.parametrize(
    ("in_size", "out_size", "num_cores", "at_most"),
    [(768, 64, 5, 590), (768, 64, None, 540), (4096, 8, None, 520), (11008, 64, None, 800)],
)
def test_counts_at_rank_5(in_size, out_size, num_cores, at_most):
    in_modes, out_modes = choose_modes(in_size, out_size, rank=5, num_cores=num_cores)
    assert count_at_rank(in_modes + out_modes, 5) <= at_most


def test_the_larger_modes_are_at_the_two_ends():
    in_modes, out_modes = choose_modes(768, 768, rank=5)
    assert in_modes[0] == max(in_modes)
    assert out_modes[-1] == max(out_modes)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 9))
def test_swapping_the_sides_mirrors_the_train(in_size, out_size, rank):
    forth = sum(choose_modes(in_size, out_size, rank=rank), ())
    back = sum(choose_modes(out_size, in_size, rank=rank), ())
    assert count_at_rank(forth, rank) == count_at_rank(back, rank)


def test_a_prime_side_is_one_mode():
    assert choose_modes(7919, 13, rank=5) == ((7919,), (13,))


def test_a_side_of_size_one_is_the_mode_one():
    in_modes, out_modes = choose_modes(1, 64, rank=5)
    assert in_modes == (1,)
    assert math.prod(out_modes) == 64
    assert choose_modes(1, 1, rank=5) == ((1,), (1,))


@pytest.mark.parametrize("size", [11008, 152064, 128256, 262144, 720720])
def test_large_sizes_take_well_under_a_second(size):
    start = time.perf_counter()
    choose_modes(size, size, rank=7)
    assert time.perf_counter() - start < 1


def test_choice_is_cached():
    assert choose_modes(960, 64, rank=5) is choose_modes(960, 64, rank=5)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 20))
def test_ranks_are_capped_by_both_sides_of_the_bond(modes, rank):
    ranks = capped_ranks(modes, rank)
    assert ranks == tuple(min(rank, math.prod(modes[:k]), math.prod(modes[k:])) for k in range(len(modes) + 1))
    shapes = [(ranks[k], n, ranks[k + 1]) for k, n in enumerate(modes)]
    assert num_parameters(modes, ranks) == sum(math.prod(shape) for shape in shapes)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: choose_modes(0, 8, rank=5), TTValueError, "in_size is 0; expected an integer of at least 1"),
        (lambda: choose_modes(8, -1, rank=5), TTValueError, "out_size is -1; expected an integer"),
        (lambda: choose_modes(8, 8, rank=0), TTValueError, "rank is 0; expected an integer of at least 1"),
        (lambda: choose_modes(8, 8.0, rank=5), TTTypeError, "out_size is 8.0; expected an integer"),
        (lambda: choose_modes(12, 8, rank=5, num_cores=7), TTValueError, "num_cores is 7; expected 2 to 6"),
        (lambda: choose_modes(12, 8, rank=5, num_cores=1), TTValueError, "for a 12 x 8 map"),
        (lambda: capped_ranks((), 5), TTValueError, "modes is empty"),
        (lambda: capped_ranks((4, 0), 5), TTValueError, r"modes\[1\] is 0"),
        (lambda: num_parameters((4, 4), (1, "2", 1)), TTTypeError, r"ranks\[1\] is '2'"),
        (lambda: num_parameters((4, 4), (1, 1)), TTValueError, "expected length 3 for 2 modes"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
