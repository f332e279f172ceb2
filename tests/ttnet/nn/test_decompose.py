import itertools
import math
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.ttnet.strategies import draw_tensor, seeds
from ttnet.errors import TTValueError
from ttnet.nn import Layout, Spectrum, TTEmbedding, TTLinear, candidate_layouts, spend
from ttnet.nn.decompose import balanced, balanced_modes, decompose

layouts = st.sampled_from(["aligned", "interleaved"])
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128]


def relative(a, b):
    return float((a - b).norm() / b.norm())


@st.composite
def matrices(draw, dtype=None):
    """A matrix whose singular values fall, at any scale."""
    rows, cols = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    dtype = draw(st.sampled_from(FLOATS)) if dtype is None else dtype
    wide = torch.complex128 if dtype.is_complex else torch.float64
    seed, rank = draw(seeds), min(rows, cols)
    left, right = draw_tensor((rows, rank), wide, seed), draw_tensor((rank, cols), wide, seed + 1)
    return ((left * 0.5 ** torch.arange(rank)) @ right).to(dtype)


@given(matrices(), layouts, st.sampled_from([0.02, 0.1, 0.5, 1.0]))
def test_an_error_bound_holds_and_is_reported(matrix, layout, eps):
    cores, chosen, report = decompose(matrix, eps=eps, layout=layout)
    layer = TTLinear.from_matrix(matrix, eps=eps, layout=layout)
    wide = torch.complex128 if matrix.is_complex() else torch.float64
    actual = relative(layer.weight.detach().to(wide).mT, matrix.to(wide))
    assert report.weight_error <= eps
    assert math.isclose(actual, report.weight_error, rel_tol=1e-3, abs_tol=10 * torch.finfo(matrix.dtype).eps)
    assert all(core.dtype == matrix.dtype for core in cores)
    assert chosen == report.layout == layer.tt.layout
    assert tuple(tuple(core.shape) for core in cores) == chosen.core_shapes
    assert report.parameters == sum(core.numel() for core in cores)
    assert report.dense_parameters == matrix.numel()
    assert report.output_error is None


@given(matrices(), layouts, st.floats(0.2, 2.0))
def test_a_ratio_and_a_budget_are_kept(matrix, layout, ratio):
    allowed = int(ratio * matrix.numel())
    least = min(candidate.num_parameters for candidate in candidate_layouts(*matrix.shape, layout))
    if allowed < least:
        with pytest.raises(TTValueError, match=f"expected at least {least}, which ranks of 1 take"):
            decompose(matrix, ratio=ratio, layout=layout)
        return
    _, _, report = decompose(matrix, ratio=ratio, layout=layout)
    assert report.parameters <= allowed
    assert decompose(matrix, budget=allowed, layout=layout)[2] == report


@given(matrices(dtype=torch.float64), layouts)
def test_enough_parameters_give_the_matrix_itself(matrix, layout):
    _, _, report = decompose(matrix, budget=10**6, layout=layout)
    assert report.weight_error < 1e-7


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_any_scale(scale, calibrated, layout):
    torch.manual_seed(0)
    matrix = torch.randn(12, 20, dtype=torch.float64)
    x = torch.randn(50, 12, dtype=torch.float64) if calibrated else None
    modes = ((3, 4), (4, 5))
    plain = decompose(matrix, ratio=0.6, layout=layout, modes=modes, calibration=x)[2]
    scaled = decompose(
        matrix * scale, ratio=0.6, layout=layout, modes=modes, calibration=None if x is None else x / scale
    )[2]
    assert scaled.ranks == plain.ranks
    assert math.isclose(scaled.weight_error, plain.weight_error, rel_tol=1e-6)
    if calibrated:
        assert math.isclose(scaled.output_error, plain.output_error, rel_tol=1e-6)


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_zeros_and_rank_deficiency(layout):
    assert decompose(torch.zeros(8, 6), ratio=0.9, layout=layout)[2].weight_error == 0
    assert set(decompose(torch.zeros(8, 6), ratio=0.9, layout=layout)[1].ranks) == {1}
    assert set(decompose(torch.ones(8, 6), budget=48, layout=layout)[1].ranks) == {1}  # what gains nothing is not spent
    assert decompose(torch.ones(8, 6), ratio=0.9, layout=layout, calibration=torch.zeros(3, 8))[2].weight_error < 1e-6


def test_ranks_and_modes_that_are_given():
    torch.manual_seed(0)
    layer = nn.Linear(24, 36)
    made = TTLinear.from_linear(layer, max_rank=[3, 5], modes=((4, 6), (36,)))
    assert made.ranks == (1, 3, 5, 1)
    assert TTLinear.from_linear(layer, max_rank=2, modes=((4, 6), (6, 6)), layout="interleaved").ranks == (1, 2, 1)
    assert max(TTLinear.from_linear(layer, max_rank=3).ranks) == 3
    assert TTLinear.from_linear(layer, max_rank=24, modes=((24,), (36,))).report.weight_error < 1e-6


