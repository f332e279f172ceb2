"""A matrix held as a TT-matrix: its contraction, its rank, the spread that it is drawn with, and its fit."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ttnet import TTMatrix
from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.modes import capped_ranks
from ttnet_llm.matrices.interleaved import InterleavedLayout, InterleavedMatrix

SIZES = st.integers(1, 60)
RANKS = st.integers(1, 7)


@st.composite
def layouts(draw: st.DrawFn) -> InterleavedLayout:
    """Layouts of any pairs of modes, among them pairs of ones, and of ranks that no product caps."""
    pairs = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4))
    inner = draw(st.lists(st.integers(1, 4), min_size=len(pairs) - 1, max_size=len(pairs) - 1))
    row_modes, col_modes = zip(*pairs, strict=True)
    return InterleavedLayout(row_modes, col_modes, (1, *inner, 1))


def dense(matrix: InterleavedMatrix) -> torch.Tensor:
    """The matrix from its cores alone, in float64."""
    return TTMatrix([core.detach().double() for core in matrix.cores]).full()


def make(rows: int, cols: int, rank: int, variance: float = 1.0) -> InterleavedMatrix:
    matrix = InterleavedMatrix(InterleavedLayout.choose(rows, cols, rank=rank, modes="auto"))
    matrix.reset_parameters(variance)
    return matrix


def unfoldings(weight: torch.Tensor, layout: InterleavedLayout) -> list[torch.Tensor]:
    """The matrix unfolded at every inner bond: pairs before it against pairs after it."""
    d = len(layout.row_modes)
    paired = weight.reshape(*layout.row_modes, *layout.col_modes).permute([a for k in range(d) for a in (k, d + k)])
    sizes = [math.prod(layout.row_modes[:k]) * math.prod(layout.col_modes[:k]) for k in range(1, d)]
    return [paired.reshape(size, -1) for size in sizes]


@given(layout=layouts())
def test_contraction_of_any_layout(layout: InterleavedLayout) -> None:
    matrix = InterleavedMatrix(layout)
    matrix.reset_parameters(1.0)
    (weight,) = matrix.chain()
    assert [core.dtype for core in matrix.cores] == [torch.float32] * len(layout.row_modes)
    assert sum(core.numel() for core in matrix.cores) == layout.num_parameters
    torch.testing.assert_close(weight.double(), dense(matrix), rtol=1e-4, atol=1e-5)


@given(rows=SIZES, cols=SIZES, rank=RANKS)
def test_factors_multiply_to_the_matrix(rows: int, cols: int, rank: int) -> None:
    matrix = make(rows, cols, rank)
    left, right = matrix.factors()
    t = min(rows, cols)
    assert (left.shape, right.shape) == ((rows, t), (t, cols))
    torch.testing.assert_close(left.double() @ right.double(), dense(matrix), rtol=1e-4, atol=1e-5)
    assert torch.equal(left if rows < cols else right, torch.eye(t))


def test_entry_is_the_product_of_the_core_slices() -> None:
    matrix = InterleavedMatrix(InterleavedLayout.choose(12, 10, rank=3, modes=((3, 2, 2), (2, 1, 5))))
    matrix.reset_parameters(1.0)
    (weight,) = matrix.chain()
    first, second, third = (core.detach() for core in matrix.cores)
    # Row 7 is (1, 1, 1) of (3, 2, 2), column 8 is (1, 0, 3) of (2, 1, 5).
    entry = first[:, 1, 1] @ second[:, 1, 0] @ third[:, 1, 3]
    assert weight[7, 8].item() == pytest.approx(entry.item(), rel=1e-5)


@given(rows=SIZES, cols=SIZES, rank=RANKS)
def test_automatic_layout(rows: int, cols: int, rank: int) -> None:
    layout = InterleavedLayout.choose(rows, cols, rank=rank, modes="auto")
    assert (layout.rows, layout.cols) == (rows, cols)
    assert layout.num_parameters <= rows * cols
    products = [m * n for m, n in zip(layout.row_modes, layout.col_modes, strict=True)]
    assert layout.ranks == capped_ranks(products, rank)
    # What is recorded gives the same layout again.
    assert InterleavedLayout.choose(rows, cols, rank=rank, modes=layout.split_modes) == layout


def test_a_matrix_smaller_than_its_train_is_one_dense_core() -> None:
    assert InterleavedLayout.choose(13, 5, rank=5, modes="auto") == InterleavedLayout((13,), (5,), (1, 1))


def test_given_modes_and_ranks() -> None:
    capped = InterleavedLayout.choose(12, 6, rank=9, modes=[[3, 2, 2], [1, 2, 3]])
    assert capped == InterleavedLayout((3, 2, 2), (1, 2, 3), (1, 3, 6, 1))
    given_ranks = InterleavedLayout.choose(12, 6, rank=[4, 9], modes=[[3, 2, 2], [1, 2, 3]])
    assert given_ranks.ranks == (1, 4, 9, 1)
    assert given_ranks.core_shapes == [(1, 3, 1, 4), (4, 2, 2, 9), (9, 2, 3, 1)]
    assert given_ranks.num_parameters == 12 + 144 + 54


@pytest.mark.parametrize(("rows", "cols", "rank"), [(64, 16, 2), (768, 64, 5), (768, 8, 5), (96, 96, 3)])
def test_rank_of_the_matrix_is_above_the_ranks_of_its_bonds(rows: int, cols: int, rank: int) -> None:
    torch.manual_seed(0)
    matrix = make(rows, cols, rank)
    assert max(matrix.layout.ranks) == rank
    assert torch.linalg.matrix_rank(dense(matrix)).item() == cols
    assert matrix.layout.num_parameters < rank * (rows + cols)


@given(layout=layouts(), variance=st.floats(1e-4, 10), gaussian=st.booleans())
def test_mean_square_of_the_entries_is_the_variance(layout: InterleavedLayout, variance: float, gaussian: bool) -> None:
    matrix = InterleavedMatrix(layout)
    matrix.reset_parameters(variance, gaussian=gaussian)
    assert dense(matrix).square().mean().item() == pytest.approx(variance, rel=1e-3)


@pytest.mark.parametrize(
    ("rows", "cols", "rank"),
    [
        pytest.param(768, 64, 5, marks=pytest.mark.slow),
        (64, 768, 5),
        pytest.param(4096, 8, 5, marks=pytest.mark.slow),
        (384, 8, 2),
        (96, 96, 3),
    ],
)
def test_entries_are_spread_like_those_of_a_random_matrix(rows: int, cols: int, rank: int) -> None:
    """Every entry has mean 0 and the wanted variance over draws, whatever its place in the matrix."""
    torch.manual_seed(0)
    matrix = InterleavedMatrix(InterleavedLayout.choose(rows, cols, rank=rank, modes="auto"))
    n_draws = 1000
    draws = []
    for _ in range(n_draws):
        matrix.reset_parameters(0.5)
        draws.append(matrix.chain()[0].detach()[:: rows // 8, :: cols // 8 + 1].clone())
    entries = torch.stack(draws)
    # Standard errors over the draws: 0.03 spreads for a mean, and at most 0.1 of the variance for a mean square
    # (the kurtosis of a product stays under 10).
    assert entries.mean(0).abs().max() < 0.5**0.5 * 0.03 * 5
    assert entries.square().mean().item() == pytest.approx(0.5, rel=0.1)
    assert entries.square().mean(0).min() > 0.5 * 0.6
    assert entries.square().mean(0).max() < 0.5 * 1.5


@pytest.mark.parametrize(
    ("row_modes", "col_modes", "rank"),
    [
        ((8, 4, 4, 3), (2, 2, 1, 2), 4),  # every core at least as tall as wide
        ((2, 1, 2, 2), (3, 4, 4, 8), 3),  # at least as wide as tall
        ((4, 3, 2, 4), (2, 4, 5, 4), 1),  # a Kronecker product of tall and wide matrices
        ((16, 4, 2, 2, 2, 2, 4), (1, 1, 2, 2, 2, 2, 4), 5),  # the choice for 4096 x 64
    ],
)
def test_singular_values_start_equal(row_modes: tuple[int, ...], col_modes: tuple[int, ...], rank: int) -> None:
    rows, cols = math.prod(row_modes), math.prod(col_modes)
    matrix = InterleavedMatrix(InterleavedLayout.choose(rows, cols, rank=rank, modes=(row_modes, col_modes)))
    matrix.reset_parameters(1.0)
    values = torch.linalg.svdvals(dense(matrix))
    values = values[: math.prod(map(min, row_modes, col_modes)) if rank == 1 else None]
    assert (values[0] / values[-1]).item() < 1.001


def test_zero_start_moves_only_the_first_core() -> None:
    matrix = InterleavedMatrix(InterleavedLayout.choose(48, 8, rank=3, modes="auto"))
    matrix.reset_parameters(1.0, zero=True)
    (weight,) = matrix.chain()
    (weight * torch.randn(48, 8)).sum().backward()
    gradients = [core.grad.abs().max().item() for core in matrix.cores]
    assert len(gradients) > 1
    assert torch.count_nonzero(weight) == 0
    assert gradients[0] > 0
    assert max(gradients[1:]) == 0


@given(layout=layouts())
def test_gradients_reach_every_core(layout: InterleavedLayout) -> None:
    matrix = InterleavedMatrix(layout)
    matrix.reset_parameters(1.0)
    weights = torch.linspace(-1, 1, layout.rows * layout.cols).reshape(layout.rows, layout.cols) + 0.3
    left, right = matrix.factors()
    ((left @ right) * weights).sum().backward()
    reference = [core.detach().double().requires_grad_() for core in matrix.cores]
    (TTMatrix(reference).full() * weights.double()).sum().backward()
    for core, expected in zip(matrix.cores, reference, strict=True):
        torch.testing.assert_close(core.grad.double(), expected.grad, rtol=1e-3, atol=1e-3)


@given(layout=layouts(), spare=st.integers(0, 2))
def test_fit_is_exact_where_the_ranks_suffice(layout: InterleavedLayout, spare: int) -> None:
    torch.manual_seed(0)
    source = InterleavedMatrix(layout)
    source.reset_parameters(1.0)
    target = dense(source)
    inner = [rank + spare for rank in layout.ranks[1:-1]]
    fitted = InterleavedMatrix(InterleavedLayout(layout.row_modes, layout.col_modes, (1, *inner, 1)))
    fitted.fit(target, torch.eye(layout.cols))
    torch.testing.assert_close(dense(fitted), target, rtol=1e-5, atol=1e-5)
    cores = [core.detach() for core in fitted.cores]
    ranks = TTMatrix.from_dense(target, layout.row_modes, layout.col_modes, max_rank=inner).ranks
    # The norms of what was found are equal; a bond's room to spare is random before it and zero after it.
    found = [core[:a, ..., :b] for core, a, b in zip(cores, ranks[:-1], ranks[1:], strict=True)]
    norms = torch.stack([torch.linalg.vector_norm(core) for core in found])
    torch.testing.assert_close(norms, norms.mean().expand_as(norms))
    for before, after, a, b in zip(cores[:-1], cores[1:], ranks[:-2], ranks[1:-1], strict=True):
        room = before[:a, ..., b:]
        assert room.count_nonzero() == room.numel()
        assert after[b:].count_nonzero() == 0


@given(layout=layouts(), k=st.integers(1, 4), seed=st.integers(0, 99))
def test_fit_is_quasi_optimal(layout: InterleavedLayout, k: int, seed: int) -> None:
    """The error lies between the largest of the bonds' tails, which no fit can beat, and the root of their squares."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(layout.rows, k, generator=generator)
    right = torch.randn(k, layout.cols, generator=generator)
    matrix = InterleavedMatrix(layout)
    matrix.fit(left, right)
    target = left.double() @ right.double()
    error = torch.linalg.vector_norm(dense(matrix) - target).item()
    tails = [
        torch.linalg.vector_norm(torch.linalg.svdvals(unfolding)[rank:]).item()
        for unfolding, rank in zip(unfoldings(target, layout), layout.ranks[1:-1], strict=True)
    ]
    rounding = 1e-5 * torch.linalg.vector_norm(target).item()
    assert error <= math.hypot(*tails) + rounding
    assert error >= max(tails, default=0.0) - rounding


