"""The command `ttnet-llm sparsify`."""

from __future__ import annotations

import json
from typing import Annotated

from ttnet.errors import TTValueError
from ttnet_llm.command_line.console import (
    Json,
    Quiet,
    make_table,
    one_sentence_errors,
    plain,
    short_names,
    typer,
)

Option = typer.Option


def sparsify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder or hub id of the model.")],
    output: Annotated[str, Option(help="Folder for the sparse model; new, or that of an earlier one.")],
    sparsity: Annotated[
        str, Option(help="Share of zeros in every row, or n:m to keep n of every m neighbours in a row.")
    ] = "2:4",
    target: Annotated[
        list[str] | None,
        Option(help="Ending of layers' names; repeat for several. By default all linear layers but the output head."),
    ] = None,
    exclude: Annotated[
        list[str] | None, Option(help="Ending of the names of layers to leave as they are; repeat for several.")
    ] = None,
    calibration: Annotated[
        str | None, Option(help="A text file; its inputs to every layer weigh the weights, as Wanda does.")
    ] = None,
    lines: Annotated[int, Option(help="Lines of it to take; on some of the next ones the loss is measured.")] = 256,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Set the least of a model's weights to zero, and save it; finetune --method hira keeps the zeros."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.folders import atomic_folder
        from ttnet_llm.sparse import sparsify as thin_out
        from ttnet_llm.tensorize.loading import calibrate, load_dense
        from ttnet_llm.training.details import carry_details

        pattern: float | str = sparsity
        if ":" not in sparsity:
            try:
                pattern = float(sparsity)
            except ValueError:
                raise TTValueError(
                    f"--sparsity is {sparsity!r}; expected a number, or a pattern such as 2:4."
                ) from None
        with atomic_folder(output, kind="sparsify", reads=(model, calibration)) as folder:
            with screen.status("Loading"):
                loaded, tokenizer = load_dense(model)
                batches, check = calibrate(loaded, tokenizer, calibration, lines=lines)
            with screen.status("Choosing zeros"):
                report = thin_out(
                    loaded,
                    pattern,
                    targets=target or "all-linear",
                    exclude=exclude or (),
                    calibration=batches,
                )
            seen = None
            if check is not None:
                with screen.status("Looking at what was lost"):
                    seen = check.compare()
            loaded.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
            carry_details(model, folder)
            (folder / "sparsify.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        table = make_table("layer", "shape", "zeros", "of the scores' squares")
        names = short_names([layer.name for layer in report.layers])
        for layer in report.layers:
            share = layer.zeros / (layer.shape[0] * layer.shape[1])
            table.add_row(
                plain(names[layer.name]), "x".join(map(str, layer.shape)), f"{share:.1%}", f"{layer.lost:.2%}"
            )
        screen.table(table)
        kept = "" if tokenizer is not None else "; it has no tokenizer that can be loaded"
        screen.say(
            f"Saved in {output}: {report.sparsity:.1%} of the weights of {len(report.layers)} layers are 0{kept}."
        )
        screen.result({"output": output, "sparsity": report.sparsity, "loss": None if seen is None else seen.loss})
        if seen is not None:
            screen.say(str(seen))
        else:
            screen.say("What the model has lost is not measured; give some texts with --calibration.")


COMMANDS = (sparsify,)
