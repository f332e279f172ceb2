import itertools
import math
import string

import numpy as np
import opt_einsum
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ttnet
from tests.examples import examples
from tests.ttnet.contraction.networks import DTYPES, binary_tree, grid, in_numpy, networks, tensors_of
from tests.ttnet.strategies import draw_tensor
from ttnet.contraction import contract, contract_chain, plan, plan_chain


@given(networks(), st.sampled_from(DTYPES), st.sampled_from(["auto", "greedy", "dp", "optimal"]))
@examples(6)
def test_integer_equations_agree_with_numpy(network, dtype, optimize):
    inputs, output, shapes = network
    tensors = tensors_of(shapes, dtype)
    value = contract((inputs, output), *tensors, optimize=optimize)
    expected = in_numpy(inputs, output, tensors)
    assert value.dtype == dtype
    assert value.shape == expected.shape
    tolerance = 1e-12 if dtype in (torch.float64, torch.complex128) else 1e-4
    np.testing.assert_allclose(value.numpy(), expected, rtol=tolerance, atol=tolerance * 10)


@given(networks(), st.permutations(string.ascii_letters))
@examples(2)
def test_letter_equations_agree_with_torch(network, letters):
    inputs, output, shapes = network
    used = list(dict.fromkeys(index for term in inputs for index in term))
    spelled = ["".join(letters[used.index(index)] for index in term) for term in [*inputs, output]]
    equation = f"{','.join(spelled[:-1])}->{spelled[-1]}"
    tensors = tensors_of(shapes)
    torch.testing.assert_close(contract(equation, *tensors), torch.einsum(equation, *tensors))


@pytest.mark.parametrize("equation", ["ij,jk", "ba", "ii", "ij,ji", "cab,bd", "i,i,i", "ij , jk -> ki"])
def test_implicit_outputs_and_spaces_are_read_as_numpy_reads_them(equation):
    tensors = tensors_of([(3,) * len(term.strip()) for term in equation.partition("->")[0].split(",")])
    expected = np.einsum(equation.replace(" ", ""), *[t.numpy() for t in tensors])
    np.testing.assert_allclose(contract(equation, *tensors).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 2)]),
        ("bij,bjk->bik", [(2, 3, 2), (2, 2, 3)]),
        ("iij,jk->k", [(2, 2, 3), (3, 2)]),
        ("ai,aj,ak->ijk", [(3, 2), (3, 2), (3, 2)]),
        ("i,j,->ij", [(2,), (3,), ()]),
        ("bijk,aic,cdje,efk->badf", [(2, 2, 3, 2), (2, 2, 3), (3, 2, 3, 3), (3, 2, 2)]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(equation, shapes, dtype):
    tensors = [tensor.requires_grad_() for tensor in tensors_of(shapes, dtype)]
    assert torch.autograd.gradcheck(plan(equation, *shapes), tensors, check_forward_ad=True, check_batched_grad=True)


def test_second_gradients():
    shapes = [(2, 2, 3), (3, 4), (2, 3)]
    tensors = [tensor.requires_grad_() for tensor in tensors_of(shapes)]
    assert torch.autograd.gradgradcheck(plan("iij,jk,bj->bi", *shapes), tensors)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_once(dtype):
    tensors = [draw_tensor((5, 5), dtype, seed) for seed in range(6)]
    value = contract("ab,bc,cd,de,ef,fg->ag", *tensors)
    assert value.dtype == dtype
    expected = torch.linalg.multi_dot([tensor.double() for tensor in tensors])
    assert torch.linalg.vector_norm(value.double() - expected) <= torch.finfo(dtype).eps / 2 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.int64])
