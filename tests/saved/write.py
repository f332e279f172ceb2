"""Write what an earlier version saves, to be loaded by later ones: `python tests/saved/write.py tests/saved/VERSION`.

It runs on any version, by public names alone. What each file has to come to stands beside it, as plain numbers.
"""

import contextlib
import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import ttnet
from ttnet.nn import TTEmbedding, TTLinear
from ttnet_llm import (
    AdapterBank,
    DeptConfig,
    EtherConfig,
    LorettaAdpConfig,
    LorettaRepConfig,
    LortaConfig,
    LotrConfig,
    MeloraConfig,
    MetaTTConfig,
    NeuronLoraConfig,
    TTEtherConfig,
    TTLoraConfig,
    TTTurnConfig,
    save_tensorized,
)
from ttnet_llm.search import Choice, Log, Space, tune
from ttnet_llm.slim import axes, plan, save_slim, slim
from ttnet_llm.tensorize import tensorize
from ttnet_llm.training import FinetuneSettings, finetune

DTYPES = ("float64", "float32", "float16", "bfloat16", "complex128", "complex64")
IDS = torch.arange(12).reshape(2, 6) % 11
PROMPT = 3  # vectors, of which the ids are those after the table's last one
# What versions did not have yet.
LATER = {"0.1.0": {"neuron_lora", "ether", "tt_ether", "tt_turn", "dept", "bank", "slim", "search"}}
NETWORKS = ("loretta_rep", "loretta_rep-interleaved", "loretta_adp", "tt_lora-tt_svd")  # pickled as they are


