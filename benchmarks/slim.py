"""SST-2 on a model without a third of its heads and neurons: those that masks leave out, and as many at random.

Run as `python -m benchmarks.slim MODEL SST2_FOLDER`, with the folder of an encoder and that of the task's parquet
files. Every training is a line of the results file as soon as it is done, and a run that is cut off goes on where it
was. `--choose` trains with other seeds and scores on held-out training texts, which the table does not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from benchmarks import run_on, versions
from ttnet_llm.slim import Plan, axes, plan, save_slim
from ttnet_llm.slim.finetuning import slim_finetuning
from ttnet_llm.slim.masks import L1, RATE
from ttnet_llm.slim.saving import read_record
from ttnet_llm.training import FinetuneSettings, finetune
from ttnet_llm.training.model import find_tokenizer
from ttnet_llm.training.report import markdown_table

REPORT = Path(__file__).parent.parent / "docs" / "results" / "slim.md"
RESULTS = Path(__file__).parent / "results" / "slim.jsonl"
SEEDS, CHOOSING_SEED = (0, 1, 2), 100
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA, r=8": ("lora", {"r": 8, "lora_alpha": 16}),
    "TT-ETHER, r=4": ("tt-ether", {"r": 4, "n": 4, "tied": False}),
}
WHOLE, LEARNT, RANDOM, CHOICE = "whole", "learnt masks", "random masks", "learnt masks, not folded"
SHARE = 1 / 3
BATCH, LENGTH, REPEATS = 8, 64, 40


class Study:
    """Trainings on one model, each done once.

    Args:
        model: Folder of the model.
        data: Folder of the task's files.
        place: Where slim models and runs go.
        limit: How many texts a training has.
    """

    def __init__(self, model: str, data: Path, place: Path, limit: int) -> None:
        self.model, self.place = model, place
        self.plain = FinetuneSettings(
            model=model,
            output="",
            train=str(next(data.glob("train*"))),
            validation=str(next(data.glob("validation*"))),
            text_columns=("sentence",),
            label_column="label",
            epochs=1.0,
            limit=limit,
            device="cpu",
        )
        self.rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []

    def settings(self, method: str, seed: int, *, choosing: bool = False) -> FinetuneSettings:
        """Say how to train; settings are chosen on training texts that are held out."""
        name, options = METHODS[method]
        held_out = {"validation": None, "validation_share": 0.015} if choosing else {}
        return replace(self.plain, method=name, method_options=options, seed=seed, **held_out)

    def masks(self, settings: FinetuneSettings, rate: float = RATE) -> Path:
        """Learn masks by LoRA, and give the record of the slim model."""
        folder = self.place / f"learnt-{settings.seed}-{rate}"
        if not folder.exists():
            slim_finetuning(replace(settings, output=str(folder)), mask_learning_rate=rate)
        return folder

    def derived(self, kind: str, seed: int, found: Plan) -> Path:
        """Write the record of another choice."""
        folder = self.place / f"{kind}-{seed}"
        if not folder.exists():
            save_slim(found, folder, base=self.model, tokenizer=find_tokenizer(self.model))
        return folder

    def train(self, model: str | Path, settings: FinetuneSettings, **told: Any) -> float:
        """Train an adapter on a model, unless that is done already, and give its accuracy."""
        key = {"seed": settings.seed, **told}
        for row in self.rows:
            if all(row.get(name) == value for name, value in key.items()):
                return float(row["accuracy"])
        with TemporaryDirectory() as run:
            result = finetune(replace(settings, model=str(model), output=f"{run}/run"))
        row = {
            **key,
            "accuracy": result.after["accuracy"],
            "adapter": result.parameters.adapter,
            "frozen": result.parameters.frozen,
            "seconds_per_step": result.seconds_per_step,
            "steps": result.steps,
        }
        self.rows.append(row)
        RESULTS.parent.mkdir(exist_ok=True)
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
        return float(row["accuracy"])


def random_plan(model: str, seed: int) -> Plan:
    """Choose as many heads and neurons as the masks leave out, by a draw."""
    whole, generator = AutoModel.from_pretrained(model), torch.Generator().manual_seed(seed)
    masks = {axis.name: torch.rand(axis.groups, generator=generator) for axis in axes(whole)}
    return plan(whole, masks, heads=SHARE, neurons=SHARE, fold=False)


def unfolded(record: Path) -> Plan:
    """Give the choice of a record without its factors."""
    _, found = read_record(record)
    return replace(found, factors={name: torch.ones_like(each) for name, each in found.factors.items()})


def kept_bytes(model: Any, ids: Tensor) -> int:
    """Count what a forward pass keeps for the backward one, weights left out, where all layers are trained."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(ids).last_hidden_state  # held, as what it was made of is
    del output
    return sum(kept.values())


