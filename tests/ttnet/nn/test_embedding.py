import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.ttnet.strategies import dtypes, seeds
from ttnet.errors import TTIndexError, TTShapeError, TTTypeError, TTValueError
from ttnet.nn import TTEmbedding, TTLinear, kernels, weight
from ttnet.nn.layout import padded_size

layouts = st.sampled_from(["aligned", "interleaved"])


@st.composite
def tables(draw, dtype=None):
    torch.manual_seed(draw(seeds))
    rows, cols = draw(st.integers(1, 60)), draw(st.integers(1, 24))
    return TTEmbedding(
        rows,
        cols,
        ranks=draw(st.integers(1, 6)),
        layout=draw(layouts),
        padding_idx=draw(st.none() | st.integers(-rows, rows - 1)),
        dtype=draw(dtypes) if dtype is None else dtype,
    )


def dense_rows(table):
    """All rows by the definition, in double precision."""
    wide = torch.complex128 if table.cores[0].is_complex() else torch.float64
    full = type(table.value)([core.detach().to(wide) for core in table.cores]).full()
    rows = full.reshape(-1, table.embedding_dim)[: table.num_embeddings].clone()
    if table.padding_idx is not None:
        rows[table.padding_idx] = 0
    return rows


@given(tables(), st.lists(st.integers(0, 4), max_size=3), seeds)
def test_a_lookup_gives_rows_of_the_table(table, batch, seed):
    dtype, expected = table.cores[0].dtype, dense_rows(table)
    ids = torch.randint(table.num_embeddings, batch, generator=torch.Generator().manual_seed(seed))
    rows = table(ids)
    bound = 1e4 * torch.finfo(dtype).eps
    assert rows.shape == (*batch, table.embedding_dim)
    assert rows.dtype == dtype
    torch.testing.assert_close(rows.to(expected.dtype), expected[ids], rtol=0, atol=bound)
    assert table.weight.shape == (table.num_embeddings, table.embedding_dim)
    torch.testing.assert_close(table.weight.to(expected.dtype), expected, rtol=0, atol=bound)
    dense = table.to_dense()
    assert isinstance(dense, nn.Embedding)
    assert dense.padding_idx == table.padding_idx
    torch.testing.assert_close(dense.weight[ids], rows, rtol=0, atol=bound)


