"""The command `ttnet-llm slim`."""

from __future__ import annotations

from typing import Annotated, Any

from ttnet_llm.command_line.console import Json, Quiet, make_table, one_sentence_errors, plain, short_names, typer
from ttnet_llm.command_line.finetune import Context, progress, settings_of
from ttnet_llm.command_line.options import parse_share
from ttnet_llm.command_line.tune import with_settings

Option = typer.Option
SLIM = "Slim"


@with_settings("seeds", "resume", "overwrite")
def slim(
    ctx: Context,
    heads: Annotated[
        str, Option(help="Share of every layer's attention heads that goes, as 1/3.", rich_help_panel=SLIM)
    ] = "1/3",
    neurons: Annotated[
        str, Option(help="Share of all feed-forward neurons that goes, as 1/3.", rich_help_panel=SLIM)
    ] = "1/3",
    l1: Annotated[float, Option(help="Weight of the penalty on masks.", rich_help_panel=SLIM)] = 1e-4,
    mask_learning_rate: Annotated[
        float, Option("--mask-lr", help="Learning rate of the masks.", rich_help_panel=SLIM)
    ] = 3e-3,
    quiet: Quiet = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Cut out the attention heads and neurons that a task has no use for, by masks learnt in a short training."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.slim.finetuning import slim_finetuning

        shares = parse_share("heads", heads), parse_share("neurons", neurons)
        settings = settings_of(ctx)
        with progress(settings, quiet or as_json, "learning masks") as bar:
            found = slim_finetuning(
                settings,
                heads=shares[0],
                neurons=shares[1],
                l1=l1,
                mask_learning_rate=mask_learning_rate,
                callbacks=[bar],
            )
        table = make_table("read by", "kept", "of", "parameters that went")
        names = short_names([axis.name for axis in found.axes])
        for axis in found.axes:
            kept = len(found.plan.kept[axis.name])
            went = (axis.groups - kept) * axis.parameters
            table.add_row(plain(f"{names[axis.name]} ({axis.kind})"), str(kept), str(axis.groups), f"{went:,}")
        screen.table(table)
        before, after = found.parameters
        screen.say(f"{after:,} parameters are left of {before:,}, by masks learnt in {found.steps} steps.")
        screen.say(f"Saved in {settings.output}; train an adapter on it with finetune {settings.output}.")
        kept_by_name = {axis.name: len(found.plan.kept[axis.name]) for axis in found.axes}
        screen.result(
            {"output": settings.output, "kept": kept_by_name, "parameters": {"before": before, "after": after}}
        )


COMMANDS = (slim,)
