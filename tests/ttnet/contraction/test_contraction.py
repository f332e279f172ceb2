import copy
import itertools
import math
import pickle
import random
import string
import sys

import numpy as np
import opt_einsum
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ttnet
from tests.ttnet.strategies import draw_tensor
from ttnet.contraction import OPTIMIZERS, contract, contract_chain, plan, plan_chain
from ttnet.errors import MissingExtraError, TTShapeError, TTTypeError, TTValueError

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


def binary_tree(size):
    """Tensor k is joined to its children 2k + 1 and 2k + 2."""
    return [(*([k] if k else []), *(child for child in (2 * k + 1, 2 * k + 2) if child < size)) for k in range(size)]


def grid(side):
    """Tensors on a square, joined to their neighbours."""
    bonds = {}
    cells = list(itertools.product(range(side), repeat=2))
    for i, j in cells:
        for neighbour in ((i, j + 1), (i + 1, j)):
            if max(neighbour) < side:
                bonds[frozenset([(i, j), neighbour])] = len(bonds)
    return [tuple(bond for ends, bond in bonds.items() if cell in ends) for cell in cells]


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


def test_print_writes_counts_beyond_every_float():
    assert "about 10^600 entries" in str(plan("i,j,k->ijk", *[(10**200,)] * 3))


def test_print_states_the_memory_limit_if_there_is_one():
    assert "Memory limit          3200 entries" in str(plan("ij,jk->ik", (8, 9), (9, 2), memory_limit=3200))
    assert "Memory limit" not in str(plan("ij,jk->ik", (8, 9), (9, 2)))


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
        ("i,->i", [(2,), ()]),
    ],
)
@pytest.mark.parametrize("dtypes", [(torch.float64,), (torch.float32, torch.float64)])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_plan_can_be_traced_whole(equation, shapes, dtypes, backend):
    tensors = [t.to(dtypes[k % len(dtypes)]).requires_grad_() for k, t in enumerate(tensors_of(shapes))]
    layer = Layer(plan(equation, *shapes))
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    value, expected = compiled(*tensors), layer(*tensors)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value.sum(), tensors), torch.autograd.grad(expected.sum(), tensors), rtol=1e-5, atol=1e-6
    )


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


def test_a_limited_call_with_a_path_of_ones_own_can_be_traced_whole():
    a, b, c = tensors_of([(2, 3), (3, 4), (4, 2)])

    @torch.compile(fullgraph=True, backend="eager")
    def product(a, b, c):
        return contract("ij,jk,kl->il", a, b, c, optimize=[(1, 2), (0, 1)], memory_limit=6)

    torch.testing.assert_close(product(a, b, c), a @ b @ c)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("iij,jk,bj->bi", [(2, 2, 3), (3, 4), (5, 3)]),
        ("zi,zj,zk->zk", [(2, 3), (2, 4), (2, 2)]),
        (",ij->ji", [(), (1, 3)]),
        ("ijj->", [(2, 3, 3)]),
    ],
)
def test_a_plan_maps_over_batches_with_vmap(equation, shapes):
    prepared = plan(equation, *shapes)
    for mapped in itertools.product([None, 0], repeat=len(shapes)):
        if any(dim is not None for dim in mapped):
            sizes = [shape if dim is None else (6, *shape) for dim, shape in zip(mapped, shapes, strict=True)]
            tensors = tensors_of(sizes)
            value = torch.func.vmap(prepared, in_dims=mapped)(*tensors)
            expected = torch.func.vmap(lambda *t: torch.einsum(equation, *t), in_dims=mapped)(*tensors)
            torch.testing.assert_close(value, expected)


def test_a_plan_composes_with_the_transforms_of_torch_func():
    shapes = [(2, 3), (3, 4), (2, 4)]
    prepared = plan("ij,jk,ik->i", *shapes)

    def reference(*tensors):
        return torch.einsum("ij,jk,ik->i", *tensors)

    tensors = tensors_of(shapes)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        jacobians = transform(prepared, (0, 1, 2))(*tensors), transform(reference, (0, 1, 2))(*tensors)
        torch.testing.assert_close(*jacobians)
    batch = tensors_of([(5, *shape) for shape in shapes])
    per_sample = [torch.func.vmap(torch.func.grad(lambda *t: f(*t).sum()))(*batch) for f in (prepared, reference)]  # noqa: B023
    torch.testing.assert_close(*per_sample)


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


