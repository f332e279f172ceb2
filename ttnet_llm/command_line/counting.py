"""The command `ttnet-llm params`."""

from __future__ import annotations

from typing import Annotated

from ttnet.errors import TTValueError
from ttnet_llm.command_line.console import Json, Quiet, make_table, one_sentence_errors, typer
from ttnet_llm.command_line.finetune import METHOD_HELP, MethodOption
from ttnet_llm.command_line.options import parse_options

Option = typer.Option
TARGETS = ("target_modules", "exclude_modules", "target_parameters")


def params(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of a model, or its config.json.")],
    method: Annotated[str, Option(help=METHOD_HELP)] = "loretta-rep",
    method_option: MethodOption = None,
    classify: Annotated[int | None, Option(help="Count a classification head for so many classes, too.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Count what a method would train, exactly and without the model's weights, next to LoRA of rank 8."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.budget import count_parameters
        from ttnet_llm.training.methods import METHODS, make_config
        from ttnet_llm.training.model import load_config

        if classify is not None and classify < 1:
            raise TTValueError(f"classify is {classify}; expected a number of classes of at least 1.")
        options = parse_options(method_option or [])
        config = load_config(model, **({} if classify is None else {"num_labels": classify}))
        task_type = None if classify is None else "SEQ_CLS"
        table = make_table("method", "adapter", "norms", "head", "trainable", "share of all")
        # LoRA adapts the same modules and parameters where the user named some.
        targets = {key: value for key, value in options.items() if key in TARGETS}
        found = {}
        for name, chosen in {method: options, "lora": options if method == "lora" else targets}.items():
            budget = count_parameters(config, make_config(name, chosen, task_type))
            counts = (budget.adapter, budget.norms, budget.head, budget.trainable)
            title = f"{METHODS[name].title} r=8" if name == "lora" and "r" not in chosen else METHODS[name].title
            table.add_row(title, *(f"{count:,}" for count in counts), f"{budget.share:.4%}")
            keys = ("adapter", "norms", "head", "trainable", "share")
            found[name] = dict(zip(keys, (*counts, budget.share), strict=True))
        screen.table(table)
        screen.result(found)


COMMANDS = (params,)
