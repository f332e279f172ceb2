"""Pretrained models with trains: made, saved and loaded."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from tests.ttnet_llm import models
from tests.ttnet_llm.models import IDS, logits
from tests.ttnet_llm.tiny import rows, save_model
from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet.nn import TTEmbedding, TTLinear, TTWeight
from ttnet_llm import LorettaRepConfig, load_tensorized
from ttnet_llm.cli import app
from ttnet_llm.tensorize import record, save_tensorized, tensorize
from ttnet_llm.tensorize.loading import load_dense
from ttnet_llm.tensorize.report import draw_report


def tied_llama(seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    return tf.LlamaForCausalLM(tf.LlamaConfig(**models.DECODER | changes, tie_word_embeddings=True)).eval()


def gemma() -> nn.Module:
    """Its table multiplies the rows by the root of their size, which its tied head does not."""
    torch.manual_seed(0)
    changes = {"head_dim": 8, "num_key_value_heads": 2}
    return tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**models.DECODER | changes)).eval()


def bart() -> nn.Module:
    """One scaled table for encoder, decoder and head."""
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return tf.BartForConditionalGeneration(tf.BartConfig(**sizes, **heads, vocab_size=99, scale_embedding=True)).eval()


def masked_bert() -> nn.Module:
    torch.manual_seed(0)
    return tf.BertForMaskedLM(tf.BertConfig(**models.ENCODER)).eval()


def shrink(model: nn.Module, targets: Any, **options: Any) -> Any:
    options = options or {"ratio": 0.6}
    return tensorize(model, targets=targets, progress=False, **options)


CASES = [
    (models.bert, ["intermediate.dense", "word_embeddings"]),
    (models.bert, r"bert\.encoder\.layer\.0\..*\.dense"),
    (models.gpt2, ["c_fc", "c_proj", "wte"]),
    (models.llama, "all-linear"),
    (models.llama, ["embed_tokens", "lm_head"]),
    (tied_llama, ["embed_tokens", "down_proj"]),
    (tied_llama, ["lm_head"]),
    (masked_bert, ["word_embeddings", "query"]),
    (models.t5, ["shared", "wi", "wo"]),
    (gemma, ["embed_tokens", "up_proj"]),
    (bart, ["shared", "fc1"]),
]


@pytest.mark.parametrize(("make", "targets"), CASES)
def test_models_come_back_as_they_were_saved(make: Callable[[], nn.Module], targets: Any, tmp_path: Path) -> None:
    model = make()
    dense_size = sum(p.numel() for p in model.parameters())
    report = shrink(model, targets)
    assert report.parameters <= 0.6 * report.dense_parameters
    assert report.model_parameters == (dense_size, sum(p.numel() for p in model.parameters()))
    expected = logits(model)
    for folder, save in (("a", save_tensorized), ("b", lambda m, p: m.save_pretrained(p))):
        save(model, tmp_path / folder)
        for loaded in (load_tensorized(tmp_path / folder), type(model).from_pretrained(tmp_path / folder)):
            torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=0)
            assert {n for n, _ in loaded.named_parameters()} == {n for n, _ in model.named_parameters()}
            assert not any(p.is_meta for p in loaded.parameters())
            assert not loaded.is_quantized
            loaded.tie_weights()
            torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=0)
        model = loaded  # and once more


def test_the_weights_are_read_into_cores_and_nothing_dense_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tied_llama(vocab_size=4096, hidden_size=32)
    shrink(model, ["embed_tokens"], ratio=0.1)
    save_tensorized(model, tmp_path / "x")
    dense = 4096 * 32
    assert max(t.numel() for t in load_file(tmp_path / "x" / "model.safetensors").values()) < dense / 2
    sizes: list[int] = []
    for name in ("empty", "empty_like", "zeros", "randn"):
        make = getattr(torch, name)

        def noted(*args: Any, make: Any = make, **kwargs: Any) -> Any:
            made = make(*args, **kwargs)
            if not made.is_meta:
                sizes.append(made.numel())
            return made

        monkeypatch.setattr(torch, name, noted)
    loaded = load_tensorized(tmp_path / "x")
    assert max(sizes, default=0) < dense / 2
    assert max(p.numel() for p in loaded.parameters()) < dense / 2


@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForSequenceClassification", "AutoModelForMaskedLM"])
def test_auto_classes_put_trains_where_their_model_has_them(auto: str, tmp_path: Path) -> None:
    model = models.bert()
    shrink(model, ["intermediate.dense", "word_embeddings"])
    save_tensorized(model, tmp_path / "whole")
    save_tensorized(record(model.bert), tmp_path / "part")
    body = model.bert(IDS).last_hidden_state
    for folder in ("whole", "part"):
        loaded = getattr(tf, auto).from_pretrained(tmp_path / folder)
        encoder = loaded if auto == "AutoModel" else loaded.bert
        assert isinstance(encoder.embeddings.word_embeddings, TTEmbedding)
        torch.testing.assert_close(encoder(IDS).last_hidden_state, body)
        if auto == "AutoModelForMaskedLM":
            decoder = loaded.get_output_embeddings()
            assert decoder.tt is encoder.embeddings.word_embeddings.tt
            assert decoder.bias is loaded.cls.predictions.bias


@pytest.mark.parametrize(
    ("make", "target", "cls"),
    [
        (bart, "model.shared", tf.AutoModel),
        (bart, "model.shared", tf.BartForSequenceClassification),
        (models.t5, "shared", tf.AutoModel),
        (models.t5, "shared", tf.T5ForSequenceClassification),
        (models.t5, "shared", tf.T5EncoderModel),
    ],
)
def test_shared_tables_under_the_names_of_another_class(
    make: Callable[[], nn.Module], target: str, cls: Any, tmp_path: Path
) -> None:
    model = make()
    shrink(model, [target])
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    assert not any(p.is_meta for p in loaded.parameters())
    for part in ("get_encoder", "get_decoder") if cls is not tf.T5EncoderModel else ("get_encoder",):
        saved, found = getattr(model, part)(), getattr(loaded, part)()
        assert found.embed_tokens is loaded.get_input_embeddings()
        with torch.no_grad():
            expected = saved(IDS).last_hidden_state
            torch.testing.assert_close(found(IDS).last_hidden_state, expected, rtol=0, atol=0)


def test_tables_and_heads_that_the_saved_model_had_not_share_its_train(tmp_path: Path) -> None:
    whole = models.t5()
    encoder = tf.T5EncoderModel(whole.config).eval()
    shrink(encoder, ["shared"])
    encoder.save_pretrained(tmp_path)
    loaded = tf.T5ForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.decoder.embed_tokens is loaded.encoder.embed_tokens is loaded.shared
    assert isinstance(loaded.lm_head, TTLinear)
    assert loaded.lm_head.tt is loaded.shared.tt
    assert loaded.lm_head.weight.shape == whole.lm_head.weight.shape
    with torch.no_grad():
        assert loaded(input_ids=IDS, decoder_input_ids=IDS).logits.isfinite().all()


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = tied_llama()
    (row,) = shrink(model, ["embed_tokens"]).layers
    assert row.tied == ("lm_head",)
    save_tensorized(model, tmp_path / "x")
    assert not any(key.startswith("lm_head") for key in load_file(tmp_path / "x" / "model.safetensors"))
    for each in (model, load_tensorized(tmp_path / "x")):
        assert each.lm_head.tt is each.model.embed_tokens.tt
        torch.testing.assert_close(each.lm_head.weight, each.model.embed_tokens.weight)
        before = logits(each)
        with torch.no_grad():
            each.lm_head.cores[0].mul_(2)
        assert not torch.allclose(logits(each), before)


@pytest.mark.parametrize("make", [gemma, bart])
def test_scaled_tables_stay_scaled_and_their_heads_are_not(make: Callable[[], nn.Module]) -> None:
    model = make()
    dense = model.get_input_embeddings()
    shrink(model, ["embed_tokens" if make is gemma else "shared"], ratio=0.9)
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert float(table.embed_scale) == pytest.approx(float(dense.embed_scale)) != 1
    torch.testing.assert_close(table(IDS), float(dense.embed_scale) * nn.functional.embedding(IDS, head.weight))
    assert head.tt is table.tt


def put_back(model: nn.Module, names: list[str]) -> None:
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, model.get_submodule(name).to_dense())


def trains(model: nn.Module) -> list[str]:
    kinds = (TTLinear, TTEmbedding)
    return [name for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, kinds)]


@pytest.mark.parametrize("make", [models.bert, tied_llama])
@pytest.mark.parametrize("save", ["save_pretrained", "record"])
def test_models_that_are_dense_again_are_saved_as_such(make: Any, save: str, tmp_path: Path) -> None:
    model = make()
    shrink(model, ["word_embeddings", "query"] if make is models.bert else ["embed_tokens", "up_proj"])
    put_back(model, trains(model))
    expected = logits(model)
    if save == "record":
        assert not hasattr(record(model).config, "quantization_config")
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert not trains(loaded)
    assert not hasattr(loaded.config, "quantization_config")
    torch.testing.assert_close(logits(loaded), expected)


def test_some_layers_are_dense_again(tmp_path: Path) -> None:
    model = models.bert()
    shrink(model, ["word_embeddings", "query"])
    put_back(model, [name for name in trains(model) if name.endswith("query")])
    model.save_pretrained(tmp_path)
    loaded = load_tensorized(tmp_path)
    assert trains(loaded) == trains(model) == ["bert.embeddings.word_embeddings"]
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)


def test_tables_that_are_dense_again_are_not_scaled_twice(tmp_path: Path) -> None:
    model = gemma()
    dense = model.get_input_embeddings()
    shrink(model, ["embed_tokens"])
    expected = logits(model)
    weight = model.get_input_embeddings().weight.detach()
    put_back(model, trains(model))
    with pytest.raises(
        TTTypeError, match=r"'model\.embed_tokens' is a dense table again, but no longer multiplies its"
    ):
        record(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(TTFileError, match=r"holds the table 'model\.embed_tokens' dense, which its config names as a"):
        load_tensorized(tmp_path)
    with torch.no_grad():
        dense.weight.copy_(weight)
    model.set_input_embeddings(dense)
    record(model).save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert not trains(loaded)
    torch.testing.assert_close(logits(loaded), expected)


def test_dtypes_and_modes_survive(tmp_path: Path) -> None:
    model = models.llama().to(torch.bfloat16)
    model.model.layers[0].mlp.up_proj.requires_grad_(False)
    model.train()
    shrink(model, ["up_proj"])
    assert model.model.layers[0].mlp.up_proj.training
    assert [layer.mlp.up_proj.cores[0].requires_grad for layer in model.model.layers] == [False, True]
    model.eval()
    save_tensorized(model, tmp_path / "x")
    loaded = load_tensorized(tmp_path / "x", dtype="auto")
    assert loaded.model.layers[0].mlp.up_proj.cores[0].dtype == torch.bfloat16
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert load_tensorized(tmp_path / "x", dtype=torch.float32).lm_head.weight.dtype == torch.float32


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
    with pytest.raises(TTTypeError, match="is a TTLinear already"):
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


# --- what happens to files --------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = models.bert()
    shrink(model, ["intermediate.dense", "word_embeddings"])
    save_tensorized(model, tmp_path / "saved")
    return tmp_path / "saved"


def test_an_interrupted_save_leaves_the_old_folder_whole(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits(load_tensorized(saved))
    files = {file.name: file.read_bytes() for file in saved.iterdir()}
    other = models.bert(seed=1)
    shrink(other, ["query"])

    def stop(self: Any, folder: Path, **_: Any) -> None:
        (Path(folder) / "config.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tf.PreTrainedModel, "save_pretrained", stop)
        with pytest.raises(KeyboardInterrupt):
            save_tensorized(other, saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == files
    assert [file.name for file in saved.parent.iterdir()] == ["saved"]
    torch.testing.assert_close(logits(load_tensorized(saved)), expected)
    save_tensorized(other, saved)
    torch.testing.assert_close(logits(load_tensorized(saved)), logits(other))
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(TTFileError, match=r"holds 'notes.txt', which would be lost"):
        save_tensorized(other, saved)


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


KEY = "bert.encoder.layer.1.intermediate.dense.tt.cores.1"


@pytest.mark.parametrize(
    "load", [load_tensorized, tf.AutoModelForSequenceClassification.from_pretrained, tf.AutoModel.from_pretrained]
)
def test_a_damaged_checkpoint_names_the_core(saved: Path, load: Callable[[Path], Any]) -> None:
    change(saved, lambda tensors: tensors.update({KEY: tensors[KEY][:-1].clone()}))
    with pytest.raises(TTFileError, match=rf"holds '{KEY}' of shape \(\d+, 60, 1\); its config expects"):
        load(saved)
    change(saved, lambda tensors: tensors.pop(KEY))
    with pytest.raises(TTFileError, match=f"lacks '{KEY}', which its config names"):
        load(saved)


def test_other_damage_to_files(saved: Path, tmp_path: Path) -> None:
    config = json.loads((saved / "config.json").read_text())

    def write(edit: Callable[[dict[str, Any]], Any]) -> None:
        changed = json.loads(json.dumps(config))
        edit(changed)
        (saved / "config.json").write_text(json.dumps(changed))

    name = "bert.encoder.layer.1.intermediate.dense"
    write(lambda c: c["quantization_config"]["layers"][name].pop("ranks"))
    with pytest.raises(TTFileError, match=f"entry of '{name}' is damaged"):
        load_tensorized(saved)
    write(lambda c: c["quantization_config"]["layers"][name].update(modes=[[36], [61]]))
    with pytest.raises(TTFileError, match="is for a layer of 36x61, but the model has a Linear of 36x60"):
        load_tensorized(saved)
    layers = config["quantization_config"]["layers"]
    for changed, message in [
        (3, "layers of trains are 3; expected entries"),
        ([], r"layers of trains are \[\]; expected entries"),
        ({}, "has no layers; expected at least one"),
        ({name: 3}, f"entry of '{name}' is damaged .it is 3"),
        ({name: layers[name] | {"kind": "tensor"}}, "its kind is 'tensor', none of linear, embedding"),
        ({name: layers[name] | {"kind": "embedding", "padding_idx": None}}, "kind 'embedding', but the model has a L"),
        ({name: {"kind": "linear", "tied_to": "x"}}, "is tied to 'x', which has no train of its own"),
        ({name: {"kind": "linear", "tied_to": name}}, "which has no train of its own"),
        ({name: {"kind": "linear", "tied_to": [1]}}, "which has no train of its own"),
    ]:
        write(lambda c, changed=changed: c["quantization_config"].update(layers=changed))
        with pytest.raises(TTFileError, match=message):
            load_tensorized(saved)
    write(lambda c: c["quantization_config"].update(version=7))
    with pytest.raises(TTFileError, match="is of format 7"):
        load_tensorized(saved)
    write(lambda c: c["quantization_config"].update(layers={"other": c["quantization_config"]["layers"][name]}))
    with pytest.raises(TTFileError, match="None of the layers that the config names"):
        load_tensorized(saved)
    write(lambda c: c.update(architectures=["Nothing"]))
    with pytest.raises(TTTypeError, match=r"is of the class \['Nothing'\]"):
        load_tensorized(saved)
    write(lambda c: None)
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(TTFileError, match="cannot be read"):
        load_tensorized(saved)
    models.bert().save_pretrained(tmp_path / "dense")
    with pytest.raises(TTFileError, match="has no trains"):
        load_tensorized(tmp_path / "dense")
    with pytest.raises(TTFileError):
        load_tensorized(tmp_path / "nowhere")


# --- the command ------------------------------------------------------------------------------


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return result.exit_code, " ".join(result.output.split())


def test_the_command(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n\n".join(str(row["text"]) for row in rows(20)))
    arguments = ("tensorize", "--model", tmp_path / "model", "--output", tmp_path / "small")
    code, output = run(
        *arguments, "--ratio", 0.5, "--calibration", tmp_path / "text.txt", "--picture", tmp_path / "a.png"
    )
    assert code == 0, output
    assert "0.intermediate.dense" in output
    assert "output error" in output
    assert (tmp_path / "a.png").is_file()
    loaded = load_tensorized(tmp_path / "small")
    assert any(isinstance(module, TTWeight) for module in loaded.modules())
    assert json.loads((tmp_path / "small" / "tensorize.json").read_text())["layers"]
    assert tf.AutoTokenizer.from_pretrained(tmp_path / "small").tokenize("the film") == ["the", "film"]
    code, output = run(*arguments, "--budget", 2000, "--target", "query", "--layout", "interleaved")
    assert code == 0, output
    assert (tmp_path / "small" / "tensorize.png").is_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        code, output = run(*arguments, "--budget", 2000, "--target", "query")
    assert code == 0, output
    assert "Not drawn: This needs the package 'matplotlib'" in output
    for options, message in [
        ((), "none of them given"),
        (("--ratio", 0.5, "--target", "qery"), "did you mean 'query'"),
        (("--ratio", 0.5, "--picture", "a.txt"), "expected a png"),
        (("--ratio", 0.5, "--calibration", tmp_path / "none.txt"), "There is no file"),
        (("--ratio", 0.5, "--calibration", tmp_path / "text.txt", "--lines", 0), "lines is 0"),
        (("--ratio", 0.5, "--model", tmp_path / "small", "--output", tmp_path / "new"), "has trains already"),
    ]:
        code, output = run(*arguments, *options)
        assert code == 1
        assert message in output
    assert not (tmp_path / "new").exists()


def test_the_command_looks_at_its_output_before_it_does_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "model")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "file").write_text("mine")
    calls: list[str] = []
    monkeypatch.setattr(tf.BertModel, "from_pretrained", lambda name: calls.append(name))
    for name, message in [
        ("other", "holds 'notes.txt', which would be lost"),
        ("file", "is a file; name a folder"),
        ("model", "the folder of --model, which would be replaced; name another folder"),
        ("link", "the folder of --model, which would be replaced; name another folder"),
    ]:
        code, output = run("tensorize", "--model", tmp_path / "model", "--output", tmp_path / name, "--ratio", 0.5)
        assert code == 1
        assert message in output
    assert not calls
    assert {file.name for file in tmp_path.iterdir()} == {"model", "other", "link", "file"}


@pytest.mark.parametrize("make", [models.bert, models.gpt2])
def test_the_command_takes_no_tokenizer_for_one_that_knows_no_words(make: Any, tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("the film was good\n")
    arguments = ("tensorize", "--model", tmp_path / "model", "--output", tmp_path / "small", "--ratio", 0.5)
    code, output = run(*arguments, "--calibration", tmp_path / "text.txt")
    assert code == 1
    assert "has no tokenizer that can be loaded; calibrate in Python" in output
    assert not (tmp_path / "small").exists()
    target = "query" if make is models.bert else "c_fc"
    code, output = run(*arguments, "--target", target, "--picture", tmp_path / "a.png")
    assert code == 0, output
    assert "it has no tokenizer that can be loaded" in output
    assert not list((tmp_path / "small").glob("tokenizer*"))


def test_tokenizers_of_bytes_have_no_vocabulary_to_store(tmp_path: Path) -> None:
    models.t5().save_pretrained(tmp_path)
    tf.ByT5Tokenizer().save_pretrained(tmp_path)
    assert isinstance(load_dense(str(tmp_path))[1], tf.ByT5Tokenizer)
