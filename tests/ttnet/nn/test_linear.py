import copy
import io
import itertools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.ttnet.strategies import dtypes, seeds
from ttnet import TensorTrain
from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.nn import TTEmbedding, TTLinear, kernels
from ttnet.nn.orders import MACHINES, Order, _group, _step, cheapest_order, merge_tree

layouts = st.sampled_from(["aligned", "interleaved"])


@st.composite
def layers(draw, dtype=None, bias=None):
    """A layer of given modes and ranks, or of automatic ones."""
    torch.manual_seed(draw(seeds))
    layout = draw(layouts)
    options = {
        "layout": layout,
        "dtype": draw(dtypes) if dtype is None else dtype,
        "bias": draw(st.booleans()) if bias is None else bias,
    }
    if draw(st.booleans()):
        return TTLinear(draw(st.integers(1, 40)), draw(st.integers(1, 40)), ranks=draw(st.integers(1, 6)), **options)
    modes = st.lists(st.integers(1, 4), min_size=1, max_size=4)
    in_modes = draw(modes)
    size = len(in_modes)
    out_modes = draw(modes if layout == "aligned" else st.lists(st.integers(1, 4), min_size=size, max_size=size))
    bonds = size - 1 + (len(out_modes) if layout == "aligned" else 0)
    ranks = [draw(st.integers(1, 4)) for _ in range(bonds)]
    return TTLinear(math.prod(in_modes), math.prod(out_modes), ranks=ranks, modes=(in_modes, out_modes), **options)


def wide_weight(layer):
    wide = torch.complex128 if layer.cores[0].is_complex() else torch.float64
    kind = type(layer.value)
    full = kind([core.detach().to(wide) for core in layer.cores]).full()
    return full.reshape(layer.in_features, layer.out_features).mT


