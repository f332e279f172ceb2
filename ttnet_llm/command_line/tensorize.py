"""The command `ttnet-llm tensorize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ttnet.errors import MissingExtraError, TTValueError
from ttnet_llm.command_line.console import (
    Console,
    Json,
    Quiet,
    make_table,
    one_sentence_errors,
    plain,
    short_names,
    span,
    typer,
)

Option = typer.Option


def tensorize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of the model.")],
    output: Annotated[str, Option(help="Folder for the new model; new, or that of an earlier one.")],
    target: Annotated[
        list[str] | None,
        Option(help="Ending of layers' names; repeat for several. By default all linear layers but the output head."),
    ] = None,
    exclude: Annotated[
        list[str] | None, Option(help="Ending of the names of layers to leave as they are; repeat for several.")
    ] = None,
    eps: Annotated[float | None, Option(help="Relative error that a layer may have.")] = None,
    ratio: Annotated[float | None, Option(help="Parameters of all these layers, relative to the dense ones'.")] = None,
    budget: Annotated[int | None, Option(help="Number of parameters of all these layers.")] = None,
    layout: Annotated[str, Option(help="aligned or interleaved.")] = "aligned",
    calibration: Annotated[str | None, Option(help="A text file; the error of outputs on its lines counts.")] = None,
    lines: Annotated[int, Option(help="Lines of it to take.")] = 256,
    picture: Annotated[
        str | None,
        Option(help="A png, pdf or svg file for the sizes and errors; OUTPUT/tensorize.png if none."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Replace layers of a model by tensor trains, to a stated error or size, and save it."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.tensorize import tensorize as replace
        from ttnet_llm.tensorize.loading import load_dense, text_batches
        from ttnet_llm.tensorize.report import draw_report
        from ttnet_llm.tensorize.saving import model_folder, write_tensorized
        from ttnet_llm.training.details import carry_details

        if picture is not None and Path(picture).suffix not in (".png", ".pdf", ".svg"):
            raise TTValueError(f"--picture is {picture!r}; expected a png, pdf or svg file.")
        with model_folder(output, reads=(model, calibration)) as folder:  # refused before the work is done
            with screen.status("Loading"):
                loaded, tokenizer = load_dense(model)
                batches = None if calibration is None else text_batches(loaded, tokenizer, calibration, lines=lines)
            report = replace(
                loaded,
                targets=target or "all-linear",
                exclude=exclude or (),
                eps=eps,
                ratio=ratio,
                budget=budget,
                layout=layout,
                calibration=batches,
                progress=not quiet,
            )
            write_tensorized(loaded, folder, tokenizer=tokenizer, report=report)
            carry_details(model, folder)
        if Console().is_terminal:
            table = make_table("layer", "shape", "ranks", "params", "of dense", "weight error", "output error", "s")
            names = short_names([layer.name for layer in report.layers])
            for layer, cells in zip(report.layers, report.rows(), strict=True):
                table.add_row(plain(names[layer.name]), cells[1], span(layer.ranks[1:-1]) or "dense", *cells[3:])
            screen.table(table)
            screen.say(report.summary)
        elif not (quiet or as_json):  # a file has room for everything
            Console(soft_wrap=True, markup=False, highlight=False).print(str(report))
        kept = "" if tokenizer is not None else "; it has no tokenizer that can be loaded"
        screen.say(f"Saved in {output}: load it with ttnet_llm.load{kept}.")
        screen.result({"output": output} | report.to_dict())
        drawing, title = picture or str(Path(output) / "tensorize.png"), f"Trains in {Path(model).resolve().name}"
        try:
            draw_report(report.layers, drawing, title=title, subtitle=report.summary)
        except MissingExtraError as error:
            if picture is not None:
                raise
            screen.say(f"Not drawn: {error}")
        else:
            screen.say(f"Drawn in {drawing}.")


COMMANDS = (tensorize,)
