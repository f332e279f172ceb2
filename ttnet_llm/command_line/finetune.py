"""The command `ttnet-llm finetune`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ttnet_llm.command_line.console import Console, Json, Quiet, Screen, make_table, one_sentence_errors, typer
from ttnet_llm.command_line.options import parse_options

if TYPE_CHECKING:
    from ttnet_llm.training import FinetuneResult

Option = typer.Option
METHOD_HELP = "loretta-adp, loretta-rep, tt-lora, lorta, lotr, metatt, melora, ether, tt-ether, lora, head or full."
KIND_HELP = "classify, regress or causal; by default guessed from columns and labels, and said."
ENCODING_HELP = "Codec of files of text, such as cp1252; by default utf-8, or what a byte-order mark says."
MethodOption = Annotated[
    list[str] | None, Option("--method-option", help="A field of the method's config, KEY=VALUE; repeat for several.")
]
DATA, METHOD, TRAINING, RUN = "Data", "Method", "Training", "Run"


def finetune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of the pretrained model.")],
    output: Annotated[str, Option(help="Folder for the adapter and its report.")],
    train: Annotated[
        str | None,
        Option(help="A csv, tsv, json, jsonl, parquet or txt file, or a folder of them.", rich_help_panel=DATA),
    ] = None,
    validation: Annotated[
        str | None, Option(help="Another; by default a part of the first is held out.", rich_help_panel=DATA)
    ] = None,
    validation_share: Annotated[float, Option(help="How much is held out then.", rich_help_panel=DATA)] = 0.1,
    task: Annotated[
        str | None, Option(help="A GLUE task instead, from the hub: sst2, mrpc, ...", rich_help_panel=DATA)
    ] = None,
    kind: Annotated[str | None, Option(help=KIND_HELP, rich_help_panel=DATA)] = None,
    text: Annotated[
        list[str] | None,
        Option("--text", "--text-column", help="Column of text; give two for pairs.", rich_help_panel=DATA),
    ] = None,
    label: Annotated[
        str | None, Option("--label", "--label-column", help="Column of the label.", rich_help_panel=DATA)
    ] = None,
    prompt: Annotated[
        str | None, Option(help="Column of what a language model is given.", rich_help_panel=DATA)
    ] = None,
    completion: Annotated[str | None, Option(help="Column of what it has to say then.", rich_help_panel=DATA)] = None,
    messages: Annotated[str | None, Option(help="Column of chats.", rich_help_panel=DATA)] = None,
    encoding: Annotated[str | None, Option(help=ENCODING_HELP, rich_help_panel=DATA)] = None,
    limit: Annotated[int | None, Option(help="Number of training examples to draw.", rich_help_panel=DATA)] = None,
    method: Annotated[str, Option(help=METHOD_HELP, rich_help_panel=METHOD)] = "loretta-rep",
    method_option: Annotated[
        list[str] | None,
        Option(help="A field of the method's config, KEY=VALUE; repeat for several.", rich_help_panel=METHOD),
    ] = None,
    targets: Annotated[
        str | None,
        Option(help="Modules to adapt, as q_proj,v_proj or all-linear.", rich_help_panel=METHOD),
    ] = None,
    epochs: Annotated[float, Option(help="Passes over the training data.", rich_help_panel=TRAINING)] = 3.0,
    lr: Annotated[
        float | None, Option(help="Peak learning rate; by default the method's own.", rich_help_panel=TRAINING)
    ] = None,
    head_lr: Annotated[
        float | None,
        Option(help="Of the new head; by default the method's own, mostly the same.", rich_help_panel=TRAINING),
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
    warmup: Annotated[float, Option(help="Share of the steps that warm up.", rich_help_panel=TRAINING)] = 0.06,
    schedule: Annotated[
        str,
        Option(help="linear, cosine, constant_with_warmup, polynomial or inverse_sqrt.", rich_help_panel=TRAINING),
    ] = "linear",
    weight_decay: Annotated[float, Option(help="AdamW's.", rich_help_panel=TRAINING)] = 0.01,
    seed: Annotated[
        int, Option(help="Of starts, dropout, and the order of the examples.", rich_help_panel=TRAINING)
    ] = 0,
    dtype: Annotated[
        str | None,
        Option(help="Of the base weights: float32, bfloat16 or float16.", rich_help_panel=TRAINING),
    ] = None,
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
    with one_sentence_errors(quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.training import METHODS, FinetuneSettings
        from ttnet_llm.training import finetune as run
        from ttnet_llm.training.progress import RichProgress

        settings = FinetuneSettings(
            model=model,
            output=output,
            method=method,
            method_options=parse_options(method_option or []),
            targets=parse_targets(targets),
            task=task,
            train=train,
            validation=validation,
            validation_share=validation_share,
            kind=kind,
            text_columns=tuple(text) if text else None,
            label_column=label,
            prompt_column=prompt,
            completion_column=completion,
            messages_column=messages,
            encoding=encoding,
            epochs=epochs,
            learning_rate=lr,
            head_learning_rate=head_lr,
            batch_size=batch_size,
            gradient_accumulation=gradient_accumulation,
            gradient_checkpointing=gradient_checkpointing,
            max_length=max_length,
            packing=packing,
            warmup=warmup,
            schedule=schedule,
            weight_decay=weight_decay,
            seed=seed,
            dtype=dtype,
            device=device,
            limit=limit,
            evaluations=evaluations,
            early_stopping=early_stopping,
            report_to=tuple(report_to or ()),
        )
        progress = RichProgress(METHODS[method].title, Console(stderr=True, quiet=quiet))
        try:
            result = run(settings, resume=resume, overwrite=overwrite, callbacks=[progress])
        finally:
            progress.close()
        print_result(result, screen)


def parse_targets(value: str | None) -> Any:
    """Read which modules to adapt.

    Args:
        value: Names with commas between them, a regular expression, `all-linear`, or `None`.

    Returns:
        A tuple of names, a string, or `None`.

    Example:
        >>> parse_targets("q_proj, v_proj"), parse_targets("all-linear"), parse_targets(".*q_proj")
        (('q_proj', 'v_proj'), 'all-linear', '.*q_proj')
    """
    if value is None or value == "all-linear" or not re.fullmatch(r"[\w.,\s]+", value):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


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
    screen.say(f"Saved in {result.settings.output}: {Path(result.adapter).name}, report.html, report.md")
    screen.result({"output": result.settings.output, "adapter": result.adapter, "after": result.after})
