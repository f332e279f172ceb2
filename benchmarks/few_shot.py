"""Few-shot SST-2 on a small language model: T-Few's three-part loss against the language model's alone.

Run as `python -m benchmarks.few_shot MODEL SST2_FOLDER`, with the folder of a causal model and that of the task's
parquet files. Every training is a line of the results file as soon as it is done, and a run that is cut off goes on
where it was. Learning rates are chosen by other phrases than those that the table scores: `--choose` alone does that.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from peft import IA3Config, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from benchmarks import run_on
from ttnet.plotting import COLOURS, STYLE
from ttnet_llm import EtherConfig, LorettaRepConfig
from ttnet_llm.budget import split_parameters
from ttnet_llm.files import atomic, write_text
from ttnet_llm.training.choices import (
    ChoiceCollator,
    ChoiceLoss,
    Question,
    Template,
    choosing,
    encode,
    few_shot,
    rank_classify,
)
from ttnet_llm.training.report import markdown_table
from ttnet_llm.training.tables import read_table

REPORT = Path(__file__).parent.parent / "docs" / "results" / "few_shot.md"
RESULTS = Path(__file__).parent / "results" / "few_shot.jsonl"
TEMPLATE = Template("{sentence} It was {}", {"0": "terrible", "1": "great"})
SEEDS = (42, 1024, 0, 1, 32)  # those of the paper
CHOOSING_SEED = 7
SHOTS, BATCH, WORDS = 32, 4, (3, 8)
BASELINE = "language model alone"
LOSSES = {"three parts": ChoiceLoss(), BASELINE: ChoiceLoss(unlikelihood=0.0, ranking=0.0)}
METHODS: dict[str, Any] = {
    "IA3 (PEFT's)": (IA3Config, (1e-2, 5e-2)),
    "LoRETTA_rep": (LorettaRepConfig, (3e-3, 1e-2)),
    "ETHER+": (EtherConfig, (1e-2, 3e-2)),
}


def phrases(folder: str, scored: int) -> tuple[list[Question], list[Question], list[Question]]:
    """Draw phrases to learn from, to choose settings by, and to score, none of which is like another."""
    table = read_table(next(Path(folder).glob("train*.parquet")))
    rows = dict(zip(table.cells("sentence"), table.cells("label"), strict=True))
    fitting = [(text, label) for text, label in rows.items() if WORDS[0] <= len(text.split()) <= WORDS[1]]
    order = np.random.default_rng(2022).permutation(len(fitting))
    asked = [TEMPLATE.ask({"sentence": fitting[k][0].strip()}, label=str(fitting[k][1])) for k in order]
    return asked[2 * scored :], asked[scored : 2 * scored], asked[:scored]


def accuracy(model: Any, tokenizer: Any, questions: list[Question]) -> float:
    scores = rank_classify(model, tokenizer, questions, batch_size=16)
    return float(np.mean(scores.argmax(axis=1) == [question.right for question in questions]))


def train(
    folder: str, name: str, rate: float, loss: str, seed: int, epochs: int, pool: list[Question], judged: list[Question]
) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(base, METHODS[name][0](task_type="CAUSAL_LM"))
    shots = [pool[k] for k in few_shot([question.right for question in pool], SHOTS, seed=seed)]
    with TemporaryDirectory() as place:
        trainer = choosing(Trainer)(
            model=model,
            args=TrainingArguments(
                output_dir=place, num_train_epochs=epochs, per_device_train_batch_size=BATCH, learning_rate=rate,
                warmup_steps=1, seed=seed, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
                label_names=["labels"], remove_unused_columns=False, logging_steps=1,
            ),
            train_dataset=[encode(tokenizer, shot.right_first()) for shot in shots],
            data_collator=ChoiceCollator(tokenizer, model),
            compute_loss_func=LOSSES[loss],
        )  # fmt: skip
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {
        "method": name, "loss": loss, "rate": rate, "seed": seed, "epochs": epochs, "scored": len(judged),
        "accuracy": accuracy(model, tokenizer, judged), "parameters": split_parameters(model).trainable,
        "first loss": float(losses[0]), "last loss": float(losses[-1]), "seconds": round(seconds, 1),
    }  # fmt: skip


class History:
    """Results in a file of JSON lines, each known by what it was done with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def get(self, key: dict[str, Any], make: Any) -> dict[str, Any]:
        for row in self.rows:
            if all(row.get(name) == value for name, value in key.items()):
                return row
        row = key | make()
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        return row