def main(folder: Path) -> None:
    """Write everything to a folder, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):  # so that no file names a place on this machine
        torch.manual_seed(0)
        write_trains()
        write_pickles()
        write_passes()
        write_layers()
        write_model()
        write_adapters()
        write_tensorized()
        write_run()
        write_banks()
        write_slim()
        write_search()


def adapters() -> dict[str, Any]:
    """A config of every method and layout, none of which starts as the identity but those that have to."""
    trains = {"tt_rank": 2, "init_weights": False}
    return {
        "loretta_rep": LorettaRepConfig(**trains),
        "loretta_rep-interleaved": LorettaRepConfig(**trains, layout="interleaved"),
        "loretta_rep-tt_head": LorettaRepConfig(**trains, tt_head=True, train_norms=True),
        "loretta_adp": LorettaAdpConfig(**trains, bottleneck=8),
        "loretta_adp-interleaved": LorettaAdpConfig(**trains, bottleneck=8, layout="interleaved"),
        "tt_lora": TTLoraConfig(**trains),
        "tt_lora-tt_svd": TTLoraConfig(tt_rank=2, init_weights="tt_svd"),
        "lorta": LortaConfig(r=2, init_weights=False),
        "lotr": LotrConfig(r=2, init_weights=False),
        "metatt": MetaTTConfig(r=2, init_weights=False),
        "melora": MeloraConfig(r=2, n=2, init_weights=False),
        "neuron_lora": NeuronLoraConfig(r=2, neurons=8, init_weights=False),
        "ether": EtherConfig(n=2, init_weights=False),
        "tt_ether": TTEtherConfig(r=2, n=2, init_weights=False),
        "tt_turn": TTTurnConfig(r=2, n=2, init_weights=False),
        "dept": DeptConfig(num_virtual_tokens=PROMPT, r=2, max_length=8),
    }


def write_trains() -> None:
    """Trains and TT-matrices of every dtype, by `save`."""
    Path("trains").mkdir()
    expected = {}
    for dtype in DTYPES:
        for kind, value in {"train": train(dtype), "matrix": matrix(dtype)}.items():
            value.save(f"trains/{kind}-{dtype}.safetensors")
            expected |= {f"{kind}-{dtype}.{k}": numbers(core) for k, core in enumerate(value.cores)}
    scalar = ttnet.TensorTrain([torch.full((1, 1), 3.0)])
    scalar.save("trains/scalar-float32.safetensors")
    expected["scalar-float32.0"] = numbers(scalar.cores[0])
    np.savez_compressed("trains/cores.npz", **expected)


def train(dtype: str) -> ttnet.TensorTrain:
    """A train whose entries are of all sizes."""
    return ttnet.random((2, 3, 2), 2, seed=0, dtype=getattr(torch, dtype)) * 1e-3


def matrix(dtype: str) -> ttnet.TTMatrix:
    """A TT-matrix with modes of different sizes."""
    cores = ttnet.random((6, 2), 2, seed=1, dtype=getattr(torch, dtype)).cores
    return ttnet.TTMatrix([cores[0].unflatten(1, (2, 3)), cores[1].unflatten(1, (2, 1))])


def numbers(x: torch.Tensor) -> np.ndarray:
    """Entries in double precision, which holds those of every dtype."""
    x = x.detach()
    return x.to(torch.complex128 if x.is_complex() else torch.float64).numpy()


def write_pickles() -> None:
    """Values by `torch.save` and by `pickle`; and what pickles of larger things name."""
    trains = {"train": train("float64"), "matrix": matrix("complex64")}
    torch.save(trains, "trains.pt")
    plan = ttnet.plan("ij,jk,kl->il", (2, 3), (3, 4), (4, 2))
    cross = ttnet.tt_cross(lambda index: index.double().sum(-1), (3, 4, 5), eps=1e-8, seed=0)
    settings = FinetuneSettings(model="model", output="run", task="sst2", batch_size=32)
    values = trains | {"plan": plan, "cross": cross, "settings": settings, "configs": adapters()}
    Path("values.pkl").write_bytes(pickle.dumps(values))
    product = plan(*(torch.arange(float(m * n)).reshape(m, n) for m, n in ((2, 3), (3, 4), (4, 2))))
    np.savez_compressed("values.npz", plan=numbers(product), cross=numbers(cross.value.full()))


class Interruption(Exception):
    """Stands for what ends a long run."""


def array() -> np.ndarray:
    """An array of ranks 2 that a mebibyte does not hold, in double precision."""
    i, j, k = np.indices((20, 60, 40))
    return i + 2.0 * j + 3.0 * k


def write_passes() -> None:
    """The state of a decomposition in slabs that was interrupted after its first pass."""

    def stop(progress: object) -> None:
        if progress.name == "projection":
            raise Interruption

    with contextlib.suppress(Interruption):
        ttnet.tt_svd(array(), eps=1e-6, memory=2**20, checkpoint="passes", callback=stop)


def layers() -> dict[str, nn.Module]:
    """Layers of either layout, to be filled by a state dict."""
    return {
        "linear-aligned": TTLinear(12, 8, ranks=2, modes=((3, 4), (2, 4)), layout="aligned"),
        "linear-interleaved": TTLinear(12, 8, ranks=2, modes=((3, 4), (2, 4)), layout="interleaved"),
        "embedding-aligned": TTEmbedding(12, 8, ranks=2, modes=((3, 4), (2, 4)), layout="aligned"),
        "embedding-interleaved": TTEmbedding(12, 8, ranks=2, modes=((3, 4), (2, 4)), layout="interleaved"),
    }


def layer_input(name: str) -> torch.Tensor:
    """What a layer of that name is fed."""
    return torch.arange(12) if name.startswith("embedding") else torch.arange(24.0).reshape(2, 12) / 24


def write_layers() -> None:
    """State dicts of layers, and whole layers; one of them made of a dense layer, with its report."""
    made = layers()
    torch.save({name: layer.state_dict() for name, layer in made.items()}, "layers.pt")
    made["linear-report"] = TTLinear.from_linear(nn.Linear(12, 8), max_rank=2)
    torch.save(made, "modules.pt")
    np.savez_compressed("layers.npz", **{name: numbers(layer(layer_input(name))) for name, layer in made.items()})


def write_model() -> None:
    """A tiny classifier with its tokenizer, which the adapters are for."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "great", "bad", "awful", "film", "book", "was"]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained("model")
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.2,
    )
    BertForSequenceClassification(config).save_pretrained("model")


def base_model() -> nn.Module:
    """Load the classifier."""
    return BertForSequenceClassification.from_pretrained("model").eval()


