import math
import sys

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from matplotlib.figure import Figure

import ttnet
from tests.examples import examples
from tests.ttnet.strategies import dense, precision, trains, tt_matrices
from ttnet import MissingExtraError, TensorTrain, TTMatrix, TTShapeError, TTTypeError, TTValueError
from ttnet.nn import TTLinear
from ttnet.plotting import draw_train
from ttnet.trains.fidelity import relative_error


def hilbert(size=8, order=3, dtype=torch.float64):
    index = torch.arange(size, dtype=dtype)
    total = sum(index.reshape([-1 if k == axis else 1 for k in range(order)]) for axis in range(order))
    return 1 / (1 + total)


def drawn(ax):
    """What the lines with markers show, as a list of points each."""
    return [list(zip(*line.get_data(), strict=True)) for line in ax.lines if line.get_marker() == "o"]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def unfoldings(x):
    """The singular values of all unfoldings, relative to the norm, by dense algebra."""
    for k in range(1, x.ndim):
        s = torch.linalg.svdvals(x.reshape(math.prod(x.shape[:k]), -1))
        yield s / s.norm()


def test_ranks_of_one_train():
    x = ttnet.random((4, 5, 6, 2), [4, 7, 2], seed=0)
    ax = ttnet.plot_ranks(x)
    assert drawn(ax) == [[(1, 4), (2, 7), (3, 2)]]
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[4, 12, 2]]
    assert legend(ax) == ["largest possible"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("bond", "rank")


def test_ranks_of_several_trains():
    x, w = ttnet.ones((4, 5, 6)), TTMatrix.from_dense(torch.eye(6), (2, 3), (2, 3))
    assert legend(ttnet.plot_ranks([x, x + x, w])) == ["train 1", "train 2", "train 3"]  # the largest is out of sight
    ax = ttnet.plot_ranks({"sum": x + x, "rounded": (x + x).round()})
    assert drawn(ax) == [[(1, 2), (2, 2)], [(1, 1), (2, 1)]]
    assert legend(ax) == ["sum", "rounded"]
    assert len(drawn(ttnet.plot_ranks([x] * 9))) == 9  # more than there are colours


@examples(0.4)
@given(x=trains().filter(lambda x: x.ndim > 1) | tt_matrices().filter(lambda w: len(w.cores) > 1))
def test_singular_values_are_those_of_the_unfoldings(x):
    train = x if isinstance(x, TensorTrain) else TensorTrain(core.flatten(1, 2) for core in x.cores)
    for points, expected in zip(drawn(ttnet.plot_singular_values(x)), unfoldings(dense(train)), strict=True):
        values = torch.tensor([value for _, value in points], dtype=torch.float64)
        count = min(len(values), len(expected))
        assert (values[:count] - expected[:count]).abs().max() <= precision(x.dtype)
        for beyond in (values[count:], expected[count:]):
            assert (beyond <= precision(x.dtype)).all()


def test_singular_values_at_any_scale_and_order():
    x = ttnet.random((2,) * 60, 3, dtype=torch.float64, seed=0) * 1e200
    ax = ttnet.plot_singular_values(TensorTrain([core * 1e30 for core in x.cores]))
    assert len(drawn(ax)) == 59
    assert all(0 < value <= 1 + 1e-12 for points in drawn(ax) for _, value in points)
    assert legend(ax) == [f"bond {k}" for k in (1, 13, 24, 36, 47, 59)]
    low = ttnet.tt_svd(hilbert(16))
    assert legend(ttnet.plot_singular_values(low)) == ["bond 1", "bond 2", "machine epsilon"]


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
def test_compression_shows_the_errors_as_they_are(scale):
    x = hilbert()
    ax = ttnet.plot_compression(x * scale, eps=[1e-1, 1e-3, 1e-3], max_rank=[1])
    bounds = [{"max_rank": 1}, {"eps": 1e-1}, {"eps": 1e-3}]
    rounded = [ttnet.tt_svd(x, **bound) for bound in bounds]
    expected = sorted({(tt.num_parameters, float((tt.full() - x).norm() / x.norm())) for tt in rounded})
    assert [size for size, _ in drawn(ax)[0]] == [size for size, _ in expected]
    assert np.allclose([error for _, error in drawn(ax)[0]], [error for _, error in expected], rtol=1e-6)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert legend(ax) == ["tensor train", "the dense tensor"]


def test_compression_by_default_goes_down_to_precision():
    errors = [error for _, error in drawn(ttnet.plot_compression(hilbert()))[0]]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert errors[-1] < 1e-12
    assert ttnet.plot_compression(torch.ones(3, 3)).lines[0].get_ydata()[0] >= torch.finfo(torch.float32).eps
    assert drawn(ttnet.plot_compression(hilbert().numpy().astype(np.complex64)))
    assert drawn(ttnet.plot_compression(hilbert().bfloat16().requires_grad_()))


def test_nothing_global_is_touched():
    before = dict(matplotlib.rcParams)
    pyplot_was_there = "matplotlib.pyplot" in sys.modules
    x = ttnet.tt_svd(hilbert())
    given_axes = Figure().subplots(1, 3)
    assert ttnet.plot_ranks(x, given_axes[0]) is given_axes[0]
    assert ttnet.plot_singular_values(x, given_axes[1]) is given_axes[1]
    assert ttnet.plot_compression(hilbert(), ax=given_axes[2]) is given_axes[2]
    draw_train(x, "title")
    ttnet.plot_ranks(x)
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_was_there


def test_pictures_can_be_written(tmp_path):
    for k, ax in enumerate([ttnet.plot_ranks(ttnet.ones((2, 2))), ttnet.plot_compression(hilbert())]):
        ax.figure.savefig(tmp_path / f"{k}.png")
        assert (tmp_path / f"{k}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (lambda: ttnet.plot_ranks(3), TTTypeError, "tt is a int; expected a TensorTrain or a TTMatrix"),
        (lambda: ttnet.plot_ranks("abc"), TTTypeError, "tt is a str"),
        (lambda: ttnet.plot_ranks([ttnet.ones((2, 2)), 3]), TTTypeError, "the train 'train 2' is a int"),
        (lambda: ttnet.plot_ranks([]), TTValueError, "there is no train to draw"),
        (
            lambda: ttnet.plot_ranks({"a": ttnet.ones((2,))}),
            TTValueError,
            "the train 'a' has order 1; expected at least",
        ),
        (lambda: ttnet.plot_ranks(ttnet.ones(())), TTValueError, "tt has order 0; expected at least 2"),
        (lambda: ttnet.plot_ranks(ttnet.ones((2, 2)), 3), TTTypeError, "ax is a int; expected the axes"),
        (lambda: ttnet.plot_singular_values(torch.ones(2, 2)), TTTypeError, "tt is a Tensor"),
        (lambda: ttnet.plot_singular_values([ttnet.ones((2, 2))]), TTTypeError, "tt is a list"),
        (lambda: ttnet.plot_singular_values(ttnet.ones((2,))), TTValueError, "tt has order 1"),
        (lambda: ttnet.plot_singular_values(ttnet.zeros((2, 2))), TTValueError, "tt is zero"),
        (
            lambda: ttnet.plot_singular_values(ttnet.ones((2, 2), device="meta")),
            TTValueError,
            "tt is on the meta device",
        ),
        (lambda: ttnet.plot_singular_values(ttnet.ones((2, 2)) * math.nan), TTValueError, "NaN or infinite"),
        (lambda: ttnet.plot_compression(3), TTTypeError, "x is a int"),
        (lambda: ttnet.plot_compression(torch.ones(3)), TTValueError, "x has order 1; expected at least 2"),
        (lambda: ttnet.plot_compression(torch.ones(3, 0)), TTShapeError, "every mode must have size at least 1"),
        (lambda: ttnet.plot_compression(torch.zeros(3, 3)), TTValueError, "x is zero"),
        (lambda: ttnet.plot_compression(torch.full((3, 3), math.inf)), TTValueError, "NaN or infinite"),
        (lambda: ttnet.plot_compression(torch.ones(3, 3), eps=[-1]), TTValueError, "eps is -1"),
        (lambda: ttnet.plot_compression(torch.ones(3, 3), eps=0.1), TTTypeError, "eps is a float; expected a sequence"),
        (lambda: ttnet.plot_compression(torch.ones(3, 3), max_rank=2), TTTypeError, "max_rank is a int; expected a"),
        (lambda: ttnet.plot_compression(torch.ones(3, 3), max_rank=[0]), TTValueError, "max_rank holds 0"),
        (lambda: ttnet.plot_compression(torch.ones(3, 3), eps=[]), TTValueError, "eps and max_rank hold no bound"),
        (lambda: relative_error(torch.ones(2, 3), ttnet.ones((3, 2))), TTShapeError, "x has shape \\(2, 3\\) and tt"),
        (lambda: relative_error(torch.ones(1), ttnet.ones((3,))), TTShapeError, "expected the same shape"),
        (lambda: relative_error(ttnet.ones((2, 3)), ttnet.ones((3, 2))), TTShapeError, "expected the same shape"),
    ],
)
def test_errors(operation, error, message):
    with pytest.raises(error, match=message):
        operation()


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ttnet-torch\[plot\]'"):
        ttnet.plot_ranks(ttnet.ones((2, 2)))


