"""The command `ttnet-llm finetune`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ttnet.errors import TTValueError
from ttnet_llm.command_line.console import Console, Json, Quiet, Screen, is_echo, make_table, one_sentence_errors, typer
from ttnet_llm.command_line.options import parse_options, parse_rates, parse_seeds, parse_targets, parse_words

if TYPE_CHECKING:
    from ttnet_llm.training import FinetuneResult, FinetuneSettings, SeedsResult

Option = typer.Option
METHOD_HELP = (
    "loretta-adp, loretta-rep, tt-lora, lorta, lotr, metatt, melora, ether, tt-ether, tt-turn, neuron-lora, dept, "
    "lora, hira, head or full."
)
KIND_HELP = (
    "classify, regress, causal, seq2seq, tokens, embed or choices; by default guessed from columns and labels, "
    "and said."
)
MEASURE_HELP = (
    "To judge by, the first counts; repeat for several. Of classes accuracy, f1 and matthews, or micro_f1, macro_f1 "
    "and subset_accuracy where a text may have several; of numbers pearson; of written texts loss, perplexity and "
    "token_accuracy; of words entity_f1 and accuracy; of embeddings retrieval_accuracy, triplet_accuracy, or spearman "
    "and pearson; of choices accuracy."
)
ENCODING_HELP = "Codec of files of text, such as cp1252; by default utf-8, or what a byte-order mark says."
METHOD_OPTION_HELP = "A field of the method's config, KEY=VALUE; repeat for several."
MethodOption = Annotated[list[str] | None, Option("--method-option", help=METHOD_OPTION_HELP)]
Context: Any = typer.Context
# Of settings that are written in a word here, and may be so in a file.
READERS: dict[str, Callable[[Any], Any]] = {
    "method_options": parse_options,
    "targets": parse_targets,
    "learning_rates": parse_rates,
    "label_words": parse_words,
    "seeds": parse_seeds,
}
DATA, METHOD, TRAINING, RUN = "Data", "Method", "Training", "Run"


def words_of(text: str) -> Callable[[str], list[str]]:
    """Let the shell complete the words of a help text that names the choices, up to its semicolon.

    Args:
        text: Such as `"lora, head or full."`.

    Returns:
        What gives the words that begin as told.

    Example:
        >>> words_of("lora, lorta, head or full; by default lora.")("lo")
        ['lora', 'lorta']
    """
    words = re.findall(r"[\w-]+", text.partition(";")[0])
    return lambda incomplete: [word for word in words if word.startswith(incomplete) and word != "or"]


def finetune(
    ctx: Context,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Folder or hub id of the pretrained model.")
    ] = None,
    output: Annotated[str | None, Option(help="Folder for the adapter and its report; it is needed.")] = None,
    config: Annotated[
        str | None,
        Option(help="A YAML file of settings, which the options here go before; every run has its own."),
    ] = None,
    train: Annotated[
        str | None,
        Option(help="A csv, tsv, json, jsonl, parquet, txt or conll file, or a folder of them.", rich_help_panel=DATA),
    ] = None,
    validation: Annotated[
        str | None, Option(help="Another; by default a part of the first is held out.", rich_help_panel=DATA)
    ] = None,
    validation_share: Annotated[float, Option(help="How much is held out then.", rich_help_panel=DATA)] = 0.1,
    task: Annotated[
        str | None, Option(help="A GLUE task instead, from the hub: sst2, mrpc, ...", rich_help_panel=DATA)
    ] = None,
    kind: Annotated[
        str | None, Option(help=KIND_HELP, rich_help_panel=DATA, autocompletion=words_of(KIND_HELP))
    ] = None,
    text_columns: Annotated[
        list[str] | None,
        Option(
            "--text",
            "--text-column",
            help="Column of text; give two for pairs, three for triplets.",
            rich_help_panel=DATA,
        ),
    ] = None,
    label_column: Annotated[
        str | None, Option("--label", "--label-column", help="Column of the label.", rich_help_panel=DATA)
    ] = None,
    label_separator: Annotated[
        str | None,
        Option(help="What stands between the labels of a cell, if a text may have several.", rich_help_panel=DATA),
    ] = None,
    prompt_column: Annotated[
        str | None, Option("--prompt", help="Column of what a language model is given.", rich_help_panel=DATA)
    ] = None,
    completion_column: Annotated[
        str | None, Option("--completion", help="Column of what it has to say then.", rich_help_panel=DATA)
    ] = None,
    messages_column: Annotated[str | None, Option("--messages", help="Column of chats.", rich_help_panel=DATA)] = None,
    choices_column: Annotated[
        str | None, Option("--choices", help="Column of choices, of which one is right.", rich_help_panel=DATA)
    ] = None,
    template: Annotated[
        list[str] | None,
        Option(
            help="How columns make a question, as '{sentence} It was {}.'; several are all asked.", rich_help_panel=DATA
        ),
    ] = None,
    label_words: Annotated[
        str | None,
        Option(help="What stands for classes there, as 0=terrible,1=great.", rich_help_panel=DATA),
    ] = None,
    measures: Annotated[
        list[str] | None,
        Option("--measure", help=MEASURE_HELP, rich_help_panel=DATA),
    ] = None,
    encoding: Annotated[str | None, Option(help=ENCODING_HELP, rich_help_panel=DATA)] = None,
    limit: Annotated[int | None, Option(help="Number of training examples to draw.", rich_help_panel=DATA)] = None,
    few_shot: Annotated[
        int | None, Option(help="The same, with as many of each answer (choices).", rich_help_panel=DATA)
    ] = None,
    method: Annotated[
        str, Option(help=METHOD_HELP, rich_help_panel=METHOD, autocompletion=words_of(METHOD_HELP))
    ] = "loretta-rep",
    method_options: Annotated[
        list[str] | None, Option("--method-option", help=METHOD_OPTION_HELP, rich_help_panel=METHOD)
    ] = None,
    targets: Annotated[
        str | None,
        Option(help="Modules to adapt, as q_proj,v_proj or all-linear.", rich_help_panel=METHOD),
    ] = None,
    epochs: Annotated[float, Option(help="Passes over the training data.", rich_help_panel=TRAINING)] = 3.0,
    learning_rate: Annotated[
        float | None,
        Option("--lr", help="Peak learning rate; by default the method's own.", rich_help_panel=TRAINING),
    ] = None,
    head_learning_rate: Annotated[
        float | None,
        Option(
            "--head-lr", help="Of the new head; by default the method's, mostly the same.", rich_help_panel=TRAINING
        ),
    ] = None,
    learning_rates: Annotated[
        str | None,
        Option(help="Of single parameters, NAME=RATE with commas between, as layer.0=1e-3.", rich_help_panel=TRAINING),
    ] = None,
    batch_size: Annotated[
        int | None, Option(help="Examples at once; by default 32, or 8 of a language model.", rich_help_panel=TRAINING)
    ] = None,
    gradient_accumulation: Annotated[int, Option(help="Batches in a step.", rich_help_panel=TRAINING)] = 1,
    gradient_checkpointing: Annotated[
        bool, Option("--gradient-checkpointing", help="Less memory, more time.", rich_help_panel=TRAINING)
    ] = False,
    max_length: Annotated[
        int | None, Option(help="Tokens to cut to; by default 128, or 1024.", rich_help_panel=TRAINING)
    ] = None,
    packing: Annotated[
        bool, Option("--packing", help="Several texts in a sequence (causal).", rich_help_panel=TRAINING)
    ] = False,
    unlikelihood: Annotated[
        float, Option(help="Weight of wrong choices in the loss (choices).", rich_help_panel=TRAINING)
    ] = 1.0,
    ranking: Annotated[
        float, Option(help="Weight of which choice is the likeliest (choices).", rich_help_panel=TRAINING)
    ] = 1.0,
    warmup: Annotated[float, Option(help="Share of the steps that warm up.", rich_help_panel=TRAINING)] = 0.06,
    schedule: Annotated[
        str,
        Option(help="linear, cosine, constant_with_warmup, polynomial or inverse_sqrt.", rich_help_panel=TRAINING),
    ] = "linear",
    weight_decay: Annotated[float, Option(help="AdamW's.", rich_help_panel=TRAINING)] = 0.01,
    seed: Annotated[
        int, Option(help="Of starts, dropout, and the order of the examples.", rich_help_panel=TRAINING)
    ] = 0,
    seeds: Annotated[
        str | None,
        Option(help="Several, as 0,1,2: trains by each, and reports mean and spread.", rich_help_panel=TRAINING),
    ] = None,
    dtype: Annotated[
        str | None,
        Option(help="Of the base weights: float32, bfloat16 or float16.", rich_help_panel=TRAINING),
    ] = None,
    load_in_8bit: Annotated[
        bool, Option("--load-in-8bit", help="Base weights in 8 bits, by bitsandbytes.", rich_help_panel=TRAINING)
    ] = False,
    load_in_4bit: Annotated[bool, Option("--load-in-4bit", help="Or in 4.", rich_help_panel=TRAINING)] = False,
    device: Annotated[str | None, Option(help="cpu, cuda or mps.", rich_help_panel=TRAINING)] = None,
    evaluations: Annotated[
        int, Option(help="Evaluations in an epoch; each leaves a checkpoint.", rich_help_panel=RUN)
    ] = 1,
    early_stopping: Annotated[
        int | None, Option(help="Stop after so many evaluations without improvement.", rich_help_panel=RUN)
    ] = None,
    report_to: Annotated[
        list[str] | None, Option(help="tensorboard, wandb, trackio; repeat for several.", rich_help_panel=RUN)
    ] = None,
    resume: Annotated[bool, Option("--resume", help="Go on with an interrupted run.", rich_help_panel=RUN)] = False,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace an earlier run in the output folder.", rich_help_panel=RUN)
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model on your own data, and save the adapter with a report."""
    for name, value in (("Argument MODEL", model), ("Option --output", output)):
        if value is None and config is None:
            raise typer.BadParameter(f"{name} is missing; say it here, or in a file that --config names.", ctx=ctx)
    with one_sentence_errors(quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.training import finetune as run
        from ttnet_llm.training import finetune_seeds

        settings = settings_of(ctx)
        if settings.seeds:
            with ExitStack() as stack:
                results = finetune_seeds(
                    settings,
                    resume=resume,
                    overwrite=overwrite,
                    callbacks=lambda seed: [stack.enter_context(progress(settings, quiet, f"seed {seed}"))],
                )
            print_seeds(results, screen)
            return
        with progress(settings, quiet) as bar:
            result = run(settings, resume=resume, overwrite=overwrite, callbacks=[bar])
        print_result(result, screen)


@contextmanager
def progress(settings: FinetuneSettings, quiet: bool, title: str | None = None) -> Iterator[Any]:
    """Show how far a training is, and give the terminal back however it ends.

    Args:
        settings: The run's.
        quiet: Whether to show nothing.
        title: What the line begins with; `None` names the method.

    Yields:
        A callback for the trainer.
    """
    from ttnet_llm.training import METHODS
    from ttnet_llm.training.progress import RichProgress

    bar = RichProgress(title or METHODS[settings.method].title, Console(stderr=True, quiet=quiet or is_echo()))
    try:
        yield bar
    finally:
        bar.close()


def settings_of(ctx: Any) -> FinetuneSettings:
    """Take the settings from a command's options, and from the file that `--config` names.

    The command's parameters are called as the fields of `FinetuneSettings`, which have the same defaults.

    Args:
        ctx: What the command was called with.

    Returns:
        The settings.

    Raises:
        TTFileError: If the file cannot be read.
        TTValueError: If a setting is unknown, missing or wrong.
    """
    from ttnet_llm.training import FinetuneSettings
    from ttnet_llm.training.settings_file import read_settings

    path, fields = ctx.params["config"], FinetuneSettings.__dataclass_fields__
    options = {
        name: READERS.get(name, _plain)(value)
        for name, value in ctx.params.items()
        if name in fields and ctx.get_parameter_source(name).name == "COMMANDLINE"
    }
    names = {
        option.lstrip("-").replace("-", "_"): parameter.name
        for parameter in ctx.command.params
        if parameter.name in fields
        for option in parameter.opts
    }
    values = {} if path is None else read_settings(path, names, READERS)
    if options.get("method", values.get("method")) != values.get("method"):
        values.pop("method_options", None)  # which are the other method's
    if "method_options" in options:
        options["method_options"] = values.get("method_options", {}) | options["method_options"]
    values |= options
    for name, how in (("model", "MODEL"), ("output", "--output")):
        if name not in values:
            raise TTValueError(f"{name} is neither said by {how} nor in {path!r}; say it in one of them.")
    return FinetuneSettings(**values)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def print_result(result: FinetuneResult, screen: Screen) -> None:
    """Print what came of a run.

    Args:
        result: The result.
        screen: Where to.
    """
    from ttnet_llm.training.report import seconds, size

    table = make_table("", "")
    parameters = result.parameters
    table.add_row("trainable parameters", f"{parameters.trainable:,} ({parameters.share:.3%})")
    table.add_row("adapter / norms / head", f"{parameters.adapter:,} / {parameters.norms:,} / {parameters.head:,}")
    table.add_row("saved weights", size(result.adapter_bytes))
    for name, value in result.after.items():
        table.add_row(f"validation {name.replace('_', ' ')}", f"{result.before[name]:.4f} → {value:.4f}")
    table.add_row("time per step, median", seconds(result.seconds_per_step))
    if result.tokens_per_second is not None:
        table.add_row("tokens a second", f"{result.tokens_per_second:,.0f}")
    table.add_row("peak memory", size(result.peak_memory))
    screen.table(table)
    if result.warning is not None:
        screen.warn(result.warning)
    screen.say(f"Saved in {result.settings.output}: {Path(result.adapter).name}, report.html, report.md")
    found = {"output": result.settings.output, "adapter": result.adapter, "after": result.after}
    screen.result(found if result.warning is None else {**found, "warning": result.warning})


def print_seeds(result: SeedsResult, screen: Screen) -> None:
    """Print what came of runs by several seeds.

    Args:
        result: The result.
        screen: Where to.
    """
    table = make_table("validation", "mean", "spread")
    for name, mean in result.mean.items():
        table.add_row(name.replace("_", " "), f"{mean:.4f}", f"{result.spread[name]:.4f}")
    screen.table(table)
    for run in result.runs:
        if run.warning is not None:
            screen.warn(f"Seed {run.settings.seed}: {run.warning}")
    output, seeds = result.settings.output, ", ".join(f"seed-{seed}" for seed in result.settings.seeds)
    screen.say(f"Saved in {output}: {seeds}, report.md")
    screen.result({"output": output, "seeds": result.by_seed, "mean": result.mean, "spread": result.spread})
