import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.ttnet.contraction.networks import grid, in_numpy, networks, tensors_of
from ttnet.contraction import OPTIMIZERS, contract, plan
from ttnet.errors import TTValueError


def smallest_peak(inputs, output, sizes):
    """The smallest largest intermediate of all orders, by dynamic programming over sets of operands."""
    everything = frozenset(range(len(inputs)))

    def size(part):
        outside = set(output).union(*(inputs[k] for k in everything - part))
        return math.prod(sizes[index] for index in set().union(*(inputs[k] for k in part)) & outside)

    peaks = {frozenset([k]): 0 for k in everything}
    for n in range(2, len(inputs) + 1):
        for part in map(frozenset, itertools.combinations(everything, n)):
            splits = (frozenset(left) for m in range(1, n) for left in itertools.combinations(part, m))
            peaks[part] = max(size(part), min(max(peaks[left], peaks[part - left]) for left in splits))
    return peaks[everything]


@given(networks(), st.sampled_from(["auto", "greedy", "dp", "cotengra"]))
@examples(2)
def test_a_path_within_the_memory_limit_is_found_wherever_there_is_one(network, optimize):
    inputs, output, shapes = network
    sizes = {
        index: size or 1
        for term, shape in zip(inputs, shapes, strict=True)
        for index, size in zip(term, shape, strict=True)
    }
    shapes = [tuple(sizes[index] for index in term) for term in inputs]
    result = math.prod(sizes[index] for index in output)
    peak = max(result, smallest_peak(inputs, output, sizes))
    limited = plan((inputs, output), *shapes, optimize=optimize, memory_limit=peak)
    assert limited.largest_intermediate == limited.memory_limit == peak
    tensors = tensors_of(shapes)
    np.testing.assert_allclose(limited(*tensors), in_numpy(inputs, output, tensors), rtol=1e-12, atol=1e-11)
    if peak > 1:
        reason = "the result alone has" if result == peak else "every path that was found has a larger intermediate, of"
        with pytest.raises(TTValueError, match=f"memory_limit is {peak - 1:,} entries, but {reason} {peak:,}"):
            plan((inputs, output), *shapes, optimize=optimize, memory_limit=peak - 1)


def test_a_memory_limit_is_bought_with_flops_where_it_has_to_be():
    ring, shapes = "ab,bc,cd,de,ea->", [(10, 2), (2, 30), (30, 3), (3, 20), (20, 10)]
    free = plan(ring, *shapes)
    assert free.memory_limit is None
    assert plan(ring, *shapes, memory_limit=free.largest_intermediate).path == free.path
    limited = plan(ring, *shapes, memory_limit=free.largest_intermediate - 1)
    assert limited.largest_intermediate < free.largest_intermediate
    assert limited.flops > free.flops


@pytest.mark.parametrize("optimize", OPTIMIZERS)
def test_the_limit_bounds_larger_networks_with_every_path_finder(optimize):
    terms = grid(4)[:11]
    shapes = [(3,) * len(term) for term in terms]
    limit = plan((terms, ()), *shapes, optimize="dp", memory_limit=10**6).largest_intermediate
    if optimize not in ("optimal", "branch-all"):  # which would take hours and a minute
        assert plan((terms, ()), *shapes, optimize=optimize, memory_limit=limit).largest_intermediate <= limit


def test_the_limit_is_searched_for_in_hundreds_of_tensors():
    terms = grid(8)
    shapes = [(2,) * len(term) for term in terms]
    free = plan((terms, ()), *shapes)
    limit = free.largest_intermediate // 2
    assert plan((terms, ()), *shapes, memory_limit=limit).largest_intermediate <= limit
    with pytest.raises(TTValueError, match=r"memory_limit is 8 entries.*larger intermediate, of [0-9,]+ at best"):
        plan((terms, ()), *shapes, memory_limit=8)


def test_a_limit_on_a_call_is_that_on_its_plan():
    a, b, c = tensors_of([(2, 30), (30, 30), (30, 2)])
    torch.testing.assert_close(contract("ij,jk,kl->il", a, b, c, memory_limit=60), a @ b @ c)
    with pytest.raises(TTValueError, match=r"memory_limit is 59 entries.* of 60 at best"):
        contract("ij,jk,kl->il", a, b, c, memory_limit=59)


def test_more_than_the_machine_holds_is_refused_at_once():
    vector = torch.ones(()).expand(10**7)
    message = (
        "the largest intermediate of this contraction has 100,000,000,000,000 entries, more than this machine's memory"
    )
    with pytest.raises(TTValueError, match=message):
        contract("i,j->ij", vector, vector)
    prepared = plan("i,j,j->i", (10**7,), (10**7,), (10**7,), optimize=[(0, 1), (0, 1)])
    with pytest.raises(TTValueError, match=message):
        prepared(vector, vector, vector)
    assert torch.equal(contract("i,j,j->i", vector[:2], vector[:3], vector[:3]), torch.full((2,), 3.0))
