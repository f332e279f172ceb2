import itertools
import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttnet.errors import TTTypeError, TTValueError
from ttnet.modes import capped_ranks, choose_modes, choose_paired_modes, num_parameters


@cache
def ordered_factorisations(rows, cols):
    """All sequences of pairs (m, n) other than (1, 1) whose products are rows and cols; ((1, 1),) if both are 1."""
    if rows == cols == 1:
        return [((1, 1),)]
    found = [((rows, cols),)]
    for m in range(1, rows + 1):
        for n in range(1, cols + 1):
            if rows % m == 0 and cols % n == 0 and (m, n) not in ((1, 1), (rows, cols)):
                found += [((m, n), *rest) for rest in ordered_factorisations(rows // m, cols // n)]
    return found


def products(pairs):
    return [m * n for m, n in pairs]


def count_at_rank(pairs, rank):
    return num_parameters(products(pairs), capped_ranks(products(pairs), rank))


def smallest_cut(pairs, rank):
    """The bound on the matrix's rank, over all ways to put cores on the side of the rows (True) or of the columns."""
    ranks = capped_ranks(products(pairs), rank)
    return min(
        math.prod(n if side else m for side, (m, n) in zip(sides, pairs, strict=True))
        * math.prod(ranks[k] for k in range(1, len(pairs)) if sides[k - 1] != sides[k])
        for sides in itertools.product((True, False), repeat=len(pairs))
    )


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 9))
def test_choice_is_the_best_of_all_factorisations(rows, cols, rank):
    best = min(
        ordered_factorisations(rows, cols),
        key=lambda pairs: (
            count_at_rank(pairs, rank),
            len(pairs),
            [-product for product in products(pairs)],
            -min(rows, cols, smallest_cut(pairs, rank)),
            -math.prod(map(min, pairs)),
            [-m for m, _ in pairs],
        ),
    )
    assert tuple(zip(*choose_paired_modes(rows, cols, rank=rank), strict=True)) == best


@given(st.integers(1, 16), st.integers(1, 16), st.integers(1, 9), st.data())
def test_choice_is_the_best_of_all_with_that_many_cores(rows, cols, rank, data):
    candidates = ordered_factorisations(rows, cols)
    num_cores = data.draw(st.sampled_from(sorted({len(pairs) for pairs in candidates})))
    best = min(count_at_rank(pairs, rank) for pairs in candidates if len(pairs) == num_cores)
    row_modes, col_modes = choose_paired_modes(rows, cols, rank=rank, num_cores=num_cores)
    assert len(row_modes) == len(col_modes) == num_cores
    assert count_at_rank(list(zip(row_modes, col_modes, strict=True)), rank) == best


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 9))
def test_pairs_multiply_to_the_matrix_and_are_never_larger_than_other_forms_of_it(rows, cols, rank):
    row_modes, col_modes = choose_paired_modes(rows, cols, rank=rank)
    pairs = list(zip(row_modes, col_modes, strict=True))
    assert (math.prod(row_modes), math.prod(col_modes)) == (rows, cols)
    assert (1, 1) not in pairs or rows == cols == 1
    assert count_at_rank(pairs, rank) <= rows * cols
    # A train with the rows first is a TT-matrix, too, of pairs (m, 1) and then (1, n).
    aligned = [mode for side in choose_modes(rows, cols, rank=rank) for mode in side]
    assert count_at_rank(pairs, rank) <= num_parameters(aligned, capped_ranks(aligned, rank))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 9))
def test_the_transpose_has_the_same_products(rows, cols, rank):
    forth = zip(*choose_paired_modes(rows, cols, rank=rank), strict=True)
    back = zip(*choose_paired_modes(cols, rows, rank=rank), strict=True)
    assert products(forth) == products(back)


@pytest.mark.parametrize(
    ("rows", "cols", "rank", "count"),
    [
        (768, 64, 5, 535),
        (768, 8, 5, 385),
        (4096, 64, 5, 660),
        (4096, 8, 5, 510),
        (11008, 64, 5, 795),
        (768, 64, 2, 108),
    ],
)
def test_counts_and_matrix_rank_of_thin_matrices(rows, cols, rank, count):
    pairs = list(zip(*choose_paired_modes(rows, cols, rank=rank), strict=True))
    assert count_at_rank(pairs, rank) == count
    assert math.prod(map(min, pairs)) == cols  # the full rank, already at TT rank 1


def test_primes_are_not_split():
    assert choose_paired_modes(7919, 13, rank=5) == ((7919, 1), (1, 13))
    assert choose_paired_modes(13, 7919, rank=5) == ((1, 13), (7919, 1))
    assert choose_paired_modes(7919, 13, rank=13) == ((7919,), (13,))  # no train is smaller than the matrix


def test_a_side_of_size_one_has_modes_one():
    row_modes, col_modes = choose_paired_modes(1, 768, rank=5)
    assert row_modes == (1,) * len(col_modes)
    assert math.prod(col_modes) == 768
    assert choose_paired_modes(1, 1, rank=5) == ((1,), (1,))
    assert choose_paired_modes(1, 1, rank=5, num_cores=1) == ((1,), (1,))


@pytest.mark.parametrize(("rows", "cols"), [(11008, 64), (4096, 11008), (151936, 2048), (152064, 3584)])
def test_large_sizes(rows, cols):
    row_modes, col_modes = choose_paired_modes(rows, cols, rank=5)
    assert (math.prod(row_modes), math.prod(col_modes)) == (rows, cols)
    assert count_at_rank(list(zip(row_modes, col_modes, strict=True)), 5) < 7000


def test_choice_is_cached():
    assert choose_paired_modes(960, 64, rank=5) is choose_paired_modes(960, 64, rank=5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: choose_paired_modes(0, 8, rank=5), TTValueError, "rows is 0; expected an integer of at least 1"),
        (lambda: choose_paired_modes(8, -1, rank=5), TTValueError, "cols is -1; expected an integer"),
        (lambda: choose_paired_modes(8, 8, rank=0), TTValueError, "rank is 0; expected an integer of at least 1"),
        (lambda: choose_paired_modes(8, 8.0, rank=5), TTTypeError, "cols is 8.0; expected an integer"),
        (lambda: choose_paired_modes(8, 8, rank=5, num_cores=0), TTValueError, "num_cores is 0; expected an integer"),
        (
            lambda: choose_paired_modes(12, 8, rank=5, num_cores=7),
            TTValueError,
            "num_cores is 7; expected 1 to 6 for a 12 x 8 matrix",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
