import copy
import math
import pickle
import string

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ttnet
from ttnet.contraction import OPTIMIZERS, contract, contract_chain, plan, plan_chain
from ttnet.errors import TTShapeError, TTTypeError, TTValueError

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def tensors_of(shapes, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]


def in_numpy(inputs, output, tensors):
    """The contraction by numpy in double precision, in one pass over all indices."""
    number = {index: k for k, index in enumerate(dict.fromkeys(i for term in inputs for i in term))}
    wide = [t.to(torch.complex128 if t.is_complex() else torch.float64).numpy() for t in tensors]
    pairs = [x for t, term in zip(wide, inputs, strict=True) for x in (t, [number[i] for i in term])]
    return np.einsum(*pairs, [number[i] for i in output])


@st.composite
def networks(draw):
    """Random networks: hyper-indices, diagonals, lone indices, scalars, size 1 and size 0 all occur."""
    pool = draw(st.lists(st.integers(-3, 2000), min_size=1, max_size=6, unique=True))
    sizes = {index: draw(st.sampled_from([0, 1, 1, 2, 2, 3, 3, 4])) for index in pool}
    inputs = draw(st.lists(st.lists(st.sampled_from(pool), max_size=4), min_size=1, max_size=5))
    used = sorted({index for term in inputs for index in term})
    output = draw(st.lists(st.sampled_from(used), unique=True)) if used else []
    return inputs, output, [tuple(sizes[index] for index in term) for term in inputs]


@given(networks(), st.sampled_from(DTYPES), st.sampled_from(["auto", "greedy", "dp", "optimal"]))
@settings(max_examples=300, deadline=None)
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
@settings(max_examples=100, deadline=None)
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
    assert torch.autograd.gradcheck(plan(equation, *shapes), tensors)


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
    a, b = (torch.ones(3 if sized else (), dtype=dtype) for dtype, sized in kinds)
    equation = f"{'i' * a.ndim},{'i' * b.ndim}->{'i' * max(a.ndim, b.ndim)}"
    assert contract(equation, a, b).dtype == torch.result_type(a, b)


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


def test_a_chain_of_a_hundred_matrices():
    matrices = [m / 2 for m in tensors_of([(4, 4)] * 100)]
    value = contract(([(k, k + 1) for k in range(100)], (0, 100)), *matrices)
    torch.testing.assert_close(value, torch.linalg.multi_dot(matrices), rtol=1e-10, atol=0)


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


def test_plans_are_cached():
    a = plan("ij,jk->ik", (2, 3), [3, 4])
    assert plan("ij,jk->ik", torch.Size((2, 3)), (3, 4)) is a
    assert plan(([[0, 1], [1, 2]], [0, 2]), (2, 3), (3, 4)) is plan((((0, 1), (1, 2)), (0, 2)), (2, 3), (3, 4))
    assert plan("ij,jk->ik", (2, 3), (3, 5)) is not a
    assert plan_chain([(1, 2, 3), (3, 2, 1)]) is plan_chain(((1, 2, 3), (3, 2, 1)))


def test_a_plan_is_a_value():
    a = plan("iij,jk,k->i", (2, 2, 3), (3, 4), (4,))
    tensors = tensors_of(a.shapes)
    for twin in (pickle.loads(pickle.dumps(a)), copy.deepcopy(a)):
        assert twin == a
        assert hash(twin) == hash(a)
        assert str(twin) == str(a)
        assert torch.equal(twin(*tensors), a(*tensors))
    with pytest.raises(AttributeError):
        a.flops = 0
    assert (a.inputs, a.output, a.shapes) == (((0, 0, 1), (1, 2), (2,)), (0,), ((2, 2, 3), (3, 4), (4,)))


def test_print_shows_cost_largest_intermediate_and_path():
    text = str(plan("ij,jk,kl->il", (8, 9), (9, 2), (2, 8)))
    assert "ij,jk,kl->il" in text
    assert "3456 flops, scaling 4" in text
    assert "544 flops, scaling 3" in text
    assert "Largest intermediate  64 entries" in text
    assert text.splitlines()[-1].split("  ")[-1] == "il->il"
    assert text.count("matmul") == 2


def test_print_writes_integer_equations_in_integers():
    text = str(plan(([(7, 500), (500, 9), (7,)], (7, 9)), (2, 3), (3, 4), (2,)))
    assert "(7 500),(500 9),(7)->(7 9)" in text


def test_print_of_one_operand_and_of_many():
    assert "One operand" in str(plan("ijj->i", (2, 3, 3)))
    assert "100 tensors" not in str(plan_chain([(2, 1, 2)] * 3))
    assert "19 tensors" in str(plan_chain([(2, 1, 2)] * 20))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bijk,aic,cdje,efk->badf", [(5, 2, 3, 2), (2, 2, 3), (3, 2, 3, 3), (3, 2, 2)]),
        ("iij,jk,bj->bi", [(2, 2, 3), (3, 4), (5, 3)]),
        ("i,j->ij", [(2,), (3,)]),
    ],
)
@pytest.mark.parametrize("dtypes", [(torch.float64,), (torch.float32, torch.float64)])
def test_a_plan_can_be_traced_whole(equation, shapes, dtypes):
    tensors = [t.to(dtypes[k % len(dtypes)]) for k, t in enumerate(tensors_of(shapes))]
    layer = Layer(plan(equation, *shapes))
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*tensors), layer(*tensors))


class Layer(torch.nn.Module):
    def __init__(self, prepared):
        super().__init__()
        self.prepared = prepared

    def forward(self, *tensors):
        return self.prepared(*tensors)


