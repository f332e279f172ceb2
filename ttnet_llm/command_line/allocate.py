"""The command `ttnet-llm allocate`."""

from __future__ import annotations

from typing import Annotated, Any

from ttnet.errors import TTValueError
from ttnet_llm.command_line.console import Json, Quiet, make_table, one_sentence_errors, plain, short_names, typer
from ttnet_llm.command_line.finetune import Context, progress, settings_of
from ttnet_llm.command_line.options import parse_number, parse_seeds
from ttnet_llm.command_line.tune import SEARCH, with_settings

Option = typer.Option


@with_settings("seeds")
def allocate(
    ctx: Context,
    budget: Annotated[
        str | None, Option(help="Parameters of the adapter at most, such as 20k; it is needed.", rich_help_panel=SEARCH)
    ] = None,
    candidates: Annotated[
        str | None,
        Option(help="Ranks to choose among, as 1,2,4,8; by default powers of two up to r.", rich_help_panel=SEARCH),
    ] = None,
    weigh: Annotated[
        bool,
        Option("--weigh/--no-weigh", help="Weigh updates by what goes into their modules.", rich_help_panel=SEARCH),
    ] = True,
    resume: Annotated[
        bool, Option("--resume", help="Go on with an interrupted training.", rich_help_panel=SEARCH)
    ] = False,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace an earlier allocation in the output folder.", rich_help_panel=SEARCH)
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Choose modules and ranks for a number of parameters, by a short training of all modules by the largest rank."""
    if budget is None:
        raise typer.BadParameter("Option --budget is missing.", ctx=ctx)
    with one_sentence_errors(quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.search.allocating import allocate_finetuning, rows_of

        number = parse_number(budget)
        if candidates is not None and not candidates.replace(",", "").replace(" ", "").isdecimal():
            raise TTValueError(f"candidates is {candidates!r}; expected ranks with commas between, such as 1,2,4,8.")
        settings = settings_of(ctx)
        with progress(settings, quiet or as_json, "wide training") as bar:
            found = allocate_finetuning(
                settings,
                number,
                candidates=None if candidates is None else parse_seeds(candidates),
                weigh=weigh,
                resume=resume,
                overwrite=overwrite,
                callbacks=[bar],
            )
        allocation = found.allocation
        table = make_table("module", "rank", "parameters", "of what was learnt")
        names = short_names(list(allocation.scores))
        for name, rank, share in rows_of(allocation):
            cost = f"{allocation.costs[name][rank]:,}" if rank else "-"
            table.add_row(plain(names[name]), str(rank or "-"), cost, f"{share:.1%}")
        screen.table(table)
        screen.say(
            f"{allocation.parameters:,} parameters in {len(allocation.ranks)} of {len(allocation.scores)} modules, "
            f"with {allocation.kept:.1%} of what {found.wide.parameters.adapter:,} have learnt."
        )
        screen.say(f"Saved in {settings.output}: settings.yaml for finetune --config, report.md")
        screen.result(
            {
                "output": settings.output,
                "ranks": allocation.ranks,
                "parameters": allocation.parameters,
                "kept": allocation.kept,
            }
        )


COMMANDS = (allocate,)
