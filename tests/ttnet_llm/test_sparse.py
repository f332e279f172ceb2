"""Sparse weights, and which fine-tuning keeps their zeros."""

import copy
import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import HiraConfig, IA3Config, LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D
from typer.testing import CliRunner

from tests.ttnet_llm import models
from tests.ttnet_llm.tiny import rows, save_model
from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet_llm.command_line.cli import app
from ttnet_llm.sparse import InputSquares, sparse_mask, sparsify
from ttnet_llm.tensorize import tensorize

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def masks(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: layer.weight != 0 for name, layer in linear_layers(model).items()}


@given(st.integers(0, 5), st.integers(1, 24), st.floats(0, 0.999), st.booleans(), st.sampled_from(DTYPES))
def test_every_row_keeps_its_largest_scores(
    outs: int, ins: int, sparsity: float, weighed: bool, dtype: torch.dtype
) -> None:
    weight = torch.randn(outs, ins).to(dtype)
    squares = torch.rand(ins).double() if weighed else None
    mask = sparse_mask(weight, sparsity, input_squares=squares)
    scores = weight.double().abs() * (1 if squares is None else squares.sqrt())
    dropped = math.floor(ins * Fraction(str(sparsity)))
    for row, kept in zip(scores, mask, strict=True):
        assert int((~kept).sum()) == dropped
        if dropped:
            assert row[~kept].max() <= row[kept].min()


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 5), st.data())
def test_patterns_keep_n_of_every_m_neighbours(outs: int, groups: int, m: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, m - 1))
    weight = torch.randn(outs, groups * m)
    mask = sparse_mask(weight, f"{n}:{m}")
    for chosen, scores in zip(mask.reshape(-1, m), weight.abs().reshape(-1, m), strict=True):
        assert int(chosen.sum()) == n
        assert scores[~chosen].max() <= scores[chosen].min()


@pytest.mark.parametrize(
    ("width", "sparsity", "zeros"), [(100, 0.29, 29), (100, 0.57, 57), (50, 0.58, 29), (7, 0.5, 3)]
)
def test_a_share_is_meant_as_it_is_written(width: int, sparsity: float, zeros: int) -> None:
    assert int((~sparse_mask(torch.randn(2, width), sparsity)).sum()) == 2 * zeros


def test_layers_that_are_called_by_keyword_are_calibrated() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(input=x)

    x = torch.randn(9, 8) * torch.arange(1, 9)
    model = Model()
    mask = sparse_mask(model.layer.weight, 0.5, input_squares=x.double().square().mean(0))
    sparsify(model, 0.5, targets=["layer"], calibration=[x])
    assert torch.equal(model.layer.weight != 0, mask)


def test_of_equal_scores_as_many_are_kept_as_of_others() -> None:
    assert sparse_mask(torch.ones(3, 8), "2:4").reshape(-1, 4).sum(1).eq(2).all()
    assert sparse_mask(torch.zeros(3, 8), 0.5).sum(1).eq(4).all()


@given(st.integers(0, 2**31))
def test_wanda_loses_least_of_uncorrelated_outputs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 16, generator=generator, dtype=torch.float64)
    # Orthogonal inputs of unequal sizes, for which what is lost is exactly the sum of the scores' squares.
    basis = torch.linalg.qr(torch.randn(32, 16, generator=generator, dtype=torch.float64)).Q
    x = basis * torch.randn(16, generator=generator, dtype=torch.float64).exp()
    squares = InputSquares(16)
    squares.update(x)

    def lost(mask: torch.Tensor) -> torch.Tensor:
        return (x @ (weight * ~mask).T).square().sum()

    by_inputs = sparse_mask(weight, 0.5, input_squares=squares.mean())
    assert lost(by_inputs) <= lost(sparse_mask(weight, 0.5)) * (1 + 1e-12)
    model = nn.Sequential(nn.Linear(16, 6, bias=False, dtype=torch.float64))
    model[0].weight.data.copy_(weight)
    report = sparsify(model, 0.5, calibration=[x[:20], x[20:]])
    assert torch.equal(model[0].weight != 0, by_inputs)
    torch.testing.assert_close(
        report.layers[0].lost, float(lost(by_inputs) / (x @ weight.T).square().sum()), rtol=1e-9, atol=1e-12
    )


def test_what_is_kept_stays_as_it_was_and_thinning_twice_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 4))
    before = copy.deepcopy(model)
    report = sparsify(model, 0.5)
    for old, new in zip(before.parameters(), model.parameters(), strict=True):
        assert torch.equal(new[new != 0], old[new != 0])
    assert torch.equal(before[0].bias, model[0].bias)
    assert [layer.zeros for layer in report.layers] == [48, 16]
    assert report.sparsity == 0.5
    again = copy.deepcopy(model)
    assert all(layer.lost == 0 for layer in sparsify(again, 0.5).layers)
    for old, new in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(old, new)


