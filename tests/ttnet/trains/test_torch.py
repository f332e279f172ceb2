"""Trains as citizens of torch: compiled, batched, differentiated both ways, without numbers, and in half precision."""

import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_leaves, tree_map, tree_unflatten

import ttnet
from tests.ttnet.strategies import dense, draw_tensor, draw_train, relative_error, same, seeds, trains
from ttnet import TensorTrain, TTError, TTMatrix, TTTypeError, TTValueError
from ttnet.numerics import linalg, scales, train_scales

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
    "variance": lambda x, y, w, v: x.var(),
    "variances": lambda x, y, w, v: x.var(dim=1),
    "variances of two": lambda x, y, w, v: x.var(dim=(2, 0), correction=0, keepdim=True),
    "deviation": lambda x, y, w, v: x.std(correction=0),
    "number added": lambda x, y, w, v: 1 - x + 0.5,
    "power": lambda x, y, w, v: x**2,
    "reversed": lambda x, y, w, v: x.T,
    "cat": lambda x, y, w, v: ttnet.cat([x, y], dim=1),
    "stack": lambda x, y, w, v: ttnet.stack([x, y], dim=1),
    "kron": lambda x, y, w, v: ttnet.kron(x, y),
    "outer": lambda x, y, w, v: ttnet.outer(x, y),
    "diag": lambda x, y, w, v: ttnet.diag(ttnet.diag(x)),
    "pad": lambda x, y, w, v: ttnet.pad(x, [(1, 0), (0, 2), (0, 0)]),
    "orthogonal": lambda x, y, w, v: ttnet.orthogonalise(x, 1),
    "entropies": lambda x, y, w, v: ttnet.entropies(x),
    "entries": lambda x, y, w, v: ttnet.evaluate(x, torch.tensor([[0, 1, 2], [2, 3, 4]], device=v.device)),
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
    parts = [(a * b).sum() for a, b in zip(tree_leaves(gradients), tree_leaves(tangents), strict=True)]
    torch.testing.assert_close(slope.double(), sum(parts).double(), rtol=1e-5, atol=1e-5)
    per_sample = vmap(grad(lambda x: loss(x, w)))(stacked([x, 2 * x]))
    check_close(piece(per_sample, 0).cores, gradients[0].cores, 1e-10)


def layer(x, w, v):
    """A bit of everything, to be compiled at once: the compiler takes a quarter of a second for each operation."""
    product = w.matmul(x)
    return product[:, 1], product.norm() + w.matmul(v).sum()


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


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("eager", torch.float64),
        pytest.param("eager", torch.complex128, marks=pytest.mark.slow),
        pytest.param("aot_eager", torch.float64, marks=pytest.mark.slow),
        pytest.param("aot_eager", torch.bfloat16, marks=pytest.mark.slow),
        pytest.param("inductor", torch.float64, marks=pytest.mark.slow),
    ],
)
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
    cores = [
        numbers[None, :, None] * 2.0**-20,
        torch.stack([wild, numbers])[None].mT.contiguous(),
        wild[:2, None, None],
    ]

    def everything():
        y, own = scales.split_scale(wild)
        parts, total = train_scales.split_scales(cores, dtype)
        joined = train_scales.join_scale(parts, total + exponent, dtype)
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


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in ("to", "orthogonal")])
def test_half_precision_is_computed_in_single_and_cast_once(name, dtype):
    arguments = tree_map(lambda leaf: leaf.to(dtype), operands(torch.float32))
    result = OPERATIONS[name](*arguments)
    expected = OPERATIONS[name](*tree_map(lambda leaf: leaf.double(), arguments))
    is_value = isinstance(result, TensorTrain | TTMatrix)
    expected_dtype = torch.promote_types(dtype, torch.complex32) if name == "complex number" else dtype
    assert all(leaf.dtype == expected_dtype for leaf in tree_leaves(result))
    a, b = (dense(result), dense(expected)) if is_value else (result, expected)
    # Every core, or the one number, is rounded once; sums of both signs may be smaller than their terms.
    assert relative_error(a, b) <= (3 if name == "mean" else 1) * torch.finfo(dtype).eps


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x * x,
        lambda x: x + x,
        lambda x: 1e4 * x,
        lambda x: (1e4 * x) / 1e4,
        lambda x: x[1, :],
        lambda x: x.full(),
        lambda x: x.norm(),
        lambda x: x.dot(x),
        lambda x: x.sum(),
        lambda x: ttnet.kron(x, x),
        lambda x: x.round(),
    ],
)
def test_large_and_small_cores_in_half_precision(operation):
    cores = [torch.full((1, 3, 2), 3e4, dtype=torch.float16), torch.full((2, 3, 1), 3e-5, dtype=torch.float16)]
    x = TensorTrain(cores)
    result, expected = operation(x), operation(x.to(torch.float64))
    a, b = (dense(result), dense(expected)) if isinstance(result, TensorTrain) else (result, expected)
    assert relative_error(a, b) <= torch.finfo(torch.float16).eps