@given(x=trains(), w=tt_matrices())
def test_relative_error_of_dense_and_of_trains(x, w):
    for value in (x, w):
        other = value * 1.25
        for exact in (value, value.full()):
            error = relative_error(exact, other)
            assert abs(error - 0.25) <= 10 * precision(value.dtype) if value.norm() else error == 0
        assert relative_error(value, value) <= 1e-12


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_relative_error_at_any_scale(scale):
    x = ttnet.random((3, 4), 2, dtype=torch.float64, seed=0)
    assert abs(relative_error(x * scale, x * scale * 1.5) - 0.5) < 1e-12
    assert abs(relative_error(x.full() * scale, x * scale * 1.5) - 0.5) < 1e-12
    vast = TensorTrain([core * scale for core in ttnet.ones((2,) * 100, dtype=torch.float64).cores])
    assert abs(relative_error(vast, vast * 1.5) - 0.5) < 1e-12


@pytest.mark.filterwarnings("error")
def test_gradients_are_left_alone():
    x = TensorTrain([core.requires_grad_() for core in ttnet.random((3, 4), 2, seed=0).cores])
    assert abs(relative_error(x, x * 1.5) - 0.5) < 1e-6
    assert abs(relative_error(x.full(), x * 1.5) - 0.5) < 1e-6
    ttnet.plot_singular_values(x)
    ttnet.plot_compression(x.full(), eps=np.logspace(-1, -3, 3))
    assert x.cores[0].grad is None