def test_layers_of_gpt2_are_thinned_by_their_inputs() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Conv1D(6, 8)  # weight: (in, out) = (8, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    model, x = Model(), torch.randn(9, 8)
    weight = model.layer.weight.detach().clone()
    report = sparsify(model, "2:4", targets=["layer"], calibration=[x])
    mask = sparse_mask(weight.T, "2:4", input_squares=x.double().square().mean(0))
    assert torch.equal(model.layer.weight, weight * mask.T)
    assert report.layers[0].shape == (6, 8)


def test_tokens_of_padding_do_not_weigh() -> None:
    model = models.bert().eval()
    ids = torch.randint(5, 60, (2, 7))
    padded = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
    rubbish = {**padded, "input_ids": torch.where(padded["attention_mask"].bool(), ids, 1)}
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    sparsify(one, 0.5, calibration=[padded])
    sparsify(other, 0.5, calibration=[rubbish])
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_output_head_stays_dense_and_layers_that_share_a_weight_go_by_its_size() -> None:
    llama = models.llama()
    report = sparsify(llama, 0.5)
    assert not any("lm_head" in layer.name for layer in report.layers)
    assert int((llama.lm_head.weight == 0).sum()) < llama.lm_head.weight.numel() // 100

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x))

    model = Twice()
    mask = sparse_mask(model.one.weight, 0.5)
    sparsify(model, 0.5, targets=["one"], calibration=[torch.randn(4, 8) * torch.arange(1, 9)])
    assert torch.equal(model.one.weight != 0, mask)
    assert model.two.weight is model.one.weight


def test_errors_come_before_anything_changes() -> None:
    model = nn.Sequential(nn.Linear(12, 6), nn.Linear(6, 4))
    before = copy.deepcopy(model.state_dict())
    for sparsity in (1.0, -0.1, True, float("nan"), None, [0.5]):
        with pytest.raises(TTValueError, match=re.escape(f"sparsity is {sparsity!r}; expected a number in [0, 1)")):
            sparsify(model, sparsity)  # type: ignore[arg-type]
    for text in ("4:2", "2:2", "0:4", "half", "2:4:8", ""):
        with pytest.raises(TTValueError, match=r"expected a number in \[0, 1\), or 'n:m' with 0 < n < m"):
            sparsify(model, text)
    with pytest.raises(TTValueError, match="but 4 does not divide the 6 inputs of '1'; take another pattern"):
        sparsify(model, "2:4")
    with pytest.raises(TTTypeError, match="'e', which is a table, or shares its weight with one; expected linear"):
        sparsify(nn.ModuleDict({"e": nn.Embedding(4, 4)}), 0.5, targets=["e"])
    with pytest.raises(TTValueError, match="calibration holds no batches"):
        sparsify(model, 0.5, calibration=[])
    with pytest.raises(TTValueError, match=r"The inputs of '0': calibration holds NaN or infinite entries, 12 of 12"):
        sparsify(model, 0.5, calibration=[torch.full((1, 12), math.inf)])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model[1].weight.data[0, 0] = math.nan
    with pytest.raises(TTValueError, match="The weight of '1' holds NaN or infinite entries, 1 of 24"):
        sparsify(model, 0.5)
    assert torch.equal(before["0.weight"], model[0].weight)
    tensorised = nn.Sequential(nn.Linear(64, 64))
    tensorize(tensorised, targets=["0"], ratio=0.5, progress=False)
    with pytest.raises(TTTypeError, match="already a TTLinear"):
        sparsify(tensorised, 0.5, targets=["0"])
    weight = torch.ones(2, 4)
    for wrong, error, message in [
        (([[1.0]], 0.5), TTTypeError, "weight is a list; expected a tensor of a real floating dtype"),
        ((weight.int(), 0.5), TTTypeError, "weight is of dtype torch.int32"),
        ((weight[0], 0.5), TTShapeError, r"weight has shape \(4,\); expected \(out_features, in_features\)"),
        ((weight * math.nan, 0.5), TTValueError, "weight holds NaN or infinite entries, 8 of 8"),
    ]:
        with pytest.raises(error, match=message):
            sparse_mask(*wrong)  # type: ignore[arg-type]
    with pytest.raises(TTShapeError, match=r"input_squares is \(3,\); expected a tensor of shape \(4,\)"):
        sparse_mask(weight, 0.5, input_squares=torch.ones(3))
    with pytest.raises(TTShapeError, match="input_squares is list"):
        sparse_mask(weight, 0.5, input_squares=[1.0])  # type: ignore[arg-type]
    with pytest.raises(TTValueError, match="input_squares holds negative, NaN or infinite entries"):
        sparse_mask(weight, 0.5, input_squares=-torch.ones(4))