@given(layers(), st.lists(st.integers(0, 3), max_size=3), seeds)
def test_a_layer_is_its_dense_weight(layer, batch, seed):
    dtype = layer.cores[0].dtype
    x = torch.randn(*batch, layer.in_features, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    weight = wide_weight(layer)
    y = layer(x)
    expected = x.to(weight.dtype) @ weight.mT + (0 if layer.bias is None else layer.bias)
    assert y.shape == (*batch, layer.out_features)
    assert y.dtype == dtype
    assert y.is_contiguous()
    torch.testing.assert_close(y.to(weight.dtype), expected, rtol=0, atol=1e3 * torch.finfo(dtype).eps * 30)
    torch.testing.assert_close(layer.weight.to(weight.dtype), weight, rtol=0, atol=1e3 * torch.finfo(dtype).eps)
    assert layer.weight.shape == (layer.out_features, layer.in_features)
    dense = layer.to_dense()
    assert isinstance(dense, nn.Linear)
    torch.testing.assert_close(dense(x), y, rtol=0, atol=3e4 * torch.finfo(dtype).eps)


@given(layers(dtype=torch.float64, bias=True), st.sampled_from([1, 2, 30, 300]), seeds)
def test_gradients_are_those_of_the_dense_formula(layer, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, layer.in_features, dtype=torch.float64, generator=generator).requires_grad_()
    back = torch.randn(tokens, layer.out_features, dtype=torch.float64, generator=generator)
    inputs = [x, layer.bias, *layer.cores]
    ours = torch.autograd.grad(layer(x), inputs, back)
    theirs = torch.autograd.grad(F.linear(x, layer.weight, layer.bias), inputs, back)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_first_and_second_derivatives(layout, dtype):
    torch.manual_seed(0)
    layer = TTLinear(6, 4, ranks=2, layout=layout, modes=((2, 3), (2, 2)), dtype=dtype)
    x = torch.randn(3, 6, dtype=dtype, requires_grad=True)
    names = [f"tt.cores.{k}" for k in range(len(layer.cores))]

    def call(x, *cores):
        return torch.func.functional_call(layer, dict(zip(names, cores, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *layer.cores))
    assert torch.autograd.gradgradcheck(call, (x, *layer.cores))


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
@pytest.mark.parametrize("purpose", ["forward", "backward"])
def test_every_order_gives_the_same_numbers(layout, purpose):
    """Whatever a cost model chooses: all partitions of the chain, from both ends, forth and back."""
    torch.manual_seed(0)
    modes = ((2, 3, 4), (3, 20, 2)) if layout == "interleaved" else ((2, 3), (20, 3))
    layer = TTLinear(math.prod(modes[0]), math.prod(modes[1]), ranks=3, modes=modes, layout=layout, dtype=torch.float64)
    shapes = layer.tt.layout.pair_shapes
    x = torch.randn(7, layer.in_features, dtype=torch.float64)
    back = torch.randn(7, layer.out_features, dtype=torch.float64)
    d, weight = len(shapes), wide_weight(layer)
    seen = 0
    for kind in ("left", "right"):
        for cuts in itertools.chain.from_iterable(itertools.combinations(range(1, d), n) for n in range(d)):
            bounds = [0, *cuts, d]
            groups = tuple(
                _group(shapes, kind, a, b, merge_tree(shapes[a:b], a, MACHINES["cpu"])[0], _step(shapes, kind, a, b))
                for a, b in itertools.pairwise(bounds)
            )
            order = Order(
                shapes, kind, groups[::-1] if kind == "right" else groups, 0.0, 0, 1, 1, 0.0, layer.out_features
            )
            matrices = kernels.merged(order, layer.tt._pairs(False), torch.float64)
            if purpose == "forward":
                torch.testing.assert_close(kernels.sweep(x, order, matrices), x @ weight.mT)
            else:
                x_grad, grads = kernels._sweep_back(
                    kernels._states(x, order, matrices), back, order, matrices, (True, True)
                )
                torch.testing.assert_close(x_grad, back @ weight)
                y = kernels.sweep(x, order, matrices)
                torch.testing.assert_close(grads, list(torch.autograd.grad(y, matrices, back)))
            seen += 1
    assert seen == 2**d


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_sweeps_in_chunks_are_the_same(layout, monkeypatch):
    torch.manual_seed(0)
    layer = TTLinear(24, 60, ranks=3, layout=layout, dtype=torch.float64)
    x = torch.randn(101, 24, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.cores]
    whole = layer(x)
    whole_grads = torch.autograd.grad(whole.square().sum(), inputs)
    monkeypatch.setattr(kernels, "chunk_size", lambda order, device: 16)
    parts = layer(x)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), inputs), whole_grads)


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
@pytest.mark.parametrize(
    ("in_features", "out_features", "ranks"), [(64, 96, 1), (768, 128, 5), (60, 36, 40), (7, 13, 3)]
)
def test_entries_have_the_spread_of_a_dense_layer(layout, in_features, out_features, ranks):
    torch.manual_seed(0)
    means, squares = [], []
    for _ in range(40):
        weight = TTLinear(in_features, out_features, ranks=ranks, layout=layout).weight.detach()
        means.append(float(weight.mean()))
        squares.append(float(weight.square().mean()))
    dense = [float(nn.Linear(in_features, out_features).weight.detach().square().mean()) for _ in range(40)]
    expected = 1 / (3 * in_features)
    assert all(math.isclose(square, expected, rel_tol=1e-4) for square in squares)  # every draw, not on average only
    assert math.isclose(sum(dense) / 40, expected, rel_tol=0.1)
    spread = math.sqrt(expected)
    assert abs(sum(means) / 40) < spread / 4
    assert TTLinear(in_features, out_features, ranks=ranks, layout=layout).bias.abs().max() <= in_features**-0.5