@given(tables(dtype=torch.float64), st.sampled_from([0, 1, 9, 5000]), seeds)
def test_gradients_are_those_of_the_dense_table(table, count, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(table.num_embeddings, (count,), generator=generator)
    back = torch.randn(count, table.embedding_dim, dtype=torch.float64, generator=generator)
    ours = torch.autograd.grad(table(ids), list(table.cores), back)
    # As in a dense table, the row of padding_idx gets no gradient.
    theirs = torch.autograd.grad(F.embedding(ids, table.weight, table.padding_idx), list(table.cores), back)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_first_and_second_derivatives(layout, dtype):
    torch.manual_seed(0)
    table = TTEmbedding(6, 4, ranks=2, layout=layout, modes=((2, 3), (2, 2)), dtype=dtype)
    ids, names = torch.tensor([[0, 5], [3, 3]]), [f"tt.cores.{k}" for k in range(len(table.cores))]

    def call(*cores):
        return torch.func.functional_call(table, dict(zip(names, cores, strict=True)), (ids,))

    assert torch.autograd.gradcheck(call, tuple(table.cores))
    assert torch.autograd.gradgradcheck(call, tuple(table.cores))


@pytest.mark.parametrize("sorting", [0.0, 1.0])
def test_repeated_ids_are_contracted_once_where_sorting_is_cheap(sorting, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(weight, "_SORTING", sorting)
    monkeypatch.setattr(weight, "_SORTING_CALL", 0.0)
    table = TTEmbedding(64, 16, ranks=4, dtype=torch.float64)
    ids = torch.tensor([5, 3, 5, 5, 3])
    asked, rows = [], weight.rows
    monkeypatch.setattr(weight, "rows", lambda flat, *rest: asked.append(flat.tolist()) or rows(flat, *rest))
    found = table(ids)
    assert asked == ([[5, 3, 5, 5, 3]] if sorting else [[3, 5]])
    back = torch.randn_like(found)
    torch.testing.assert_close(found, dense_rows(table)[ids])
    for a, b in zip(
        torch.autograd.grad(found, list(table.cores), back),
        torch.autograd.grad(table.weight[ids], list(table.cores), back),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_a_lookup_does_not_form_the_table(layout, monkeypatch):
    table = TTEmbedding(100_000, 64, ranks=4, layout=layout)
    sizes, merge = [], kernels._merge
    monkeypatch.setattr(kernels, "_merge", lambda *args: sizes.append((m := merge(*args)).numel()) or m)
    with torch.no_grad():
        table(torch.arange(100))
    assert max(sizes) < 100_000


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
@pytest.mark.parametrize("rows", [11, 101, 211, 30522])
def test_padding_rows_are_never_seen(layout, rows):
    torch.manual_seed(0)
    table = TTEmbedding(rows, 8, ranks=3, layout=layout)
    assert table.tt.layout.rows == padded_size(rows) > rows
    assert table.weight.shape == (rows, 8)
    assert table.as_linear()(torch.ones(1, 8)).shape == (1, rows)
    assert table.as_linear().weight.shape == (rows, 8)
    assert table.to_dense().num_embeddings == rows
    for wrong in (rows, padded_size(rows) - 1, padded_size(rows), -1):
        with pytest.raises(TTIndexError, match=f"ids holds {wrong}; expected row numbers from 0 to {rows - 1}"):
            table(torch.tensor([0, wrong]))


@given(st.integers(1, 20_000))
def test_padded_sizes_have_small_factors_only(size):
    padded = padded_size(size)
    rest = padded
    for prime in (2, 3, 5, 7):
        while rest % prime == 0:
            rest //= prime
    assert rest == 1
    assert size <= padded <= max(1.15 * size, size + 3)


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
@pytest.mark.parametrize(("rows", "cols", "ranks"), [(101, 16, 1), (1000, 64, 5), (64, 36, 40), (30522, 8, 3)])
def test_entries_have_the_spread_of_a_dense_table(layout, rows, cols, ranks):
    torch.manual_seed(0)
    draws = [TTEmbedding(rows, cols, ranks=ranks, layout=layout).weight.detach() for _ in range(20)]
    squares = [float(draw.square().mean()) for draw in draws]
    assert abs(sum(squares) / 20 - 1) < 0.05
    assert abs(sum(float(draw.mean()) for draw in draws) / 20) < 0.2


def test_the_row_of_padding_idx_is_zero_and_not_trained():
    torch.manual_seed(0)
    table = TTEmbedding(20, 8, ranks=3, padding_idx=-17)
    assert table.padding_idx == 3
    ids = torch.tensor([3, 3])
    assert torch.equal(table(ids), torch.zeros(2, 8))
    assert all(not grad.any() for grad in torch.autograd.grad(table(ids).sum(), list(table.cores)))
    dense = nn.Embedding(20, 8, padding_idx=3)
    with torch.no_grad():
        dense.weight[3] = 7.0  # which a dense table may have been given
    made = TTEmbedding.from_embedding(dense, eps=1e-5)
    assert torch.equal(made(ids), dense(ids))
    assert torch.equal(made.weight[3], dense.weight[3])
    state = made.state_dict()
    assert torch.equal(state["tt.fixed_row"], dense.weight[3])


# --- the tied head --------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
@pytest.mark.parametrize("padding_idx", [None, 0])
@pytest.mark.parametrize("tokens", [1, 3, 400])
def test_the_head_of_a_table(layout, padding_idx, tokens):
    torch.manual_seed(0)
    table = TTEmbedding(53, 12, ranks=4, layout=layout, padding_idx=padding_idx, dtype=torch.float64)
    head = table.as_linear(bias=True)
    x = torch.randn(tokens, 12, dtype=torch.float64, requires_grad=True)
    assert isinstance(head, TTLinear)
    assert (head.in_features, head.out_features) == (12, 53)
    assert all(a is b for a, b in zip(head.cores, table.cores, strict=True))
    torch.testing.assert_close(head.weight, table.weight)
    logits = head(x)
    assert logits.is_contiguous()
    expected = F.linear(x, table.weight, head.bias)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(head.to_dense()(x), expected)
    inputs = [x, head.bias, *table.cores]
    back = torch.randn_like(logits)
    for a, b in zip(
        torch.autograd.grad(logits, inputs, back), torch.autograd.grad(expected, inputs, back), strict=True
    ):
        torch.testing.assert_close(a, b)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = TTEmbedding(53, 12, ranks=4, dtype=torch.float64)
        self.head = self.embed.as_linear()

    def forward(self, ids):
        return self.head(self.embed(ids))


def test_tied_weights_stay_tied():
    torch.manual_seed(0)
    model, ids = Tied(), torch.randint(53, (9,))
    cores = list(model.embed.cores)
    assert len(list(model.parameters())) == len(cores)
    weight = model.embed.weight
    expected = torch.autograd.grad(F.linear(weight[ids], weight).square().sum(), cores)  # both uses add up
    model(ids).square().sum().backward()
    torch.testing.assert_close([core.grad for core in cores], list(expected))
    before = model(ids)
    torch.optim.SGD(model.parameters(), 1e-3).step()
    assert not torch.equal(model(ids), before)
    torch.testing.assert_close(model.head.weight, model.embed.weight)
    for other in (copy.deepcopy(model), copy.deepcopy(model).float().double()):
        assert all(a is b for a, b in zip(other.head.cores, other.embed.cores, strict=True))
    fresh = Tied()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(ids), model(ids))
    model.embed.tt.set_value(model.embed.value.round(max_rank=2))  # ranks change on both ends
    assert all(a is b for a, b in zip(model.head.cores, model.embed.cores, strict=True))
    torch.testing.assert_close(model(ids), F.linear(model.embed.weight[ids], model.embed.weight))


# --- precision, compilation, holding --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_half_precision(dtype, layout):
    torch.manual_seed(0)
    table = TTEmbedding(101, 48, ranks=6, layout=layout, dtype=dtype)
    ids = torch.randint(101, (300,))
    rows, expected = table(ids), dense_rows(table)[ids]
    assert rows.dtype == dtype
    assert (rows.double() - expected).norm() <= torch.finfo(dtype).eps * expected.norm()
    rows.float().sum().backward()
    assert all(core.grad.dtype == dtype for core in table.cores)


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_compiles_as_one_graph(layout):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(table := TTEmbedding(101, 12, ranks=4, layout=layout, padding_idx=0), table.as_linear())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for count in (3, 7, 500):
        ids = torch.randint(101, (count,))
        torch.testing.assert_close(compiled(ids), model(ids))
        grads = [
            torch.autograd.grad(out.square().mean(), list(model.parameters())) for out in (compiled(ids), model(ids))
        ]
        torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-5)
    with pytest.raises(RuntimeError, match="ids holds numbers outside of 0 to 100"):
        compiled(torch.tensor([101, 0, 0]))


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
def test_what_is_held_is_never_stale(layout):
    torch.manual_seed(0)
    table = TTEmbedding(64, 16, ranks=4, layout=layout, cache_limit=2**20, dtype=torch.float64).eval()
    head, ids = table.as_linear(), torch.arange(64)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(table(ids), dense_rows(table))
            torch.testing.assert_close(head(torch.eye(16, dtype=torch.float64)), dense_rows(table).mT)
            assert table.tt._held
            table.cores[0].mul_(2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_ids_of_any_integer_dtype(dtype):
    table = TTEmbedding(60, 8, ranks=3)
    ids = torch.tensor([[3, 59], [0, 3]])
    assert torch.equal(table(ids.to(dtype)), table(ids))


def test_meta_device_and_automatic_modes_of_large_tables():
    table = TTEmbedding(128_256, 4096, ranks=16, device="meta", layout="aligned")
    assert all(core.is_meta for core in table.cores)
    assert math.prod(table.tt.layout.row_modes) >= 128_256
    other = TTEmbedding(100, 8, ranks=2, device="meta").to_empty(device="cpu")
    other.load_state_dict(TTEmbedding(100, 8, ranks=2).state_dict())
    assert other(torch.tensor([99])).isfinite().all()


# --- scaled tables --------------------------------------------------------------------------------


class Scaled(nn.Embedding):
    """As in Gemma, where the scale is a buffer, and in BART, where it is a number."""

    def __init__(self, *args, embed_scale=3.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.embed_scale = embed_scale

    def forward(self, input):
        scale = self.embed_scale
        return super().forward(input) * (scale.to(self.weight.dtype) if isinstance(scale, torch.Tensor) else scale)


class Shifted(Scaled):
    def forward(self, input):
        return super().forward(input) + 1


class Masked(Scaled):
    def forward(self, input, mask):
        return super().forward(input) * mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [11.3, torch.tensor(11.3)])
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_scaled_tables_stay_scaled(dtype, scale, padding_idx):
    torch.manual_seed(0)
    dense = Scaled(50, 12, padding_idx=padding_idx, embed_scale=scale, dtype=dtype)
    table = TTEmbedding.from_embedding(dense, max_rank=12, modes=((50,), (12,)))
    ids = torch.tensor([[0, 2], [49, 7]])
    eps = 30 * torch.finfo(dtype).eps
    torch.testing.assert_close(table(ids), dense(ids), rtol=eps, atol=10 * eps)
    torch.testing.assert_close(table.weight, dense.weight, rtol=eps, atol=eps)  # as the head has it
    assert table(ids).dtype == dtype
    torch.testing.assert_close(table.to_dense()(ids), table(ids), rtol=eps, atol=10 * eps)
    for other in (copy.deepcopy(table), table.to(torch.float64)):
        expected = F.embedding(ids, other.weight) * torch.tensor(float(scale), dtype=other.weight.dtype)
        torch.testing.assert_close(other(ids), expected, rtol=eps, atol=10 * eps)
    table(ids).sum().backward()
    assert all(core.grad.isfinite().all() for core in table.cores)
    assert "embed_scale=11.3" in repr(table)


def test_a_table_from_scratch_may_be_scaled():
    table = TTEmbedding(20, 6, ranks=3, embed_scale=2.0)
    ids = torch.arange(20)
    torch.testing.assert_close(table(ids), 2 * table.weight)
    compiled = torch.compile(table, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ids), table(ids))
    assert "embed_scale" not in repr(TTEmbedding(20, 6, ranks=3))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TTEmbedding(0, 4, ranks=2), TTValueError, "num_embeddings is 0; expected an integer of at least 1"),
        (lambda: TTEmbedding(4, True, ranks=2), TTTypeError, "embedding_dim is True; expected an integer"),
        (
            lambda: TTEmbedding(9, 4, ranks=2, modes=((2, 4), (2, 2))),
            TTShapeError,
            "multiplies to 8; expected at least 9",
        ),
        (lambda: TTEmbedding(8, 4, ranks=2, modes=((2, 4), (2, 3))), TTShapeError, "multiplies to 6; expected 4"),
        (lambda: TTEmbedding(8, 4, ranks=2, padding_idx=8), TTIndexError, "padding_idx is 8; expected -8 to 7"),
        (
            lambda: TTEmbedding(8, 4, ranks=2, padding_idx=1.0),
            TTTypeError,
            "padding_idx is 1.0; expected an int or None",
        ),
        (
            lambda: TTEmbedding(8, 4, ranks=2)(torch.ones(2)),
            TTTypeError,
            "ids is of torch.float32; expected a tensor of",
        ),
        (lambda: TTEmbedding(8, 4, ranks=2)([1]), TTTypeError, "ids is of list; expected a tensor of an integer dtype"),
        (
            lambda: TTEmbedding.from_embedding(nn.Linear(2, 2), eps=0.1),
            TTTypeError,
            "layer is a Linear; expected an nn.E",
        ),
        (
            lambda: TTEmbedding.from_embedding(Shifted(4, 4), eps=0.1),
            TTTypeError,
            "layer is a Shifted that does more than an nn.Embedding",
        ),
        (
            lambda: TTEmbedding.from_embedding(Masked(4, 4), eps=0.1),
            TTTypeError,
            "layer is a Masked that does more than",
        ),
        (
            lambda: TTEmbedding.from_embedding(Scaled(4, 4, embed_scale=torch.ones(4)), eps=0.1),
            TTTypeError,
            "layer is a Scaled that does more than",
        ),
        (
            lambda: TTEmbedding(4, 4, ranks=2, embed_scale="2"),
            TTTypeError,
            "embed_scale is '2'; expected a number",
        ),
        (
            lambda: TTEmbedding(4, 4, ranks=2, embed_scale=math.inf),
            TTValueError,
            "embed_scale is inf; expected a finite number",
        ),
        (
            lambda: TTEmbedding.from_embedding(nn.Embedding(4, 4, max_norm=1.0), eps=0.1),
            TTValueError,
            "layer has max_norm=1.0, which only a dense table can do",
        ),
        (
            lambda: TTEmbedding.from_embedding(nn.Embedding(4, 4, scale_grad_by_freq=True), eps=0.1),
            TTValueError,
            "layer has scale_grad_by_freq=True",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