@given(trains())
def test_trains_are_trees(x):
    leaves, spec = tree_flatten(x)
    assert [id(leaf) for leaf in leaves] == [id(core) for core in x.cores]
    assert same(tree_unflatten(leaves, spec), x)
    assert same(tree_map(lambda core: 2 * core, x), TensorTrain([2 * core for core in x.cores]))
    if x.ndim > 1:
        assert [keystr(path) for path, _ in tree_flatten_with_path(x)[0]][:2] == ["[0]", "[1]"]


def test_trees_hold_what_is_no_core():
    x, _, w, _ = operands(torch.float64)
    assert repr(tree_map(lambda core: core.ndim, x)) == "TensorTrain.unchecked([3, 3, 3])"
    assert tree_map(lambda core: None, w).cores == (None,) * 3
    assert repr(stacked([x, x])).startswith("TensorTrain(")
    batch = TensorTrain.unchecked(stacked([x, 2 * x]).cores)
    assert same(piece(batch, 0), x)


def test_transforms_give_trees_back():
    x, y, w, _ = operands(torch.float64)
    gradient = grad(lambda x: x.dot(y))(x)
    assert isinstance(gradient, TensorTrain)
    assert gradient.shape == x.shape
    for jacobian in [jacrev(lambda x: x.full())(x), jacfwd(lambda x: x.full())(x)]:
        assert [leaf.shape for leaf in jacobian.cores] == [x.shape + core.shape for core in x.cores]
    second = hessian(lambda x: x.norm())(x)
    assert second.cores[0].cores[1].shape == x.cores[0].shape + x.cores[1].shape
    assert isinstance(vmap(lambda x: w @ x)(stacked([x, 2 * x])), TensorTrain)


class Operator(torch.nn.Module):
    """A module with cores for parameters."""

    def __init__(self, w):
        super().__init__()
        self.cores = torch.nn.ParameterList([torch.nn.Parameter(core) for core in w.cores])

    def forward(self, x):
        return TTMatrix(list(self.cores)).matmul(x)


def test_modules_by_functional_call_and_export():
    x, _, w, _ = operands(torch.float64)
    module = Operator(w)
    parameters = dict(module.named_parameters())
    doubled = {name: value * (2 if name == "cores.0" else 1) for name, value in parameters.items()}
    check_close(functional_call(module, doubled, (x,)), 2 * (w @ x), 1e-12)
    gradients = grad(lambda p: functional_call(module, p, (x,)).norm())(parameters)
    assert gradients.keys() == parameters.keys()
    exported = torch.export.export(module, (x,))
    check_close(exported.module()(2 * x), w @ (2 * x), 1e-12)


def test_files_of_torch_need_no_trust():
    x, _, w, _ = operands(torch.complex64)
    stream = io.BytesIO()
    torch.save({"x": x, "w": w}, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=True)
    assert same(loaded["x"], x)
    assert same(loaded["w"], w)
    for value in [x, w]:
        assert same(pickle.loads(pickle.dumps(value)), value)
        assert same(copy.deepcopy(value), value)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_qr_is_differentiated_both_ways_and_twice(shape, dtype):
    weight = draw_tensor((shape[1], 2), dtype, 1)

    def function(matrix):
        q, r = linalg.qr(matrix)
        return q @ (r @ weight), r.mH @ r  # which no change of basis between the factors changes

    matrix = draw_tensor(shape, dtype, 0).requires_grad_()
    assert gradcheck(function, matrix, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, matrix)


@pytest.mark.parametrize("matrix", [torch.zeros(4, 3), torch.ones(4, 3), torch.zeros(3, 4)], ids=str)
def test_derivatives_of_qr_are_finite_at_any_rank(matrix):
    matrix = matrix.double()
    for output in jvp(linalg.qr, (matrix,), (torch.ones_like(matrix),))[1]:
        assert output.isfinite().all()
    gradient = grad(lambda matrix: sum(factor.sum() for factor in linalg.qr(matrix)))(matrix)
    assert gradient.isfinite().all()


def test_second_derivatives():
    x = operands(torch.float64)[0]
    small = TensorTrain([core[:, :2] for core in x.cores])
    cores = [core.clone().requires_grad_() for core in small.cores]
    for function in [
        lambda x: x.norm(),
        lambda x: x.log_norm(),
        lambda x: (x * x).dot(x),
        lambda x: x[1].full(),
        lambda x: x.sum(),
    ]:
        assert gradgradcheck(lambda *c, function=function: function(TensorTrain(c)), cores)
    # Not of a choice of ranks: `torch.autograd.grad` would leave out terms of a function that is `once_differentiable`.
    for truncate in [lambda x: x.round(max_rank=1), lambda x: ttnet.tt_svd(x.full(), max_rank=1)]:
        loss = truncate(TensorTrain(cores)).full().square().sum()
        with pytest.raises(TTValueError, match="create_graph is True, but a choice of ranks has no second derivatives"):
            torch.autograd.grad(loss, cores, create_graph=True)