def test_long_trains_start_at_the_same_spread():
    torch.manual_seed(0)
    layer = TTLinear(2**12, 2**12, ranks=2, modes=((2,) * 12, (2,) * 12))
    assert math.isclose(float(layer.weight.detach().square().mean()), 1 / (3 * 2**12), rel_tol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_half_precision(dtype, layout):
    torch.manual_seed(0)
    layer = TTLinear(64, 96, ranks=6, layout=layout, dtype=dtype)
    for tokens in (1, 7, 300):
        x = torch.randn(tokens, 64, dtype=dtype, requires_grad=True)
        y = layer(x)
        expected = x.double() @ wide_weight(layer).mT + layer.bias.double()
        assert y.dtype == dtype
        assert (y.double() - expected).norm() <= 4 * torch.finfo(dtype).eps * expected.norm()
        y.float().square().sum().backward()
        assert x.grad.dtype == dtype
        assert all(core.grad.dtype == dtype and core.grad.isfinite().all() for core in layer.cores)


def test_autocast():
    torch.manual_seed(0)
    layer, x = TTLinear(32, 48, ranks=4), torch.randn(5, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.02, atol=0.02)
    y.float().sum().backward()
    assert layer.cores[0].grad.dtype == torch.float32


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_as_one_graph(layout, dynamic):
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer = TTLinear(48, 64, ranks=4, layout=layout)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for tokens in (3, 7, 600):
        x = torch.randn(2, tokens, 48)
        y = compiled(x)
        torch.testing.assert_close(y, layer(x))
        grads = [torch.autograd.grad(out.square().mean(), list(layer.parameters())) for out in (y, layer(x))]
        torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_exports_with_any_number_of_tokens(layout):
    torch.manual_seed(0)
    model = nn.Sequential(TTEmbedding(101, 48, ranks=4, layout=layout), TTLinear(48, 64, ranks=4, layout=layout))
    sizes = ({0: torch.export.Dim("tokens", max=4000)},)
    program = torch.export.export(model, (torch.arange(4),), dynamic_shapes=sizes).module()
    for tokens in (2, 5, 2000):
        ids = torch.randint(101, (tokens,))
        torch.testing.assert_close(program(ids), model(ids))


def test_transforms_of_functions():
    torch.manual_seed(0)
    layer, x, v = TTLinear(6, 4, ranks=2, dtype=torch.float64), *torch.randn(2, 6, dtype=torch.float64)
    _, tangent = torch.func.jvp(layer, (x,), (v,))
    torch.testing.assert_close(tangent, layer.weight @ v)
    torch.testing.assert_close(torch.func.jacfwd(layer)(x), layer.weight)
    hessian = torch.func.hessian(lambda x: layer(x).square().sum())(x)
    torch.testing.assert_close(hessian, 2 * layer.weight.mT @ layer.weight)


def test_per_sample_gradients():
    torch.manual_seed(0)
    layer, x = TTLinear(6, 4, ranks=2, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    parameters = dict(layer.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(layer, parameters, (x[None],)).square().sum()

    together = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for k in range(5):
        alone = torch.func.grad(loss)(parameters, x[k])
        for name in parameters:
            torch.testing.assert_close(together[name][k], alone[name])


def kept_numbers(layer, x):
    """How many numbers that are neither the input nor a parameter are kept for the backward pass."""
    kept = {}
    own = {tensor.data_ptr() for tensor in (x, *layer.parameters())}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.update({t.data_ptr(): t.numel()}) or t, lambda t: t):
        layer(x)
    return sum(size for pointer, size in kept.items() if pointer not in own)


def test_only_the_input_is_kept_for_the_backward_pass():
    layer = TTLinear(64, 64, ranks=8)
    assert kept_numbers(layer, torch.randn(5000, 64, requires_grad=True)) == 0
    # For few tokens, merged cores at most.
    assert kept_numbers(layer, torch.randn(30, 64, requires_grad=True)) <= 64 * 64


def test_state_dicts_copies_and_the_meta_device():
    torch.manual_seed(0)
    layer, x = TTLinear(12, 20, ranks=3), torch.randn(4, 12)
    assert list(layer.state_dict()) == ["bias", *(f"tt.cores.{k}" for k in range(len(layer.cores)))]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in layer.parameters()}
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    empty = TTLinear(12, 20, ranks=3, device="meta")
    assert all(parameter.is_meta for parameter in empty.parameters())
    for materialised in (copy.deepcopy(empty).to_empty(device="cpu"), empty):
        file.seek(0)
        materialised.load_state_dict(torch.load(file), assign=materialised is empty)
        assert torch.equal(materialised(x), layer(x))
    assert layer.to(torch.float64)(x.double()).dtype == torch.float64


def test_a_wrong_checkpoint_names_the_core():
    layer, state = TTLinear(12, 20, ranks=3), TTLinear(12, 20, ranks=2).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for tt\.cores\.0"):
        layer.load_state_dict(state)
    del state["tt.cores.1"]
    with pytest.raises(RuntimeError, match=r"tt\.cores\.1"):
        TTLinear(12, 20, ranks=2).load_state_dict(state)


# --- holding merged cores -------------------------------------------------------------------------


@pytest.fixture
def held():
    """A layer in eval mode that holds its dense weight, and an input."""
    torch.manual_seed(0)
    layer = TTLinear(32, 32, ranks=4, cache_limit=2**20).eval()
    x = torch.randn(64, 32)
    with torch.no_grad():
        layer(x)
    assert layer.tt._held
    return layer, x


def agrees(layer, x):
    with torch.no_grad():
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-4, atol=1e-5)
    return True


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimiser_step_is_seen(held, fused):
    layer, x = held
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=fused)
    for _ in range(3):
        layer(x).square().sum().backward()
        optimiser.step()
        assert agrees(layer, x)


