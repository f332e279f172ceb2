"""Each network against the formula of its paper, entry by entry and in double precision."""

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from tests.ttnet_llm import models
from tests.ttnet_llm.methods import Method, each
from tests.ttnet_llm.models import perturb
from ttnet import TensorTrain
from ttnet.errors import TTValueError
from ttnet_llm import LortaConfig, LotrConfig, MeloraConfig, MetaTTConfig, TTLoraConfig, set_task
from ttnet_llm.linear.sharing import SharedView, place

SIZES = st.integers(1, 12)


class Layers(nn.Module):
    """Two layers with two square projections and a narrower one each, by names as transformers has them."""

    def __init__(self, size: int = 12, narrow: int = 6) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            nn.ModuleDict({"q": nn.Linear(size, size), "o": nn.Linear(size, size), "v": nn.Linear(size, narrow)})
            for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layer:
            x = layer["o"](layer["q"](x)) + layer["v"](x).repeat_interleave(2, dim=-1)
        return x


def adapted(config: object) -> nn.Module:
    torch.manual_seed(0)
    return perturb(get_peft_model(Layers().double(), config), spread=0.5)


def deltas(model: nn.Module) -> dict[str, torch.Tensor]:
    """The dense update of every module, `(in, out)`."""
    return {name: layer.get_delta_weight("default").T for name, layer in model.base_model.layers_with("default")}


@pytest.mark.parametrize("base", [nn.Linear(12, 20), Conv1D(20, 12), nn.Embedding(12, 20)])
@each("takes_embeddings")
def test_forward_is_the_dense_formula(config_cls: Method, base: nn.Module) -> None:
    torch.manual_seed(0)
    config = config_cls(target_modules=["0"], init_weights=False)
    model = get_peft_model(nn.Sequential(base).double(), config)
    layer = model.base_model.model[0]
    left, right = layer.factors("default")
    delta = config.update_scale * left @ right
    x = torch.randint(12, (2, 3)) if isinstance(base, nn.Embedding) else torch.randn(2, 3, 12, dtype=torch.float64)
    rows = nn.functional.one_hot(x, 12).double() if isinstance(base, nn.Embedding) else x
    expected = base(x) + rows @ delta
    torch.testing.assert_close(model(x), expected)
    stored = layer.get_delta_weight("default")
    torch.testing.assert_close(stored.T if isinstance(base, nn.Linear) else stored, delta)
    torch.testing.assert_close(model.merge_and_unload()(x), expected)


@each("takes_embeddings")
def test_the_update_of_an_embedding_starts_as_large_whatever_its_number_of_rows(config_cls: Method) -> None:
    def start(base: nn.Module) -> torch.Tensor:
        torch.manual_seed(0)
        model = get_peft_model(nn.Sequential(base), config_cls(target_modules=["0"], init_weights=False))
        return model.base_model.model[0].get_delta_weight("default")

    config = config_cls()
    # A block of MELoRA has its own inputs, and NeuronLoRA reads some alone.
    added_up = getattr(config, "neurons", 48) / getattr(config, "n", 1)
    expected = start(nn.Linear(48, 20)).T * added_up**0.5
    torch.testing.assert_close(start(nn.Embedding(48, 20)), expected)


@given(rows=SIZES, cols=SIZES, rank=st.integers(1, 4))
def test_tt_lora_is_a_train(rows: int, cols: int, rank: int) -> None:
    config = TTLoraConfig(target_modules=["0"], tt_rank=rank, alpha=3.0, init_weights=False)
    layer = get_peft_model(nn.Sequential(nn.Linear(rows, cols)).double(), config).base_model.model[0]
    cores = [core.detach() for core in layer.networks["default"].delta.cores]
    dense = TensorTrain(cores).full().reshape(rows, cols)
    torch.testing.assert_close(layer.get_delta_weight("default").T, 3 * dense)


@given(rows=SIZES, cols=SIZES, r=st.integers(1, 3), n=st.integers(1, 5))
def test_melora_is_block_diagonal(rows: int, cols: int, r: int, n: int) -> None:
    config = MeloraConfig(target_modules=["0"], r=r, n=n, alpha=r, init_weights=False)
    model = get_peft_model(nn.Sequential(nn.Linear(rows, cols)).double(), config)
    layer = model.base_model.model[0]
    a, b = layer.networks["default"].A, layer.networks["default"].B
    assert a.numel() + b.numel() == r * (rows + cols)
    delta = layer.get_delta_weight("default").T
    blocks = min(n, rows, cols)
    row_parts = torch.tensor_split(torch.arange(rows), blocks)
    col_parts = torch.tensor_split(torch.arange(cols), blocks)
    expected = torch.zeros(rows, cols, dtype=torch.float64)
    for row, col in zip(row_parts, col_parts, strict=True):
        expected[row[0] : row[-1] + 1, col[0] : col[-1] + 1] = a[row] @ b[:, col]
    torch.testing.assert_close(delta, expected)


def test_melora_reaches_n_times_the_rank() -> None:
    config = MeloraConfig(target_modules=["0"], r=2, n=4, init_weights=False)
    layer = get_peft_model(nn.Sequential(nn.Linear(32, 24)).double(), config).base_model.model[0]
    assert torch.linalg.matrix_rank(layer.get_delta_weight("default")) == 8


