"""What solvers have in common: their result, and what they check before they begin."""

import math

import pytest
import torch

import ttnet
from ttnet import TTShapeError, TTTypeError, TTValueError, solvers
from ttnet.solvers import arguments
from ttnet.solvers.result import handing_back

HISTORY = tuple(solvers.SolverProgress(k, (1, 2 + k, 1), 10.0**-k, 0.5) for k in (1, 2))


def result_of(status):
    return solvers.SolverResult(ttnet.ones((2, 3)), status, 1e-2, 2, HISTORY)


@pytest.mark.parametrize("status", solvers.SolverStatus)
def test_a_result_explains_itself(status):
    result = result_of(status)
    assert result.converged == (status.name in ("CONVERGED", "REACHED"))
    lines = str(result).splitlines()
    assert lines[0] == f"{status.name}: {status.value}"
    assert "residual: 1.0e-02, after 2 sweeps" in lines
    assert lines[-1].split() == ["2", "4", "1.0e-02", "5.0e-01"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ZeroDivisionError])
def test_exceptions_hand_back_the_best_so_far(kind):
    result = result_of(solvers.SolverStatus.INTERRUPTED)
    with pytest.raises(kind) as caught, handing_back(lambda: result):
        raise kind
    assert caught.value.result is result
    assert "attribute `result`" in caught.value.__notes__[0]
    with pytest.raises(kind) as caught, handing_back(lambda: None):
        raise kind
    assert not hasattr(caught.value, "result")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: arguments.check_tol("1", torch.float64),
            TTTypeError,
            "tol is a str; expected a real number above 0 and b",
        ),
        (
            lambda: arguments.check_tol(0, torch.float64),
            TTValueError,
            "tol is 0; expected a number above 0 and below 1",
        ),
        (
            lambda: arguments.check_tol(2, torch.float64),
            TTValueError,
            "tol is 2; expected a number above 0 and below 1",
        ),
        (lambda: arguments.check_tol(1.0, torch.float64), TTValueError, "tol is 1.0; expected a number above 0 and be"),
        (lambda: arguments.check_tol(math.nan, torch.float64), TTValueError, "tol is nan; expected"),
        (lambda: arguments.check_tol(1e-8, torch.float32), TTValueError, "below the precision of float32; expected at"),
        (lambda: arguments.check_tol(1e-8, torch.complex64), TTValueError, "convert the trains to complex128."),
        (lambda: arguments.check_count(1.5, "max_sweeps"), TTTypeError, "max_sweeps is 1.5; expected an int >= 1."),
        (lambda: arguments.check_count(0, "max_sweeps"), TTValueError, "max_sweeps is 0; expected an int >= 1."),
        (lambda: arguments.check_seed(None), TTTypeError, "seed is None; expected an int."),
        (lambda: arguments.check_seed(-1), TTValueError, "seed is -1; expected an int from 0 to 2**63 - 1."),
        (lambda: arguments.check_callback(3), TTTypeError, "callback is a int; expected a function"),
        (lambda: arguments.check_bounds(0, 3), TTValueError, "max_rank holds 0"),
        (lambda: arguments.check_train(3, "b"), TTTypeError, "b is a int; expected a TensorTrain."),
        (lambda: arguments.check_train(ttnet.ones((2,)) * math.nan, "b"), TTValueError, "b.cores[0] holds NaN"),
        (lambda: arguments.check_operator(3, "A"), TTTypeError, "A is a int; expected a TTMatrix."),
        (
            lambda: arguments.check_operator(ttnet.TTMatrix([torch.ones(1, 2, 3, 1)]), "A"),
            TTShapeError,
            "A has row modes (2,) and column modes (3,); expected the same",
        ),
        (
            lambda: arguments.check_fit(ttnet.eye((2, 3)), ttnet.ones((3, 2)), "b"),
            TTShapeError,
            "b has shape (3, 2) but A has modes (2, 3); expected the same modes.",
        ),
        (
            lambda: arguments.check_fit(ttnet.eye((2,)), ttnet.ones((2,), device="meta"), "b"),
            TTValueError,
            "A is on cpu and b on meta; move them to one device.",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


def test_what_is_not_square_may_be_allowed():
    wide = ttnet.TTMatrix([torch.ones(1, 2, 3, 1)])
    assert arguments.check_operator(wide, "A", square=False) is wide
