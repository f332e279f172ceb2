"""The commands for adapters that are done: export, compress, merge, inspect; and tensorize, for whole models."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

from ttnet.errors import MissingExtraError, TTTypeError, TTValueError
from ttnet_llm.command_line.console import Console, make_table, one_sentence_errors, plain, runs, short_names, typer

Option = typer.Option
Base = Annotated[str | None, Option("--model", help="The base model; by default the one that the adapter names.")]


def add_commands(app: Any) -> None:
    """Add the commands to the command line.

    Args:
        app: The typer application.
    """
    for command in (export, compress, merge, inspect, tensorize):
        app.command(name=command.__name__)(command)


def export(
    adapter: Annotated[str, Option(help="Folder of an adapter of any linear method.")],
    output: Annotated[str, Option(help="Folder for the LoRA checkpoint.")],
    model: Base = None,
    pad_to: Annotated[
        str, Option(help="One rank for all modules: a number, or uniform for the largest; none keeps each at its own.")
    ] = "uniform",
    eps: Annotated[float | None, Option(help="Relative error that an update may have.")] = None,
    rank: Annotated[int | None, Option(help="Largest rank of a module.")] = None,
    format: Annotated[str, Option(help="peft, which serving engines read, or mlx, for mlx-lm.")] = "peft",
) -> None:
    """Write an adapter as an ordinary LoRA checkpoint, exactly, for serving engines; needs no base weights."""
    with one_sentence_errors(resumable=False):
        from ttnet_llm.loading import load_adapter
        from ttnet_llm.lora.export import export_lora
        from ttnet_llm.training.progress import quiet_libraries

        quiet_libraries()
        width: Any = int(pad_to) if pad_to.isdecimal() else None if pad_to == "none" else pad_to
        with Console(stderr=True).status("Exporting"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what there is to say is in the report
            loaded = load_adapter(adapter, model=model, weights=False)
            layout: Any = format
            report = export_lora(loaded, output, eps=eps, rank=rank, pad_to=width, format=layout)
        table = make_table("module", "shape", "rank", "parameters", "error")
        names = short_names([module.name for module in report.modules])
        for module in report.modules:
            size = "x".join(map(str, module.shape))
            table.add_row(
                plain(names[module.name]), size, f"{module.rank}", f"{module.parameters:,}", f"{module.error:.1e}"
            )
        Console().print(table)
        Console(soft_wrap=True).print(
            f"Saved in {plain(output)}: LoRA of rank {report.rank}, {report.parameters:,} parameters."
        )
        if report.caution:
            Console(stderr=True, soft_wrap=True).print(f"[yellow]Note:[/] {plain(report.caution)}", highlight=False)


def compress(
    lora: Annotated[str, Option(help="Folder of a LoRA checkpoint.")],
    output: Annotated[
        str | None, Option(help="Folder for the new adapter; without it only the report is made.")
    ] = None,
    method: Annotated[str, Option(help="tt-lora or loretta-rep.")] = "tt-lora",
    eps: Annotated[float | None, Option(help="Relative error that an update may have; by default none.")] = None,
    max_rank: Annotated[int | None, Option(help="Largest rank of the trains.")] = None,
    budget: Annotated[int | None, Option(help="Number of parameters of all trains; chooses the error.")] = None,
) -> None:
    """Turn a LoRA adapter into tensor trains, to a stated error or size; needs no base model."""
    with one_sentence_errors(resumable=False):
        from ttnet_llm.lora.compress import compress_lora

        with Console(stderr=True).status("Compressing"):
            report = compress_lora(
                lora, output, method=method.replace("-", "_"), eps=eps, max_rank=max_rank, budget=budget
            )
        table = make_table("module", "shape", "ranks", "parameters", "of LoRA", "error")
        names = short_names([module.name for module in report.modules])
        for module in report.modules:
            table.add_row(
                plain(names[module.name]),
                "x".join(map(str, module.shape)),
                runs(module.ranks[1:-1]),
                f"{module.parameters:,}",
                f"{module.parameters / module.lora_parameters:.1%}",
                f"{module.error:.1e}",
            )
        Console().print(table)
        share = report.parameters / report.lora_parameters
        sizes = f"{report.parameters:,} parameters, {share:.1%} of LoRA's, at an error of {report.error:.1e} at most"
        Console(soft_wrap=True).print(f"Saved in {plain(output)}: {sizes}." if output else f"Not saved: {sizes}.")


def merge(
    adapter: Annotated[str, Option(help="Folder of an adapter that can be merged.")],
    output: Annotated[str, Option(help="Folder for the merged model; new or empty.")],
    model: Base = None,
) -> None:
    """Merge an adapter into its base model, and save that with its tokenizer."""
    with one_sentence_errors(resumable=False):
        from ttnet_llm.folders import atomic_folder
        from ttnet_llm.loading import base_name, load_adapter
        from ttnet_llm.training.model import find_tokenizer
        from ttnet_llm.training.progress import quiet_libraries
        from ttnet_llm.tuner.ties import merge_apart

        quiet_libraries()
        with Console(stderr=True).status("Merging"), atomic_folder(output) as folder:
            loaded = load_adapter(adapter, model=model)
            if not hasattr(loaded.base_model, "merge_and_unload"):
                raise TTTypeError(f"The adapter in {adapter!r} is of a method that cannot be merged.")
            merge_apart(loaded, safe_merge=True).save_pretrained(folder)
            tokenizer = find_tokenizer(base_name(adapter, model))
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
            ending = " and its tokenizer" if tokenizer is not None else "; its base has no tokenizer that can be loaded"
        Console(soft_wrap=True).print(f"Saved in {plain(output)}: the model{ending}.")


def inspect(
    adapter: Annotated[str, typer.Argument(help="Folder of an adapter, of this package or LoRA.")],
    model: Base = None,
    picture: Annotated[str | None, Option(help="A png, pdf or svg file for the singular values.")] = None,
) -> None:
    """Show what an adapter does to every module: sizes, ranks and the singular values of its update."""
    with one_sentence_errors(resumable=False):
        from ttnet_llm.lora.spectra import adapter_spectra, draw_spectra
        from ttnet_llm.training.progress import quiet_libraries

        if picture is not None and Path(picture).suffix not in (".png", ".pdf", ".svg"):
            raise TTValueError(f"--picture is {picture!r}; expected a png, pdf or svg file.")
        quiet_libraries()
        spectra = adapter_spectra(adapter, model=model)
        table = make_table("module", "shape", "parameters", "train ranks", "rank", "largest", "effective rank")
        names = short_names([entry.name for entry in spectra])
        for entry in spectra:
            values = entry.singular_values
            table.add_row(
                plain(names[entry.name]),
                "x".join(map(str, entry.shape)),
                f"{entry.parameters:,}",
                ", ".join(runs(ranks[1:-1]) for ranks in entry.train_ranks),
                *(("-",) * 3 if values is None else (f"{len(values)}", f"{max(values, default=0):.3g}")),
                *(() if values is None else (f"{entry.effective_rank:.1f}",)),
            )
        Console().print(table)
        parameters = sum(entry.parameters for entry in spectra)
        Console(soft_wrap=True).print(f"{parameters:,} parameters in {len(spectra)} modules.")
        if picture is not None:
            subtitle = f"{parameters:,} parameters in {len(spectra)} modules; first layers light, last layers dark"
            draw_spectra(spectra, picture, title=f"Updates of {Path(adapter).resolve().name}", subtitle=subtitle)
            Console(soft_wrap=True).print(f"Drawn in {plain(picture)}.")


def tensorize(
    model: Annotated[str, Option(help="Folder or hub id of the model.")],
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
) -> None:
    """Replace layers of a model by tensor trains, to a stated error or size, and save it."""
    with one_sentence_errors(resumable=False):
        from ttnet_llm.tensorize import tensorize as replace
        from ttnet_llm.tensorize.loading import load_dense, text_batches
        from ttnet_llm.tensorize.report import draw_report
        from ttnet_llm.tensorize.saving import model_folder, write_tensorized
        from ttnet_llm.training.progress import quiet_libraries

        if picture is not None and Path(picture).suffix not in (".png", ".pdf", ".svg"):
            raise TTValueError(f"--picture is {picture!r}; expected a png, pdf or svg file.")
        quiet_libraries()
        with model_folder(output, reads=(model, calibration)) as folder:  # refused before the work is done
            with Console(stderr=True).status("Loading"):
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
            )
            write_tensorized(loaded, folder, tokenizer=tokenizer, report=report)
        if Console().is_terminal:
            table = make_table(*report.HEADINGS)
            names = short_names([layer.name for layer in report.layers])
            for layer, cells in zip(report.layers, report.rows(), strict=True):
                table.add_row(plain(names[layer.name]), cells[1], runs(layer.ranks[1:-1]) or "dense", *cells[3:])
            Console().print(table)
            Console(soft_wrap=True).print(report.summary)
        else:  # a file has room for everything
            Console(soft_wrap=True, markup=False, highlight=False).print(str(report))
        kept = "" if tokenizer is not None else "; it has no tokenizer that can be loaded"
        Console(soft_wrap=True).print(f"Saved in {plain(output)}: load it with ttnet_llm.load_tensorized{kept}.")
        drawing, title = picture or str(Path(output) / "tensorize.png"), f"Trains in {Path(model).resolve().name}"
        try:
            draw_report(report.layers, drawing, title=title, subtitle=report.summary)
        except MissingExtraError as error:
            if picture is not None:
                raise
            Console(soft_wrap=True).print(f"Not drawn: {plain(str(error))}")
        else:
            Console(soft_wrap=True).print(f"Drawn in {plain(drawing)}.")
