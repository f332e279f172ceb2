"""Settings of a fine-tuning, searched: every trial is a run of `finetune`, and the best is kept whole."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from peft import TaskType
from transformers import TrainerCallback

from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.budget import count_parameters
from ttnet_llm.files import write_text
from ttnet_llm.folders import mark_folder, output_folder, replace_folder
from ttnet_llm.search.pictures import draw_course
from ttnet_llm.search.space import Choice, Dimension, Log, Point, Space
from ttnet_llm.search.tune import Tuned, check_search, tune
from ttnet_llm.training import FinetuneResult, FinetuneSettings, finetune
from ttnet_llm.training.methods import find_method, make_config
from ttnet_llm.training.metrics import SMALLER_IS_BETTER
from ttnet_llm.training.model import load_config
from ttnet_llm.training.pictures import picture
from ttnet_llm.training.report import markdown_table, source_of
from ttnet_llm.training.run import Training, method_options, prepare
from ttnet_llm.training.run_folder import RESULTS, read_result
from ttnet_llm.training.settings_file import SETTINGS, read_settings, write_settings
from ttnet_llm.tuner import AdapterConfig

KIND = "tune"  # what marks the folders written here
HISTORY, PICTURE, BASE = "history.jsonl", "tune.png", "base.yaml"
# Settings that may be searched; all other names are fields of the method's config.
SETTINGS_TO_SEARCH = (
    *("learning_rate", "head_learning_rate", "batch_size", "gradient_accumulation", "epochs", "schedule", "warmup"),
    *("weight_decay", "max_length", "targets"),
)
_WRITTEN = (*("best/", "final/", "trial/", "trial.partial/", "final.partial/"), HISTORY, BASE, PICTURE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TunedFinetuning:
    """What a search over settings has found.

    Args:
        settings: The best settings, which `finetune` takes.
        measure: What trials were judged by.
        score: The best trial's, on data held out of the training data, or on the task's own.
        tuned: The search; its values are scores, negated where larger is better.
        final: The run by the best settings on all training data, judged on data that the search has not seen; `None`
            where there is no validation file, or the search was interrupted.

    Example:
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1)
        >>> from ttnet_llm.search import Trial
        >>> trial = Trial({"learning_rate": 1e-3}, value=-0.9, error=None, seconds=1.0)
        >>> tuned = Tuned(trial.point, -0.9, (trial,))
        >>> TunedFinetuning(settings, "accuracy", 0.9, tuned, final=None).scores
        [0.9]
    """

    settings: FinetuneSettings
    measure: str
    score: float
    tuned: Tuned
    final: FinetuneResult | None

    @property
    def scores(self) -> list[float | None]:
        """What the trials came to, in order; `None` where one failed."""
        sign = _sign(self.measure)
        return [None if trial.value is None else sign * trial.value for trial in self.tuned.trials]


def _sign(measure: str) -> int:
    """Give what a score is multiplied by so that smaller is better."""
    return 1 if measure in SMALLER_IS_BETTER else -1


def default_space(
    method: str, options: dict[str, Any] | None = None, task_type: TaskType | None = TaskType.SEQ_CLS
) -> Space:
    """Give what is searched where nobody says: a learning rate near the method's own, and its rank.

    Args:
        method: A key of `METHODS`.
        options: Fields of its config that are set.
        task_type: What PEFT calls the task.

    Returns:
        The space.

    Example:
        >>> print(default_space("melora"))
        learning_rate: Log(0.0002, 0.02)
        r: Choice(4, 8, 16, 32)
    """
    found, config = find_method(method), make_config(method, options)
    rate = found.rate_for(task_type)
    dimensions: dict[str, Dimension] = {"learning_rate": Log(float(f"{rate / 10:.3g}"), float(f"{rate * 10:.3g}"))}
    field = config.rank_field if isinstance(config, AdapterConfig) else "r"
    rank = getattr(config, field, None)
    if isinstance(rank, int) and field not in (options or {}) and "target_modules" not in found.options:
        dimensions[field] = Choice(*sorted({max(rank // 2, 1), rank, 2 * rank, 4 * rank}))
    return Space(dimensions)


def tune_finetuning(
    settings: FinetuneSettings,
    space: Space | None = None,
    *,
    evaluations: int = 30,
    engine: str = "tpe",
    budget: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Callable[[str], Sequence[TrainerCallback]] = lambda name: (),
) -> TunedFinetuning:
    """Search for the settings by which a model is fine-tuned best.

    Every trial trains on a part of the training data and is judged on the rest. Where the settings name a validation
    file, the search does not see it: the best settings are trained by once more at the end, on all training data, and
    judged on that file. Without one, the best score is that by which it was chosen, and promises a little more than
    it keeps.

    The output folder gets `best/`, the best trial's run; `final/`, the last run, if there is one; `settings.yaml`, for
    `ttnet-llm finetune --config`; a report, a picture, and the history, with which an interrupted search, or a
    finished one by more evaluations, goes on.

    Args:
        settings: What is not searched.
        space: What is: names in `SETTINGS_TO_SEARCH`, and fields of the method's config. `None` takes `default_space`.
            Its middle is tried first, which is there what the method does by default.
        evaluations: How many trials there are in all, at least 1.
        engine: As `tune` takes it, with the settings' seed.
        budget: How many parameters the adapter may train at most; points above it are never trained.
        resume: Go on with the search in the output folder.
        overwrite: Replace it.
        callbacks: Gives those for the trainer, by what it trains, such as `"trial 3/30"`.

    Returns:
        The best settings, and all else.

    Raises:
        MissingExtraError: If the engine's package is not installed.
        TTConvergenceError: If all trials failed.
        TTFileError: If something would be lost, or there is nothing to resume.
        TTValueError: If a setting is wrong, unknown, or another than the search began with.

    Example:
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1)
        >>> space = Space({"learning_rate": Log(1e-4, 1e-2)})
        >>> found = tune_finetuning(settings, space, evaluations=2, engine="random")
        >>> found.measure, len(found.scores), found.settings.learning_rate == found.tuned.best["learning_rate"]
        ('accuracy', 2, True)
    """
    check_search(evaluations, engine, settings.seed)
    if settings.seeds:
        raise TTValueError(f"seeds is {settings.seeds}, but trials have one seed; name it with seed.")
    if budget is not None and budget < 1:
        raise TTValueError(f"budget is {budget}; expected a number of parameters of at least 1.")
    if space is not None:
        _check_names(settings, space)
    folder = _open(settings, resume=resume, overwrite=overwrite)
    trial_settings = replace(settings, validation=None)
    training = prepare(trial_settings)  # what is wrong with the data fails here, and not in every trial
    if space is None:
        task_type = training.kind.task_type_for(training.kind.core(training.model).config)
        space = default_space(settings.method, settings.method_options, task_type)
    search = _Finetuning(trial_settings, training, folder, evaluations, budget, callbacks)
    del training
    if overwrite and folder.exists():
        shutil.rmtree(folder)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    mark_folder(folder, KIND, also=(*_WRITTEN, "report.md", RESULTS, SETTINGS))
    write_text(folder / BASE, write_settings(settings))
    try:
        tuned = tune(
            search.train,
            space,
            evaluations=evaluations,
            engine=engine,
            allowed=search.fits,
            start=space.middle,
            history=folder / HISTORY,
            seed=settings.seed,
        )
    except TTValueError as error:
        if new and not search.done:
            shutil.rmtree(folder)  # nothing is there that one could go on with
        if budget is None or min(search.counts.values(), default=0) <= budget:
            raise
        least = min(search.counts.values())
        raise TTValueError(
            f"{error} budget is {budget}, and the smallest adapter among them has {least} parameters."
        ) from error
    for rest in ("trial", "trial.partial"):
        shutil.rmtree(folder / rest, ignore_errors=True)
    best = at(settings, tuned.best)
    final = None
    if settings.validation is not None and not tuned.interrupted:
        run = replace(best, output=str(folder / "final"))
        final = finetune(run, overwrite=True, callbacks=callbacks("best settings"))
    found = TunedFinetuning(best, search.measure, search.sign * tuned.value, tuned, final)
    _write(found, space, folder, evaluations)
    mark_folder(folder, KIND, also=_WRITTEN)
    return found


def at(settings: FinetuneSettings, point: Point) -> FinetuneSettings:
    """Give the settings at a point.

    Args:
        settings: What is not searched.
        point: Settings, and fields of the method's config.

    Returns:
        The settings with both.

    Example:
        >>> settings = at(FinetuneSettings("bert", "run", task="sst2"), {"learning_rate": 0.01, "r": 4})
        >>> settings.learning_rate, settings.method_options
        (0.01, {'r': 4})
    """
    said = {name: value for name, value in point.items() if name in SETTINGS_TO_SEARCH}
    options = {name: value for name, value in point.items() if name not in SETTINGS_TO_SEARCH}
    return replace(settings, **said, method_options=settings.method_options | options)


class _Finetuning:
    """The objective of a search, and what may be tried."""

    def __init__(
        self,
        settings: FinetuneSettings,
        training: Training,
        folder: Path,
        evaluations: int,
        budget: int | None,
        callbacks: Callable[[str], Sequence[TrainerCallback]],
    ) -> None:
        self.settings, self.folder, self.budget, self.callbacks = settings, folder, budget, callbacks
        self.evaluations = evaluations
        self.counts: dict[str, int] = {}  # parameters of the adapters that were asked for, by the method's options
        self.measure = training.task.details.measures[0]
        self.sign = _sign(self.measure)
        self.task_type = training.kind.task_type_for(training.kind.core(training.model).config)
        history = folder / HISTORY
        self.done = max(history.read_bytes().count(b"\n") - 1, 0) if history.is_file() else 0
        best = folder / "best" / RESULTS
        self.best = self.sign * read_result(best.parent).after[self.measure] if best.is_file() else None

    def fits(self, point: Point) -> bool:
        """Tell whether settings are possible, and their adapter is within the budget."""
        try:
            settings = at(self.settings, point)
            options = method_options(settings)
            config = make_config(settings.method, options, self.task_type)
            if self.budget is None:
                return True
            # Points that differ in rates alone have one adapter, which is not built for each of thousands.
            key = json.dumps(options, sort_keys=True, default=str)
            if key not in self.counts:
                self.counts[key] = count_parameters(load_config(settings.model), config).adapter
            return self.counts[key] <= self.budget
        except TTValueError:
            return False

    def train(self, point: Point) -> float:
        """Train, and keep the run if it is the best so far."""
        self.done += 1
        name = f"trial {self.done}/{self.evaluations}"
        run = replace(at(self.settings, point), output=str(self.folder / "trial"))
        with _said_once():
            result = finetune(run, overwrite=True, callbacks=self.callbacks(name))
        score = result.after[self.measure]
        value = self.sign * score
        if value == value and (self.best is None or value < self.best):
            self.best = value
            replace_folder(self.folder / "trial", self.folder / "best")
        if self.best is not None:
            words = ", ".join(f"{key} {value}" for key, value in point.items())
            best = self.sign * self.best
            logger.info("%s: %s %.4f, best %.4f, by %s", name.capitalize(), self.measure, score, best, words)
        return value


@contextmanager
def _said_once() -> Iterator[None]:
    """Leave out what every trial would say of the same data."""
    training = logging.getLogger("ttnet_llm.training")
    level = training.level
    training.setLevel(logging.WARNING)
    try:
        yield
    finally:
        training.setLevel(level)


def _check_names(settings: FinetuneSettings, space: Space) -> None:
    config = find_method(settings.method).config
    fields = set() if config is None else {field.name for field in dataclasses.fields(config) if field.init}
    for name in space.dimensions:
        if name not in SETTINGS_TO_SEARCH and name not in fields:
            own = " and fields of its config" if config is not None else ""
            raise TTValueError(
                f"The space names {name}, which is nothing to search for with the method {settings.method!r}; expected "
                f"some of {', '.join(SETTINGS_TO_SEARCH)}{own}."
            )


def _open(settings: FinetuneSettings, *, resume: bool, overwrite: bool) -> Path:
    """Settle whether a search may start, and where."""
    if resume and overwrite:
        raise TTValueError(
            "resume and overwrite were both given; resume goes on with a search, overwrite starts again."
        )
    reads = (settings.model, settings.train, settings.validation)
    folder = output_folder(settings.output, kind=KIND, reads=reads)
    if resume:
        if not (folder / BASE).is_file():
            raise TTFileError(f"There is no search in {settings.output!r} to resume; start one without --resume.")
        then = dataclasses.asdict(FinetuneSettings(**read_settings(folder / BASE)))
        for name, value in json.loads(json.dumps(dataclasses.asdict(settings))).items():
            if name != "output" and value != (before := json.loads(json.dumps(then[name]))):
                raise TTValueError(
                    f"{name} is {value!r} but was {before!r} when the search began; resume with the same settings, or "
                    "say --overwrite to start again."
                )
    elif not overwrite and folder.exists() and any(folder.iterdir()):
        raise TTFileError(
            f"The output folder {settings.output!r} is not empty; say --resume to go on with the search in it, "
            "--overwrite to replace it, or name another."
        )
    return folder


def _write(found: TunedFinetuning, space: Space, folder: Path, evaluations: int) -> None:
    tuned, measure = found.tuned, found.measure
    write_text(folder / SETTINGS, write_settings(found.settings))
    scores = found.scores
    values = {
        "best": tuned.best,
        "measure": measure,
        "score": found.score,
        "final": None if found.final is None else found.final.after,
        "trials": [dataclasses.asdict(trial) | {"score": s} for trial, s in zip(tuned.trials, scores, strict=True)],
    }
    write_text(folder / RESULTS, json.dumps(values, indent=2) + "\n")
    rows = [
        [
            f"{k}{' (best)' if trial.point == tuned.best else ''}",
            *(f"{value:g}" if isinstance(value, float) else str(value) for value in trial.point.values()),
            (trial.error or "failed").replace("|", "/").replace("\n", " ") if score is None else f"{score:.4f}",
            f"{trial.seconds:.0f} s",
        ]
        for k, (trial, score) in enumerate(zip(tuned.trials, scores, strict=True), 1)
    ]
    title = find_method(found.settings.method).title
    chosen = (
        "That is the score by which it was chosen, and promises a little more than it keeps."
        if found.final is None
        else "Trained by once more on all training data, and judged on data that the search has not seen: "
        + ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in found.final.after.items())
        + "."
    )
    said = f"{measure} {found.score:.4f} after {len(tuned.trials)} of {evaluations} trials"
    course = [_sign(measure) * value for value in tuned.course]
    draw = partial(draw_course, scores, course, measure=measure, title=f"{title}: {said}")
    write_text(
        folder / "report.md",
        f"# Settings for {title} on {source_of(found.settings)}\n\nBest {said}. {chosen}\n\n"
        f"{markdown_table(['trial', *space.dimensions, measure, 'time'], rows)}"
        f"{picture(folder / PICTURE, 'Best score against trials', draw)}",
    )