def test_relative_error_beside_zero():
    zero, one = ttnet.zeros((2, 3)), ttnet.ones((2, 3))
    for exact in (zero, zero.full()):
        assert relative_error(exact, zero) == 0
        assert relative_error(exact, one) == math.inf
    assert relative_error(one, zero) == 1


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_networks_show_modes_and_ranks():
    axes = ttnet.draw_network(ttnet.random((4, 5, 6), [2, 3], seed=0))
    assert texts(axes) == ["4", "5", "6", "2", "3"]
    matrix = ttnet.TTMatrix.from_train(ttnet.random((6, 10), 2, seed=0), (2, 5), (3, 2))
    assert texts(ttnet.draw_network(matrix)) == ["2", "3", "5", "2", "2"]
    heights = [text.get_position()[1] for text in ttnet.draw_network(matrix).texts[:4]]
    assert [height > 0 for height in heights] == [True, False, True, False]


@pytest.mark.parametrize(
    ("layout", "above"), [("aligned", [True, True, False, False]), ("interleaved", [True, False] * 2)]
)
def test_layers_are_drawn_in_their_layout(layout, above):
    layer = TTLinear(12, 8, ranks=2, modes=((3, 4), (2, 4)), layout=layout)
    for value in (layer, layer.tt):
        axes = ttnet.draw_network(value, beside="W")
        assert [text.get_position()[1] > 0 for text in axes.texts[:4]] == above
        assert sorted(texts(axes)[:4]) == ["2", "3", "4", "4"]
        assert {"W", "+"} <= set(texts(axes))


@pytest.mark.parametrize("order", [2, 3, 5, 6, 50])
@pytest.mark.parametrize("most", [2, 3, 5])
def test_the_middle_of_long_networks_is_counted(order, most):
    axes = ttnet.draw_network(ttnet.random(range(2, order + 2), 2, seed=0), most=most)
    modes = texts(axes)[: min(order, most)]
    assert modes[0] == "2"
    assert modes[-1] == str(order + 1)
    left_out = [text for text in texts(axes) if text.endswith("more")]
    assert left_out == ([f"{order - most} more"] if order > most else [])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"value": 1}, TTTypeError, "value is a int; expected a train, a TT-matrix or a layer"),
        ({"value": torch.nn.Linear(2, 2)}, TTTypeError, "value is a Linear"),
        ({"value": ttnet.ones(())}, TTValueError, "of order 0, which has no modes"),
        ({"value": ttnet.ones((2,)), "most": 1}, TTValueError, "most is 1; expected at least 2"),
        ({"value": ttnet.ones((2,)), "most": 2.0}, TTTypeError, "most is 2.0; expected an int"),
        ({"value": ttnet.ones((2,)), "ax": 1}, TTTypeError, "ax is a int"),
    ],
)
def test_what_is_no_network_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        ttnet.draw_network(**arguments)
