"""The matrices of several experts as one train: its factors, its modes, and what it takes over."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ttnet.errors import TTValueError
from ttnet_llm import TTLoraConfig
from ttnet_llm.matrices.expert import ExpertLayout, ExpertTrain

SIZES = st.integers(1, 40)


def dense(train: ExpertTrain) -> Tensor:
    """The matrices `(experts, rows, cols)` from the cores alone, in float64: every core after the other."""
    product = torch.ones(1, 1, dtype=torch.float64)
    for core in train.cores:
        product = torch.tensordot(product, core.double(), dims=1).reshape(-1, core.shape[2])
    layout = train.layout
    return product.reshape(layout.rows, layout.experts, -1).movedim(1, 0)


@given(experts=st.integers(1, 9), rows=SIZES, cols=SIZES, rank=st.integers(1, 6))
def test_factors_multiply_to_the_train(experts: int, rows: int, cols: int, rank: int) -> None:
    train = ExpertTrain.of_experts(experts, rows, cols, rank=rank, modes="auto")
    train.reset_parameters(1.0)
    left, middle, right = train.expert_factors()
    assert (left.shape[0], len(middle), right.shape[1]) == (rows, experts, cols)
    expected = dense(train)
    torch.testing.assert_close((left @ middle @ right).double(), expected, rtol=1e-4, atol=1e-4)
    # As one matrix the experts stand side by side.
    left, right = train.factors()
    torch.testing.assert_close((left @ right).double(), torch.cat(list(expected), dim=1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(expected.square().mean(), torch.tensor(1.0).double(), rtol=1e-3, atol=0)


def test_size_in_numbers() -> None:
    layout = ExpertLayout.of_experts(4, 32, 96, rank=3, modes=[[4, 8], [8, 12]])
    assert layout.modes == (4, 8, 4, 8, 12)
    assert layout.ranks == (1, 3, 3, 3, 3, 1)
    assert layout.num_parameters == 4 * 3 + 3 * 8 * 3 + 3 * 4 * 3 + 3 * 8 * 3 + 3 * 12
    assert layout.split_modes == [[4, 8], [8, 12]]


def test_ranks_of_every_bond_and_sides_of_one() -> None:
    layout = ExpertLayout.of_experts(4, 6, 6, rank=[2, 3, 4, 5], modes=[[2, 3], [3, 2]])
    assert layout.ranks == (1, 2, 3, 4, 5, 1)
    train = ExpertTrain(ExpertLayout.of_experts(3, 1, 4, rank=2, modes=[[1], [2, 2]]))
    train.reset_parameters(1.0)
    assert [tuple(factor.shape) for factor in train.expert_factors()] == [(1, 1), (3, 1, 2), (2, 4)]
    trailing = ExpertLayout.of_experts(3, 4, 4, rank=2, modes=[[4, 1], [1, 4]])
    train = ExpertTrain(trailing)
    train.reset_parameters(1.0)
    torch.testing.assert_close(dense(train), _product(train), rtol=1e-4, atol=1e-4)


def _product(train: ExpertTrain) -> Tensor:
    left, middle, right = train.expert_factors()
    return (left @ middle @ right).double()


def test_takes_over_an_update_of_its_ranks() -> None:
    generator = torch.Generator().manual_seed(0)
    given, train = (ExpertTrain.of_experts(3, 12, 10, rank=4, modes="auto") for _ in range(2))
    with torch.no_grad():
        for core in given.cores:
            core.copy_(torch.randn(core.shape, generator=generator))
    train.fit(*given.factors())
    torch.testing.assert_close(_product(train), _product(given), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("rank", "modes", "message"),
    [
        (5, "paper", "modes is 'paper', but the published tables have no mode for experts"),
        ([2, 2], "auto", "give the modes as well, or one integer"),
        ([2, 2], [[4], [2, 2]], "has 3 inner bonds"),
    ],
)
def test_errors(rank: object, modes: object, message: str) -> None:
    with pytest.raises(TTValueError, match=message):
        ExpertLayout.of_experts(3, 4, 4, rank=rank, modes=modes)


def test_config_records_what_was_chosen_and_takes_what_is_given() -> None:
    config = TTLoraConfig(tt_rank=3)
    train = config.expert_train(32, 96, 4)
    assert config.recorded_modes == {"32x4x96@3": train.layout.split_modes}
    config.recorded_modes["32x4x96@3"] = [[32], [96]]
    assert config.expert_train(32, 96, 4).layout.modes == (32, 4, 96)
    given = TTLoraConfig(tt_rank=3, modes={"32x96": [[4, 8], [8, 12]]})
    assert given.expert_train(32, 96, 4).layout.modes == (4, 8, 4, 8, 12)
    assert given.recorded_modes == {}