@pytest.mark.parametrize("equation", ["ij,jk,kl->il", "bi,ij,bj->b", "i,j->ij", "iik->k", "ijk->j"])
def test_small_floats_and_integers_keep_their_dtype(equation, dtype):
    terms = equation.partition("->")[0].split(",")
    tensors = [torch.randint(-2, 3, (3,) * len(term)).to(dtype) for term in terms]
    value = contract(equation, *tensors)
    assert value.dtype == dtype
    expected = np.einsum(equation, *[t.to(torch.int64).numpy() for t in tensors])
    np.testing.assert_array_equal(value.to(torch.int64).numpy(), expected)


@given(
    st.lists(
        st.tuples(st.sampled_from([*DTYPES, torch.bfloat16, torch.int64]), st.booleans()),
        min_size=2,
        max_size=2,
    )
)
def test_two_dtypes_promote_as_torch_promotes_them(kinds):
    # Float64 with a scalar of complex64 is complex128, and so on.
    a, b = (torch.ones(3 if sized else (), dtype=dtype) for dtype, sized in kinds)
    equation = f"{'i' * a.ndim},{'i' * b.ndim}->{'i' * max(a.ndim, b.ndim)}"
    # Torch 2.14 and later make bfloat16 and a complex number bcomplex32, in which they cannot compute.
    expected = torch.complex64 if "bcomplex32" in str(torch.result_type(a, b)) else torch.result_type(a, b)
    assert contract(equation, a, b).dtype == expected


def test_many_dtypes_promote_whatever_their_order():
    tensors = [
        torch.ones(2, dtype=torch.int64),
        torch.ones((), dtype=torch.float32),
        torch.ones((), dtype=torch.float64),
    ]
    assert contract("i,,->i", *tensors).dtype == torch.float64
    assert contract("i,,->i", tensors[0], tensors[2], tensors[1]).dtype == torch.float64


def test_more_indices_than_letters():
    d = 30
    inputs = [(k, 100 + k, 200 + k, k + 1) for k in range(d)]
    shapes = [(2 if k else 1, 1, 2 if k % 10 == 0 else 1, 2 if k + 1 < d else 1) for k in range(d)]
    output = (*range(100, 100 + d), *range(200, 200 + d))
    tensors = tensors_of(shapes)
    value = contract((inputs, output), *tensors)
    expected = torch.ones(1, 1, dtype=torch.float64)
    for tensor in tensors:
        expected = torch.einsum("na,abcd->nbcd", expected, tensor).reshape(-1, tensor.shape[-1])
    assert value.ndim == 2 * d
    torch.testing.assert_close(value.flatten(), expected.flatten())


def test_more_letters_than_the_alphabet():
    letters = [opt_einsum.get_symbol(k) for k in range(200)]  # the 76th is a multiplication sign
    equation = ",".join(map("".join, itertools.pairwise(letters))) + f"->{letters[0]}{letters[-1]}"
    matrices = [m / 2 for m in tensors_of([(3, 3)] * 199)]
    torch.testing.assert_close(contract(equation, *matrices), torch.linalg.multi_dot(matrices), rtol=1e-9, atol=0)
    assert equation in str(plan(equation, *[(3, 3)] * 199))


@pytest.mark.parametrize("dims", [64, 65, 300])
def test_more_dimensions_than_torch_takes_in_a_sum(dims):
    x, y = tensors_of([(2, *[1] * (dims - 2), 3), (3, *[1] * (dims - 2), 2)])
    a, *ones, b = range(dims)
    others = range(1000, 1000 + dims - 2)
    flat_x, flat_y = x.reshape(2, 3), y.reshape(3, 2)
    torch.testing.assert_close(contract(([range(dims)], (a,)), x), flat_x.sum(1))
    torch.testing.assert_close(contract(([range(dims)], (b, *ones, a)), x).reshape(3, 2), flat_x.T)
    value = contract(([range(dims), (b, *others, 9999)], (*ones, 9999, a)), x, y)
    assert value.ndim == dims
    torch.testing.assert_close(value.reshape(2, 2), (flat_x @ flat_y).T)
    value = contract(([range(dims), (b, *others, a)], (b, *others, *ones, a)), x, y)  # no index is summed
    torch.testing.assert_close(value.reshape(3, 2), flat_x.T * flat_y)


