"""Fine-tuning on base models in 4 and 8 bits.

bitsandbytes is not in the environment of development, as PEFT and transformers act otherwise in its presence; where it
is installed, runs with it are tested.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel

from tests.ttnet_llm.tiny import rows, save_model, save_rows
from tests.ttnet_llm.training.test_embed import partners
from ttnet.errors import MissingExtraError, TTValueError
from ttnet_llm.training import METHODS, FinetuneSettings, evaluate, finetune
from ttnet_llm.training.model import predict
from ttnet_llm.training.quantised import make_trainable, quantised_options
from ttnet_llm.training.run import prepare


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantised")
    save_model(folder / "model")
    # Wide enough for a block of 64 weights that share a scale.
    config = BertConfig.from_pretrained(folder / "model", hidden_size=64, intermediate_size=128)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder / "model")
    save_rows(folder / "train.jsonl", rows(64))
    return folder


def settings(place: Path, output: Path, **changes: object) -> FinetuneSettings:
    data = {"train": str(place / "train.jsonl"), "validation": str(place / "train.jsonl"), "batch_size": 8}
    how = {"epochs": 4, "max_length": 16, "learning_rate": 1e-2, "device": "cpu"}
    return FinetuneSettings(str(place / "model"), str(output), **data | how | changes)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "full"])
def test_adapters_learn_on_quantised_weights(place: Path, tmp_path: Path, method: str, bits: int) -> None:
    library = pytest.importorskip("bitsandbytes", reason="bitsandbytes is kept out of the environment")
    chosen = settings(place, tmp_path / "run", method=method, **{f"load_in_{bits}bit": True})
    training = prepare(chosen)
    kind = library.nn.Linear4bit if bits == 4 else library.nn.Linear8bitLt
    quantised = [name for name, module in training.model.named_modules() if isinstance(module, kind)]
    assert sum("encoder.layer" in name for name in quantised) == 12
    assert not any("classifier" in name for name in quantised)
    result = finetune(chosen)
    assert result.losses[-1][1] < result.losses[0][1]
    assert result.after["accuracy"] >= result.before["accuracy"]
    # The adapter says the same on weights that are quantised again, and is one for the base as it is.
    options = quantised_options(chosen)
    base = AutoModelForSequenceClassification.from_pretrained(place / "model", num_labels=2, **options)
    again = PeftModel.from_pretrained(make_trainable(base), tmp_path / "run" / "adapter")
    logits = predict(again, training.tokenizer, training.task.validation, max_length=16)
    np.testing.assert_allclose(logits, np.load(tmp_path / "run" / "logits.npy"), rtol=1e-4, atol=1e-4)
    assert evaluate(tmp_path / "run", place / "train.jsonl").logits.shape == logits.shape


@pytest.mark.parametrize("bits", [4, 8])
def test_embeddings_are_tuned_on_quantised_weights(place: Path, tmp_path: Path, bits: int) -> None:
    library = pytest.importorskip("bitsandbytes", reason="bitsandbytes is kept out of the environment")
    file = save_rows(tmp_path / "rows.jsonl", partners(32))
    data = {"train": file, "validation": file, "kind": "embed", f"load_in_{bits}bit": True, "epochs": 8}
    chosen = settings(place, tmp_path / "run", **data)
    training = prepare(chosen)
    kind, layer = training.kind, library.nn.Linear4bit if bits == 4 else library.nn.Linear8bitLt
    quantised = [name for name, module in kind.core(training.model).named_modules() if isinstance(module, layer)]
    assert sum("encoder.layer" in name for name in quantised) == 12
    result = finetune(chosen)
    assert np.mean([loss for _, loss in result.losses[-4:]]) < np.mean([loss for _, loss in result.losses[:4]])
    # The adapter says the same on weights that are quantised again, and is one for the base as it is.
    options = quantised_options(chosen)
    base, tokenizer = kind.load(str(place / "model"), kind.configure(str(place / "model"), training.task), **options)
    make_trainable(kind.core(base))
    again = kind.put_adapter(base, tmp_path / "run" / "adapter")
    found = kind.judge(again, tokenizer, training.task.validation, training.task.details)
    np.testing.assert_allclose(found.outputs, np.load(tmp_path / "run" / "similarities.npy"), rtol=1e-4, atol=1e-4)
    assert evaluate(tmp_path / "run", file).logits.shape == found.outputs.shape


@pytest.mark.parametrize("bits", [4, 8])
def test_without_the_library_its_extra_is_named(place: Path, monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("ttnet_llm.training.run.open_task", None)  # nothing is read
    with pytest.raises(MissingExtraError, match=r"'bitsandbytes', .*ttnet-torch\[bnb\]"):
        prepare(settings(place, place / "run", **{f"load_in_{bits}bit": True}))


@pytest.mark.parametrize(("bits", "layer"), [(4, "Linear4bit"), (8, "Linear8bitLt")])
def test_a_machine_that_cannot_is_told_before_anything_is_loaded(
    place: Path, monkeypatch: pytest.MonkeyPatch, bits: int, layer: str
) -> None:
    class Broken(nn.Linear):
        def __init__(self, inputs: int, outputs: int, **options: object) -> None:
            super().__init__(inputs, outputs)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel image")

    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(nn=SimpleNamespace(**{layer: Broken})))
    monkeypatch.setattr("ttnet_llm.training.run.open_task", None)
    message = (
        f"load_in_{bits}bit was asked for, which bitsandbytes cannot do on this machine's cpu: no kernel image; leave"
    )
    with pytest.raises(TTValueError, match=message):
        prepare(settings(place, place / "run", **{f"load_in_{bits}bit": True}))


def test_settings_that_do_not_go_together(place: Path) -> None:
    assert quantised_options(settings(place, place / "run")) == {}
    with pytest.raises(TTValueError, match="load_in_8bit and load_in_4bit were both given"):
        settings(place, place / "run", load_in_8bit=True, load_in_4bit=True)
    with pytest.raises(TTValueError, match=r"method 'full' trains the base model's weights, .* take an adapter"):
        settings(place, place / "run", load_in_8bit=True, method="full")
