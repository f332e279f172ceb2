"""A matrix held as one train: its factors, its published sizes, and the spread that it is drawn with."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ttnet.errors import TTValueError
from ttnet_llm.matrices.aligned import PAPER_MODES, AlignedLayout, AlignedMatrix
from ttnet_llm.matrices.thin import thinnest_product

SIZES = st.integers(1, 60)
RANKS = st.integers(1, 7)


def dense(matrix: AlignedMatrix) -> torch.Tensor:
    """The matrix from its cores alone, in float64: every core after the other, no cut."""
    product = torch.ones(1, 1, dtype=torch.float64)
    for core in matrix.cores:
        product = torch.tensordot(product, core.double(), dims=1)
        product = product.reshape(-1, core.shape[2])
    return product.reshape(matrix.layout.rows, matrix.layout.cols)


def make(rows: int, cols: int, rank: int, modes: str = "auto", variance: float = 1.0) -> AlignedMatrix:
    matrix = AlignedMatrix(AlignedLayout.choose(rows, cols, rank=rank, modes=modes))
    matrix.reset_parameters(variance)
    return matrix


@given(rows=SIZES, cols=SIZES, rank=RANKS)
def test_factors_multiply_to_the_train(rows: int, cols: int, rank: int) -> None:
    matrix = make(rows, cols, rank)
    left, right = matrix.factors()
    assert left.shape[0] == rows
    assert right.shape[1] == cols
    assert left.shape[1] == right.shape[0] == matrix.layout.cut_rank
    torch.testing.assert_close(left.double() @ right.double(), dense(matrix), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "modes"), PAPER_MODES.items())
@pytest.mark.parametrize("rank", [1, 3, 5, 8])
def test_factors_of_the_published_modes(size: tuple[int, int], modes: tuple[int, ...], rank: int) -> None:
    matrix = make(*size, rank, "paper")
    assert matrix.layout.modes == modes
    left, right = matrix.factors()
    torch.testing.assert_close(left.double() @ right.double(), dense(matrix), rtol=1e-4, atol=1e-5)
    assert sum(core.numel() for core in matrix.cores) == matrix.layout.num_parameters
    assert set(matrix.layout.ranks[1:-1]) == {rank}  # the paper does not cap them


@given(rows=SIZES, cols=SIZES, rank=RANKS)
def test_never_more_parameters_than_the_dense_matrix(rows: int, cols: int, rank: int) -> None:
    layout = AlignedLayout.choose(rows, cols, rank=rank, modes="auto")
    assert math.prod(layout.modes) == rows * cols
    assert layout.num_parameters <= rows * cols
    assert (layout.rows, layout.cols) == (rows, cols)


@given(rows=SIZES, cols=SIZES, rank=RANKS, variance=st.floats(1e-4, 10))
def test_mean_square_of_the_entries_is_the_variance(rows: int, cols: int, rank: int, variance: float) -> None:
    entries = dense(make(rows, cols, rank, variance=variance))
    assert entries.square().mean().item() == pytest.approx(variance, rel=1e-3)


@pytest.mark.parametrize(
    ("rows", "cols", "rank", "modes"),
    [
        (768, 64, 5, "auto"),
        (768, 64, 5, "paper"),
        pytest.param(1024, 64, 5, "paper", marks=pytest.mark.slow),
        pytest.param(4096, 8, 5, "paper", marks=pytest.mark.slow),
        (384, 8, 2, "auto"),
    ],
)
def test_entries_are_spread_like_those_of_a_random_matrix(rows: int, cols: int, rank: int, modes: str) -> None:
    """Every entry has mean 0 and the wanted variance over draws, whatever its place in the matrix."""
    torch.manual_seed(0)
    n_draws = 1000
    draws = []
    for _ in range(n_draws):
        left, right = make(rows, cols, rank, modes, variance=0.5).factors()
        draws.append(left.detach()[::97] @ right.detach()[:, ::3])
    entries = torch.stack(draws)
    # Standard errors over the draws: 0.03 spreads for a mean, and at most 0.1 of the variance for a mean square
    # (the kurtosis of a product stays under 10).
    assert entries.mean(0).abs().max() < 0.5**0.5 * 0.03 * 5
    assert entries.square().mean().item() == pytest.approx(0.5, rel=0.1)
    assert entries.square().mean(0).min() > 0.5 * 0.6
    assert entries.square().mean(0).max() < 0.5 * 1.5


@given(rows=st.integers(6, 60), cols=st.integers(6, 60), rank=st.integers(1, 5))
def test_singular_values_start_equal(rows: int, cols: int, rank: int) -> None:
    matrix = make(rows, cols, rank)
    values = torch.linalg.svdvals(dense(matrix))[: min(rank, rows, cols)]
    if len(matrix.cores) > 1:
        assert (values[0] / values[-1]).item() < 1.001


def test_zero_start_moves_only_the_first_core() -> None:
    matrix = AlignedMatrix(AlignedLayout.choose(48, 8, rank=3, modes="auto"))
    matrix.reset_parameters(1.0, zero=True)
    left, right = matrix.factors()
    (left @ right * torch.randn(48, 8)).sum().backward()
    gradients = [core.grad.abs().max().item() for core in matrix.cores]
    assert torch.count_nonzero(left @ right) == 0
    assert gradients[0] > 0
    assert max(gradients[1:]) == 0


@given(rows=SIZES, cols=SIZES, rank=RANKS)
def test_gradients_reach_every_core(rows: int, cols: int, rank: int) -> None:
    matrix = make(rows, cols, rank)
    left, right = matrix.factors()
    weights = torch.linspace(-1, 1, rows * cols).reshape(rows, cols) + 0.3
    ((left @ right) * weights).sum().backward()
    reference = [core.detach().double().requires_grad_() for core in matrix.cores]
    product = reference[0].reshape(-1, reference[0].shape[2])
    for core in reference[1:]:
        product = torch.tensordot(product, core, dims=1).reshape(-1, core.shape[2])
    (product.reshape(rows, cols) * weights.double()).sum().backward()
    for core, expected in zip(matrix.cores, reference, strict=True):
        torch.testing.assert_close(core.grad.double(), expected.grad, rtol=1e-3, atol=1e-3)


@given(rows=SIZES, cols=SIZES, rank=RANKS, tokens=st.integers(0, 5))
def test_multiplying_core_by_core_is_the_dense_product(rows: int, cols: int, rank: int, tokens: int) -> None:
    matrix = make(rows, cols, rank).double()
    x = torch.randn(tokens, rows, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(tokens, cols, dtype=torch.float64)
    inputs = [x, *matrix.cores]
    y = matrix.multiply(x)
    torch.testing.assert_close(y, x @ dense(matrix))
    expected = torch.autograd.grad((x @ dense(matrix) * weights).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((y * weights).sum(), inputs), expected)


@given(rows=SIZES, cols=SIZES, rank=RANKS, tokens=st.integers(0, 5))
def test_multiplying_by_the_transpose_is_the_dense_product(rows: int, cols: int, rank: int, tokens: int) -> None:
    matrix = make(rows, cols, rank).double()
    x = torch.randn(tokens, cols, dtype=torch.float64)
    torch.testing.assert_close(matrix.multiply_by_transpose(x), x @ dense(matrix).T)


@given(rows=SIZES, cols=SIZES, rank=RANKS, layout=st.sampled_from(["auto", "cut"]))
def test_what_is_written_on_the_way_is_counted(rows: int, cols: int, rank: int, layout: str) -> None:
    """Against the shapes of what each way makes, product by product."""
    modes = "auto" if layout == "auto" else [[rows], [cols]]
    matrix = AlignedMatrix(AlignedLayout.choose(rows, cols, rank=rank, modes=modes))
    shapes, split = matrix.layout.core_shapes, matrix.layout.split_core + 1
    if matrix.layout.split_columns > 1 or not shapes[split:]:
        assert matrix.moves is None
        return
    forming, states = 0, 0
    factor = torch.empty(shapes[0], device="meta")
    for shape in shapes[1:split]:
        factor = torch.tensordot(factor, torch.empty(shape, device="meta"), dims=1)
        forming += factor.numel()
    factor = torch.empty(shapes[-1], device="meta")
    for shape in shapes[split:-1][::-1]:
        factor = torch.tensordot(torch.empty(shape, device="meta"), factor, dims=1)
        forming += factor.numel()
    state = torch.empty(1, *[shape[1] for shape in shapes[:split]], device="meta")  # (r, modes to come)
    for shape in shapes[:split]:
        state = torch.tensordot(torch.empty(shape, device="meta"), state, dims=([0, 1], [0, 1]))
        states += state.numel()
    for shape in shapes[split:-1]:  # the last gives what comes out
        state = torch.tensordot(state, torch.empty(shape, device="meta"), dims=([-1], [0]))
        states += state.numel()
    assert matrix.moves == (forming, states)


@pytest.mark.parametrize(("size", "modes"), PAPER_MODES.items())
def test_multiplying_by_published_modes(size: tuple[int, int], modes: tuple[int, ...]) -> None:
    matrix = make(*size, 3, "paper").double()  # some of these are cut inside a core
    x = torch.randn(2, size[0], dtype=torch.float64)
    torch.testing.assert_close(matrix.multiply(x), x @ dense(matrix))


@pytest.mark.parametrize(
    ("rows", "cols", "rank", "single", "half"),
    [
        (4096, 4096, 5, 32, 15),  # the thin product is slow in single precision
        (4096, 4096, 16, 11, 24),
        (4096, 64, 16, 6, 21),
        (768, 768, 5, 0, 19),
        (768, 768, 16, 3, 23),
        (48, 32, 32, 0, 0),  # one dense core
    ],
)
def test_how_few_tokens_go_core_by_core(rows: int, cols: int, rank: int, single: int, half: int) -> None:
    matrix = make(rows, cols, rank)
    assert matrix.few_tokens == matrix.double().few_tokens == single
    assert matrix.bfloat16().few_tokens == half


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(rows=SIZES, cols=SIZES, rank=RANKS)
def test_half_precision_is_rounded_once(dtype: torch.dtype, rows: int, cols: int, rank: int) -> None:
    matrix = make(rows, cols, rank).to(dtype)
    x = torch.randn(3, rows, dtype=dtype)
    factors, y = matrix.factors(), matrix.multiply(x)
    sum(factor.float().sum() for factor in factors).backward()
    gradients = [core.grad for core in matrix.cores]
    wide = AlignedMatrix(matrix.layout)
    wide.load_state_dict(matrix.state_dict())
    expected = wide.factors()
    for factor, reference in zip(factors, expected, strict=True):
        assert torch.equal(factor, reference.to(dtype))
    assert torch.equal(y, wide.multiply(x.float()).to(dtype))
    sum(factor.to(dtype).float().sum() for factor in expected).backward()
    for gradient, core in zip(gradients, wide.cores, strict=True):
        assert torch.equal(gradient, core.grad.to(dtype))


@given(sizes=st.lists(st.integers(1, 9), min_size=3, max_size=6))
def test_thinnest_product_is_the_product(sizes: list[int]) -> None:
    factors = [torch.randn(m, n, dtype=torch.float64) for m, n in itertools.pairwise(sizes)]
    left, right = thinnest_product(factors)
    assert left.shape[1] == min(sizes[1:-1])
    torch.testing.assert_close(left @ right, torch.linalg.multi_dot(factors))


def test_published_modes_of_another_size_are_refused() -> None:
    with pytest.raises(TTValueError, match=re.escape("no modes for a 384 x 8 matrix")):
        AlignedLayout.choose(384, 8, rank=5, modes="paper")


def test_a_boundary_that_does_not_divide_a_mode_is_refused() -> None:
    with pytest.raises(TTValueError, match="which no boundary inside the modes"):
        AlignedLayout((4, 6), (1, 2, 1), rows=5)


@given(rows=SIZES, cols=SIZES, rank=RANKS, k=RANKS, seed=st.integers(0, 2**16))
def test_fit_is_as_near_as_the_ranks_allow(rows: int, cols: int, rank: int, k: int, seed: int) -> None:
    """Within the bound of TT-SVD: what a truncated SVD at each bond would leave out."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, k, generator=generator, dtype=torch.float64)
    right = torch.randn(k, cols, generator=generator, dtype=torch.float64)
    matrix = make(rows, cols, rank)
    matrix.fit(left, right)
    target = left @ right
    layout, bound, before = matrix.layout, 0.0, 1
    for mode, bond in zip(layout.modes[:-1], layout.ranks[1:-1], strict=True):
        before *= mode
        bound += float(torch.linalg.svdvals(target.reshape(before, -1))[bond:].square().sum())
    error = float((dense(matrix).detach() - target).square().sum())
    assert error <= 1.01 * bound + 1e-10 * float(target.square().sum())


