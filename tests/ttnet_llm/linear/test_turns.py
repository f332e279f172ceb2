"""Turns against dense matrices: what they do to rows, to a weight, and one after the other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from ttnet_llm.linear.turns import BlockTurn, Turn, update_of_turns
from ttnet_llm.matrices.thin import times_thin

SIZES = st.integers(1, 40)
RANKS = st.integers(0, 9)


def draw(size: int, rank: int, seed: int) -> Turn:
    generator = torch.Generator().manual_seed(seed)
    down, up = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((size, rank), (rank, size)))
    return Turn(down, up)


def dense(turn: Turn | None, size: int, scale: float) -> Tensor:
    identity = torch.eye(size, dtype=torch.float64)
    return identity if turn is None else identity + scale * turn.down @ turn.up


@given(tokens=st.integers(0, 70), size=SIZES, rank=RANKS, scale=st.floats(-2, 2), is_held=st.booleans())
def test_rows_are_turned_about_the_shift(tokens: int, size: int, rank: int, scale: float, is_held: bool) -> None:
    turn = draw(size, rank, 0).held() if is_held else draw(size, rank, 0)
    x, shift = torch.randn(tokens, size, dtype=torch.float64), torch.randn(size, dtype=torch.float64)
    expected = (x - shift) @ dense(turn, size, scale) + shift
    torch.testing.assert_close(turn.change(x, scale, to=x, shift=shift), expected)
    torch.testing.assert_close(turn.change(x, scale, to=x), x @ dense(turn, size, scale))


@given(
    tokens=st.integers(0, 70),
    n=st.integers(1, 6),
    size=st.integers(1, 7),
    rank=st.integers(0, 4),
    scale=st.floats(-2, 2),
    is_held=st.booleans(),
)
def test_blocks_turn_as_the_dense_factors_that_they_are(
    tokens: int, n: int, size: int, rank: int, scale: float, is_held: bool
) -> None:
    down, up = torch.randn(n, size, rank, dtype=torch.float64), torch.randn(n, rank, size, dtype=torch.float64)
    turn = BlockTurn(down, up).held() if is_held else BlockTurn(down, up)
    torch.testing.assert_close(turn.down, torch.block_diag(*down))
    torch.testing.assert_close(turn.up, torch.block_diag(*up).reshape(n * rank, n * size))
    x, shift = (torch.randn(shape, dtype=torch.float64) for shape in ((tokens, n * size), (n * size,)))
    expected = (x - shift) @ dense(turn, n * size, scale) + shift
    torch.testing.assert_close(turn.change(x, scale, to=x, shift=shift), expected)
    torch.testing.assert_close(turn.change(x, scale, to=x), x @ dense(turn, n * size, scale))


def test_gradients_of_blocks() -> None:
    x, shift = torch.randn(5, 6).double(), torch.randn(6).double()
    down, up = torch.randn(3, 2, 2).double(), torch.randn(3, 2, 2).double()
    inputs = [tensor.requires_grad_() for tensor in (x, down, up, shift)]
    assert gradcheck(lambda x, down, up, shift: BlockTurn(down, up).change(x, 0.7, to=x, shift=shift), inputs)


@given(rows=SIZES, cols=SIZES, ranks=st.tuples(RANKS, RANKS), scale=st.floats(-2, 2), sides=st.sampled_from("iob"))
def test_the_update_is_what_turns_make_of_the_weight(
    rows: int, cols: int, ranks: tuple[int, int], scale: float, sides: str
) -> None:
    weight = torch.randn(rows, cols, dtype=torch.float64)
    before = None if sides == "o" else draw(rows, ranks[0], 1)
    after = None if sides == "i" else draw(cols, ranks[1], 2)
    left, right = update_of_turns(weight, before, after, scale)
    assert left.shape[1] == sum(rank for rank, turn in zip(ranks, (before, after), strict=True) if turn is not None)
    expected = dense(before, rows, scale) @ weight @ dense(after, cols, scale) - weight
    torch.testing.assert_close(left @ right, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("weight", "turns", "expected"),
    [
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float32, torch.float64),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_the_update_is_computed_in_single_precision_at_least(
    weight: torch.dtype, turns: torch.dtype, expected: torch.dtype
) -> None:
    turn = Turn(*(factor.to(turns) for factor in draw(5, 2, 0)))
    assert {factor.dtype for factor in update_of_turns(torch.ones(5, 5, dtype=weight), turn, turn, 1.0)} == {expected}


@pytest.mark.parametrize("tokens", [2, 40])
def test_gradients_of_shifted_products(tokens: int) -> None:
    x, shift, turn = torch.randn(tokens, 6).double(), torch.randn(6).double(), draw(6, 2, 0)
    inputs = [tensor.requires_grad_() for tensor in (x, *turn, shift)]
    assert gradcheck(lambda x, down, up, shift: times_thin(x, down, up, 0.7, to=x, shift=shift), inputs)
