"""What a run of fine-tuning is told, and what came of it."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field
from typing import Any

from ttnet.errors import TTValueError
from ttnet.near import near
from ttnet_llm.budget import ParameterBudget
from ttnet_llm.training.methods import find_method
from ttnet_llm.training.metrics import KNOWN

KINDS = ("classify", "regress", "causal", "seq2seq", "tokens", "embed", "choices")
SCHEDULES = ("linear", "cosine", "constant_with_warmup", "polynomial", "inverse_sqrt")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda", "mps")
COLUMNS = ("text_columns", "label_column", "prompt_column", "completion_column", "messages_column")
# For some kinds only.
SPECIAL = (
    *("packing", "label_separator", "choices_column", "template", "label_words"),
    *("few_shot", "unlikelihood", "ranking"),
)
_CHOICES = {"kind": KINDS, "schedule": SCHEDULES, "dtype": DTYPES, "device": DEVICES}


@dataclass(frozen=True)
class FinetuneSettings:
    """What to train, on what, how, and where to put it.

    Args:
        model: Folder or hub id of the pretrained model.
        output: Folder for the adapter and its report.
        method: A key of `METHODS`.
        method_options: Fields of the method's config, such as `{"tt_rank": 5}`.
        task: A GLUE task, or `None` for files.
        train: A file of training data, or a folder of them.
        validation: Another; `None` holds out a part of the training data.
        validation_share: How much is held out where there is no validation file, above 0 and below 1.
        kind: A key of `KINDS`, such as `"causal"`; `None` guesses from columns and labels, and says so.
        text_columns: One or two columns of text; `None` guesses.
        label_column: The label's column; `None` guesses.
        label_separator: What stands between the labels of a cell, where a text may have several; `None` takes a cell
            for one label, or a list of them.
        prompt_column: The column of what the model is given; `None` guesses.
        completion_column: The column of what it has to say; `None` guesses.
        messages_column: The column of chats; `None` guesses.
        choices_column: The column of choices, lists of texts, for questions with choices; `None` guesses.
        template: How columns make a question, such as `"{sentence} It was {}."`, where a choice stands in the empty
            braces, or several ways, by all of which every row is asked; `None` takes the question's column alone.
        label_words: What stands for each class there, such as `{"0": "terrible", "1": "great"}`; by default the
            classes' names.
        few_shot: Number of training examples to draw of questions with choices, with as many of each right answer;
            `None` draws none.
        unlikelihood: Weight of the wrong choices' unlikelihood in the loss of questions with choices, at least 0.
        ranking: The same of which choice is the likeliest.
        encoding: Codec of csv and jsonl files; `None` takes UTF-8, or what a byte-order mark says.
        measures: What to judge by, of what the kind offers, the one that counts first; `None` takes the kind's own.
        epochs: Passes over the training data, above 0.
        learning_rate: Peak learning rate, above 0; `None` takes the method's own.
        head_learning_rate: Peak learning rate of the new head, above 0; `None` takes the method's own, for most the
            adapter's.
        learning_rates: Peak learning rates of single parameters, by parts of their names, such as
            `{"layer.0": 1e-3, "layer.*.value": 2e-3}`; where several match, the last one counts.
        batch_size: Examples that go through the model at once, at least 1; `None` takes the kind's own.
        gradient_accumulation: So many batches make a step, at least 1.
        gradient_checkpointing: Compute activations twice instead of keeping them: slower, in less memory.
        max_length: Tokens to cut inputs to, at least 1; `None` takes the kind's own.
        packing: Whether several examples of a language model go into one sequence.
        weight_decay: AdamW's, at least 0.
        warmup: The share of the steps in which the learning rate grows, at least 0 and below 1.
        schedule: How the learning rate falls then: one of `SCHEDULES`.
        targets: Modules to adapt, by the ends of their names, or `"all-linear"`; `None` takes the method's own.
        dtype: Type of the base model's weights, one of `DTYPES`; `None` takes the checkpoint's. Adapters are float32.
        load_in_8bit: Keep the base model's weights in 8 bits, by bitsandbytes.
        load_in_4bit: Or in 4.
        device: `"cpu"`, `"cuda"` or `"mps"`; `None` takes the fastest there is.
        report_to: Trackers that the trainer reports to as well, such as `"tensorboard"`.
        seed: Of the head's start, the order of the examples and dropout, and of what is held out or drawn of them.
        seeds: Several of them, each to be trained by, instead of `seed`.
        limit: Number of training examples to draw; `None` takes all.
        evaluations: Evaluations in an epoch, at least 1; each leaves a checkpoint.
        early_stopping: Stop after so many evaluations without improvement, and keep the best; `None` trains to
            the end.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1)
        >>> settings.says("epochs"), settings.says("batch_size"), settings.head_rate(1e-3), settings.rates_by_name()
        (True, False, 0.001, {})
    """

    model: str
    output: str
    method: str = "loretta-rep"
    method_options: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    train: str | None = None
    validation: str | None = None
    validation_share: float = 0.1
    kind: str | None = None
    text_columns: tuple[str, ...] | None = None
    label_column: str | None = None
    label_separator: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    messages_column: str | None = None
    choices_column: str | None = None
    template: tuple[str, ...] | str | None = None
    label_words: dict[str, str] = field(default_factory=dict)
    few_shot: int | None = None
    unlikelihood: float = 1.0
    ranking: float = 1.0
    encoding: str | None = None
    measures: tuple[str, ...] | None = None
    epochs: float = 3.0
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    learning_rates: dict[str, float] = field(default_factory=dict)
    batch_size: int | None = None
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    max_length: int | None = None
    packing: bool = False
    weight_decay: float = 0.01
    warmup: float = 0.06
    schedule: str = "linear"
    targets: tuple[str, ...] | str | None = None
    dtype: str | None = None
    load_in_8bit: bool = False
    load_in_4bit: bool = False
    device: str | None = None
    report_to: tuple[str, ...] = ()
    seed: int = 0
    seeds: tuple[int, ...] = ()
    limit: int | None = None
    evaluations: int = 1
    early_stopping: int | None = None

    def says(self, name: str) -> bool:
        """Tell whether a setting is another than where nothing is said.

        Args:
            name: The setting's name.

        Returns:
            Whether it is set to something.
        """
        entry = type(self).__dataclass_fields__[name]
        usual = entry.default if entry.default_factory is MISSING else entry.default_factory()
        return bool(getattr(self, name) != usual)

    @property
    def templates(self) -> tuple[str, ...]:
        """The templates, one or several; empty where nothing is said."""
        return (self.template,) if isinstance(self.template, str) else tuple(self.template or ())

    def head_rate(self, learning_rate: float) -> float:
        """Give the peak learning rate of a new head, beside that of the adapter.

        Args:
            learning_rate: The adapter's peak learning rate.

        Returns:
            The head's: what is set, or the method's own, or the adapter's.
        """
        return self.head_learning_rate or find_method(self.method).head_learning_rate or learning_rate

    def rates_by_name(self) -> dict[str, float]:
        """Give the peak learning rates of single parameters, the method's own before those that are set."""
        return {**find_method(self.method).learning_rates, **self.learning_rates}

    def __post_init__(self) -> None:
        find_method(self.method)
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) is not None and value not in choices:
                raise TTValueError(
                    f"{name} is {value!r}; {near(str(value), choices)}expected one of {', '.join(choices)}."
                )
        for name in ("epochs", "learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise TTValueError(f"{name} is {value}; expected a number above 0.")
        for name, rate in self.learning_rates.items():
            if not 0 < rate < math.inf:
                raise TTValueError(f"learning_rates gives {name!r} the rate {rate}; expected a number above 0.")
        for name in (
            "batch_size",
            "max_length",
            "limit",
            "evaluations",
            "early_stopping",
            "gradient_accumulation",
            "few_shot",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TTValueError(f"{name} is {value}; expected an integer of at least 1.")
        if self.measures is not None and (not self.measures or not set(self.measures) <= set(KNOWN)):
            raise TTValueError(f"measures is {self.measures!r}; expected some of {', '.join(KNOWN)}.")
        for name in ("weight_decay", "unlikelihood", "ranking"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise TTValueError(f"{name} is {value}; expected a number of at least 0.")
        for one, other in (("limit", "few_shot"), ("choices_column", "label_words")):
            if getattr(self, one) and getattr(self, other):
                raise TTValueError(f"{one} and {other} were both given; leave out one of them.")
        if not 0 <= self.warmup < 1:
            raise TTValueError(f"warmup is {self.warmup}; expected a share of the steps, at least 0 and below 1.")
        if not 0 < self.validation_share < 1:
            raise TTValueError(
                f"validation_share is {self.validation_share}; expected a share of the examples, above 0 and below 1."
            )
        for seed in (self.seed, *self.seeds):
            if not 0 <= seed < 2**32:
                raise TTValueError(f"seed is {seed}; expected an integer from 0 to 2**32 - 1.")
        if len(self.seeds) == 1 or len(set(self.seeds)) < len(self.seeds):
            raise TTValueError(f"seeds is {self.seeds}; expected several, each another; one is named with seed.")
        if self.load_in_8bit and self.load_in_4bit:
            raise TTValueError("load_in_8bit and load_in_4bit were both given; a weight is kept in one of them.")
        if (self.load_in_8bit or self.load_in_4bit) and find_method(self.method).config is None:
            raise TTValueError(
                f"method {self.method!r} trains the base model's weights, which are no numbers to train "
                "in 4 or 8 bits; take an adapter, or leave out load_in_4bit and load_in_8bit."
            )
        self._check_data()

    def _check_data(self) -> None:
        if (self.task is None) == (self.train is None) or (self.task is not None and self.validation is not None):
            raise TTValueError(
                "Say either a task, or a training file, with or without a validation file; "
                f"task is {self.task!r}, train is {self.train!r}, validation is {self.validation!r}."
            )
        for name in ("kind", "encoding", *SPECIAL, *COLUMNS):
            if self.task is not None and self.says(name):
                raise TTValueError(
                    f"{name} is {getattr(self, name)!r}, but the task {self.task!r} settles that; leave it out."
                )


@dataclass(frozen=True)
class FinetuneResult:
    """What came of a run, as `results.json` holds it.

    Args:
        settings: The settings.
        adapter: Folder of the adapter, or of the whole model.
        learning_rate: The peak learning rate used.
        parameters: Trainable and frozen parameters.
        adapter_bytes: Bytes of the saved weights, with the head.
        before: Measures on the validation data before training.
        after: The same after it.
        seconds_per_step: Median of the optimiser steps; `None` where a resumed run had none left.
        seconds: Wall-clock seconds of training with its evaluations.
        steps: Optimiser steps.
        losses: `(step, training loss)`.
        scores: `(step, first measure)` on the validation data.
        examples: Numbers of training and validation examples.
        labels: What the data were taken as, and why.
        names: Classes or tags, in the order of their indices.
        kind: The kind of training.
        batch_size: Examples that went through the model at once.
        max_length: Tokens that inputs were cut to.
        tokens_per_second: In the optimiser steps, without padding; `None` where none were counted.
        peak_memory: The most bytes taken at once, of the accelerator if there is one, or else of the process.
        device: Where it was trained.
        processes: How many trained together, each on batches of its own.
        threads: CPU threads.
        versions: Of the packages that matter.
        warning: That nothing was gained, and what to try; `None` where something was.

    Example:
        >>> from ttnet_llm.training import finetune
        >>> settings = FinetuneSettings(model="encoder", train="reviews.jsonl", output="run", epochs=1)
        >>> result = finetune(settings)
        >>> result.adapter, sorted(result.after), result.parameters.trainable < result.parameters.frozen
        ('run/adapter', ['accuracy'], True)
    """

    settings: FinetuneSettings
    adapter: str
    learning_rate: float
    parameters: ParameterBudget
    adapter_bytes: int
    before: dict[str, float]
    after: dict[str, float]
    seconds_per_step: float | None
    seconds: float
    steps: int
    losses: list[tuple[int, float]]
    scores: list[tuple[int, float]]
    examples: tuple[int, int]
    labels: str
    names: tuple[str, ...] | None
    kind: str
    batch_size: int
    max_length: int
    tokens_per_second: float | None
    peak_memory: int
    device: str
    processes: int
    threads: int
    versions: dict[str, str]
    warning: str | None = None
