import copy
import itertools
import pickle

import pytest
import torch

from tests.ttnet.contraction.networks import tensors_of
from ttnet.contraction import contract, contract_chain, plan, plan_chain


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
def test_a_plan_can_be_traced_whole(equation, shapes, dtypes):
    tensors = [t.to(dtypes[k % len(dtypes)]).requires_grad_() for k, t in enumerate(tensors_of(shapes))]
    layer = Layer(plan(equation, *shapes))
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
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
