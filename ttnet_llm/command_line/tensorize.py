"""The command `ttnet-llm tensorize`."""

from __future__ import annotations

import dataclasses
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
    lines: Annotated[int, Option(help="Lines of it to take; on some of the next ones the loss is measured.")] = 256,
    max_loss: Annotated[
        float, Option(help="Warn above: of the perplexity, relative, or of the agreement with the dense model.")
    ] = 0.1,
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
        from ttnet_llm.tensorize.loading import calibrate, load_dense
        from ttnet_llm.tensorize.report import draw_report
        from ttnet_llm.tensorize.saving import model_folder, write_tensorized
        from ttnet_llm.training.details import carry_details

        if not max_loss >= 0:
            raise TTValueError(f"--max-loss is {max_loss}; expected a number of at least 0.")
        if picture is not None and Path(picture).suffix not in (".png", ".pdf", ".svg"):
            raise TTValueError(f"--picture is {picture!r}; expected a png, pdf or svg file.")
        with model_folder(output, reads=(model, calibration)) as folder:  # refused before the work is done
            with screen.status("Loading"):
                loaded, tokenizer = load_dense(model)
                batches, check = calibrate(loaded, tokenizer, calibration, lines=lines)
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
            if check is not None:
                with screen.status("Looking at what was lost"):
                    report = dataclasses.replace(report, check=check.compare())
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
        if report.check is None:
            screen.say("What the model has lost is not measured; give some texts with --calibration.")
        elif not report.check.loss <= max_loss:
            screen.warn(
                f"{report.check} That is a loss of {report.check.loss:.1%}, above the {max_loss:.1%} of --max-loss: "
                "give a larger --ratio, leave layers out with --exclude, or heal the model by fine-tuning it."
            )
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