def test_lotr_is_tucker_2() -> None:
    model = adapted(LotrConfig(r=3, alpha=6, target_modules=["q", "o", "v"]))
    for name, layer in model.base_model.layers_with("default"):
        view = layer.networks["default"]
        expected = 2 * torch.einsum("ia,ab,bj->ij", view.shared.U, view.core, view.shared.V)
        torch.testing.assert_close(deltas(model)[name], expected)


def test_lorta_is_a_cp_tensor() -> None:
    model = adapted(LortaConfig(r=3, alpha=6, target_modules=["q", "o", "v"]))
    model.base_model.layers_with("default")
    for name, layer in model.base_model.layers_with("default"):
        view, tensor = layer.networks["default"], layer.networks["default"].shared
        full = 2 * torch.einsum(
            "ir,hr,jr,lr,pr->lpihj", tensor.inputs, tensor.heads, tensor.outputs, tensor.layers, tensor.projections
        )
        expected = full[view.layer, view.projection].reshape(layer.in_features, layer.out_features)
        torch.testing.assert_close(deltas(model)[name], expected)


@pytest.mark.parametrize("num_tasks", [None, 3])
def test_metatt_is_a_train_over_the_model(num_tasks: int | None) -> None:
    model = adapted(MetaTTConfig(r=3, alpha=6, num_tasks=num_tasks, target_modules=["q", "o", "v"]))
    for task in range(num_tasks or 1):
        set_task(model, task)
        for name, layer in model.base_model.layers_with("default"):
            view, train = layer.networks["default"], layer.networks["default"].shared
            cores = [train.inputs[None], train.layers.permute(1, 0, 2), train.projections.permute(1, 0, 2)]
            if num_tasks:
                cores.append(train.tasks.permute(1, 0, 2))
            full = TensorTrain([core.detach() for core in [*cores, train.outputs[:, :, None]]]).full()
            place = (view.layer, view.projection) + ((task,) if num_tasks else ())
            expected = 2 * full[(slice(None), *place)]
            torch.testing.assert_close(deltas(model)[name], expected)


def test_tasks_of_metatt_are_told_apart_and_remembered(tmp_path: object) -> None:
    base = Layers()
    x = torch.randn(2, 12)
    model = perturb(get_peft_model(base, MetaTTConfig(num_tasks=2, target_modules=["q"])))
    first = model(x)
    set_task(model, 1)
    second = model(x)
    assert not torch.allclose(first, second)
    assert model.peft_config["default"].task == 1
    with pytest.raises(TTValueError, match="task is 2; expected an integer from 0 to 1"):
        set_task(model, 2)
    with pytest.raises(TTValueError, match="no MetaTT adapter of that name"):
        set_task(model, 0, "other")
    model.merge_adapter()
    with pytest.raises(TTValueError, match="is merged with the task in use; call `unmerge_adapter"):
        set_task(model, 0)


@each("shares")
def test_modules_of_a_shape_share_and_others_do_not(config_cls: Method) -> None:
    model = get_peft_model(Layers(), config_cls(target_modules=["q", "o", "v"]))
    groups: dict[tuple[int, ...], list[SharedView]] = {}
    for _, layer in model.base_model.layers_with("default"):
        view = layer.networks["default"]
        groups.setdefault(view.shape(layer.in_features, layer.out_features, layer.fan_in), []).append(view)
    # The last projection has another number of outputs, which is nothing to a method that only knows inputs.
    assert len(groups) == (1 if config_cls.turns else 2)
    assert len({id(view.shared) for views in groups.values() for view in views}) == len(groups)
    for views in groups.values():
        assert len({id(view.shared) for view in views}) == 1
        projections = len({view.projection for view in views})
        assert sorted((view.layer, view.projection) for view in views) == list(product(range(2), range(projections)))
    saved = [key for key in model.state_dict() if ".common." in key]
    assert len(saved) == len(set(saved)) == sum(len(list(views[0].shared.parameters())) for views in groups.values())


@each("shares")
def test_every_adapter_shares_within_itself(config_cls: Method) -> None:
    model = get_peft_model(models.llama(), config_cls(), adapter_name="one")
    model.add_adapter("two", config_cls())
    shared = {
        adapter: {id(layer.networks[adapter].shared) for _, layer in model.base_model.layers_with(adapter)}
        for adapter in ("one", "two")
    }
    assert shared["one"].isdisjoint(shared["two"])
    model.delete_adapter("one")
    model.set_adapter("two")
    assert all(p.requires_grad for n, p in model.named_parameters() if "_network.two." in n)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("encoder.layer.3.attention.self.query", ("encoder.layer.3", "attention.self.query")),
        ("decoder.block.11.layer.1.EncDecAttention.q", ("decoder.block.11", "layer.1.EncDecAttention.q")),
        ("0", ("", "0")),
        ("lin0", ("", "lin0")),
    ],
)
def test_places_in_a_model(name: str, expected: tuple[str, str]) -> None:
    assert place(name) == expected