def logits(model: nn.Module, prompt: bool = False) -> np.ndarray:
    """What a model makes of the ids, with a prompt's before them if there is one."""
    before = torch.arange(11, 11 + PROMPT if prompt else 11).expand(len(IDS), -1)
    with torch.no_grad():
        return numbers(model(input_ids=torch.cat([before, IDS], 1)).logits)


def network_output(network: nn.Module) -> np.ndarray:
    """What an adapter's network in one layer comes to."""
    if hasattr(network, "factors"):
        left, right = network.factors()
        return numbers(left @ right)
    return numbers(network(torch.arange(32.0).reshape(2, 16) / 32, nn.Identity(), 1.0))


def write_adapters() -> None:
    """One adapter of each method, by PEFT, and the networks of one layer, as they are."""
    expected, networks = {"base": logits(base_model())}, {}
    for name, config in adapters().items():
        torch.manual_seed(1)
        model = get_peft_model(base_model(), config).eval()
        if config.init_weights == "tt_svd" or name == "dept":  # which start as the identity
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(f"adapters/{name}")
        Path(f"adapters/{name}/README.md").unlink()
        expected[name] = logits(model, name == "dept")
        if name in NETWORKS:
            layer = next(module for module in model.modules() if hasattr(module, "networks"))
            networks[name] = layer.networks["default"]
    np.savez_compressed("adapters/logits.npz", **expected)
    torch.save(networks, "networks.pt")
    np.savez_compressed("networks.npz", **{name: network_output(network) for name, network in networks.items()})


def write_tensorized() -> None:
    """A model with trains in the place of weights."""
    model = base_model()
    tensorize(model, targets=["intermediate.dense", "word_embeddings"], ratio=0.6, progress=False)
    save_tensorized(model, "tensorized")
    Path("tensorized/README.md").unlink(missing_ok=True)
    np.save("tensorized/logits.npy", logits(model))


def write_run() -> None:
    """A fine-tuning run."""
    for name, count in (("train", 16), ("validation", 4)):
        rows = [{"text": f"film was {('bad', 'good')[k % 2]}", "label": k % 2} for k in range(count)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    finetune(
        FinetuneSettings(
            model="model",
            output="run",
            train="train.jsonl",
            validation="validation.jsonl",
            epochs=1,
            batch_size=8,
            max_length=8,
            learning_rate=1e-2,
        )
    )
    for part in ("curves.png", "report.html", "adapter/README.md"):
        Path("run", part).unlink(missing_ok=True)


def write_banks() -> None:
    """A bank of three adapters, and one that holds what its adapters have in common once."""
    expected = {}
    tasks = get_peft_model(base_model(), MetaTTConfig(r=2, num_tasks=2, init_weights=False))
    for name, config, options in (
        ("bank", LorettaRepConfig(tt_rank=2, init_weights=False), {}),
        ("common", tasks.peft_config["default"], {"common": tasks}),
    ):
        bank = AdapterBank(base_model(), config, **options)
        for task in range(2):
            bank.add(f"user-{task}", **({"source": tasks, "task": task} if options else {}))
        bank.save(name)
        with bank.use(["user-0", "user-1"]):
            expected[name] = logits(bank.model)
    np.savez_compressed("banks.npz", **expected)


def write_slim() -> None:
    """The record of a model without a half of its heads and a quarter of its neurons."""
    model = base_model()
    masks = {axis.name: torch.rand(axis.groups) + 0.5 for axis in axes(model)}
    found = plan(model, masks, heads=1 / 2, neurons=1 / 4)
    slim(model, found)
    save_slim(found, "slim", base="model")
    np.save("slim/logits.npy", logits(model))


def space() -> Space:
    """What a search tries."""
    return Space({"rate": Log(1e-4, 1e-1), "kind": Choice("a", "b")})


def write_search() -> None:
    """The history of a search, with a trial that failed."""

    def objective(point: dict[str, Any]) -> float:
        return float("nan") if point["rate"] < 1e-3 else point["rate"]

    tuned = tune(objective, space(), evaluations=4, engine="random", history="history.jsonl", seed=0)
    Path("tuned.json").write_text(json.dumps({"best": tuned.best, "value": tuned.value}), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
