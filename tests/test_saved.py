"""What earlier versions saved loads: the folders in `saved`, each written by the version it is named after."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

import ttnet
from tests.saved import write
from tests.saved.write import (
    LATER,
    adapters,
    array,
    base_model,
    layer_input,
    layers,
    logits,
    network_output,
    numbers,
    space,
)
from ttnet_llm import AdapterBank, load_tensorized
from ttnet_llm.search import tune
from ttnet_llm.slim import load_slim
from ttnet_llm.training import evaluate

SAVED = Path(write.__file__).parent
VERSIONS = sorted(path.name for path in SAVED.iterdir() if (path / "trains").is_dir())


@pytest.fixture(scope="module", params=[*VERSIONS, pytest.param("this", marks=pytest.mark.slow)])
def saved(request, tmp_path_factory):
    """A copy of what a version wrote; and what this one writes, so that the script goes on working."""
    folder = tmp_path_factory.mktemp("saved") / request.param
    if request.param == "this":
        write.main(folder)
    else:
        shutil.copytree(SAVED / request.param, folder)
    return folder


@pytest.fixture(autouse=True)
def _there(saved, monkeypatch):
    monkeypatch.chdir(saved)


def skip_if_later(saved, name):
    """Leave out what a version did not have yet."""
    if name in LATER.get(saved.name, ()):
        assert not list(saved.glob(f"**/{name}*"))
        pytest.skip(f"{saved.name} had no {name}")


def same(value, expected, name):
    """Tell whether the cores of a value are those expected, bit for bit."""
    cores = [expected[f"{name}.{k}"] for k in range(len(value.cores))]
    return all(np.array_equal(numbers(core), other) for core, other in zip(value.cores, cores, strict=True))


def test_there_is_a_version():
    assert {"0.1.0", "0.2.0"} <= set(VERSIONS)
    assert set(LATER) < set(VERSIONS)


def test_trains():
    expected = np.load("trains/cores.npz")
    files = sorted(Path("trains").glob("*.safetensors"))
    assert len(files) == 13
    for file in files:
        kind, dtype = file.stem.split("-")
        value = ttnet.load(file)
        assert isinstance(value, ttnet.TTMatrix if kind == "matrix" else ttnet.TensorTrain)
        assert str(value.dtype) == f"torch.{dtype}"
        assert same(value, expected, file.stem)


@pytest.mark.parametrize("weights_only", [True, False])
def test_trains_by_torch(weights_only):
    expected = np.load("trains/cores.npz")
    found = torch.load("trains.pt", weights_only=weights_only)
    assert type(found["train"]) is ttnet.TensorTrain
    assert type(found["matrix"]) is ttnet.TTMatrix
    assert same(found["train"], expected, "train-float64")
    assert same(found["matrix"], expected, "matrix-complex64")


def test_pickles(saved):
    found = pickle.loads(Path("values.pkl").read_bytes())
    cores, values = np.load("trains/cores.npz"), np.load("values.npz")
    assert same(found["train"], cores, "train-float64")
    assert same(found["matrix"], cores, "matrix-complex64")
    operands = [torch.arange(float(m * n)).reshape(m, n) for m, n in ((2, 3), (3, 4), (4, 2))]
    assert isinstance(found["plan"], ttnet.ContractionPlan)
    assert np.array_equal(numbers(found["plan"](*operands)), values["plan"])
    assert found["cross"].status is ttnet.CrossStatus.CONVERGED
    # Products of cores are rounded as the machine's BLAS rounds them.
    np.testing.assert_allclose(numbers(found["cross"].value.full()), values["cross"], rtol=1e-12, atol=1e-13)
    assert (found["settings"].task, found["settings"].batch_size) == ("sst2", 32)
    expected = {name: config for name, config in adapters().items() if name not in LATER.get(saved.name, ())}
    for name, config in found["configs"].items():
        assert config.ttnet_version
        expected[name].ttnet_version = config.ttnet_version  # the one that wrote it; all else is as it was
    assert found["configs"] == expected


def test_interrupted_decomposition(tmp_path):
    shutil.copytree("passes", tmp_path / "passes")
    seen = []
    train = ttnet.tt_svd(
        array(),
        eps=1e-6,
        memory=2**20,
        checkpoint=tmp_path / "passes",
        callback=lambda p: seen.append((p.step, p.name)),
    )
    assert seen[0] == (1, "projection")  # the first pass is not made again
    assert train.ranks == (1, 2, 2, 1)
    assert np.linalg.norm(train.full().numpy() - array()) <= 1e-6 * np.linalg.norm(array())
    assert not (tmp_path / "passes").exists()


@pytest.mark.parametrize("whole", [False, True])
def test_layers(whole):
    expected = np.load("layers.npz")
    if whole:
        found = torch.load("modules.pt", weights_only=False)
        assert set(found) == set(expected)
        assert found["linear-report"].report.parameters == sum(
            p.numel() for p in found["linear-report"].tt.parameters()
        )
    else:
        found = layers()
        for name, state in torch.load("layers.pt").items():
            found[name].load_state_dict(state)
    for name, layer in found.items():
        np.testing.assert_allclose(numbers(layer(layer_input(name))), expected[name], rtol=0, atol=1e-6)


def test_networks():
    expected = np.load("networks.npz")
    found = torch.load("networks.pt", weights_only=False)
    assert set(found) == set(expected)
    for name, network in found.items():
        assert isinstance(network, nn.Module)
        np.testing.assert_allclose(network_output(network), expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["base", *adapters()])
def test_adapters(saved, name):
    skip_if_later(saved, name)
    expected = np.load("adapters/logits.npz")
    model = base_model()
    if name != "base":
        model = peft.PeftModel.from_pretrained(model, f"adapters/{name}").eval()
        assert np.abs(expected[name] - expected["base"]).max() > 1e-3  # the adapter does something
    np.testing.assert_allclose(logits(model, name == "dept"), expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("load", [load_tensorized, AutoModelForSequenceClassification.from_pretrained])
def test_tensorized_model(load):
    model = load("tensorized").eval()
    assert any(isinstance(module, ttnet.nn.TTWeight) for module in model.modules())
    np.testing.assert_allclose(logits(model), np.load("tensorized/logits.npy"), rtol=0, atol=1e-6)


def test_fine_tuning_run():
    found = evaluate("run", "validation.jsonl")
    np.testing.assert_allclose(found.logits, np.load("run/logits.npy"), rtol=0, atol=1e-6)
    assert found.measures == json.loads(Path("run/results.json").read_text("utf-8"))["after"]


@pytest.mark.parametrize("name", ["bank", "common"])
def test_banks(saved, name):
    skip_if_later(saved, "bank")
    bank = AdapterBank.load(name, base_model())
    assert list(bank) == ["user-0", "user-1"]
    with bank.use(["user-0", "user-1"]):
        found = logits(bank.model)
    np.testing.assert_allclose(found, np.load("banks.npz")[name], rtol=0, atol=1e-6)
    with bank.use([None, None]):
        assert np.abs(logits(bank.model) - found).min() > 1e-3  # the adapters do something


def test_slim_record(saved):
    skip_if_later(saved, "slim")
    model = load_slim("slim").eval()
    assert model.num_parameters() < base_model().num_parameters()
    np.testing.assert_allclose(logits(model), np.load("slim/logits.npy"), rtol=0, atol=1e-6)


def test_search_goes_on_from_its_history(saved):
    skip_if_later(saved, "search")

    def objective(point):
        raise AssertionError("paid for once already")

    tuned = tune(objective, space(), evaluations=4, engine="random", history="history.jsonl", seed=0)
    assert {"best": tuned.best, "value": tuned.value} == json.loads(Path("tuned.json").read_text("utf-8"))
