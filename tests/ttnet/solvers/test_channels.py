"""What a sweep sees of an operator, against dense matrices: nothing that is left out of products may change them."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ttnet
from tests.ttnet.solvers.systems import draw_operator
from tests.ttnet.strategies import dtypes, seeds
from ttnet import operators
from ttnet.solvers.channels import Channels
from ttnet.solvers.local_product import Coupling, LocalProduct

FIELD = operators.ising(6, field=0.7) + ttnet.eye((2,) * 6, dtype=torch.float64) * 2.0
OPERATORS = {
    "terms of neighbours": operators.heisenberg(6),
    "a field and a multiple of the identity": FIELD,
    "terms of all distances": operators.heisenberg(6) @ operators.heisenberg(6),
    "Kronecker sum": operators.laplace((3,) * 6),
    "quantised": operators.laplace((8, 8), quantised=True),
    "identity": ttnet.eye((2,) * 6, dtype=torch.float64) * 3.0,
    "zero": operators.heisenberg(6) * 0.0,
    "nothing known": operators.heisenberg(6).round(eps=1e-12),
}


def bases(shape, rank, dtype, seed):
    """Left-orthogonal cores, of ranks that are at most what modes before them allow."""
    generator, cores, left = torch.Generator().manual_seed(seed), [], 1
    for n in shape:
        right = min(rank, left * n)
        draw = torch.randn(left * n, right, dtype=dtype, generator=generator)
        cores.append(torch.linalg.qr(draw)[0].view(left, n, right))
        left = right
    return cores


def columns(cores, dtype):
    """The basis that left-orthogonal cores span, as columns."""
    whole = torch.ones(1, 1, dtype=dtype)
    for core in cores:
        whole = torch.tensordot(whole, core, 1).flatten(0, 1)
    return whole


def check(cores, rank, seed, sites):
    """Compare products at every step of a sweep with those of the dense operator between the bases of both sides."""
    dtype, d = cores[0].dtype, len(cores)
    shape = [core.shape[1] for core in cores]
    whole = ttnet.TTMatrix(cores).full()
    left, right = bases(shape, rank, dtype, seed), bases(shape[::-1], rank + 1, dtype, seed + 1)
    there, back = Channels(cores), Channels([core.transpose(0, 3) for core in reversed(cores)])
    lefts, rights = [there.first()], [back.first()]
    for k in range(d - 1):
        lefts.append(there.advance(k, lefts[k], left[k]))
        rights.append(back.advance(k, rights[k], right[k]))
    tolerance = 100 * torch.finfo(dtype).eps * max(1.0, float(whole.norm()))
    for k in range(d - sites + 1):
        beyond = d - k - sites
        side = back.side(d - 1 - k - (sites - 1), with_core=sites == 2)
        product = LocalProduct(Coupling(there.side(k, with_core=True), side, cores[0]), lefts[k], rights[beyond])
        head, tail = columns(left[:k], dtype), columns(right[:beyond], dtype)
        turned = [*range(beyond - 1, -1, -1), beyond]  # on the right modes stand in reverse
        tail = tail.view(*shape[::-1][:beyond], -1).permute(turned).reshape(len(tail), -1)
        middle = torch.eye(math.prod(shape[k : k + sites]), dtype=dtype)
        frame = torch.kron(torch.kron(head, middle), tail)
        expected = frame.mH @ whole @ frame
        assert math.prod(product.shape) == product.size == len(expected)
        assert float((product.matrix() - expected).abs().max()) <= tolerance
        generator = torch.Generator().manual_seed(seed)
        for count in (1, 3):
            rows = torch.randn(count, product.size, dtype=dtype, generator=generator)
            assert float((product(rows) - rows @ expected.mT).abs().max()) <= 10 * tolerance


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("sites", [1, 2])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_products_are_those_of_the_dense_operator(name, sites, rank):
    check(list(OPERATORS[name].cores), rank, 0, sites)


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), min_size=2, max_size=5), st.integers(1, 4), st.integers(1, 3), dtypes, seeds)
def test_products_with_any_operator(shape, rank, bond, dtype, seed):
    for sites in (1, 2):
        check(list(draw_operator(tuple(shape), bond, dtype, seed).cores), rank, seed, sites)


@given(st.integers(2, 6), seeds)
def test_products_with_any_zeros(order, seed):
    """Which channels are known, and which terms end where, differs from bond to bond; factors are complex."""
    generator = torch.Generator().manual_seed(seed)
    ranks = [1, *(int(torch.randint(1, 5, (), generator=generator)) for _ in range(order - 1)), 1]
    cores = []
    for a, b in itertools.pairwise(ranks):
        core = torch.randn(a, 2, 2, b, dtype=torch.complex128, generator=generator)
        kind = torch.randint(0, 3, (a, 1, 1, b), generator=generator)  # any matrix, a multiple of the identity, zero
        multiple = core[:, :1, :1] * torch.eye(2)[None, :, :, None]
        cores.append(torch.where(kind == 0, core, torch.where(kind == 1, multiple, torch.zeros_like(core))))
    for sites in (1, 2):
        check(cores, 3, seed, sites)


def test_what_is_known():
    """Of Heisenberg's chain all but the terms under way: nothing has begun, or all is over."""
    cores = list(operators.heisenberg(8).cores)
    there, back = Channels(cores), Channels([core.transpose(0, 3) for core in reversed(cores)])
    assert [len(channels) for channels in there.open] == [0, 3, 4, 4, 4, 4, 4, 4, 1]
    assert [len(channels) for channels in back.open] == [0, 3, 4, 4, 4, 4, 4, 4, 1]
    assert there.known[4] == {0: 1.0}
    assert back.known[4] == {4: 1.0}
    # One product on either side, with all terms that are over, and the identity with what they leave.
    assert there.side(4, with_core=True).width == back.side(3, with_core=True).width == 1
    assert there.side(4, with_core=True) is there.side(3, with_core=True)