def test_planning_calls_can_be_traced_whole_at_any_batch_size():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def through_cores(x, cores):
        return contract("bi,ij->bj", x, contract_chain(cores)[0, ..., 0])

    cores = [core.requires_grad_() for core in tensors_of([(1, 3, 2), (2, 4, 1)])]
    dense = torch.einsum("aib,bjc->ij", *cores)
    for batch in (2, 3, 5):
        x = torch.randn(batch, 3, dtype=torch.float64)
        value = through_cores(x, cores)
        torch.testing.assert_close(value, x @ dense)
        grads = torch.autograd.grad(value.sum(), cores)
        torch.testing.assert_close(grads, torch.autograd.grad((x @ dense).sum(), cores, retain_graph=True))


def test_a_plan_maps_over_batches_with_vmap():
    product = plan("ij,jk->ik", (2, 3), (3, 4))
    a, b = tensors_of([(5, 2, 3), (3, 4)])
    torch.testing.assert_close(torch.vmap(product, in_dims=(0, None))(a, b), a @ b)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.lists(st.integers(1, 4), min_size=6, max_size=6),
    st.sampled_from(DTYPES),
)
@settings(deadline=None)
def test_chain_agrees_with_numpy(modes, ranks, dtype):
    cores = tensors_of([(ranks[k], n, ranks[k + 1]) for k, n in enumerate(modes)], dtype)
    expected = cores[0].to(torch.complex128)
    for core in cores[1:]:
        expected = torch.tensordot(expected, core.to(torch.complex128), 1)
    value = contract_chain(cores)
    assert value.shape == (ranks[0], *modes, ranks[len(modes)])
    torch.testing.assert_close(value.to(torch.complex128), expected, rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(1, 6), min_size=3, max_size=6), st.integers(1, 6))
@settings(deadline=None)
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


ones = torch.ones


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plan("ij,jk->iz", (2, 3), (3, 4)), TTValueError, "index 'z' of the output is in none"),
        (lambda: plan(([(0, 1)], (2,)), (2, 3)), TTValueError, r"index 2 of the output .* \(0 1\)"),
        (lambda: plan("ij->ii", (2, 2)), TTValueError, "index 'i' occurs 2 times in the output"),
        (lambda: plan("...ij,jk", (2, 3), (3, 4)), TTValueError, "ellipsis; name every index"),
        (lambda: plan("i1,1k", (2, 3), (3, 4)), TTValueError, "has '1' for an index"),
        (lambda: plan("ij->i->j", (2, 3)), TTValueError, "has '-' for an index"),
        (lambda: plan(([], ())), TTValueError, "no operands"),
        (lambda: plan(3, (2,)), TTTypeError, "equation is 3; expected a string"),
        (lambda: plan(([("i",)], ()), (2,)), TTTypeError, "pair of integer terms"),
        (lambda: plan("ij", (2, 3), optimize="best"), TTValueError, "optimize is 'best'; expected one of auto, .*dp"),
        (lambda: plan("ij", (2, 3), optimize=[(0, 1)]), TTValueError, "expected one of auto"),
        (lambda: plan("ij,jk", (2, 3)), TTShapeError, "1 shapes were given; expected 2, one for each operand of ij,jk"),
        (lambda: plan("ij,jk", (2, 3), (3, 4, 5)), TTShapeError, r"operand 1 has shape \(3, 4, 5\).*expected 2.*'jk'"),
        (
            lambda: plan("ij,jk,kl", (2, 3), (3, 4), (5, 6)),
            TTShapeError,
            "index 'k' has size 4 in operand 1 and size 5 in operand 2",
        ),
        (lambda: plan("ii", (1, 3)), TTShapeError, "index 'i' has size 1 in operand 0 and size 3 in operand 0"),
        (lambda: plan("ij", ones(2, 3)), TTTypeError, "shape 0 is a Tensor; expected a sequence of integers"),
        (lambda: plan("ij", (2, 3.0)), TTTypeError, "shape 0 is a tuple; expected a sequence of integers"),
        (lambda: plan("ij", (2, -3)), TTShapeError, r"shape 0 is \(2, -3\); expected sizes of at least 0"),
        (lambda: contract("ij,jk", ones(2, 3), np.ones((3, 4))), TTTypeError, "operand 1 is a ndarray"),
        (lambda: plan("ij,jk", (2, 3), (3, 4))(ones(2, 3), 1.0), TTTypeError, "operand 1 is a float"),
        (lambda: plan("ij,jk", (2, 3), (3, 4))(ones(2, 3)), TTShapeError, "1 tensors were given; expected 2"),
        (
            lambda: plan("ij,jk", (2, 3), (3, 4))(ones(2, 3), ones(3, 5)),
            TTShapeError,
            r"operand 1 has shape \(3, 5\); expected \(3, 4\)",
        ),
        (lambda: plan_chain([]), TTShapeError, "there are no cores"),
        (lambda: plan_chain([(1, 2)]), TTShapeError, r"core 0 has shape \(1, 2\); expected three sizes"),
        (
            lambda: contract_chain([ones(1, 2, 3), ones(4, 2, 1)]),
            TTShapeError,
            "core 0 ends with rank 3 but core 1 begins with rank 4",
        ),
        (lambda: contract_chain([[1.0]]), TTTypeError, "operand 0 is a list"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_public_names():
    assert ttnet.plan is plan
    assert ttnet.contract is contract
    assert isinstance(plan("i->i", (2,)), ttnet.ContractionPlan)


def test_empty_indices_are_planned_by_every_path_finder():
    for optimize in OPTIMIZERS:
        network = plan(([[0], [2], [2]], [0]), (0,), (2,), (2,), optimize=optimize)
        assert network(torch.ones(0), torch.ones(2), torch.ones(2)).shape == (0,)