def measure(models: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Count sizes, and take times of forward passes side by side, in turns."""
    loaded = {name: AutoModel.from_pretrained(folder).eval() for name, folder in models.items()}
    ids = torch.randint(1000, 2000, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {name: [] for name in loaded}
    with torch.inference_mode():
        for k in range(REPEATS + 2):
            for name, model in loaded.items():
                started = time.perf_counter()
                model(ids)
                if k > 1:  # the first ones warm up
                    seconds[name].append(time.perf_counter() - started)
    ratios = {
        name: [whole / own for whole, own in zip(seconds[WHOLE], own_times, strict=True)]
        for name, own_times in seconds.items()
    }
    return {
        name: {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "bytes": sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()),
            "kept": kept_bytes(model, ids),
            "ms": quartiles([1e3 * each for each in seconds[name]]),
            "faster": quartiles(ratios[name]),
        }
        for name, model in loaded.items()
    }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def report(study: Study, sizes: dict[str, dict[str, Any]]) -> str:
    """Write the tables."""
    rows = []
    for method in METHODS:
        for kind in (WHOLE, LEARNT, CHOICE, RANDOM):
            by_seed = {r["seed"]: r for r in study.rows if r.get("method") == method and r.get("base") == kind}
            if not by_seed:
                continue
            scores = [row["accuracy"] for row in by_seed.values()]
            spread = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
            adapter = statistics.fmean(row["adapter"] for row in by_seed.values())
            each = [f"{by_seed[seed]['accuracy']:.4f}" if seed in by_seed else "" for seed in SEEDS]
            rows.append([method, kind, f"{adapter:,.0f}", *each, f"**{statistics.fmean(scores):.4f}**{spread}"])
    seeds = [f"seed {seed}" for seed in SEEDS]
    accuracy = markdown_table(["adapter", "base model", "parameters", *seeds, "mean ± deviation"], rows)
    rows = []
    for name, each in sizes.items():
        (low, middle, high), ratio = each["ms"], each["faster"]
        rows.append(
            [
                name,
                f"{each['parameters']:,}",
                f"{each['bytes'] / 2**20:.1f}",
                f"{each['kept'] / 2**20:.1f}",
                f"{middle:.0f} ({low:.0f} to {high:.0f})",
                f"{ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f})",
            ]
        )
    head = ["base model", "parameters", "weights, MiB", "kept for backward, MiB", "forward, ms", "times faster"]
    chosen = [[f"{row['rate']:g}", f"{row['accuracy']:.4f}"] for row in study.rows if "rate" in row]
    steps = max(row.get("steps", 0) for row in study.rows)
    packages = versions("ttnet-torch", "torch", "transformers", "peft")
    return f"""# Models without a third of their heads and neurons

all-MiniLM-L6-v2 learns SST-2 from {study.plain.limit:,} sentences, in one epoch of {steps} steps, with adapters at
their default modules and rates. Of the slim models a third of each layer's heads is gone and a third of all neurons:
those whose masks were the smallest after as many steps of learning, by the same texts, with LoRA, a rate of {RATE:g}
and a penalty of {L1:g}; or as many at random, by the seed. Accuracy on the 872 validation sentences, with a standard
error of 0.013 by the draw of those.

{accuracy}

The sizes are those of seed 0 and the base model alone. Kept for the backward pass is what a forward pass of {BATCH}
texts of {LENGTH} tokens leaves in memory where all layers are trained. Times are of the same forward pass without
gradients, by one thread on a machine with other work, one model after the other in turns: medians of
{REPEATS}, and from the first to the third quartile, of the times and of their ratios in the same turn.

{markdown_table(head, rows)}

The rate of the masks was chosen by training texts that were held out, with LoRA and another seed:

{markdown_table(["rate of the masks", "accuracy"], chosen)}

{packages}; one CPU thread, {run_on()}. Repeat:

    python -m benchmarks.slim MODEL SST2_FOLDER --choose 0.01 0.003 --unfolded

How to [cut heads and neurons](../slim.md).
"""


def train_all(study: Study, learnt: dict[int, Path], drawn: dict[int, Path], *, unfolded_too: bool) -> None:
    """Train every method on every model by every seed."""
    for method in METHODS:
        for seed in SEEDS:
            for kind, model in ((WHOLE, study.model), (LEARNT, learnt[seed]), (RANDOM, drawn[seed])):
                study.train(model, study.settings(method, seed), method=method, base=kind)
    if unfolded_too:
        lora = next(iter(METHODS))
        for seed in SEEDS:
            choice = study.derived("choice", seed, unfolded(learnt[seed]))
            study.train(choice, study.settings(lora, seed), method=lora, base=CHOICE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("slim-runs"), help="for slim models")
    parser.add_argument("--limit", type=int, default=3000)
    parser.add_argument("--choose", type=float, nargs="*", default=[], help="rates of masks to choose among")
    parser.add_argument(
        "--unfolded", action="store_true", help="also train on what masks choose, without their factors"
    )
    parser.add_argument("--report", action="store_true", help="write the report of what is done, and train nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(arguments.model, arguments.data, arguments.work, arguments.limit)
    lora = next(iter(METHODS))
    for rate in arguments.choose:
        settings = study.settings(lora, CHOOSING_SEED, choosing=True)
        study.train(study.masks(settings, rate), settings, method="choosing", base=LEARNT, rate=rate)
    learnt = {seed: study.masks(study.settings(lora, seed)) for seed in SEEDS}
    drawn = {seed: study.derived("random", seed, random_plan(arguments.model, seed)) for seed in SEEDS}
    if not arguments.report:
        train_all(study, learnt, drawn, unfolded_too=arguments.unfolded)
    sizes = measure({WHOLE: arguments.model, LEARNT: str(learnt[0]), RANDOM: str(drawn[0])})
    REPORT.write_text(report(study, sizes))
    print(REPORT.read_text())


if __name__ == "__main__":
    main()
