"""Riemannian optimisers: steps that do not depend on the cores, and trainings that come to the known answer."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.ttnet.solvers.test_manifold import points
from tests.ttnet.strategies import draw_train, relative_error, seeds
from ttnet import TensorTrain, TTMatrix, TTShapeError, TTTypeError, TTValueError
from ttnet.nn import TTLinear
from ttnet.solvers import RiemannianAdam, RiemannianSGD, project, retract

OPTIMISERS = [RiemannianSGD, lambda x, lr: RiemannianSGD(x, lr, momentum=0.5), RiemannianAdam]


def trainable(x):
    return type(x)([core.detach().clone().requires_grad_() for core in x.cores])


def loss_to(wanted, x):
    return (x - wanted).norm().square() / 2


@given(points(torch.float64), seeds)
def test_one_step_is_a_retraction_of_the_projected_gradient(x, seed):
    wanted = draw_train(x.shape, [1] * max(0, x.ndim - 1), x.dtype, seed)
    y = trainable(x)
    loss_to(wanted, y).backward()
    smallest = min([float(s[-1] / s[0]) for s in x.singular_values()] + [1.0])
    RiemannianSGD(y, lr=0.1).step()
    expected = retract(project(x, x - wanted), -0.1)
    assert relative_error(y.detach().full(), expected.full()) < 1e-10 / smallest**2
    assert y.ranks == x.ranks


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_steps_do_not_depend_on_how_the_train_is_written(optimiser, dtype):
    x = ttnet.random((4, 3, 4), 2, dtype=dtype, seed=0)
    change = torch.randn(2, 2, dtype=dtype, generator=torch.Generator().manual_seed(1))
    first, second, third = x.cores
    other = TensorTrain(
        [torch.tensordot(first, change, 1), torch.tensordot(torch.linalg.inv(change), second, 1), third]
    )
    wanted = ttnet.random((4, 3, 4), 2, dtype=dtype, seed=2)
    found = []
    for start in (x, other):
        y = trainable(start)
        steps = optimiser(y, lr=0.1)
        for _ in range(5):
            steps.zero_grad()
            loss_to(wanted, y).backward()
            steps.step()
        found.append(y.detach().full())
    assert relative_error(found[0], found[1]) < 1e-10


@pytest.mark.parametrize(
    ("optimiser", "lr", "count"), [*zip(OPTIMISERS, [0.5, 0.5, 0.05], [100, 100, 400], strict=True)]
)
def test_trainings_come_to_the_answer(optimiser, lr, count):
    wanted = ttnet.random((5, 4, 3, 4), 2, dtype=torch.float64, seed=0)
    x = trainable(ttnet.random((5, 4, 3, 4), 2, dtype=torch.float64, seed=1))
    steps = optimiser(x, lr=lr)
    schedule = torch.optim.lr_scheduler.ExponentialLR(steps, 0.99)
    for _ in range(count):
        steps.zero_grad()
        loss_to(wanted, x).backward()
        steps.step()
        schedule.step()
    assert float((x.detach() - wanted).norm()) < 1e-2 * float(wanted.norm())


@pytest.mark.parametrize("kind", ["aligned", "interleaved"])
def test_layers_learn_beside_another_optimiser_for_the_rest(kind):
    torch.manual_seed(0)
    teacher = torch.nn.Linear(12, 8)
    model = torch.nn.Sequential(TTLinear(12, 8, ranks=6, layout=kind))
    steps = [RiemannianAdam(model, lr=0.02), torch.optim.Adam([model[0].bias], lr=0.02)]
    losses = []
    for _ in range(200):
        x = torch.randn(64, 12)
        for each in steps:
            each.zero_grad()
        loss = (model(x) - teacher(x)).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        for each in steps:
            each.step()
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])


def test_a_train_of_zero_comes_to_life():
    x = TensorTrain([torch.ones(1, 3, 2).requires_grad_(), torch.zeros(2, 4, 1).requires_grad_()])
    wanted = ttnet.random((3, 4), 2, seed=0)
    steps = RiemannianSGD(x, lr=0.5)
    for _ in range(50):
        steps.zero_grad()
        (x - wanted).full().square().sum().backward()
        steps.step()
    assert float((x.detach() - wanted).norm()) < 1e-3


def test_weight_decay_shrinks_the_tensor():
    x = trainable(ttnet.random((3, 4), 2, dtype=torch.float64, seed=0))
    before = x.detach().full().clone()
    (x.full() * 0).sum().backward()
    RiemannianSGD(x, lr=0.1, weight_decay=0.5).step()
    assert relative_error(x.full().detach(), before * 0.95) < 1e-12


@given(st.sampled_from(OPTIMISERS))
def test_states_go_on_where_they_were(optimiser):
    wanted = ttnet.random((3, 4, 3), 2, dtype=torch.float64, seed=0)
    x = trainable(ttnet.random((3, 4, 3), 2, dtype=torch.float64, seed=1))
    steps = optimiser(x, lr=0.1)

    def train(y, steps, count):
        for _ in range(count):
            steps.zero_grad()
            loss_to(wanted, y).backward()
            steps.step()

    train(x, steps, 3)
    y = trainable(x)
    resumed = optimiser(y, lr=0.3)
    resumed.load_state_dict(copy.deepcopy(steps.state_dict()))
    train(x, steps, 3)
    train(y, resumed, 3)
    assert torch.equal(x.full(), y.full())


def test_closures_and_groups():
    x, y = (trainable(ttnet.random((3, 4), 2, seed=k)) for k in (0, 1))
    matrix = TTMatrix([torch.randn(1, 2, 3, 2).requires_grad_(), torch.randn(2, 3, 2, 1).requires_grad_()])
    steps = RiemannianSGD([x, {"params": [y, matrix], "lr": 0.0}], lr=0.1)
    before = y.detach().full().clone()

    def closure():
        steps.zero_grad()
        loss = x.full().square().sum() + y.full().square().sum()
        loss.backward()
        return loss

    first = float(steps.step(closure))
    assert float(steps.step(closure)) < first
    assert torch.allclose(y.detach().full(), before, atol=1e-5)
    assert [group["lr"] for group in steps.param_groups] == [0.1, 0.0, 0.0]


def leaf(*shape):
    return torch.ones(shape, requires_grad=True)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RiemannianSGD(torch.nn.Linear(2, 2)), TTValueError, "trains has no train"),
        (lambda: RiemannianSGD(3), TTTypeError, "trains holds a int; expected layers of ttnet.nn"),
        (
            lambda: RiemannianSGD([leaf(1, 2, 2), leaf(3, 2, 1)]),
            TTShapeError,
            r"the shapes \[\(1, 2, 2\), \(3, 2, 1\)\]",
        ),
        (lambda: RiemannianSGD(ttnet.ones((2, 3))), TTTypeError, "core 0 of a train requires no gradient"),
        (lambda: RiemannianSGD([leaf(1, 2, 3), leaf(3, 4, 1)]), TTValueError, "a rank larger than"),
        (lambda: RiemannianSGD([leaf(1, 2, 1)], lr=-1), TTValueError, "lr is -1; expected numbers >= 0."),
        (lambda: RiemannianSGD([leaf(1, 2, 1)], momentum=1.0), TTValueError, "momentum is 1.0; expected .* below 1"),
        (lambda: RiemannianAdam([leaf(1, 2, 1)], betas=(0.9, 2)), TTValueError, r"betas is \(0.9, 2\)"),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_gradients_that_are_missing_or_no_numbers():
    cores = [leaf(1, 2, 1), leaf(1, 2, 1)]
    steps = RiemannianSGD(cores)
    steps.step()
    cores[0].grad = torch.ones(1, 2, 1)
    with pytest.raises(TTValueError, match="core 1 of a train has no gradient"):
        steps.step()
    cores[1].grad = torch.full((1, 2, 1), torch.nan)
    with pytest.raises(TTValueError, match="a gradient is NaN or infinite"):
        steps.step()