def test_fit_of_zero_is_zero() -> None:
    matrix = make(48, 8, 3)
    matrix.fit(torch.zeros(48, 2), torch.zeros(2, 8))
    assert torch.count_nonzero(matrix.chain()[0]) == 0


def choose(modes: object, rank: object = 2) -> InterleavedLayout:
    return InterleavedLayout.choose(12, 6, rank=rank, modes=modes)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: InterleavedLayout((4, 0), (2, 2), (1, 2, 1)), TTShapeError, "row_modes is (4, 0); every mode must"),
        (lambda: InterleavedLayout((4, 2), (2, "2"), (1, 2, 1)), TTTypeError, "col_modes holds '2'; expected ints"),
        (lambda: InterleavedLayout((4, 3), (6,), (1, 2, 1)), TTShapeError, "row_modes is (4, 3) and col_modes is (6,)"),
        (lambda: InterleavedLayout((), (), (1,)), TTShapeError, "expected as many modes of the columns as of the rows"),
        (lambda: InterleavedLayout((4, 3), (2, 3), (1, 1)), TTValueError, "expected length 3 for 2 modes"),
        (lambda: InterleavedLayout((4, 3), (2, 3), (1, 0, 1)), TTValueError, "ranks[1] is 0; expected an integer"),
        (lambda: InterleavedLayout((4, 3), (2, 3), (1, 2.5, 1)), TTTypeError, "ranks[1] is 2.5; expected an integer"),
        (
            lambda: InterleavedLayout((4, 3), (2, 3), (2, 2, 1)),
            TTShapeError,
            "ranks is (2, 2, 1); expected the first and",
        ),
        (lambda: choose("auto", [2]), TTValueError, "rank is [2] with modes 'auto'; give the modes as well"),
        (lambda: choose("paper"), TTValueError, "modes is 'paper'; expected 'auto', or two sequences"),
        (lambda: choose([[4, 3]]), TTValueError, "modes is [[4, 3]]; expected 'auto', or two sequences"),
        (lambda: choose([[4, 3], [6]]), TTShapeError, "row_modes is (4, 3) and col_modes is (6,)"),
        (lambda: choose([[4, 3], [2, 2]]), TTValueError, "multiply to 12 x 4; expected 12 x 6"),
        (lambda: choose([[4, 3], [2, 3]], [2, 2]), TTValueError, "ranks is (1, 2, 2, 1), of length 4; expected"),
        (lambda: choose([[4, 3], [2, 3]], 0), TTValueError, "rank is 0; expected an integer of at least 1"),
    ],
)
def test_bad_input_is_named(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()  # type: ignore[operator]


@given(layout=layouts())
def test_half_precision_is_rounded_once(layout: InterleavedLayout) -> None:
    matrix = InterleavedMatrix(layout)
    matrix.reset_parameters(1.0)
    (weight,) = matrix.to(torch.bfloat16).chain()
    (expected,) = matrix.float().chain()
    assert torch.equal(weight, expected.to(torch.bfloat16))


def test_where_there_are_no_entries_none_are_drawn(monkeypatch):
    def draws(*_: object) -> None:
        raise AssertionError("something was drawn")

    monkeypatch.setattr(torch.nn.init, "orthogonal_", draws)
    with torch.device("meta"):
        matrix = make(12, 8, 3)
    assert all(core.is_meta for core in matrix.cores)
    with pytest.raises(AssertionError, match="drawn"):
        make(12, 8, 3)
