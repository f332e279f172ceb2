"""The command `ttnet-llm tune`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated, Any

from ttnet_llm.command_line.console import (
    INTERRUPTED,
    Json,
    Quiet,
    Screen,
    make_table,
    one_sentence_errors,
    plain,
    typer,
)
from ttnet_llm.command_line.finetune import Context, finetune, progress, settings_of
from ttnet_llm.command_line.options import parse_number, parse_space

Option = typer.Option
SEARCH = "Search"


def with_settings(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `finetune` in the place of its `**options`.

    Args:
        *left_out: Those that it does not take.

    Returns:
        A decorator.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        names = {name for name, parameter in own.parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
        given = [
            parameter
            for name, parameter in inspect.signature(finetune, eval_str=True).parameters.items()
            if name not in {*names, *left_out}
        ]
        first, *rest = (own.parameters[name] for name in own.parameters if name in names)
        signature = own.replace(parameters=[first, *given, *rest])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        return command

    return decorate


@with_settings("seeds")
def tune(
    ctx: Context,
    tries: Annotated[
        list[str] | None,
        Option(
            "--try",
            help="What to search: lr=1e-4..1e-1, tt_rank=2..16 or r=4,8,16; repeat for several. By default a learning "
            "rate near the method's own, and its rank.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    evaluations: Annotated[int, Option("--evaluations", help="Trials in all.", rich_help_panel=SEARCH)] = 30,
    engine: Annotated[str, Option(help="tpe, nomad or random.", rich_help_panel=SEARCH)] = "tpe",
    budget: Annotated[
        str | None, Option(help="Parameters of an adapter at most, such as 20k.", rich_help_panel=SEARCH)
    ] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on with a search, or search longer.", rich_help_panel=SEARCH)
    ] = False,
    overwrite: Annotated[
        bool, Option("--overwrite", help="Replace an earlier search in the output folder.", rich_help_panel=SEARCH)
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Search for the settings by which a model is fine-tuned best; each trial is a run of finetune."""
    with one_sentence_errors(quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.search import Space
        from ttnet_llm.search.finetuning import tune_finetuning

        settings = settings_of(ctx)
        with ExitStack() as stack:
            found = tune_finetuning(
                settings,
                Space(parse_space(tries)) if tries else None,
                evaluations=evaluations,
                engine=engine,
                budget=None if budget is None else parse_number(budget),
                resume=resume,
                overwrite=overwrite,
                callbacks=lambda name: [stack.enter_context(progress(settings, quiet or as_json, name))],
            )
        _print(found, settings.output, screen)
    if found.tuned.interrupted:
        screen.warn("Interrupted; say --resume to go on.")
        raise typer.Exit(INTERRUPTED)


def _print(found: Any, output: str, screen: Screen) -> None:
    names = list(found.tuned.best)
    table = make_table("trial", *names, found.measure)
    course = found.tuned.course
    for k, (trial, score) in enumerate(zip(found.tuned.trials, found.scores, strict=True), 1):
        better = trial.value is not None and (k == 1 or trial.value < course[k - 2])
        said = "failed" if score is None else f"{score:.4f}{' *' if better else '  '}"
        table.add_row(str(k), *(plain(str(trial.point[name])) for name in names), said)
    screen.table(table)
    screen.say(
        f"Best {found.measure}: {found.score:.4f}, by {', '.join(f'{k} {v}' for k, v in found.tuned.best.items())}"
    )
    if found.final is not None:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in found.final.after.items())
        screen.say(f"Trained by once more, and judged on data that the search has not seen: {scores}")
    screen.say(
        f"Saved in {output}: settings.yaml for finetune --config, {'final, ' if found.final else ''}best, report.md"
    )
    screen.result(
        {
            "output": output,
            "best": found.tuned.best,
            "measure": found.measure,
            "score": found.score,
            "final": None if found.final is None else found.final.after,
            "trials": len(found.tuned.trials),
        }
    )


COMMANDS = (tune,)
