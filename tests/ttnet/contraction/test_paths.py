import random
import sys

import numpy as np
import opt_einsum
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.ttnet.contraction.networks import grid, in_numpy, networks, tensors_of
from ttnet.contraction import OPTIMIZERS, contract, plan
from ttnet.errors import MissingExtraError


@pytest.mark.parametrize("optimize", OPTIMIZERS)
def test_every_path_finder_gives_the_same_value(optimize):
    shapes = [(2, 3), (3, 4), (4, 5), (5, 2, 3), (3,)]
    tensors = tensors_of(shapes)
    equation = "ab,bc,cd,dae,e->c"
    expected = torch.einsum(equation, *tensors)
    torch.testing.assert_close(contract(equation, *tensors, optimize=optimize), expected)


def test_the_cheap_order_is_found():
    chain = plan("ij,jk,kl->il", (1000, 2), (2, 1000), (1000, 2))
    assert chain.path[0] == (1, 2)
    assert chain.flops == 2 * (2 * 1000 * 2) * 2
    assert chain.largest_intermediate == 2000


def test_empty_indices_are_planned_by_every_path_finder():
    for optimize in OPTIMIZERS:
        network = plan(([[0], [2], [2]], [0]), (0,), (2,), (2,), optimize=optimize)
        assert network(torch.ones(0), torch.ones(2), torch.ones(2)).shape == (0,)


@given(networks(), st.randoms(use_true_random=False))
def test_any_path_of_ones_own_gives_the_same_value(network, rng):
    inputs, output, shapes = network
    path = [tuple(rng.sample(range(n), 2)) for n in range(len(inputs), 1, -1)]
    tensors = tensors_of(shapes)
    prepared = plan((inputs, output), *shapes, optimize=path)
    assert prepared.path == tuple((min(pair), max(pair)) for pair in path)
    np.testing.assert_allclose(prepared(*tensors), in_numpy(inputs, output, tensors), rtol=1e-12, atol=1e-11)


def test_an_optimizer_of_ones_own_is_given_the_network_and_called_once():
    calls = []

    def first_two(*args):
        calls.append(args)
        return [(0, 1), (0, 1)]

    shapes = [(2, 3), (3, 4), (4, 2)]
    prepared = plan("ij,jk,kl->il", *shapes, optimize=first_two)
    assert plan("ij,jk,kl->il", *shapes, optimize=first_two) is prepared
    sizes = {0: 2, 1: 3, 2: 4, 3: 2}
    assert calls == [([{0, 1}, {1, 2}, {2, 3}], {0, 3}, sizes)]
    plan("ij,jk,kl->il", *shapes, optimize=first_two, memory_limit=8)
    assert calls[1:] == [([{0, 1}, {1, 2}, {2, 3}], {0, 3}, sizes, 8)]


def test_path_optimizers_of_opt_einsum_are_optimizers():
    shapes = [(2, 3), (3, 4), (4, 5), (5, 2)]
    tensors = tensors_of(shapes)
    for optimizer in (
        opt_einsum.RandomGreedy(max_repeats=4),
        opt_einsum.DynamicProgramming("size"),
        opt_einsum.paths.greedy,
    ):
        value = contract("ij,jk,kl,li->", *tensors, optimize=optimizer)
        torch.testing.assert_close(value, torch.einsum("ij,jk,kl,li->", *tensors))


def test_planning_leaves_the_random_numbers_of_the_user_alone():
    shapes = [(2, 2)] * 12
    for optimize in ("random-greedy", "cotengra"):
        random.seed(0)
        expected = random.random()
        random.seed(0)
        plan(([(k, k + 1) for k in range(12)], (0, 12)), *shapes, optimize=optimize)
        assert random.random() == expected


# --- cotengra ------------------------------------------------------------------------------------


@given(networks())
def test_cotengra_plans_any_network(network):
    inputs, output, shapes = network
    tensors = tensors_of(shapes)
    value = contract((inputs, output), *tensors, optimize="cotengra")
    np.testing.assert_allclose(value, in_numpy(inputs, output, tensors), rtol=1e-12, atol=1e-11)


def test_cotengra_finds_cheaper_paths_for_a_grid_and_the_same_ones_again():
    from ttnet.contraction.plan import _plan

    terms = grid(6)
    shapes = [(3,) * len(term) for term in terms]
    first = plan((terms, ()), *shapes, optimize="cotengra")
    assert first.flops < plan((terms, ()), *shapes).flops / 2
    _plan.cache_clear()
    again = plan((terms, ()), *shapes, optimize="cotengra")
    assert again is not first
    assert again == first


def test_a_missing_cotengra_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cotengra", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'cotengra'.*pip install 'ttnet-torch\[cotengra\]'"):
        plan("ij,jk,kl->il", (2, 31), (31, 31), (31, 2), optimize="cotengra")
