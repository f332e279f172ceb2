"""Pretrained models whose layers become trains: how far, at what cost, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import IDS, logits
from tests.ttnet_llm.tensorized import shrink, tied_llama
from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import TTLinear
from ttnet_llm import LorettaRepConfig, load_tensorized
from ttnet_llm.tensorize import save_tensorized, tensorize
from ttnet_llm.tensorize.report import draw_report


def test_an_error_is_kept_by_every_layer() -> None:
    model = models.gpt2()
    dense = {n: m.weight.detach().clone() for n, m in model.named_modules() if n.endswith("c_fc")}
    with torch.no_grad():
        for name in dense:  # of low rank, so that a train is smaller
            weight = model.get_submodule(name).weight
            weight.copy_(weight[:, :6] @ weight[:6])
            dense[name] = weight.clone()
    report = shrink(model, ["c_fc"], eps=0.3)
    for layer in report.layers:
        made = model.get_submodule(layer.name)
        assert isinstance(made, TTLinear)
        error = float((made.weight.mT - dense[layer.name]).norm() / dense[layer.name].norm())
        assert error <= 0.3
        assert layer.weight_error == pytest.approx(error, rel=1e-3)


def test_parameters_go_where_they_are_needed() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(32, 2) @ torch.randn(2, 32))
    report = shrink(model, ["0", "1"], ratio=0.6)
    low, full = report.layers
    assert low.ranks == (1, 2, 1)
    assert low.weight_error < 1e-5
    assert full.parameters > 4 * low.parameters
    assert report.parameters <= 0.6 * 2048


def test_a_layer_that_a_train_would_not_make_smaller_stays_dense() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(32, 1) @ torch.randn(1, 32))
    report = shrink(model, ["0", "1"], ratio=1.0)
    assert isinstance(model[0], TTLinear)
    assert type(model[1]) is nn.Linear
    assert "dense" in str(report)
    assert report.layers[1].ranks == ()
    assert report.layers[1].ratio == 1.0
    report = shrink(nn.Sequential(nn.Linear(32, 32)), ["0"], eps=1e-6)
    assert report.layers[0].layout is None


def test_calibration_lowers_the_error_of_the_output() -> None:
    torch.manual_seed(0)
    mixing = torch.randn(48, 48) * 0.8 ** torch.arange(48)
    make = lambda: nn.Sequential(nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 48))  # noqa: E731
    plain, fitted = make(), make()
    fitted.load_state_dict(plain.state_dict())
    dense = make()
    dense.load_state_dict(plain.state_dict())
    batches = [torch.randn(50, 48) @ mixing.mT for _ in range(4)]
    held_out = torch.randn(500, 48) @ mixing.mT
    shrink(plain, ["0", "2"], ratio=0.4)
    report = shrink(fitted, ["0", "2"], ratio=0.4, calibration=batches)
    assert all(layer.output_error is not None for layer in report.layers)
    wrong = [float((model(held_out) - dense(held_out)).norm()) for model in (plain, fitted)]
    assert wrong[1] < 0.6 * wrong[0]
    inputs = torch.cat(batches)
    first = dense[0](inputs) - dense[0].bias
    error = float((fitted[0](inputs) - dense[0](inputs)).norm() / first.norm())
    assert report.layers[0].output_error == pytest.approx(error, rel=1e-3)


def test_masked_tokens_do_not_count() -> None:
    results = []
    for ids in (IDS, torch.where(torch.arange(6) < 4, IDS, 9)):
        model = models.bert()
        mask = (torch.arange(6) < 4).long().expand_as(IDS)
        batch = {"input_ids": ids, "attention_mask": mask}
        results.append(shrink(model, ["intermediate.dense"], ratio=0.5, calibration=[batch]).layers[0].output_error)
    assert results[0] == pytest.approx(results[1])


def test_rows_of_tables_count_by_how_often_they_occur() -> None:
    plain, fitted, masked = models.bert(), models.bert(), models.bert()
    table = plain.bert.embeddings.word_embeddings
    ids = torch.randint(8, (4, 6))  # of a larger vocabulary
    mask = torch.ones_like(ids)
    mask[:, 3:] = 0
    names = ["word_embeddings", "query"]
    shrink(plain, names, ratio=0.3)
    report = shrink(fitted, names, ratio=0.3, calibration=[{"input_ids": ids}])
    row = next(layer for layer in report.layers if layer.name.endswith("word_embeddings"))
    wrong = [
        float((model.bert.embeddings.word_embeddings(ids) - table(ids)).norm() / table(ids).norm())
        for model in (plain, fitted)
    ]
    assert wrong[1] < 0.8 * wrong[0]
    assert row.output_error == pytest.approx(wrong[1], rel=1e-3)
    assert row.layout is not None
    assert row.layout.row_modes == (table.num_embeddings,)
    report = shrink(masked, names, ratio=0.3, calibration=[{"input_ids": ids, "attention_mask": mask}])
    kept = ids[:, :3]
    error = float((masked.bert.embeddings.word_embeddings(kept) - table(kept)).norm() / table(kept).norm())
    assert report.layers[0].output_error == pytest.approx(error, rel=1e-3)


def test_tables_that_calibration_does_not_fit_go_by_their_weight() -> None:
    model = models.bert()
    batch = {"inputs_embeds": torch.randn(2, 6, model.config.hidden_size)}
    report = shrink(model, ["word_embeddings", "query"], ratio=0.5, calibration=[batch])
    assert report.layers[0].output_error is None
    for make, options in ((tied_llama, {}), (models.llama, {"layout": "interleaved"})):
        report = shrink(make(), ["embed_tokens"], ratio=0.5, calibration=[IDS], **options)
        assert report.layers[0].output_error is None


@pytest.mark.usefixtures("whole_pictures")
def test_the_report_is_plain_values_and_a_picture(tmp_path: Path) -> None:
    report = shrink(models.bert(), ["query", "value"], ratio=0.5, calibration=[{"input_ids": IDS}])
    found = json.loads(report.to_json())
    assert found["parameters"] == sum(layer["parameters"] for layer in found["layers"])
    assert found["layers"][0]["ranks"][0] == 1
    assert report.layers[0].name in str(report)
    draw_report(report.layers, tmp_path / "a.png", title="T")
    assert (tmp_path / "a.png").stat().st_size > 10_000
    with pytest.raises(TTValueError, match="nothing to draw"):
        draw_report([], tmp_path / "b.png", title="T")


# --- what is refused --------------------------------------------------------------------------


class Scaled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


NAN = {"input_ids": IDS, "attention_mask": torch.full(IDS.shape, float("nan"))}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"targets": ["qery"]}, TTValueError, "names 'qery', which matches no module. .*did you mean 'query'"),
        ({"targets": ["query", "nothing"]}, TTValueError, "names 'nothing', which matches no module"),
        ({"targets": []}, TTValueError, "targets is empty"),
        ({"targets": 3}, TTTypeError, "targets is 3; expected"),
        ({"targets": "("}, TTValueError, "no regular expression"),
        ({"targets": "nothing"}, TTValueError, "targets is 'nothing', which matches no module"),
        ({"targets": ["LayerNorm"]}, TTTypeError, "which is a LayerNorm; expected layers"),
        ({"ratio": None}, TTValueError, "none of them given; expected exactly one of eps, ratio and budget"),
        ({"eps": 0.1}, TTValueError, "eps and ratio given"),
        ({"ratio": 0}, TTValueError, "ratio is 0; expected a number above 0"),
        ({"ratio": "1"}, TTTypeError, "ratio is '1'"),
        ({"ratio": None, "budget": 1.5}, TTTypeError, "budget is 1.5"),
        ({"ratio": None, "budget": 0}, TTValueError, "budget is 0"),
        ({"ratio": None, "budget": 3}, TTValueError, "budget is 3; expected at least"),
        ({"ratio": None, "eps": -1}, TTValueError, "eps is -1"),
        ({"layout": "crossed"}, TTValueError, "layout is 'crossed'"),
        ({"calibration": 3}, TTTypeError, "calibration is a int"),
        ({"calibration": []}, TTValueError, "calibration holds no batches"),
        ({"calibration": ["text"]}, TTTypeError, "calibration holds a str"),
        ({"calibration": [NAN]}, TTValueError, "calibration holds NaN in batch 1"),
        ({"targets": ["query", "classifier"], "calibration": [IDS], "spoil": "value.bias"}, TTValueError, "NaN"),
        ({"spoil": "query.weight"}, TTValueError, r"weight of '.*query' holds NaN or infinite"),
    ],
)
def test_bad_arguments_change_nothing(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = models.bert().train()
    spoil = options.pop("spoil", None)
    if spoil:
        with torch.no_grad():
            model.get_parameter(f"bert.encoder.layer.0.attention.self.{spoil}")[0] = torch.nan
    before = {name: type(module) for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error, match=message):
        tensorize(model, **{"targets": ["query"], "ratio": 0.5, "progress": False} | options)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert all(torch.equal(value, state[key]) or value.isnan().any() for key, value in model.state_dict().items())
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())
    assert not hasattr(model.config, "quantization_config")


class Wrapped(torch.Tensor):
    """As quantised and distributed weights are: a class of its own."""


def test_quantised_models_are_refused_before_anything_is_changed() -> None:
    model = models.llama()
    model.config.quantization_config = tf.BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(TTTypeError, match=r"model is quantised \(bitsandbytes\), and its config has one entry"):
        shrink(model, ["q_proj"])
    assert not any(isinstance(module, TTLinear) for module in model.modules())
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Wrapped))
    with pytest.raises(TTTypeError, match="names '0', whose weight is a Wrapped; expected a plain tensor"):
        shrink(nn.Sequential(layer), ["0"])
    with pytest.raises(TTTypeError, match=r"the weight of layer is a .*; expected a plain tensor"):
        TTLinear.from_linear(layer, ratio=0.5)


def test_trains_stay_beside_quantised_layers() -> None:
    model = models.llama()
    shrink(model, ["up_proj"])
    expected = logits(model)
    for layer in model.model.layers:
        dense = layer.mlp.down_proj
        weight = torch.quantize_per_tensor(dense.weight.detach(), float(dense.weight.abs().max()) / 127, 0, torch.qint8)
        layer.mlp.down_proj = torch.ao.nn.quantized.dynamic.Linear(dense.in_features, dense.out_features)
        layer.mlp.down_proj.set_weight_bias(weight, None)
    found = logits(model)
    assert 0 < float((found - expected).norm() / expected.norm()) < 0.1
    report = shrink(model, ["gate_proj"])
    assert report.ratio <= 0.6


def test_keys_that_transformers_translates(tmp_path: Path) -> None:
    """A ViT's layers have other names in its checkpoints than in the model, but its pooler has the same."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = tf.ViTModel(tf.ViTConfig(**sizes, image_size=32, patch_size=8)).eval()
    x = torch.randn(2, 3, 32, 32)
    shrink(model, "all-linear")
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load_tensorized(tmp_path)(x).pooler_output, model(x).pooler_output, rtol=0, atol=0)


