"""The command `ttnet-llm params`."""

from __future__ import annotations

from typing import Annotated

from ttnet.errors import TTValueError
from ttnet_llm.command_line.console import Json, Quiet, make_table, one_sentence_errors, typer
from ttnet_llm.command_line.finetune import METHOD_HELP, MethodOption
from ttnet_llm.command_line.options import parse_number, parse_options

Option = typer.Option
TARGETS = ("target_modules", "exclude_modules", "target_parameters")


def params(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of a model, or its config.json.")],
    method: Annotated[str | None, Option(help=f"{METHOD_HELP[:-1]}; by default loretta-rep.")] = None,
    method_option: MethodOption = None,
    budget: Annotated[
        str | None, Option(help="Choose the best method of at most so many parameters, such as 50k.")
    ] = None,
    classify: Annotated[int | None, Option(help="Count a classification head for so many classes, too.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Count what a method would train, exactly and without the model's weights, next to LoRA of ranks 1 and 8."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.budget import count_parameters, fit_to_budget
        from ttnet_llm.training.methods import METHODS, make_config
        from ttnet_llm.training.model import load_config

        if classify is not None and classify < 1:
            raise TTValueError(f"classify is {classify}; expected a number of classes of at least 1.")
        options = parse_options(method_option or [])
        config = load_config(model, **({} if classify is None else {"num_labels": classify}))
        task_type = None if classify is None else "SEQ_CLS"
        if budget is not None and (method is not None or options):
            raise TTValueError("Say either --budget, which chooses the method, or --method and its options.")
        # LoRA adapts the same modules and parameters where the user named some.
        targets = {key: value for key, value in options.items() if key in TARGETS}
        if budget is not None:
            fitted = fit_to_budget(config, parse_number(budget), task_type=task_type)
            method = fitted.method.replace("_", "-")
            named = ("r", "n", "tied", "alpha", "neurons")
            options = {name: getattr(fitted, name) for name in named if hasattr(fitted, name)}
            options |= {"target_modules": fitted.target_modules} if fitted.target_modules else {}
        method = method or "loretta-rep"
        table = make_table("method", "adapter", "norms", "head", "trainable", "share of all")
        found = {}
        rows = {method: (method, options), "lora-1": ("lora", targets | {"r": 1}), "lora": ("lora", targets)}
        if method == "lora":
            rows = {"lora": ("lora", options)}
        for key, (name, chosen) in rows.items():
            counted = count_parameters(config, make_config(name, chosen, task_type))
            counts = (counted.adapter, counted.norms, counted.head, counted.trainable)
            rank = chosen.get("r", 8) if name == "lora" else chosen.get("r")
            title = METHODS[name].title + (f" r={rank}" if rank is not None else "")
            table.add_row(title, *(f"{count:,}" for count in counts), f"{counted.share:.4%}")
            keys = ("adapter", "norms", "head", "trainable", "share")
            found[key] = dict(zip(keys, (*counts, counted.share), strict=True))
        screen.table(table)
        if budget is not None:
            said = "".join(f" --method-option {name}={value}" for name, value in options.items())
            screen.say(f"Train it with --method {method}{said}")
            found["options"] = options
        screen.result(found)


COMMANDS = (params,)