# --- paths ---------------------------------------------------------------------------------------


@given(networks(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
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
@settings(max_examples=40, deadline=None)
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
    with pytest.raises(MissingExtraError, match=r"needs the package 'cotengra'.*pip install 'ttnet\[cotengra\]'"):
        plan("ij,jk,kl->il", (2, 31), (31, 31), (31, 2), optimize="cotengra")


# --- memory --------------------------------------------------------------------------------------


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
@settings(max_examples=80, deadline=None)
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


ones = torch.ones


class Unhashable:
    __hash__ = None

    def __call__(self, *network):
        return [(0, 1)]


def failing(*network):
    raise RuntimeError("no luck")


def three(**options):
    return plan("ij,jk,kl->il", (2, 3), (3, 3), (3, 2), **options)


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
        (lambda: three(optimize=3), TTTypeError, "optimize is 3; expected the name of a path finder, a path such as"),
        (lambda: three(optimize=[0, 1]), TTTypeError, r"optimize is \[0, 1\]; expected the name"),
        (lambda: three(optimize=[(0, 1.5), (0, 1)]), TTTypeError, "expected the name of a path finder, a path such as"),
        (lambda: three(optimize=[(0, 1)]), TTValueError, "optimize has length 1; expected 2, one step less than"),
        (
            lambda: three(optimize=[(0, 1), (0, 2)]),
            TTValueError,
            r"step 1 of optimize is \(0, 2\).* 2 .*remain, 0 to 1",
        ),
        (
            lambda: three(optimize=[(1, 1), (0, 1)]),
            TTValueError,
            r"step 0 of optimize is \(1, 1\); expected two different",
        ),
        (lambda: three(optimize=[(0, 1, 2)] * 2), TTValueError, r"step 0 of optimize is \(0, 1, 2\); expected two"),
        (lambda: three(optimize=[(0, -1)] * 2), TTValueError, r"step 0 of optimize is \(0, -1\)"),
        (lambda: three(optimize=lambda *_: [(0, 1)]), TTValueError, "the path from optimize has length 1; expected 2"),
        (lambda: three(optimize=lambda *_: None), TTTypeError, "the path from optimize is None"),
        (lambda: three(optimize=failing), TTValueError, "optimize, a function, found no path: no luck"),
        (lambda: three(optimize=Unhashable()), TTTypeError, "optimize is a Unhashable, which cannot be hashed"),
        (
            lambda: three(optimize=opt_einsum.DynamicProgramming(), memory_limit=5),
            TTValueError,
            "optimize, a DynamicProgramming, found no path",
        ),
        (
            lambda: three(optimize=[(0, 1)] * 2, memory_limit=5),
            TTValueError,
            "memory_limit is 5 entries.* of 6 at best",
        ),
        (lambda: three(memory_limit=0), TTValueError, "memory_limit is 0; expected a number of entries >= 1, or None"),
        (
            lambda: three(memory_limit=True),
            TTTypeError,
            "memory_limit is True; expected a number of entries, an int >= 1",
        ),
        (
            lambda: three(memory_limit=1e6),
            TTTypeError,
            "memory_limit is 1000000.0; expected a number of entries, an int",
        ),
        (
            lambda: contract("i,i", ones(2), ones(2), memory_limit="1"),
            TTTypeError,
            "memory_limit is '1'; expected a num",
        ),
        (
            lambda: contract("i,i", ones(2, dtype=torch.bool), ones(2, dtype=torch.bool)),
            TTTypeError,
            "dtype torch.bool, of which torch makes no matrix products on cpu; convert",
        ),
        (
            lambda: contract("i,i", ones(2), ones(2, device="meta")),
            TTValueError,
            "operand 1 is on meta but operand 0 is on cpu; move them to one device",
        ),
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