def test_changes_of_all_kinds_are_seen(held):
    layer, x = held
    before = layer.state_dict()
    with torch.no_grad():
        layer.cores[0].mul_(3)
    assert agrees(layer, x)
    layer.load_state_dict({name: tensor * 2 for name, tensor in before.items()})
    assert agrees(layer, x)
    for _ in range(6):  # a new tensor may well lie where the one before the last did
        layer.cores[0].data = layer.cores[0].data * 2
        assert agrees(layer, x)
    layer.cores[1].detach().add_(1)
    assert agrees(layer, x)
    layer.tt.set_value(layer.value.round(max_rank=1))
    assert agrees(layer, x)
    layer.double()
    assert agrees(layer, x.double())


def test_switching_modes_drops_what_is_held(held):
    layer, x = held
    layer.cores[0].data.mul_(2)  # the one change that no counter sees
    layer.train().eval()
    assert agrees(layer, x)


def test_the_limit_is_kept():
    torch.manual_seed(0)
    layer = TTLinear(64, 64, ranks=4).eval()
    for limit in (0, 100, 3000, 10_000, 2**20):
        layer.cache_limit = limit
        layer.tt.forget()
        with torch.inference_mode():
            for tokens in (1, 16, 500):
                layer(torch.randn(tokens, 64))
                size = sum(m.nbytes for _, matrices, _ in layer.tt._held.values() for m in matrices)
                assert size <= limit
    assert layer.tt._held


def test_frozen_layers_that_hold_pass_gradients_on(held):
    layer, _ = held
    layer.requires_grad_(False)
    with torch.inference_mode():
        layer(torch.randn(64, 32))
    x = torch.randn(64, 32, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(64, -1))


def test_nothing_is_held_while_training_or_in_copies(held):
    layer, x = held
    assert not copy.deepcopy(layer).tt._held
    layer.train()
    layer(x)
    layer.requires_grad_(False)
    layer(x)
    assert not layer.tt._held