SPECTRA = {
    "distinct": [4.0, 3.0, 2.0, 1.0],
    "kept ones equal": [3.0, 3.0, 1.0, 0.5],
    "cut ones equal": [3.0, 2.0, 1.0, 1.0],
    "pairs": [3.0, 3.0, 1.0, 1.0],
    "cut ones zero": [3.0, 2.0, 0.0, 0.0],
    "zero and equal": [3.0, 3.0, 0.0, 0.0],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("size", [(4, 4), (4, 7), (7, 4)])
def test_gradients_of_truncation_where_singular_values_meet(size, spectrum, dtype):
    left, right = (torch.linalg.qr(draw_tensor((n, 4), dtype, n))[0] for n in size)
    x = (left * torch.tensor(spectrum, dtype=dtype)) @ right.mT
    x = x.reshape(2, size[0] // 2, size[1]) if size[0] % 2 == 0 else x

    def best(x):  # at the first bond exact, at the second cut in a gap
        return ttnet.tt_svd(x, max_rank=[2, 2] if x.ndim == 3 else 2).full()

    # Its derivative exists, since only a gap between what is kept and what is cut is needed.
    assert gradcheck(best, x.clone().requires_grad_())
    train = ttnet.tt_svd(x)
    padded = (train + 0 * train) if max(train.ranks) < 3 else train
    cores = [core.detach().clone().requires_grad_() for core in padded.cores]
    gradients = torch.autograd.grad(TensorTrain(cores).round(max_rank=2).full().abs().square().sum(), cores)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_gradients_at_zero_are_finite_and_reach_zero_cores(dtype):
    x = torch.zeros(2, 3, 2, dtype=dtype, requires_grad=True)
    ttnet.tt_svd(x).full().abs().square().sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))
    # A zero core has a gradient at any scale of the others, as an adapter that starts at zero has to.
    for scale in [1.0, 1e-30, 1e30]:
        zero = torch.zeros(1, 3, 2, dtype=dtype, requires_grad=True)
        other = torch.full((2, 3, 1), scale, dtype=dtype)
        TensorTrain([zero, other]).full().real.sum().backward()
        torch.testing.assert_close(zero.grad, torch.full_like(zero, 3 * scale))
        assert all(core.grad is None or core.grad.isfinite().all() for core in [zero, other])


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.round(),
        lambda x: x.permute((1, 2, 0)),
        lambda x: x.reshape((2, 6, 2)),
        lambda x: ttnet.tt_svd(x.cores[1]),
    ],
)
def test_choices_of_ranks_say_that_they_need_numbers(operation):
    x = draw_train((4, 3, 2), [3, 2], torch.float64, 0)
    for call in [
        lambda: vmap(operation)(stacked([x, x])),
        lambda: grad(lambda x: tree_leaves(operation(x))[0].sum())(x),
        lambda: jvp(operation, (x,), (x,)),
        lambda: operation(x.to("meta")),
    ]:
        with pytest.raises(TTError, match="meta device"):
            call()


@pytest.mark.parametrize("make", [lambda core: TensorTrain([core] * 40), lambda core: TTMatrix([core[:, None]] * 40)])
def test_two_to_the_forty_entries_are_refused_at_once(make):
    value = make(torch.ones(1, 2, 1, dtype=torch.float64))
    assert value.numel == 2**40
    with pytest.raises(TTValueError, match="1,099,511,627,776 entries"):
        value.full()
    with pytest.raises(TTValueError, match="entries"):
        vmap(lambda value: value.full())(stacked([value, value]))


def test_named_products_are_the_operators():
    x, _, w, v = operands(torch.float64)
    assert same(x.mul(2), x * 2)
    assert same(w.mul(w), w * w)
    assert same(x.mul(x), x * x)
    assert torch.equal(w.matmul(v), w @ v)
    with pytest.raises(TTTypeError, match="other is a str; expected a number, a tensor of shape"):
        x.mul("2")
    with pytest.raises(TTTypeError, match="other is a int; expected a torch\\.Tensor, TensorTrain or TTMatrix"):
        w.matmul(2)


def test_vmap_over_some_of_the_cores():
    x, y, _, _ = operands(torch.float64)
    many = draw_tensor((3, *x.cores[1].shape), torch.float64, 0)
    in_dims = TensorTrain.unchecked([None, 0, None])
    batch = TensorTrain.unchecked([x.cores[0], many, x.cores[2]])
    for operation in [
        lambda x: (x + y).full(),
        lambda x: (x * y).norm(),
        lambda x: x[0, :, 1].full(),
        lambda x: x.sum(),
    ]:
        result = vmap(operation, in_dims=(in_dims,))(batch)
        for k in range(3):
            expected = operation(TensorTrain([x.cores[0], many[k], x.cores[2]]))
            assert relative_error(result[k], expected) <= 1e-12