def test_a_tree_of_hundreds_of_tensors():
    terms = binary_tree(401)
    tensors = [t / 2 for t in tensors_of([(3,) * len(term) for term in terms])]
    sums = {}
    for k in reversed(range(401)):
        children = [sums[c] for c in (2 * k + 1, 2 * k + 2) if c < 401]
        value = tensors[k]
        for child in reversed(children):
            value = value @ child
        sums[k] = value
    torch.testing.assert_close(contract((terms, ()), *tensors), sums[0], rtol=1e-9, atol=0)
    prepared = plan((terms, ()), *(t.shape for t in tensors))
    assert prepared.largest_intermediate <= 27
    assert len(str(prepared).splitlines()) == 400 + 6


def test_a_grid_of_hundreds_of_tensors():
    side = 17
    terms = grid(side)
    prepared = plan((terms, ()), *((2,) * len(term) for term in terms))
    assert prepared.largest_intermediate <= 2**24
    # Of ones, every way of summing 2 * 17 * 16 indices of size 2 gives exactly this.
    small = grid(7)
    ones_7 = [torch.ones((2,) * len(term), dtype=torch.float64) for term in small]
    assert contract((small, ()), *ones_7) == 2.0 ** (2 * 7 * 6)


def test_hundreds_of_tensors_on_one_hyper_index():
    vectors = tensors_of([(3,)] * 300)
    expected = torch.stack(vectors).prod(0)
    torch.testing.assert_close(contract(([(0,)] * 300, (0,)), *vectors), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(contract(([(0,)] * 300, ()), *vectors), expected.sum(), rtol=1e-12, atol=0)


def test_a_chain_of_a_hundred_matrices():
    matrices = [m / 2 for m in tensors_of([(4, 4)] * 100)]
    value = contract(([(k, k + 1) for k in range(100)], (0, 100)), *matrices)
    torch.testing.assert_close(value, torch.linalg.multi_dot(matrices), rtol=1e-10, atol=0)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.lists(st.integers(1, 4), min_size=6, max_size=6),
    st.sampled_from(DTYPES),
)
def test_chain_agrees_with_numpy(modes, ranks, dtype):
    cores = tensors_of([(ranks[k], n, ranks[k + 1]) for k, n in enumerate(modes)], dtype)
    expected = cores[0].to(torch.complex128)
    for core in cores[1:]:
        expected = torch.tensordot(expected, core.to(torch.complex128), 1)
    value = contract_chain(cores)
    assert value.shape == (ranks[0], *modes, ranks[len(modes)])
    torch.testing.assert_close(value.to(torch.complex128), expected, rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(1, 6), min_size=3, max_size=6), st.integers(1, 6))
def test_chain_order_has_the_fewest_flops(modes, rank):
    ranks = [1, *[rank] * (len(modes) - 1), 1]

    def cheapest(first, last):
        if first == last:
            return 0
        size = math.prod(modes[first : last + 1]) * ranks[first] * ranks[last + 1]
        return min(cheapest(first, k) + cheapest(k + 1, last) + 2 * size * ranks[k + 1] for k in range(first, last))

    prepared = plan_chain([(ranks[k], n, ranks[k + 1]) for k, n in enumerate(modes)])
    assert prepared.flops == cheapest(0, len(modes) - 1)


def test_a_chain_too_long_for_the_exact_search():
    cores = [torch.eye(3).reshape(3, 1, 3)] * 60
    assert torch.equal(contract_chain(cores).reshape(3, 3), torch.eye(3))


def test_a_single_core_is_its_own_chain():
    core = torch.randn(2, 3, 4)
    assert torch.equal(contract_chain([core]), core)


def test_public_names():
    assert ttnet.plan is plan
    assert ttnet.contract is contract
    assert isinstance(plan("i->i", (2,)), ttnet.ContractionPlan)