def test_what_a_dense_layer_hands_on():
    torch.manual_seed(0)
    layer = nn.Linear(24, 36, dtype=torch.bfloat16).eval()
    layer.weight.requires_grad_(False)
    made = TTLinear.from_linear(layer, ratio=0.5, cache_limit=100)
    assert made.cores[0].dtype == torch.bfloat16
    assert not any(core.requires_grad for core in made.cores)
    assert made.bias.requires_grad
    assert made.bias is not layer.bias
    assert torch.equal(made.bias, layer.bias)
    assert not made.training
    assert made.cache_limit == 100
    assert TTLinear.from_linear(nn.Linear(4, 4, bias=False), eps=0.1).bias is None
    table = TTEmbedding.from_embedding(nn.Embedding(101, 8, padding_idx=2).eval(), ratio=0.5)
    assert (table.num_embeddings, table.padding_idx, table.training) == (101, 2, False)


# --- ranks ----------------------------------------------------------------------------------------


@given(matrices(dtype=torch.float64), layouts, st.integers(1, 3))
def test_spectra_bound_the_error(matrix, layout, rank):
    for candidate in candidate_layouts(*matrix.shape, layout):
        spectrum = Spectrum.of(matrix, candidate)
        ranked = Layout.choose(*matrix.shape, kind=layout, ranks=rank, modes=(candidate.row_modes, candidate.col_modes))
        modes = (ranked.row_modes, ranked.col_modes)
        report = decompose(matrix, max_rank=rank, modes=modes, layout=layout)[2]
        assert report.weight_error**2 <= spectrum.bound(ranked) + 1e-12


@pytest.mark.parametrize("budget", [20, 40, 60, 100])
def test_spending_over_two_matrices_is_the_best_there_is(budget):
    """With one bond each the greedy choice is optimal, up to the last step; all choices are tried."""
    torch.manual_seed(0)
    made = [torch.randn(6, 4, dtype=torch.float64), torch.randn(5, 5, dtype=torch.float64)]
    spectra = [Spectrum.of(m, Layout.unranked("aligned", (m.shape[0],), (m.shape[1],))) for m in made]
    chosen = spend(spectra, budget)
    assert sum(layout.num_parameters for layout in chosen) <= budget

    @cache
    def loss(a, b):
        return spectra[0].tails[0][a] + spectra[1].tails[0][b]

    best = min(loss(a, b) for a, b in itertools.product(range(1, 5), range(1, 6)) if 10 * (a + b) <= budget)
    assert math.isclose(loss(chosen[0].ranks[1], chosen[1].ranks[1]), best)


def test_no_matrix_is_given_up_for_others():
    """A large flat matrix gains less for each parameter than small ones, but is not left with next to nothing."""
    torch.manual_seed(0)
    flat, steep = torch.eye(64), torch.randn(16, 16) * 0.8 ** torch.arange(16)
    spectra = [Spectrum.of(m, Layout.unranked("aligned", m.shape[:1], m.shape[1:])) for m in (flat, steep, steep)]
    for budget in (64 * 128, 40 * 128, 32 * 128 + 4 * 32):  # the last has just enough for half of each
        found = spend(spectra, budget)
        assert all(spectrum.bound(layout) <= 0.5 for spectrum, layout in zip(spectra, found, strict=True))
    lost = [s.bound(layout) for s, layout in zip(spectra, spend(spectra, 20 * 128), strict=True)]
    assert lost[0] == max(lost)  # all of it has gone there, once the small ones lost less
    assert 0.5 < lost[0] < 0.75


def test_no_rank_is_wasted():
    """A bond whose neighbour does not let its rank through is not raised."""
    torch.manual_seed(0)
    layout = Layout.unranked("aligned", (2, 3, 4), (4, 6))
    spectrum = Spectrum.of(torch.randn(24, 24), layout)
    for budget in range(layout.num_parameters, 700, 37):
        (chosen,) = spend([spectrum], budget)
        for k, size in enumerate(chosen.sizes):
            left, right = chosen.ranks[k : k + 2]
            assert right <= left * size
            assert left <= size * right


@given(st.integers(1, 3000), st.integers(1, 4))
def test_balanced_modes_multiply_to_the_size(size, count):
    modes = balanced_modes(size, count)
    assert math.prod(modes) == size
    assert len(modes) <= count
    assert modes == (1,) if size == 1 else 1 not in modes


def test_balancing_is_exact():
    cores = [torch.randn(3, dtype=torch.float64) * scale for scale in (1e200, 1e-200, 1.0, 1e-30)]
    even = balanced(cores)
    ratios = [float((a / b)[0]) for a, b in zip(even, cores, strict=True)]
    assert all(math.frexp(ratio)[0] == 0.5 for ratio in ratios)
    assert sum(math.frexp(ratio)[1] - 1 for ratio in ratios) == 0
    assert max(map(float, (c.abs().max() for c in even))) < 8 * min(map(float, (c.abs().max() for c in even)))