def runs(args: argparse.Namespace, history: History) -> Iterator[dict[str, Any]]:
    pool, choosing_part, scored = phrases(args.data, args.scored)

    def one(part: str, name: str, rate: float, loss: str, seed: int) -> dict[str, Any]:
        key = {"part": part, "method": name, "loss": loss, "rate": rate, "seed": seed, "epochs": args.epochs}
        judged = choosing_part if part == "choosing" else scored
        key["scored"] = len(judged)
        return history.get(key, lambda: train(args.model, name, rate, loss, seed, args.epochs, pool, judged))

    def untouched() -> dict[str, Any]:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
        return {"accuracy": accuracy(model, tokenizer, scored)}

    yield history.get({"part": "untouched", "scored": len(scored)}, untouched)
    rates = {}
    for name, (_, offered) in METHODS.items():
        tried = [one("choosing", name, rate, BASELINE, CHOOSING_SEED) for rate in offered]
        rates[name] = max(tried, key=lambda row: (row["accuracy"], -row["last loss"]))["rate"]
        yield from tried
    if not args.choose:
        for seed in SEEDS:
            for name, rate in rates.items():
                for loss in LOSSES:
                    yield one("scored", name, rate, loss, seed)


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> str:
    before = next(row["accuracy"] for row in rows if row["part"] == "untouched")
    lines = []
    for name in METHODS:
        for loss in LOSSES:
            mine = [row for row in rows if (row["part"], row.get("method"), row.get("loss")) == ("scored", name, loss)]
            if not mine:
                continue
            found = {row["seed"]: row["accuracy"] for row in mine}
            spread = statistics.stdev(found.values()) if len(found) > 1 else float("nan")
            lines.append(
                [
                    name,
                    f"{mine[0]['parameters']:,}",
                    loss,
                    f"{mine[0]['rate']:g}",
                    *(f"{found[seed]:.3f}" if seed in found else "" for seed in SEEDS),
                    f"**{statistics.median(found.values()):.3f}**",
                    f"{statistics.fmean(found.values()):.3f} ± {spread:.3f}",
                ]
            )
    seeds = [f"seed {seed}" for seed in SEEDS]
    header = ["method", "parameters", "loss", "rate", *seeds, "median", "mean ± deviation"]
    tried = [[row["method"], f"{row['rate']:g}", f"{row['accuracy']:.3f}"] for row in rows if row["part"] == "choosing"]
    by_loss = {
        loss: {
            (row["method"], row["seed"]): row["accuracy"]
            for row in rows
            if row.get("loss") == loss and row["part"] == "scored"
        }
        for loss in LOSSES
    }
    more, less = by_loss.values()
    gains = [more[key] - less[key] for key in more.keys() & less.keys()]
    gain, doubt = statistics.fmean(gains), statistics.stdev(gains) / len(gains) ** 0.5
    versions = ", ".join(f"{name} {version(name)}" for name in ("ttnet-torch", "torch", "transformers", "peft"))
    table, choice = markdown_table(header, lines), markdown_table(["method", "rate", "accuracy"], tried)
    steps, error = args.epochs * SHOTS // BATCH, 0.5 / args.scored**0.5
    return f"""# Few-shot learning: three parts of a loss against one

SmolLM2-135M-Instruct learns from {SHOTS} phrases of SST-2, half of each class, asked by the template
`{TEMPLATE.text}` which of *terrible* and *great* follows: {args.epochs} epochs in batches of {BATCH}, {steps} steps
of AdamW in float32 with adapters at their default modules. Phrases are from the task's training part, of {WORDS[0]} to
{WORDS[1]} words; the shots are drawn by the seed, and the {args.scored} phrases that are scored are the same for all.
Scores are shares of right answers, each with a standard error of up to {error:.3f} by the draw of those phrases; the
untouched model has **{before:.3f}**.

{table}

![Scores of all seeds](few_shot.png)

The three parts score {gain:+.3f} more than one, on the mean of {len(gains)} pairs of runs that differ in nothing else,
with a standard error of {doubt:.3f}.

Rates were chosen by {args.scored} other phrases and the seed {CHOOSING_SEED}, with the language model's loss alone,
which favours it:

{choice}

{versions}; one CPU thread, {run_on()}. Repeat:

    python -m benchmarks.few_shot MODEL SST2_FOLDER --epochs {args.epochs} --scored {args.scored}

How to [learn from few questions](../few_shot.md).
"""


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the scores of all seeds, by method and loss."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6), dpi=160, layout="constrained")
        axes = figure.subplots()
        before = next(row["accuracy"] for row in rows if row["part"] == "untouched")
        for place, name in enumerate(METHODS):
            for shift, (loss, colour) in zip((0.14, -0.14), zip(LOSSES, COLOURS, strict=False), strict=True):
                mine = [row for row in rows if (row["part"], row.get("method")) == ("scored", name)]
                found = [row["accuracy"] for row in mine if row["loss"] == loss]
                label = loss if not place else None
                axes.scatter(found, [place + shift] * len(found), s=22, color=colour, alpha=0.55, label=label)
                axes.scatter(statistics.median(found), place + shift, s=130, marker="|", color=colour, linewidths=3)
        axes.axvline(before, color="grey", linestyle=":")
        axes.annotate("untouched", (before, len(METHODS) - 0.6), xytext=(4, 0), textcoords="offset points", fontsize=8)
        axes.set_yticks(range(len(METHODS)), list(METHODS))
        axes.set_ylim(len(METHODS) - 0.5, -0.5)
        axes.set_xlabel(f"share of right answers after {SHOTS} examples; five seeds, the bar is their median")
        axes.set_title("Three parts of a loss against one", loc="left")
        axes.legend(loc="upper right", frameon=False)
        with atomic(path) as partial:
            figure.savefig(partial, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--scored", type=int, default=100)
    parser.add_argument("--choose", action="store_true", help="choose rates only")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(runs(args, History(args.results)))
    write_text(REPORT, report(rows, args))
    if not args.choose:
        draw(rows, REPORT.with_suffix(".png"))


if __name__ == "__main__":
    main()
