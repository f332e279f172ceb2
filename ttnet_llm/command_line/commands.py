"""The commands for adapters that are done: export, compress, merge, inspect."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.command_line.console import (
    Base,
    Json,
    ModelArgument,
    Quiet,
    Screen,
    make_table,
    one_sentence_errors,
    plain,
    short_names,
    span,
    typer,
)

Option = typer.Option
_SPARSE = 0.1  # share of zeros from which a model is taken for one whose zeros are meant


def export(
    model: ModelArgument,
    output: Annotated[str, Option(help="Folder for the LoRA checkpoint.")],
    base: Base = None,
    pad_to: Annotated[
        str, Option(help="One rank for all modules: a number, or uniform for the largest; none keeps each at its own.")
    ] = "uniform",
    eps: Annotated[float | None, Option(help="Relative error that an update may have.")] = None,
    rank: Annotated[int | None, Option(help="Largest rank of a module.")] = None,
    format: Annotated[str, Option(help="peft, which serving engines read, or mlx, for mlx-lm.")] = "peft",
    whole: Annotated[
        bool, Option("--whole", help="Of an adapter on a slim model: one for the whole model that was cut.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write an adapter as an ordinary LoRA checkpoint, exactly, for serving engines; only turns need base weights."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.loading import find_adapter, load_adapter
        from ttnet_llm.lora.checkpoint import EXPORT
        from ttnet_llm.lora.export import export_lora
        from ttnet_llm.training.details import carry_details

        if whole:
            others = {"eps": eps, "rank": rank, "format": format, "pad-to": pad_to}
            _export_for_whole(model, output, base, screen, others)
            return
        width: Any = int(pad_to) if pad_to.isdecimal() else None if pad_to == "none" else pad_to
        with screen.status("Exporting"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what there is to say is in the report
            loaded = load_adapter(model, model=base, weights=False)
            layout: Any = format
            report = export_lora(loaded, output, eps=eps, rank=rank, pad_to=width, format=layout)
            carry_details(find_adapter(model), output, kind=EXPORT)
        table = make_table("module", "shape", "rank", "parameters", "error")
        names = short_names([module.name for module in report.modules])
        for module in report.modules:
            size = "x".join(map(str, module.shape))
            table.add_row(
                plain(names[module.name]), size, f"{module.rank}", f"{module.parameters:,}", f"{module.error:.1e}"
            )
        screen.table(table)
        screen.say(f"Saved in {output}: LoRA of rank {report.rank}, {report.parameters:,} parameters.")
        screen.result({"output": output, "rank": report.rank, "parameters": report.parameters})
        if report.caution:
            screen.warn(report.caution)


def _export_for_whole(model: str, output: str, base: str | None, screen: Screen, others: dict[str, Any]) -> None:
    from ttnet_llm.slim import grow_adapter

    for name, value in others.items():
        if value not in (None, "peft", "uniform"):
            raise TTValueError(f"--{name} is {value!r}, which does not go with --whole; leave it out.")
    with screen.status("Exporting"):
        config = grow_adapter(model, output, base=base)
    whole = config.base_model_name_or_path
    screen.say(f"Saved in {output}: LoRA of rank {config.r} for {whole}.")
    screen.result({"output": output, "rank": config.r, "base": whole})


def compress(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a LoRA checkpoint.")],
    output: Annotated[
        str | None, Option(help="Folder for the new adapter; without it only the report is made.")
    ] = None,
    method: Annotated[str, Option(help="tt-lora or loretta-rep.")] = "tt-lora",
    eps: Annotated[float | None, Option(help="Relative error that an update may have; by default none.")] = None,
    max_rank: Annotated[int | None, Option(help="Largest rank of the trains.")] = None,
    budget: Annotated[int | None, Option(help="Number of parameters of all trains; chooses the error.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Turn a LoRA adapter into tensor trains, to a stated error or size; needs no base model."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.loading import find_adapter
        from ttnet_llm.lora.compress import COMPRESSED, compress_lora
        from ttnet_llm.training.details import carry_details

        with screen.status("Compressing"):
            report = compress_lora(
                find_adapter(model),
                output,
                method=method.replace("-", "_"),
                eps=eps,
                max_rank=max_rank,
                budget=budget,
            )
            if output is not None:
                carry_details(find_adapter(model), output, kind=COMPRESSED)
        table = make_table("module", "shape", "ranks", "parameters", "of LoRA", "error")
        names = short_names([module.name for module in report.modules])
        for module in report.modules:
            table.add_row(
                plain(names[module.name]),
                "x".join(map(str, module.shape)),
                span(module.ranks[1:-1]),
                f"{module.parameters:,}",
                f"{module.parameters / module.lora_parameters:.1%}",
                f"{module.error:.1e}",
            )
        screen.table(table)
        share = report.parameters / report.lora_parameters
        sizes = f"{report.parameters:,} parameters, {share:.1%} of LoRA's, at an error of {report.error:.1e} at most"
        screen.say(f"Saved in {output}: {sizes}." if output else f"Not saved: {sizes}.")
        screen.result({"output": output, "parameters": report.parameters, "of_lora": share, "error": report.error})


def merge(
    model: ModelArgument,
    output: Annotated[str, Option(help="Folder for the merged model; new or empty.")],
    base: Base = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Merge an adapter into its base model, and save that with its tokenizer."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        from ttnet_llm.folders import atomic_folder
        from ttnet_llm.loading import base_name, find_adapter, load_adapter
        from ttnet_llm.sparse import count_zeros
        from ttnet_llm.training.details import carry_details
        from ttnet_llm.training.model import find_tokenizer
        from ttnet_llm.tuner.ties import merge_apart

        with screen.status("Merging"), atomic_folder(output) as folder:
            loaded = load_adapter(model, model=base)
            if not hasattr(loaded.base_model, "merge_and_unload"):
                raise TTTypeError(f"The adapter in {model!r} is of a method that cannot be merged.")
            adapted = [m.get_base_layer() for m in loaded.modules() if isinstance(m, BaseTunerLayer)]
            linear = [layer for layer in adapted if isinstance(layer, nn.Linear | Conv1D)]
            zeros, weights = count_zeros(linear)
            merge_apart(loaded, safe_merge=True).save_pretrained(folder)
            tokenizer = find_tokenizer(base_name(model, base))
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
            carry_details(find_adapter(model), folder)
            ending = " and its tokenizer" if tokenizer is not None else "; its base has no tokenizer that can be loaded"
            left, _ = count_zeros(linear)
        screen.say(f"Saved in {output}: the model{ending}.")
        screen.result({"output": output, "tokenizer": tokenizer is not None})
        if left < zeros and zeros > _SPARSE * weights:
            screen.warn(
                f"Of the {zeros:,} zeros in the adapted layers of the base model ({zeros / weights:.1%}) {left:,} are "
                "left; an update that keeps them is that of finetune --method hira."
            )


def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of an adapter, of this package or LoRA.")],
    base: Base = None,
    picture: Annotated[str | None, Option(help="A png, pdf or svg file for the singular values.")] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show what an adapter does to every module: sizes, ranks and the singular values of its update."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.lora.spectra import adapter_spectra, draw_spectra

        if picture is not None and Path(picture).suffix not in (".png", ".pdf", ".svg"):
            raise TTValueError(f"--picture is {picture!r}; expected a png, pdf or svg file.")
        spectra = adapter_spectra(model, model=base)
        table = make_table("module", "shape", "params", "train ranks", "rank", "largest", "effective rank")
        names = short_names([entry.name for entry in spectra])
        for entry in spectra:
            values = entry.singular_values
            table.add_row(
                plain(names[entry.name]),
                "x".join(map(str, entry.shape)),
                f"{entry.parameters:,}",
                ", ".join(span(ranks[1:-1]) for ranks in entry.train_ranks),
                *(("-",) * 3 if values is None else (f"{len(values)}", f"{max(values, default=0):.3g}")),
                *(() if values is None else (f"{entry.effective_rank:.1f}",)),
            )
        screen.table(table)
        parameters = sum(entry.parameters for entry in spectra)
        screen.say(f"{parameters:,} parameters in {len(spectra)} modules.")
        screen.result(
            {
                "parameters": parameters,
                "modules": {
                    entry.name: {
                        "shape": entry.shape,
                        "parameters": entry.parameters,
                        "train_ranks": entry.train_ranks,
                        "singular_values": entry.singular_values,
                    }
                    for entry in spectra
                },
            }
        )
        if picture is not None:
            subtitle = f"{parameters:,} parameters in {len(spectra)} modules; first layers light, last layers dark"
            draw_spectra(spectra, picture, title=f"Updates of {Path(model).resolve().name}", subtitle=subtitle)
            screen.say(f"Drawn in {picture}.")


def push(
    model: ModelArgument,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Where to, on the hub: NAME/REPO.")],
    base: Annotated[str | None, Option(help="The base model's id on the hub, if it was trained from a folder.")] = None,
    private: Annotated[bool, Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[str, Option(help="Of the commit.")] = "Upload the model",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Put an adapter or model on the Hugging Face hub, with its card and without local paths."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.cards import is_local
        from ttnet_llm.loading import base_name, find_model
        from ttnet_llm.lora.checkpoint import CONFIG
        from ttnet_llm.pushing import push as put
        from ttnet_llm.slim.saving import RECORD, read_record

        folder = find_model(model)
        if base is None and (folder / CONFIG).is_file() and is_local(name := base_name(folder)):
            screen.warn(
                f"The adapter was trained from the folder {name!r}; tell others which model that is with --base."
            )
        if base is None and (folder / RECORD).is_file() and is_local(name := read_record(folder)[0]):
            screen.warn(f"The model was cut out of the folder {name!r}; tell others which model that is with --base.")
        with screen.status("Pushing"):
            address = put(model, repo, base=base, private=private, message=message)
        screen.say(f"Pushed to {address}.")
        screen.result({"repo": repo, "address": address})


COMMANDS = (export, compress, merge, inspect, push)
