"""Products with thin factors, whatever the number of tokens decides about them, against the dense formula."""

import copy

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from tests.ttnet_llm.methods import Method, each
from ttnet_llm import LorettaAdpConfig, TTLoraConfig, hold_factors
from ttnet_llm.matrices.aligned import AlignedMatrix
from ttnet_llm.matrices.thin import along, pays_along, times_thin

TOKENS = [0, 1, 31, 32, 127, 128]  # both sides of every border


def test_along_changes_the_storage_and_nothing_else() -> None:
    for rows, columns in ((40, 5), (5, 40), (40, 16), (1, 1)):
        for matrix in (torch.randn(rows, columns), torch.randn(columns, rows).mT):
            stored = along(matrix)
            assert torch.equal(stored, matrix)
            if min(rows, columns) < 16 < max(rows, columns):
                assert stored.stride(0 if rows > columns else 1) == 1
                assert along(stored) is stored or along(stored).data_ptr() == stored.data_ptr()
            else:
                assert stored.data_ptr() == matrix.data_ptr() or rows == columns


@pytest.mark.parametrize(
    ("dtype", "first"), [(torch.float64, 32), (torch.float32, 32), (torch.bfloat16, 128), (torch.float16, 128)]
)
def test_where_it_pays_to_store_along(dtype: torch.dtype, first: int) -> None:
    fewer, enough = torch.empty(1, first - 1, 8, dtype=dtype), torch.empty(1, first, 8, dtype=dtype)
    assert [pays_along(fewer, 5), pays_along(enough, 5), pays_along(enough, 15)] == [False, True, True]
    assert not pays_along(enough, 16)
    assert not pays_along(enough.to("meta"), 5)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("rank", [1, 5, 16])
@pytest.mark.parametrize("tokens", TOKENS)
def test_times_thin_is_the_dense_product(tokens: int, rank: int, added: bool) -> None:
    torch.manual_seed(0)
    shapes = [(tokens, 40), (40, rank), (rank, 30), (tokens, 30)]
    x, left, right, to = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    y = times_thin(x, left, right, -0.5, to=to if added else None)
    expected = -0.5 * (x @ (left @ right)) + (to if added else 0)
    torch.testing.assert_close(y, expected)
    weights = torch.randn(tokens, 30, dtype=torch.float64)
    inputs = [x, left, right] + [to] * added
    gradients = torch.autograd.grad((y * weights).sum(), inputs)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weights).sum(), inputs))


def test_second_derivatives_of_times_thin() -> None:
    shapes = [(33, 3), (3, 2), (2, 3)]
    inputs = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    assert torch.autograd.gradgradcheck(lambda x, left, right: times_thin(x, left, right, 2.0), inputs)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("tokens", TOKENS)
@each("merges")
def test_layers_compute_the_dense_formula_for_any_number_of_tokens(config_cls: Method, tokens: int, held: bool) -> None:
    torch.manual_seed(0)
    base = nn.Linear(48, 36).double()
    model = get_peft_model(
        nn.Sequential(copy.deepcopy(base)), config_cls(target_modules=["0"], init_weights=False)
    ).eval()
    delta = model.base_model.model[0].get_delta_weight("default").detach()
    if held:
        hold_factors(model)
    x = torch.randn(2, tokens, 48, dtype=torch.float64, requires_grad=True)
    y = model(x)
    torch.testing.assert_close(y, nn.functional.linear(x, base.weight + delta, base.bias))
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(gradient, 2 * y @ (base.weight + delta))


@pytest.mark.parametrize(("dtype", "few", "tolerance"), [(torch.float32, 3, 1e-5), (torch.bfloat16, 23, 2e-2)])
def test_tt_lora_goes_core_by_core_up_to_the_border(
    dtype: torch.dtype, few: int, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    base = nn.Linear(768, 768, bias=False, dtype=dtype)
    config = TTLoraConfig(target_modules=["0"], init_weights=False, tt_rank=16)
    model = get_peft_model(nn.Sequential(copy.deepcopy(base)), config, autocast_adapter_dtype=False)
    layer = model.base_model.model[0]
    assert layer.networks["default"].few_tokens == few
    weight = (base.weight + layer.get_delta_weight("default")).double().detach()
    calls: list[str] = []

    def spy(name: str) -> None:
        run = getattr(AlignedMatrix, name)

        def call(*args: Tensor) -> object:
            calls.append(name)
            return run(*args)

        monkeypatch.setattr(AlignedMatrix, name, call)

    spy("factors"), spy("multiply")
    for tokens, way in ((few, "multiply"), (few + 1, "factors")):
        x = torch.randn(1, tokens, 768, dtype=dtype)
        y, expected = model(x), x.double() @ weight.mT
        assert y.dtype == dtype
        assert ((y - expected).norm() / expected.norm()).item() < tolerance
        y.sum().backward()
        assert all(core.grad.isfinite().all() and core.grad.any() for core in layer.networks["default"].delta.cores)
        assert calls == [way]
        calls.clear()
    hold_factors(model.eval())
    calls.clear()
    model(x[:, :1])
    assert calls == []


@pytest.mark.parametrize("layout", ["aligned", "interleaved"])
@pytest.mark.parametrize("tokens", [31, 32])
def test_loretta_adp_is_its_formula_for_any_number_of_tokens(layout: str, tokens: int) -> None:
    torch.manual_seed(0)
    config = LorettaAdpConfig(target_modules=["0"], init_weights=False, bottleneck=20, tt_rank=3, layout=layout)
    base = nn.Linear(48, 36).double()
    model = get_peft_model(nn.Sequential(base), config)
    network = model.base_model.model[0].networks["default"]
    down, up = (torch.linalg.multi_dot([*m.chain(), torch.eye(20).double()]) for m in (network.down, network.up))
    x = torch.randn(tokens, 48, dtype=torch.float64)
    h = base(x)
    expected = h + network.activation(h @ down + network.down_bias) @ up.mT + network.up_bias
    torch.testing.assert_close(model(x), expected)
