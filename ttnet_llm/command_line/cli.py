"""The command `ttnet-llm`: fine-tune, evaluate, count parameters; the other commands are in `commands`."""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ttnet.errors import MissingExtraError, TTValueError

try:
    from ttnet_llm.command_line.commands import add_commands
    from ttnet_llm.command_line.console import Console, make_table, plain, typer
    from ttnet_llm.command_line.console import one_sentence_errors as one_sentence_errors
except MissingExtraError as _error:  # the command is installed with or without its extra
    sys.exit(str(_error))

if TYPE_CHECKING:
    from ttnet_llm.training import FinetuneResult

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

app = typer.Typer(
    help="Fine-tune Hugging Face models with kilobyte-sized tensor-train adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Option = typer.Option
TARGETS = ("target_modules", "exclude_modules", "target_parameters")
METHOD_HELP = "loretta-adp, loretta-rep, tt-lora, lorta, lotr, metatt, melora, ether, lora, head or full."
KIND_HELP = "classify, or regress for a regression on numbers; by default guessed from the labels, and said."
ENCODING_HELP = "Codec of csv and jsonl files, such as cp1252; by default utf-8, or what a byte-order mark says."
MethodOption = Annotated[
    list[str] | None, Option("--method-option", help="A field of the method's config, KEY=VALUE; repeat for several.")
]


@app.command(name="finetune")
def finetune_command(
    model: Annotated[str, Option(help="Folder or hub id of the pretrained model.")],
    output: Annotated[str, Option(help="Folder for the adapter and its report.")],
    task: Annotated[str | None, Option(help="A GLUE task, from the hub: sst2, mrpc, ...")] = None,
    train: Annotated[str | None, Option(help="A csv, jsonl or parquet file, with --validation.")] = None,
    validation: Annotated[str | None, Option(help="A csv, jsonl or parquet file, with --train.")] = None,
    text_column: Annotated[list[str] | None, Option(help="Column of text; give two for sentence pairs.")] = None,
    label_column: Annotated[str | None, Option(help="Column of the label.")] = None,
    kind: Annotated[str | None, Option(help=KIND_HELP)] = None,
    encoding: Annotated[str | None, Option(help=ENCODING_HELP)] = None,
    method: Annotated[str, Option(help=METHOD_HELP)] = "loretta-rep",
    method_option: MethodOption = None,
    epochs: Annotated[float, Option(help="Passes over the training data.")] = 3.0,
    lr: Annotated[float | None, Option(help="Peak learning rate; by default the method's own.")] = None,
    head_lr: Annotated[float | None, Option(help="Peak learning rate of the new head; by default the same.")] = None,
    batch_size: Annotated[int, Option(help="Examples in a step.")] = 32,
    max_length: Annotated[int, Option(help="Tokens to cut texts to.")] = 128,
    seed: Annotated[int, Option(help="Of the head's start, the order of the examples and dropout.")] = 0,
    limit: Annotated[int | None, Option(help="Number of training examples to draw.")] = None,
    evaluations: Annotated[int, Option(help="Evaluations in an epoch; each leaves a checkpoint.")] = 1,
    early_stopping: Annotated[int | None, Option(help="Stop after so many evaluations without improvement.")] = None,
    resume: Annotated[bool, Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace an earlier run in the output folder.")] = False,
) -> None:
    """Fine-tune a classifier, and save the adapter with a report."""
    with one_sentence_errors():
        from ttnet_llm.training import METHODS, FinetuneSettings, finetune
        from ttnet_llm.training.progress import RichProgress, quiet_libraries

        quiet_libraries()
        settings = FinetuneSettings(
            model=model,
            output=output,
            method=method,
            method_options=parse_options(method_option or []),
            task=task,
            train=train,
            validation=validation,
            text_columns=tuple(text_column) if text_column else None,
            label_column=label_column,
            kind=kind,
            encoding=encoding,
            epochs=epochs,
            learning_rate=lr,
            head_learning_rate=head_lr,
            batch_size=batch_size,
            max_length=max_length,
            seed=seed,
            limit=limit,
            evaluations=evaluations,
            early_stopping=early_stopping,
        )
        progress = RichProgress(METHODS[method].title)
        try:
            result = finetune(settings, resume=resume, overwrite=overwrite, callbacks=[progress])
        finally:
            progress.close()
        _print_result(result)


@app.command(name="evaluate")
def evaluate_command(
    adapter: Annotated[str, Option(help="Output folder of a run, or the adapter in it.")],
    data: Annotated[str, Option(help="A labelled csv, jsonl or parquet file.")],
    model: Annotated[str | None, Option(help="The base model; by default the one that the adapter names.")] = None,
    encoding: Annotated[str | None, Option(help=ENCODING_HELP)] = None,
    batch_size: Annotated[int, Option(help="Texts in a batch.")] = 32,
    predictions: Annotated[str | None, Option(help="A jsonl file for predictions and logits.")] = None,
) -> None:
    """Judge a fine-tuned model on a labelled file."""
    with one_sentence_errors():
        from ttnet_llm.folders import output_file
        from ttnet_llm.training import evaluate
        from ttnet_llm.training.evaluation import write_predictions
        from ttnet_llm.training.progress import quiet_libraries

        quiet_libraries()
        if batch_size < 1:
            raise TTValueError(f"batch_size is {batch_size}; expected an integer of at least 1.")
        if predictions:
            output_file(predictions, reads=(data, adapter, model))
        with Console(stderr=True).status("Predicting"):
            found = evaluate(adapter, data, model=model, encoding=encoding, batch_size=batch_size)
        if predictions:
            write_predictions(found, predictions)
        table = make_table("measure", "value")
        for name, value in found.measures.items():
            table.add_row(name, f"{value:.4f}")
        table.add_row("texts", f"{len(found.labels):,}")
        Console().print(table)


@app.command(name="params")
def params_command(
    model: Annotated[str, Option(help="Folder or hub id of a model, or its config.json.")],
    method: Annotated[str, Option(help=METHOD_HELP)] = "loretta-rep",
    method_option: MethodOption = None,
    classify: Annotated[int | None, Option(help="Count a classification head for so many classes, too.")] = None,
) -> None:
    """Count what a method would train, exactly and without the model's weights, next to LoRA of rank 8."""
    with one_sentence_errors():
        from ttnet_llm.budget import count_parameters
        from ttnet_llm.training.methods import METHODS, make_config
        from ttnet_llm.training.model import load_config
        from ttnet_llm.training.progress import quiet_libraries

        quiet_libraries()
        if classify is not None and classify < 1:
            raise TTValueError(f"classify is {classify}; expected a number of classes of at least 1.")
        options = parse_options(method_option or [])
        config = load_config(model, **({} if classify is None else {"num_labels": classify}))
        task_type = None if classify is None else "SEQ_CLS"
        table = make_table("method", "adapter", "norms", "head", "trainable", "share of all")
        # LoRA adapts the same modules and parameters where the user named some.
        targets = {key: value for key, value in options.items() if key in TARGETS}
        for name, chosen in {method: options, "lora": options if method == "lora" else targets}.items():
            budget = count_parameters(config, make_config(name, chosen, task_type))
            counts = (budget.adapter, budget.norms, budget.head, budget.trainable)
            title = f"{METHODS[name].title} r=8" if name == "lora" and "r" not in chosen else METHODS[name].title
            table.add_row(title, *(f"{count:,}" for count in counts), f"{budget.share:.4%}")
        Console().print(table)


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """Read `KEY=VALUE` pairs; values are Python literals where they can be, otherwise strings.

    Args:
        pairs: Such as `["tt_rank=5", "target_modules=q_proj,v_proj"]`; a comma makes a list.

    Returns:
        The options.

    Raises:
        TTValueError: If a pair has no `=`.

    Example:
        >>> parse_options(["tt_rank=5", "train_norms=true", "target_modules=q_proj,v_proj"])
        {'tt_rank': 5, 'train_norms': True, 'target_modules': ['q_proj', 'v_proj']}
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise TTValueError(f"--method-option is {pair!r}; expected KEY=VALUE, such as tt_rank=5.")
        options[key.strip()] = _literal(value.strip())
    return options


add_commands(app)


def main() -> None:
    """Run the command."""
    app()


def _literal(value: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return words[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return [part.strip() for part in value.split(",") if part.strip()] if "," in value else value


def _print_result(result: FinetuneResult) -> None:
    from ttnet_llm.training.report import seconds, size

    table = make_table("", "")
    parameters = result.parameters
    table.add_row("trainable parameters", f"{parameters.trainable:,} ({parameters.share:.3%})")
    table.add_row("adapter / norms / head", f"{parameters.adapter:,} / {parameters.norms:,} / {parameters.head:,}")
    table.add_row("saved weights", size(result.adapter_bytes))
    for name, value in result.after.items():
        table.add_row(f"validation {name}", f"{result.before[name]:.4f} → {value:.4f}")
    table.add_row("time per step, median", seconds(result.seconds_per_step))
    Console().print(table)
    Console(soft_wrap=True).print(f"Saved in {plain(result.settings.output)}: {Path(result.adapter).name}, report.md")


if __name__ == "__main__":
    main()
