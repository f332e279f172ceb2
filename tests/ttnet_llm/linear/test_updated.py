"""A weight with thin updates answers every product as the dense weight does, and refuses what is none."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ttnet.errors import TTTypeError
from ttnet_llm.linear.updated import ThinUpdate, UpdatedWeight

SIZES = st.integers(1, 5)


def draw(experts: int, rows: int, cols: int, ranks: tuple[int, int], seed: int) -> tuple[UpdatedWeight, Tensor]:
    """Weights of experts with two updates, and what they are when added up."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    weight = normal(experts, rows, cols)
    updates = [
        ThinUpdate(normal(rows, ranks[0]), normal(experts, *ranks), normal(ranks[1], cols), nn.Identity())
        for _ in range(2)
    ]
    return UpdatedWeight(weight, updates), weight + sum(u.left @ u.middle @ u.right for u in updates)


@given(SIZES, SIZES, SIZES, st.tuples(SIZES, SIZES), SIZES, st.integers(0, 2**16))
def test_products_are_those_of_the_dense_weight(
    experts: int, rows: int, cols: int, ranks: tuple[int, int], tokens: int, seed: int
) -> None:
    updated, dense = draw(experts, rows, cols, ranks, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(experts, tokens, rows, generator=generator, dtype=torch.float64)
    y = torch.randn(experts, tokens, cols, generator=generator, dtype=torch.float64)
    chosen = torch.randint(experts, (tokens,), generator=generator)
    pairs = {
        "bmm": (torch.bmm(x, updated), torch.bmm(x, dense)),
        "bmm, transposed": (torch.bmm(y, updated.transpose(1, 2)), torch.bmm(y, dense.transpose(1, 2))),
        "bmm, from the left": (torch.bmm(updated, y.mT), torch.bmm(dense, y.mT)),
        "matmul": (x @ updated, x @ dense),
        "one expert": (x[0] @ updated[0], x[0] @ dense[0]),
        "one expert, by a tensor": (x[0] @ updated[torch.tensor(0)], x[0] @ dense[0]),
        "linear": (F.linear(y[0], updated[0]), F.linear(y[0], dense[0])),
        "linear with a bias": (F.linear(y[0], updated[0], x[0, 0]), F.linear(y[0], dense[0], x[0, 0])),
        "linear of several rows": (F.linear(y, updated[0]), F.linear(y, dense[0])),
        "from the left": (updated[0] @ y[0].T, dense[0] @ y[0].T),
        "transposed": (y[0] @ updated[0].T, y[0] @ dense[0].T),
        "chosen": (torch.bmm(x[:1, 0].expand(tokens, 1, -1), updated[chosen]), x[0, 0] @ dense[chosen][:, None]),
        "part of the experts": (torch.bmm(x[1:], updated[1:]), torch.bmm(x[1:], dense[1:])),
    }
    for name, (found, expected) in pairs.items():
        torch.testing.assert_close(found, expected.reshape(found.shape), msg=lambda text, name=name: f"{name}: {text}")


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0, 2), st.integers(0, 2**16))
def test_grouped_products_are_those_of_the_dense_weights(counts: list[int], behind: int, seed: int) -> None:
    """With experts that get no tokens, and rows behind those of the last expert, which are anything."""
    updated, dense = draw(len(counts), 4, 8, (2, 3), seed)
    ends = torch.tensor(counts).cumsum(0, dtype=torch.int32)
    used = int(ends[-1])
    x = torch.randn(used + behind, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = torch.ops.transformers.grouped_mm_fallback(x, updated, offs=ends)
    assert found.shape == (used + behind, 8)
    starts = [0, *ends.tolist()]
    for expert, weight in enumerate(dense):
        rows = slice(starts[expert], starts[expert + 1])
        torch.testing.assert_close(found[rows], x[rows] @ weight)


@pytest.mark.parametrize("name", ["grouped_mm", "_grouped_mm"])
def test_torch_s_own_grouped_products(name: str) -> None:
    grouped = getattr(F, name, None) or getattr(torch, name, None)
    if grouped is None:
        pytest.skip(f"this version of torch has no {name}")
    updated, dense = draw(3, 8, 4, (2, 2), seed=0)
    updated = UpdatedWeight(updated.weight.float(), [_single(update) for update in updated.updates])
    x, ends = torch.randn(5, 8), torch.tensor([2, 2, 5], dtype=torch.int32)
    expected = torch.cat([x[:2] @ dense[0].float(), x[2:] @ dense[2].float()])
    torch.testing.assert_close(grouped(x, updated, offs=ends), expected)


def _single(update: ThinUpdate) -> ThinUpdate:
    return ThinUpdate(update.left.float(), update.middle.float(), update.right.float(), update.dropout)


def test_gradients_reach_the_updates_and_the_input_but_not_a_frozen_weight() -> None:
    updated, dense = draw(2, 3, 4, (2, 2), seed=0)
    parts = [updated.updates[0].left, updated.updates[0].middle, updated.updates[0].right]
    x = torch.randn(5, 3, dtype=torch.float64)
    for tensor in (x, *parts):
        tensor.requires_grad_()
    found = torch.autograd.grad((x @ updated[1]).square().sum(), [x, *parts])
    full = dense.detach() - (parts[0] @ parts[1] @ parts[2]).detach() + parts[0] @ parts[1] @ parts[2]
    expected = torch.autograd.grad((x @ full[1]).square().sum(), [x, *parts])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_sums_are_rounded_once_to_the_dtype_of_the_weight() -> None:
    weight = torch.ones(1, 2, 2, dtype=torch.bfloat16)
    update = ThinUpdate(torch.full((2, 1), 2.0**-9), torch.ones(1, 1, 1), torch.ones(1, 2), nn.Identity())
    updated = UpdatedWeight(weight, [update, update])
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    assert (x @ updated[0]).dtype == torch.bfloat16
    assert updated.float()[0].dtype == torch.float32
    torch.testing.assert_close(x.float() @ updated.float()[0], torch.full((1, 2), 2 + 4 * 2.0**-9))


def test_it_tells_what_a_tensor_tells_of_its_shape() -> None:
    updated, dense = draw(2, 3, 4, (1, 2), seed=0)
    assert (updated.shape, updated.ndim, len(updated)) == (dense.shape, 3, 2)
    assert (updated.size(), updated.size(1), updated.device) == (dense.size(), 3, dense.device)
    assert (updated.mT.shape, updated.transpose(-1, -2).shape) == ((2, 4, 3), (2, 4, 3))


@pytest.mark.parametrize(
    ("use", "name"),
    [
        (lambda w: w * 2, "unsupported operand"),
        (lambda w: torch.mul(torch.ones(3), w), "mul"),
        (lambda w: torch.einsum("bi,eio->beo", torch.ones(2, 3).double(), w), "einsum"),
        (lambda w: w.data_ptr(), "data_ptr"),
        (lambda w: w.permute(0, 2, 1), "permute"),
        (lambda w: w.transpose(0, 1), r"transpose\(0, 1\)"),
        (lambda w: w.T, "T of 3 dimensions"),
        (lambda w: w.to("cpu"), r"to\('cpu'\)"),
        (lambda w: w[0, 1], "indexing with"),
        (lambda w: w[torch.tensor([True, False])], "indexing with"),
        (lambda w: w[0][0], "indexing with"),
        (lambda w: w @ w, "products of two"),
    ],
)
def test_everything_else_is_refused(use: Callable[[UpdatedWeight], object], name: str) -> None:
    updated, _ = draw(2, 3, 3, (1, 1), seed=0)
    with pytest.raises(TypeError, match=name) as caught:
        use(updated)
    if "operand" not in name:
        assert isinstance(caught.value, TTTypeError)
        assert "set_experts_implementation('grouped_mm')" in str(caught.value)
