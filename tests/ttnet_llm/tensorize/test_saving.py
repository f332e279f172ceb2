"""Pretrained models with trains: saved, loaded, and damaged on the way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import nn

from tests.ttnet_llm import models
from tests.ttnet_llm.models import IDS, logits
from tests.ttnet_llm.tensorized import bart, gemma, masked_bert, shrink, tied_llama
from ttnet.errors import TTFileError, TTTypeError
from ttnet.nn import TTEmbedding, TTLinear
from ttnet_llm import load_tensorized
from ttnet_llm.tensorize import record, save_tensorized

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
    assert max(t.numel() for t in load_file(tmp_path / "x" / "trains.safetensors").values()) < dense / 2
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
    assert not any(key.startswith("lm_head") for key in load_file(tmp_path / "x" / "trains.safetensors"))
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
    tensors = load_file(folder / "trains.safetensors")
    edit(tensors)
    save_file(tensors, folder / "trains.safetensors", metadata={"format": "pt"})


def test_weights_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.bert()
    shrink(model, ["intermediate.dense", "word_embeddings"])
    whole = tf.PreTrainedModel.save_pretrained
    monkeypatch.setattr(tf.PreTrainedModel, "save_pretrained", lambda *a, **k: whole(*a, **k, max_shard_size="20kB"))
    save_tensorized(model, tmp_path / "x")
    assert not list((tmp_path / "x").glob("model*"))
    assert len(list((tmp_path / "x").glob("trains-*.safetensors"))) > 1
    for loaded in (load_tensorized(tmp_path / "x"), type(model).from_pretrained(tmp_path / "x")):
        torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)


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
    write(lambda c: c["quantization_config"].update(weights="../other.safetensors"))
    with pytest.raises(TTFileError, match=r"The config names '../other.safetensors' for the weights of trains"):
        load_tensorized(saved)
    write(lambda c: c["quantization_config"].update(layers={"other": c["quantization_config"]["layers"][name]}))
    with pytest.raises(TTFileError, match="None of the layers that the config names"):
        load_tensorized(saved)
    write(lambda c: c.update(architectures=["Nothing"]))
    with pytest.raises(TTTypeError, match=r"is of the class \['Nothing'\]"):
        load_tensorized(saved)
    write(lambda c: None)
    weights = saved / "trains.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(TTFileError, match="cannot be read"):
        load_tensorized(saved)
    models.bert().save_pretrained(tmp_path / "dense")
    with pytest.raises(TTFileError, match="has no trains"):
        load_tensorized(tmp_path / "dense")
    with pytest.raises(TTFileError):
        load_tensorized(tmp_path / "nowhere")
