"""What a study runs, as its YAML file says it."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import yaml
from torch import nn

import ttnet_llm
from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.attach import attach
from ttnet_llm.training.trainer import has_part

DTYPES = ("float32", "bfloat16")  # of the frozen model


@dataclass(frozen=True)
class Method:
    """A row of the study's tables.

    Args:
        config: Name of a config class of PEFT's or ours; `None` trains the head alone, and nothing in a language model.
        options: Its fields.
        rates: Candidate learning rates of the adapter.
        function: `module:function` that changes a model in place, in the place of a config: for ideas that are no
            method yet. It is called with the model and `options`, and answers with the model.
        norms: Whether the norms are trained along.
        factors: What the rate is multiplied by for single parameters, by parts of their names; 0 leaves them as they
            are. Where several match, the last one counts.
    """

    config: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    function: str | None = None
    norms: bool = False
    factors: dict[str, float] = field(default_factory=dict)

    @property
    def is_bare(self) -> bool:
        """Whether the pretrained model stays as it is, but for a head."""
        return self.config is None and self.function is None and not self.norms

    def __call__(self, model: nn.Module) -> nn.Module:
        """Put the method into a frozen model."""
        model.requires_grad_(False)
        if self.function is not None:
            module, name = self.function.split(":")
            make: Callable[..., nn.Module] = getattr(importlib.import_module(module), name)
            model = make(model, **self.options)
        elif self.config is not None:
            cls = getattr(peft, self.config, None) or getattr(ttnet_llm, self.config)
            model = attach(model, cls(**self.options, task_type=None))
        for name, parameter in model.named_parameters():
            if name.endswith(("classifier.weight", "classifier.bias")) or (self.norms and "LayerNorm" in name):
                parameter.requires_grad_(True)
            if self.factor(name) == 0:
                parameter.requires_grad_(False)
        return model

    def factor(self, name: str) -> float:
        """Give what the rate of a parameter is multiplied by."""
        return next((f for part, f in reversed(self.factors.items()) if has_part(name, part)), 1.0)


@dataclass(frozen=True)
class Run:
    """One training, and the part of its task that it is scored on: all that its numbers depend on."""

    task: str
    method: str
    settings: Method
    rate: float
    seed: int
    examples: int | None
    epochs: float
    batch_size: int
    head_rate: float
    max_length: int
    part: str
    model: str | None
    evaluations: int = 0
    dtype: str = "float32"

    @property
    def asked(self) -> dict[str, Any]:
        """What makes this run the same as one that was done before: rates of other runs do not."""
        later = {"model": None, "evaluations": 0, "dtype": "float32"}  # what lines of before do not name
        asked = {name: value for name, value in dataclasses.asdict(self).items() if value != later.get(name, later)}
        del asked["settings"]["rates"]
        if not asked["settings"]["factors"]:
            del asked["settings"]["factors"]
        return json.loads(json.dumps(asked))


@dataclass(frozen=True)
class Study:
    """A study's file.

    Args:
        tasks: Names of tasks.
        methods: The rows.
        title: Of the report.
        beside: Methods that every other is compared with, seed by seed.
        seeds: Of what is reported: training examples, their order and the starts.
        select_seeds: Of the trainings that learning rates are chosen by.
        select_tasks: The tasks whose trainings they are; by default all. The rate is one for all tasks.
        every_rate: Whether all rates are reported, and none is chosen.
        examples: Training examples that a seed draws; `None` takes all.
        epochs: Passes over them.
        batch_size: Examples in a step.
        head_rate: Learning rate of the new head, the same for all methods.
        max_length: Tokens to cut texts to.
        model: Name of the pretrained model, whose folder the command is told; `None` for all-MiniLM-L6-v2.
        dtype: Of the frozen model: "float32", or "bfloat16", whose adapters are trained in float32 all the same.
        evaluations: How often a reported training is judged on its way, evenly spaced; 0 for its end alone.
        note: What a reader of the table has to know besides.
    """

    tasks: tuple[str, ...]
    methods: dict[str, Method]
    title: str
    beside: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    select_seeds: tuple[int, ...] = (100, 101)
    select_tasks: tuple[str, ...] = ()
    every_rate: bool = False
    examples: int | None = 3000
    epochs: float = 3.0
    batch_size: int = 32
    head_rate: float = 5e-3
    max_length: int = 128
    model: str | None = None
    dtype: str = "float32"
    evaluations: int = 0
    note: str = ""

    @classmethod
    def read(cls, file: Path) -> Study:
        """Read a study.

        Args:
            file: A YAML file with the fields of this class; those of a method are `Method`'s.

        Raises:
            TTFileError: If there is no such file.
            TTValueError: If it has fields that there are not, lacks some, or names what there is not.
        """
        if not file.is_file():
            raise TTFileError(f"There is no file {str(file)!r}; name a study such as benchmarks/studies/sst2.yaml.")
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        _check_fields(cls, raw, str(file))
        methods = {}
        for name, fields in raw.pop("methods").items():
            _check_fields(Method, fields, f"{file}, method {name!r}")
            rates = tuple(float(rate) for rate in fields.pop("rates", Method.rates))
            methods[name] = Method(rates=rates, **fields)
            known = methods[name].config
            if known is not None and not any(hasattr(package, known) for package in (peft, ttnet_llm)):
                raise TTValueError(
                    f"{file}: config is {known!r}, which neither peft nor ttnet_llm has; check its name."
                )
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
        if missing := [name for name in lists.get("beside", ()) if name not in methods]:
            raise TTValueError(f"{file}: beside has {missing[0]!r}; expected some of {', '.join(methods)}.")
        if (dtype := lists.get("dtype", cls.dtype)) not in DTYPES:
            raise TTValueError(f"{file}: dtype is {dtype!r}; expected one of {', '.join(DTYPES)}.")
        return cls(methods=methods, **lists)

    def candidates(self, method: str) -> Iterator[Run]:
        """List the trainings that choose a method's learning rate; none where there is nothing to choose."""
        if len(self.methods[method].rates) == 1:
            return
        for task in self.select_tasks or self.tasks:
            for rate in self.methods[method].rates:
                for seed in self.select_seeds:
                    yield self._run(task, method, rate, seed, "select")

    def reported(self, method: str, rate: float) -> Iterator[Run]:
        """List the trainings that a method is judged by."""
        for task in self.tasks:
            for seed in self.seeds:
                yield self._run(task, method, rate, seed, "report")

    def _run(self, task: str, method: str, rate: float, seed: int, part: str) -> Run:
        shared = {
            name: getattr(self, name)
            for name in ("examples", "epochs", "batch_size", "head_rate", "max_length", "model", "dtype")
        }
        if part == "report":
            shared["evaluations"] = self.evaluations
        settings = self.methods[method]
        return Run(task=task, method=method, settings=settings, rate=rate, seed=seed, part=part, **shared)


def _check_fields(cls: type, raw: Any, where: str) -> None:
    if not isinstance(raw, dict):
        raise TTValueError(f"{where} holds {raw!r}; expected fields and their values.")
    known = [f.name for f in dataclasses.fields(cls)]
    if unknown := sorted(set(raw) - set(known)):
        raise TTValueError(f"{where} has {', '.join(unknown)}; expected some of {', '.join(known)}.")
    needed = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in needed if name not in raw]:
        raise TTValueError(f"{where} has no {missing[0]}; a study needs {', '.join(needed)}.")
