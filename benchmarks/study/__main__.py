"""Run a study, or what is missing of it, and write its report.

    python -m benchmarks.study benchmarks/studies/accuracy.yaml --data DIR --jobs 2 --report docs/results/accuracy.md

Every method first chooses its learning rate among its candidates, by the mean score over the tasks on the part that is
kept for choosing; then it is trained with that rate for every seed and scored once on the reported part. Each training
is a line of a file, by which an interrupted study goes on, and which studies share.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.study.report import write_report
from benchmarks.study.runs import Runs
from benchmarks.study.settings import Run, Study
from benchmarks.study.worker import start, work
from ttnet.errors import TTValueError
from ttnet_llm.command_line.console import one_sentence_errors

console = Console()


def main(
    study: Annotated[Path, typer.Argument(help="The study's YAML file.")],
    data: Annotated[Path | None, typer.Option(help="Folder with a folder of parquet files for each GLUE task.")] = None,
    model: Annotated[Path | None, typer.Option(help="Folder of the study's model, where it is not MiniLM.")] = None,
    methods: Annotated[list[str] | None, typer.Option(help="Only these rows; repeat for several.")] = None,
    runs: Annotated[Path | None, typer.Option(help="File of the trainings; by default runs.jsonl beside it.")] = None,
    report: Annotated[Path | None, typer.Option(help="Markdown file to write, with a picture beside it.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes, one CPU thread each.")] = 1,
) -> None:
    """Run what is missing, and write the report."""
    with one_sentence_errors():
        _run(study, data, model, methods, runs, report, jobs)


def _run(
    study: Path,
    data: Path | None,
    model: Path | None,
    methods: list[str] | None,
    runs: Path | None,
    report: Path | None,
    jobs: int,
) -> None:
    plan = Study.read(study)
    names = methods or list(plan.methods)
    if unknown := [name for name in names if name not in plan.methods]:
        raise TTValueError(f"methods has {unknown[0]!r}; expected some of {', '.join(plan.methods)}.")
    if (plan.model is None) != (model is None):
        raise TTValueError(f"The study's model is {plan.model or 'the default one'}, but --model is {model}.")
    done = Runs(runs or study.with_name("runs.jsonl"))
    with ProcessPoolExecutor(jobs, get_context("spawn"), start, (data, model, plan.max_length)) as pool:
        if not plan.every_rate:
            _do([run for name in names for run in plan.candidates(name)], done, pool, "choose rates")
        rates = {name: plan.methods[name].rates for name in names}
        if not plan.every_rate:
            rates = {name: (done.chosen_rate(plan, name),) for name in names}
        _do([run for name in names for rate in rates[name] for run in plan.reported(name, rate)], done, pool, "report")
    if report is not None:
        needs = (["--data DIR"] if data else []) + ([f"--model {plan.model}"] if plan.model else [])
        write_report(
            plan, rates, done, report, f"python -m benchmarks.study {study} {' '.join(needs)} --report {report}"
        )


def _do(runs: Sequence[Run], done: Runs, pool: ProcessPoolExecutor, title: str) -> None:
    missing = [run for run in runs if run not in done]
    with Progress(console=console) as progress:
        bar = progress.add_task(title, total=len(missing))
        try:
            for future in as_completed([pool.submit(work, run) for run in missing]):
                done.add(future.result())
                progress.advance(bar)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or leaving the pool would wait for all that is queued
            raise


if __name__ == "__main__":
    typer.run(main)
