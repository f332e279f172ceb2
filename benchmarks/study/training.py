"""One training of a study, as fast as a frozen encoder allows.

Against `ttnet-llm finetune`: batches hold texts of about one length, evaluation takes as many texts at once as give
some thousands of tokens, and what the head does not see is not computed. Dropout is off.
"""

from __future__ import annotations

import importlib.metadata
import math
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import processor, today
from benchmarks.study.base import draw_head, first_token_only, load_base
from benchmarks.study.settings import Run
from benchmarks.study.tasks import Part, Task
from ttnet_llm.budget import split_parameters
from ttnet_llm.prompts import prepend_prompt

WARM_UP = 0.06  # share of the steps, after which the rate falls to 0 in a line
SORTED_TOGETHER = 50  # batches' worth of examples that are sorted by length, so that the order stays mostly random
EVALUATED_TOKENS = 4096
CURVE = 30  # points of the recorded training loss


def train(run: Run, task: Task, folder: str) -> dict[str, Any]:
    """Do one training.

    Args:
        run: What to train.
        task: Its task with the seed's examples.
        folder: The pretrained model.

    Returns:
        Parameters, accuracy and loss on the held-out part, training losses, time, memory and versions.
    """
    started = time.perf_counter()
    torch.manual_seed(run.seed)
    base = load_base(folder, task.classes, run.dtype)
    if task.classes is not None:
        draw_head(base, run.seed)
    torch.manual_seed(run.seed)
    model = run.settings(base)
    parameters = split_parameters(model)
    held_out = getattr(task, run.part)
    steps = math.ceil(len(task.train) / run.batch_size * run.epochs)
    marks = {steps * k // run.evaluations for k in range(1, run.evaluations + 1)} if run.evaluations else set()
    course: list[list[float]] = []

    def look(step: int) -> None:
        if step + 1 in marks:
            course.append([step + 1, evaluate(model, held_out)["loss"]])
            model.train()

    with first_token_only(model):
        losses = fit(
            model,
            task.train,
            run.rate,
            run.head_rate,
            epochs=run.epochs,
            batch_size=run.batch_size,
            seed=run.seed,
            factor=run.settings.factor,
            each_step=look,
        )
        trained = time.perf_counter()
        scores = evaluate(model, held_out)
    steps = len(losses)
    return {
        "adapter": parameters.adapter,
        "norms": parameters.norms,
        "head": parameters.head,
        **scores,
        "training": [
            round(float(np.mean(part)), 4) for part in np.array_split(losses, min(CURVE, steps) or 1) if steps
        ],
        **({"course": course} if course else {}),
        "steps": steps,
        "seconds": round(time.perf_counter() - started, 2),
        "seconds_of_training": round(trained - started, 2),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "date": today(),
        "versions": {
            name: importlib.metadata.version(name) for name in ("ttnet-torch", "torch", "transformers", "peft")
        },
    }


def fit(
    model: nn.Module,
    part: Part,
    rate: float,
    head_rate: float,
    *,
    epochs: float,
    batch_size: int,
    seed: int,
    factor: Callable[[str], float] | None = None,
    penalty: Callable[[], torch.Tensor] | None = None,
    each_step: Callable[[int], None] | None = None,
) -> list[float]:
    """Train what is trainable of a model, and give the loss of every step.

    Args:
        model: The model.
        part: What to train on.
        rate: Learning rate, which falls to 0 in a line after a short warm-up.
        head_rate: The same of a classifier's head.
        epochs: Passes over the data.
        batch_size: Examples in a step.
        seed: Draws the batches.
        factor: What the rate is multiplied by for a parameter of some name.
        penalty: Is added to the loss.
        each_step: Called with the step's number, from 0, while its gradients are still there.
    """
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = head_rate if ".classifier." in f".{name}" else rate * (1.0 if factor is None else factor(name))
            by_rate.setdefault(own, []).append(parameter)
    groups = [{"params": group, "lr": own} for own, group in by_rate.items()]
    trained = [parameter for group in by_rate.values() for parameter in group]
    steps = math.ceil(len(part) / batch_size * epochs) if trained else 0
    optimizer = torch.optim.AdamW(groups or [{"params": []}], weight_decay=0.0, fused=True)
    warm = max(1, round(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(steps - warm, 1))
    )
    losses = []
    model.train()
    drawn = batches(part.lengths, batch_size, seed)
    for step in range(steps):
        loss, _ = loss_of(model, part, next(drawn))
        (loss if penalty is None else loss + penalty()).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if each_step is not None:
            each_step(step)
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@torch.inference_mode()
def evaluate(model: nn.Module, part: Part) -> dict[str, float]:
    """Score a model on one part of a task."""
    model.eval()
    order = np.argsort(part.lengths, kind="stable")
    lengths = part.lengths[order]
    loss, right, start = 0.0, 0, 0
    while start < len(order):
        tokens = lengths[start:] * np.arange(1, len(order) - start + 1)  # of the next text, two texts and so on, padded
        rows = order[start : start + max(1, int(np.searchsorted(tokens, EVALUATED_TOKENS, "right")))].tolist()
        mean, hits = loss_of(model, part, rows)
        loss += float(mean) * len(rows)
        right += hits
        start += len(rows)
    scores = {"loss": loss / len(part)}
    return scores if part.labels is None else {"accuracy": right / len(part)} | scores


def loss_of(model: nn.Module, part: Part, rows: list[int]) -> tuple[torch.Tensor, int]:
    """Give the mean loss of some examples, and how many are classified right; texts predict their own tokens.

    The loss of a prompt is that of its answer among all tokens, and the answer is that of the most probable one.
    """
    batch = prepend_prompt(part.batch(rows), model)
    if part.labels is None:
        return model(**batch, labels=batch["input_ids"]).loss, 0
    labels = part.labels[rows]
    if part.answers is None:
        logits = model(**batch).logits
        return nn.functional.cross_entropy(logits, labels), int((logits.argmax(dim=1) == labels).sum())
    logits = model(**batch, logits_to_keep=1).logits[:, 0].float()  # (rows, tokens)
    right = logits[:, part.answers].argmax(dim=1) == labels
    return nn.functional.cross_entropy(logits, part.answers[labels]), int(right.sum())


def batches(lengths: np.ndarray[Any, Any], size: int, seed: int) -> Iterator[list[int]]:
    """Draw batches of texts of similar lengths, for ever; every epoch holds each text once."""
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(len(lengths))
        epoch = []
        for start in range(0, len(order), SORTED_TOGETHER * size):
            chunk = order[start : start + SORTED_TOGETHER * size]
            chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
            epoch += [chunk[k : k + size].tolist() for k in range(0, len(chunk), size)]
        for k in generator.permutation(len(epoch)):
            yield epoch[k]