def test_other_things_that_are_refused(tmp_path: Path) -> None:
    from peft import get_peft_model

    with pytest.raises(TTTypeError, match="model is a str"):
        shrink("model", ["a"])  # type: ignore[arg-type]
    with pytest.raises(TTTypeError, match="has adapters already"):
        shrink(get_peft_model(models.llama(), LorettaRepConfig()), ["q_proj"])
    model = models.llama()
    shrink(model, ["q_proj"])
    with pytest.raises(TTTypeError, match="already a TTLinear"):
        shrink(model, ["q_proj"])
    with pytest.raises(TTTypeError, match="a Scaled that does more than Linear"):
        shrink(nn.Sequential(Scaled(4, 4)), ["0"])
    with pytest.raises(TTValueError, match="a table with max_norm"):
        shrink(nn.Sequential(nn.Embedding(8, 8, max_norm=1.0)), ["0"])
    with pytest.raises(TTValueError, match="on the meta device"):
        shrink(nn.Sequential(nn.Linear(4, 4, device="meta")), ["0"])
    lazy = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    lazy.forward = lambda x: lazy["a"](x)
    with pytest.raises(TTValueError, match="reaches 'b' with no input"):
        shrink(lazy, ["a", "b"], ratio=0.5, calibration=[torch.ones(2, 4)])
    two = nn.ModuleList([nn.Embedding(6, 4, padding_idx=0), nn.Embedding(6, 4)])
    two[1].weight = two[0].weight
    with pytest.raises(TTValueError, match="share a weight but not their padding_idx"):
        shrink(two, ["0"])
    with pytest.raises(TTValueError, match="has no trains; save it"):
        save_tensorized(models.bert(), tmp_path / "x")
    with pytest.raises(TTTypeError, match="model is a Linear"):
        save_tensorized(nn.Linear(2, 2), tmp_path / "x")  # type: ignore[arg-type]


def test_layers_are_left_out_by_name():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    report = tensorize(model, targets="all-linear", exclude=["1"], ratio=0.5, progress=False)
    assert [layer.name for layer in report.layers] == ["0", "2"]
    assert type(model[1]) is nn.Linear
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))
    report = tensorize(model, targets=["0", "1"], exclude=r"[12]", ratio=0.5, progress=False)
    assert [layer.name for layer in report.layers] == ["0"]
    with pytest.raises(TTValueError, match=r"exclude names 'x', which matches no module"):
        tensorize(model, targets=["1"], exclude=["x"], ratio=0.5, progress=False)
    with pytest.raises(TTValueError, match=r"exclude is \['1'\], which leaves nothing of targets \['1'\]"):
        tensorize(model, targets=["1"], exclude=["1"], ratio=0.5, progress=False)
    with pytest.raises(TTTypeError, match=r"targets names '0', already a TTLinear; name it in exclude"):
        tensorize(model, targets=r"\d", ratio=0.5, progress=False)
    tensorize(model, targets=r"\d", exclude=["0"], ratio=0.5, progress=False)  # as the sentence says