def test_hira_can_be_any_spp() -> None:
    """`W * (1 + s alpha_expanded * beta)` (arXiv:2405.16057) is a HiRA of the same rank, which has more parameters."""
    ins, outs, r, s = 12, 20, 4, 2.0
    layer = nn.Linear(ins, outs, dtype=torch.float64)
    sparsify(nn.Sequential(layer), 0.5)
    alpha = torch.randn(r, ins, dtype=torch.float64)
    beta = torch.randn(outs, 1, dtype=torch.float64)
    rows_of = torch.arange(outs) * r // outs
    expected = layer.weight.detach() * (1 + s * alpha[rows_of] * beta)
    model: Any = get_peft_model(nn.Sequential(copy.deepcopy(layer)), HiraConfig(r=r, target_modules=["0"]))
    hira = model.base_model.model[0]
    hira.hira_A["default"].data = alpha.clone()
    hira.hira_B["default"].data = s * beta * torch.eye(r, dtype=torch.float64)[rows_of]
    x = torch.randn(7, ins, dtype=torch.float64)
    torch.testing.assert_close(model(x), x @ expected.T + layer.bias, rtol=0, atol=1e-12)
    merged = model.merge_and_unload()[0].weight
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-12)
    assert torch.equal(merged != 0, layer.weight != 0)


def trained_and_merged(base: nn.Module, config: Any) -> nn.Module:
    torch.manual_seed(0)
    model: Any = get_peft_model(copy.deepcopy(base), config)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.randint(5, 60, (4, 9))
    for _ in range(5):
        optimiser.zero_grad()
        model(input_ids=ids, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
        optimiser.step()
    return model.merge_and_unload(safe_merge=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sparsity", [0.5, "2:4"])
def test_masks_survive_training_merging_and_saving_to_the_bit(
    sparsity: float | str, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = models.bert().to(dtype)
    sparsify(base, sparsity, exclude=["classifier"])
    wanted = masks(base)
    every = ["query", "key", "value", "dense"]
    hira = trained_and_merged(base, HiraConfig(r=4, target_modules=every, task_type="SEQ_CLS"))
    assert any(not torch.equal(a, b) for a, b in zip(base.parameters(), hira.parameters(), strict=True))
    hira.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=dtype)
    for (name, mask), (_, again) in zip(masks(hira).items(), masks(loaded).items(), strict=True):
        assert torch.equal(mask, again)
        if name != "classifier":
            assert torch.equal(mask, wanted[name]), name
    ia3 = IA3Config(target_modules=["query"], feedforward_modules=[], task_type="SEQ_CLS")
    kept = masks(trained_and_merged(base, ia3))
    assert all(torch.equal(kept[name], mask) for name, mask in wanted.items() if name != "classifier")
    lora = masks(trained_and_merged(base, LoraConfig(r=4, target_modules=["query"], task_type="SEQ_CLS")))
    filled = [mask.double().mean() for name, mask in lora.items() if name.endswith("query")]
    assert min(filled) > 0.9  # of which half were zeros


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


def test_the_commands(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n\n".join(str(row["text"]) for row in rows(20)))
    arguments = ("sparsify", tmp_path / "model", "--output", tmp_path / "sparse")
    code, output = run(*arguments, "--calibration", tmp_path / "text.txt")
    assert code == 0, output
    assert "50.0% of the weights of" in output
    assert "the similarity with the dense model is" in output
    sparse = AutoModel.from_pretrained(tmp_path / "sparse")
    for layer in linear_layers(sparse).values():
        assert (layer.weight.reshape(-1, 4) != 0).sum(1).le(2).all()
    assert json.loads((tmp_path / "sparse" / "sparsify.json").read_text())["sparsity"] == 0.5
    code, output = run(*arguments, "--sparsity", 0.25, "--json")
    assert code == 0, output
    assert json.loads(output)["sparsity"] == 0.25
    for options, message in [
        (("--sparsity", "many"), "--sparsity is 'many'; expected a number, or a pattern such as 2:4"),
        (("--sparsity", "1.5"), "sparsity is 1.5; expected a number in [0, 1)"),
        (("--target", "qery"), "did you mean 'query'"),
        (("--calibration", tmp_path / "none.txt"), "There is no file"),
    ]:
        code, output = run(*arguments, *options)
        assert code == 1
        assert message in output
    code, output = run("sparsify", tmp_path / "model", "--output", tmp_path / "model")
    assert code == 1

    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(f"{row['text']},{row['label']}" for row in rows(24)))
    for method in ("hira", "lora"):
        shared = (
            "--train",
            tmp_path / "train.csv",
            "--validation-share",
            0.25,
            "--epochs",
            3,
            "--batch-size",
            4,
            "--method",
            method,
        )
        code, output = run("finetune", tmp_path / "sparse", *shared, "--output", tmp_path / method)
        assert code == 0, output
        code, output = run("merge", tmp_path / method, "--output", tmp_path / f"{method}-merged")
        assert code == 0, output
        assert ("are left; an update that keeps them is that of finetune --method hira" in output) == (method == "lora")
    before = masks(AutoModelForSequenceClassification.from_pretrained(tmp_path / "sparse"))
    after = masks(AutoModelForSequenceClassification.from_pretrained(tmp_path / "hira-merged"))
    assert all(torch.equal(after[name], mask) for name, mask in before.items() if name != "classifier")
