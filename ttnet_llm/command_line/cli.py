"""The command `ttnet-llm`: evaluate, count parameters; the other commands are in `commands`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

from ttnet.errors import MissingExtraError, TTValueError

try:
    from ttnet_llm.command_line.commands import add_commands
    from ttnet_llm.command_line.console import Console, make_table, typer
    from ttnet_llm.command_line.console import one_sentence_errors as one_sentence_errors
    from ttnet_llm.command_line.finetune import ENCODING_HELP, METHOD_HELP, MethodOption, finetune
    from ttnet_llm.command_line.options import parse_options
except MissingExtraError as _error:  # the command is installed with or without its extra
    sys.exit(str(_error))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

app = typer.Typer(
    help="Fine-tune Hugging Face models with kilobyte-sized tensor-train adapters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Option = typer.Option
TARGETS = ("target_modules", "exclude_modules", "target_parameters")

app.command(name="finetune")(finetune)


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
        table.add_row("examples", f"{len(found.predictions):,}")
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


add_commands(app)


def main() -> None:
    """Run the command."""
    app()


if __name__ == "__main__":
    main()