# --- ranks that change ----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_a_layer_takes_over_a_rounded_train(layout):
    torch.manual_seed(0)
    layer = TTLinear(24, 36, ranks=6, layout=layout, modes=((4, 6), (6, 6)))
    x, old = torch.randn(5, 24), list(layer.cores)
    rounded = layer.value.round(max_rank=2)
    layer.tt.set_value(rounded)
    assert max(layer.ranks) == 2
    assert layer.ranks == rounded.ranks
    torch.testing.assert_close(layer.weight.mT.flatten(), rounded.full().flatten(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), rtol=1e-4, atol=1e-5)
    kept = list(layer.cores)
    layer.tt.set_value(layer.value * 2)
    assert all(a is b for a, b in zip(kept, layer.cores, strict=True))
    assert not any(a is b for a, b in zip(old, layer.cores, strict=True))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TTLinear(0, 4, ranks=2), TTValueError, "in_features is 0; expected an integer of at least 1"),
        (lambda: TTLinear(4, 2.0, ranks=2), TTTypeError, "out_features is 2.0; expected an integer"),
        (lambda: TTLinear(4, 4, ranks=0), TTValueError, "ranks holds 0; every rank must be at least 1"),
        (lambda: TTLinear(4, 4, ranks=[2]), TTTypeError, "ranks is .2. with modes 'auto'"),
        (
            lambda: TTLinear(4, 4, ranks=2, layout="tensor"),
            TTValueError,
            "layout is 'tensor'; expected 'interleaved' or",
        ),
        (lambda: TTLinear(4, 4, ranks=2, modes="paper"), TTValueError, "modes is 'paper'; expected 'auto' or"),
        (lambda: TTLinear(4, 4, ranks=2, modes=(4, 4)), TTTypeError, r"modes\[0\] is 4; expected a sequence of ints"),
        (lambda: TTLinear(4, 4, ranks=2, modes=((4,),)), TTTypeError, "modes is .*; expected 'auto' or two sequences"),
        (lambda: TTLinear(4, 4, ranks=2, modes=((2, 3), (4, 1))), TTShapeError, "multiplies to 6; expected 4"),
        (lambda: TTLinear(4, 4, ranks=2, modes=((2, 2), (4,))), TTShapeError, "expected as many modes on either side"),
        (lambda: TTLinear(4, 4, ranks=[2, 2], modes=((2, 2), (2, 2))), TTShapeError, "ranks has 2 entries; expected 1"),
        (lambda: TTLinear(4, 4, ranks=2)(torch.ones(2, 5)), TTShapeError, r"x has shape \(2, 5\); expected \(..., 4\)"),
        (lambda: TTLinear(4, 4, ranks=2)(torch.tensor(1.0)), TTShapeError, r"x has shape \(\)"),
        (lambda: TTLinear(4, 4, ranks=2)(torch.ones(4).double()), TTTypeError, "x has dtype torch.float64, but the"),
        (
            lambda: TTLinear(4, 4, ranks=2).tt.set_value(TensorTrain([torch.ones(1, 4, 1)])),
            TTTypeError,
            "value is a TensorTrain; expected a TTMatrix",
        ),
        (
            lambda: TTLinear(4, 4, ranks=2, layout="aligned", modes=((4,), (4,))).tt.set_value(
                TensorTrain([torch.ones(1, 2, 1), torch.ones(1, 8, 1)])
            ),
            TTShapeError,
            "expected the modes of the layer",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_repr_says_what_the_layer_is_made_of():
    layer = TTLinear(12, 20, ranks=3, modes=((3, 4), (4, 5)), bias=False)
    assert repr(layer).startswith(
        "TTLinear(\n  in_features=12, out_features=20, bias=False, layout='interleaved', modes="
    )


# --- orders ---------------------------------------------------------------------------------------


@given(layers(), st.integers(1, 2**16))
def test_an_order_covers_all_cores_once(layer, tokens):
    shapes = layer.tt.layout.pair_shapes
    for purpose in ("product", "product, trained", "lookup", "lookup, trained"):
        order = cheapest_order(shapes, tokens, purpose=purpose)
        groups = order.groups[::-1] if order.kind == "right" else order.groups
        assert [k for group in groups for k in range(group.start, group.stop)] == list(range(len(shapes)))


def test_few_tokens_are_contracted_through_and_many_multiply_the_dense_weight():
    shapes = TTLinear(768, 3072, ranks=64, modes=((24, 32), (48, 64))).tt.layout.pair_shapes
    assert len(cheapest_order(shapes, 1).groups) == 2
    assert len(cheapest_order(shapes, 4096).groups) == 1
    thin = TTLinear(4096, 4096, ranks=16, layout="aligned", modes=((64, 64), (64, 64))).tt.layout.pair_shapes
    for tokens in (1, 64, 4096):  # always as two thin factors, or finer
        assert any(group.stop == 2 or group.start == 2 for group in cheapest_order(thin, tokens).groups)


def test_orders_are_found_once():
    shapes = TTLinear(60, 60, ranks=3).tt.layout.pair_shapes
    assert cheapest_order(shapes, 1000) is cheapest_order(shapes, 1024)


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_what_accelerate_offloads_is_taken_back(layout):
    from accelerate import cpu_offload

    layers = torch.nn.Sequential(TTEmbedding(60, 16, ranks=3, layout=layout), TTLinear(16, 12, ranks=3, layout=layout))
    ids = torch.arange(20).reshape(4, 5)
    expected, dense = layers(ids), layers[1].to_dense()
    cpu_offload(layers, execution_device="cpu", offload_buffers=True)
    assert layers[0].cores[0].is_meta
    assert torch.equal(layers(ids), expected)
    assert torch.equal(layers[1].to_dense().weight, dense.weight)
    assert not any(core.is_meta for core in layers[1].cores)