@pytest.mark.parametrize(("size", "modes"), PAPER_MODES.items())
def test_fit_of_the_published_modes_is_exact_where_ranks_suffice(size: tuple[int, int], modes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    source, matrix = make(*size, 3, "paper"), make(*size, 3, "paper")
    matrix.fit(*source.factors())
    torch.testing.assert_close(dense(matrix), dense(source), rtol=1e-4, atol=1e-4)


def test_given_modes_and_ranks() -> None:
    layout = AlignedLayout.choose(12, 6, rank=(2, 3, 4), modes=((4, 3), (3, 2)))
    assert (layout.modes, layout.ranks, layout.rows, layout.split_modes) == (
        (4, 3, 3, 2),
        (1, 2, 3, 4, 1),
        12,
        [[4, 3], [3, 2]],
    )
    with pytest.raises(TTValueError, match=r"has 3 inner bonds; give one rank for each"):
        AlignedLayout.choose(12, 6, rank=(2, 3), modes=((4, 3), (3, 2)))
    with pytest.raises(TTValueError, match="give the modes as well"):
        AlignedLayout.choose(12, 6, rank=(2, 3), modes="auto")


def test_recorded_modes_make_the_same_layout() -> None:
    for rows, cols, rank in itertools.product((1, 7, 48, 768), (1, 8, 64), (1, 5)):
        layout = AlignedLayout.choose(rows, cols, rank=rank, modes="auto")
        assert AlignedLayout.choose(rows, cols, rank=rank, modes=layout.split_modes) == layout
