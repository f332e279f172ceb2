"""Trains as citizens of torch: compiled, batched, differentiated both ways, without numbers, and in half precision."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, jvp, vmap
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

import ttnet
from tests.ttnet.strategies import draw_tensor, draw_train, relative_error, seeds
from ttnet import TensorTrain, TTMatrix, scales
from ttnet.orthogonal import right_orthogonalise

# Every operation of fixed ranks, as functions of a train `x`, another one `y`, a TT-matrix `w` and a vector `v`.
OPERATIONS = {
    "full": lambda x, y, w, v: x.full(),
    "add": lambda x, y, w, v: x + y,
    "sub": lambda x, y, w, v: x - y,
    "negative": lambda x, y, w, v: -x,
    "hadamard": lambda x, y, w, v: x * y,
    "number": lambda x, y, w, v: 2.5 * x,
    "scalar tensor": lambda x, y, w, v: x.mul(v[0]),
    "quotient": lambda x, y, w, v: x / 3,
    "complex number": lambda x, y, w, v: x * 2j,
    "dot": lambda x, y, w, v: x.dot(y),
    "norm": lambda x, y, w, v: x.norm(),
    "log_norm": lambda x, y, w, v: x.log_norm(),
    "entry": lambda x, y, w, v: x[0, 1, 2],
    "part": lambda x, y, w, v: x[1, :, 2],
    "slices": lambda x, y, w, v: x[::2, None, ::-1],
    "conj": lambda x, y, w, v: x.conj(),
    "to": lambda x, y, w, v: x.to(torch.complex128),
    "sum": lambda x, y, w, v: x.sum(),
    "partial sum": lambda x, y, w, v: x.sum(dim=1),
    "mean": lambda x, y, w, v: x.mean(dim=[0, 2], keepdim=True),
    "cat": lambda x, y, w, v: ttnet.cat([x, y], dim=1),
    "stack": lambda x, y, w, v: ttnet.stack([x, y], dim=1),
    "kron": lambda x, y, w, v: ttnet.kron(x, y),
    "outer": lambda x, y, w, v: ttnet.outer(x, y),
    "diag": lambda x, y, w, v: ttnet.diag(ttnet.diag(x)),
    "pad": lambda x, y, w, v: ttnet.pad(x, [(1, 0), (0, 2), (0, 0)]),
    "orthogonal": lambda x, y, w, v: right_orthogonalise(x.cores)[0],
    "times vector": lambda x, y, w, v: w.matmul(v),
    "vector times": lambda x, y, w, v: w.T.matmul(v[:12]),
    "times matrix": lambda x, y, w, v: w.matmul(torch.stack([v, 2 * v], dim=1)),
    "times train": lambda x, y, w, v: w.matmul(x),
    "times operator": lambda x, y, w, v: w.matmul(w.H),
    "operator full": lambda x, y, w, v: w.full(),
    "operator norm": lambda x, y, w, v: w.norm(),
    "operator sum": lambda x, y, w, v: w + 2 * w,
    "operator dot": lambda x, y, w, v: w.dot(w),
    "trace": lambda x, y, w, v: w.matmul(w.T).trace(),
    "operator kron": lambda x, y, w, v: ttnet.kron(w, w),
}


def operands(dtype, seed=0):
    x, y = draw_train((3, 4, 5), [2, 3], dtype, seed), draw_train((3, 4, 5), [1, 2], dtype, seed + 1)
    w = draw_train((6, 12, 10), [2, 2], dtype, seed + 2)
    w = TTMatrix(core.unflatten(1, modes) for core, modes in zip(w.cores, [(2, 3), (3, 4), (2, 5)], strict=True))
    return x, y, w, draw_tensor((60,), dtype, seed + 3)


def values(result):
    """The tensors of a result, trains contracted, so that two results can be compared."""
    if isinstance(result, TensorTrain | TTMatrix):
        return [result.full()]
    return [tensor.resolve_conj() for tensor in tree_leaves(result)]


def check_close(actual, expected, tolerance):
    for a, b in zip(values(actual), values(expected), strict=True):
        assert a.dtype == b.dtype
        assert relative_error(a, b) <= tolerance


def stacked(pieces):
    return tree_map(lambda *leaves: torch.stack(leaves), *pieces)


def piece(batch, k):
    return tree_map(lambda leaf: leaf[k], batch)


def squares(result):
    return sum(tensor.abs().square().sum() for tensor in values(result))


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield lambda function, backend: torch.compile(function, fullgraph=True, backend=backend)
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("name", OPERATIONS)
def test_vmap(name, dtype):
    operation = OPERATIONS[name]
    many = [operands(dtype, 10 * k) for k in range(3)]
    result = vmap(operation)(*stacked(many))
    for k, each in enumerate(many):
        check_close(piece(result, k), operation(*each), 1e-12)
    _, y, w, v = many[0]
    result = vmap(operation, in_dims=(0, None, 0, None))(stacked([each[0] for each in many]), y, stacked([w] * 3), v)
    for k, each in enumerate(many):
        check_close(piece(result, k), operation(each[0], y, w, v), 1e-12)


@pytest.mark.parametrize("name", OPERATIONS)
def test_meta_tensors_give_shapes(name):
    operation = OPERATIONS[name]
    arguments = operands(torch.float32)
    result = operation(*tree_map(lambda leaf: leaf.to("meta"), arguments))
    expected = operation(*arguments)
    for a, b in zip(tree_leaves(result), tree_leaves(expected), strict=True):
        assert (a.shape, a.dtype, a.device.type) == (b.shape, b.dtype, "meta")


@pytest.mark.parametrize("name", OPERATIONS)
def test_derivatives_agree(name):
    x, y, w, v = operands(torch.float64)

    def loss(x, w):
        return squares(OPERATIONS[name](x, y, w, v))

    x_given, w_given = tree_map(lambda core: core.clone().requires_grad_(), (x, w))
    loss(x_given, w_given).backward()
    gradients = grad(loss, argnums=(0, 1))(x, w)
    tangents = tree_map(torch.randn_like, (x, w))
    _, slope = jvp(loss, (x, w), tangents)
    for gradient, leaf in zip(tree_leaves(gradients), tree_leaves((x_given, w_given)), strict=True):
        torch.testing.assert_close(gradient, torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    if name != "orthogonal":  # whose cores depend on the gauge, in which directions of differentiation differ
        parts = [(a * b).sum() for a, b in zip(tree_leaves(gradients), tree_leaves(tangents), strict=True)]
        torch.testing.assert_close(slope.double(), sum(parts).double(), rtol=1e-5, atol=1e-5)
    per_sample = vmap(grad(lambda x: loss(x, w)))(stacked([x, 2 * x]))
    check_close(piece(per_sample, 0).cores, gradients[0].cores, 1e-10)


def layer(x, w, v):
    """A bit of everything, to be compiled at once: the compiler takes a quarter of a second for each operation."""
    product = w.matmul(x - x * x)[:, 1]
    return product, product.norm() + w.matmul(v).sum() * x.dot(x)


def check_compiled(compile, function, arguments):
    result, expected = compile(function)(*arguments), function(*arguments)
    tolerance = 1e-12 if arguments[0].dtype in (torch.float64, torch.complex128) else 1e-2
    for a, b in zip(tree_flatten(result)[0], tree_flatten(expected)[0], strict=True):
        assert a.dtype == b.dtype
        assert relative_error(a, b) <= tolerance
    assert tree_flatten(result)[1] == tree_flatten(expected)[1]


def test_compile(compiler):
    x = draw_train((3, 4), [2], torch.float64, 0)
    w = TTMatrix([draw_tensor((1, 2, 3, 2), torch.float64, 1), draw_tensor((2, 2, 4, 1), torch.float64, 2)])
    v = draw_tensor((12,), torch.float64, 3)
    given, again = (tree_map(lambda core: core.clone().requires_grad_(), x) for _ in range(2))
    result, expected = compiler(layer, "aot_eager")(given, w, v), layer(again, w, v)
    check_close(result[0], expected[0], 1e-12)
    result[1].backward()
    expected[1].backward()
    for a, b in zip(given.cores, again.cores, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_compile_takes_other_values_and_other_scales(compiler):
    def function(x):
        return x.log_norm(), x * x

    compiled = compiler(function, "eager")
    for scale in [1.0, 1e-150, 1e150, 0.0, 1e-300]:
        x = ttnet.random((2, 3), 2, dtype=torch.float64, seed=0) * scale
        for a, b in zip(tree_leaves(compiled(x)), tree_leaves(function(x)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128, torch.bfloat16])
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_compile_every_operation(compiler, name, backend, dtype):
    check_compiled(lambda function: compiler(function, backend), OPERATIONS[name], operands(dtype))


def test_compile_and_vmap_together(compiler):
    x = stacked([draw_train((2, 3), [2], torch.float64, k) for k in range(3)])
    function = vmap(lambda x: x[1].norm())
    torch.testing.assert_close(compiler(function, "aot_eager")(x), function(x))


@given(
    st.integers(-1100, 1100), st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.complex128]), seeds
)
def test_scales_are_the_same_whether_numbers_can_be_read_or_not(exponent, dtype, seed):
    numbers = draw_tensor((5,), dtype, seed)
    wild = numbers * 2.0 ** max(-1000, min(1000, exponent // 2))
    cores = [numbers[:, None, None] * 2.0**-20, wild[:, None, None]]

    def everything():
        y, own = scales.split_scale(wild)
        parts, total = scales.split_scales(cores, dtype)
        joined = scales.join_scale(parts, total + exponent, dtype)
        return [y, scales.times_power_of_two(wild, exponent), *parts, *joined], [own, total, scales.max_exponent(wild)]

    read = everything()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        unread = everything()
    assert all(isinstance(e, int) for e in read[1])
    assert all(isinstance(e, torch.Tensor) for e in unread[1])
    assert read[1] == [int(e) for e in unread[1]]
    for a, b in zip(read[0], unread[0], strict=True):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8)) or torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize("is_compiling", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_at_the_edges_of_the_range(monkeypatch, is_compiling, dtype):
    info = torch.finfo(dtype)
    least = info.tiny * info.eps  # subnormal
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: is_compiling)
    for number in [1.0, info.max, -info.max, info.tiny, least, -3 * least, 0.0, math.inf, math.nan]:
        x = torch.tensor([number, 0.0], dtype=dtype)
        y, exponent = scales.split_scale(x)
        assert torch.equal(scales.times_power_of_two(y, exponent).nan_to_num(), x.nan_to_num())
        if info.tiny <= abs(number) <= info.max:
            assert 0.5 <= float(y[0].abs()) < 1
        if not math.isfinite(number) or not number:
            assert int(exponent) == 0
    top = {torch.float32: 127, torch.float64: 1023}[dtype]
    one = torch.ones((), dtype=dtype)
    for exponent, expected in [
        (top, 2.0**top),
        (top + 1, math.inf),
        (10**6, math.inf),
        (-(10**6), 0.0),
        (int(math.log2(least)), least),
    ]:
        assert float(scales.times_power_of_two(one, exponent)) == expected
    assert float(scales.times_power_of_two(one * least, int(-math.log2(least)))) == 1.0
