"""The commands `ttnet-llm bank add | remove | list | export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from ttnet.errors import TTValueError
from ttnet_llm.command_line.console import Base, Json, Quiet, make_table, one_sentence_errors, plain, typer

Option, Argument = typer.Option, typer.Argument
app = typer.Typer(help="Keep thousands of adapters of one configuration in one folder.", no_args_is_help=True)
Bank = Annotated[str, Argument(metavar="BANK", help="The bank's folder.")]


@app.command()
def add(
    bank: Annotated[str, Argument(metavar="BANK", help="The bank's folder; made for the first adapter if it is new.")],
    adapters: Annotated[
        list[str], Argument(metavar="ADAPTER...", help="Folders of adapters or runs, or NAME=FOLDER for other names.")
    ],
    base: Base = None,
    capacity: Annotated[
        int | None, Option(help="How many adapters the bank may hold, from now on; 10,000 for a new one.")
    ] = None,
    common: Annotated[
        str | None,
        Option(
            help="For a new bank, with adapters that learn several tasks (MetaTT): the folder of one whose cores all "
            "have in common; the bank holds these once, and of each adapter its task's core."
        ),
    ] = None,
    task: Annotated[
        int | None, Option(help="With common cores: which task of each adapter, from 0; by default its config's.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Add adapters, called like their folders unless NAME= says otherwise."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from peft import PeftConfig

        from ttnet_llm.bank import AdapterBank
        from ttnet_llm.bank.saving import is_bank
        from ttnet_llm.loading import find_adapter, load_skeleton

        pairs = [_named(each) for each in adapters]
        if len(names := [name for name, _ in pairs]) > len(set(names)):
            twice = next(name for name in names if names.count(name) > 1)
            raise TTValueError(f"Two adapters would be called {twice!r}; say NAME=FOLDER for one of them.")
        if is_bank(bank):
            if common is not None:
                raise TTValueError(f"--common is {common!r}, and {bank!r} is a bank already; it is for new ones.")
            opened = _open(bank, base)
            if capacity is not None:
                opened.set_capacity(capacity)
        else:
            first = find_adapter(pairs[0][1])
            config: Any = PeftConfig.from_pretrained(str(first))
            shared = False if common is None else find_adapter(common)
            options: dict[str, Any] = {"capacity": capacity or 10_000, "device": "cpu", "common": shared}
            opened = AdapterBank(load_skeleton(first, base=base), config, **options)
        with screen.progress("Adding", len(pairs)) as advance:
            for done, (name, folder) in enumerate(pairs, 1):
                opened.add(name, find_adapter(folder), task=task)
                advance(done)
        opened.save(bank)
        screen.say(f"Saved in {bank}: {len(opened):,} adapters of {opened.parameters_each:,} numbers each.")
        screen.result({"bank": bank, "added": names, "adapters": len(opened)})


@app.command()
def remove(
    bank: Bank,
    names: Annotated[list[str], Argument(metavar="NAME...", help="The adapters.")],
    base: Base = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Remove adapters."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        opened = _open(bank, base)
        for name in dict.fromkeys(names):
            opened.remove(name)
        opened.save(bank)
        screen.say(f"Saved in {bank}: {len(opened):,} adapters.")
        screen.result({"bank": bank, "removed": names, "adapters": len(opened)})


@app.command(name="list")
def list_adapters(bank: Bank, quiet: Quiet = False, as_json: Json = False) -> None:
    """List a bank's adapters."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        from ttnet_llm.bank.saving import read_index
        from ttnet_llm.lora.checkpoint import read_config

        index, config = read_index(bank), read_config(bank)
        table = make_table("adapter")
        for name in index.numbers:
            table.add_row(plain(name))
        screen.table(table)
        screen.say(
            f"{len(index.numbers):,} of at most {index.capacity:,} adapters of {config['peft_type']}, with "
            f"{index.size:,} numbers each, in {len(index.parts)} files."
        )
        screen.result(
            {
                "adapters": list(index.numbers),
                "capacity": index.capacity,
                "method": config["peft_type"],
                "parameters_each": index.size,
            }
        )


@app.command()
def export(
    bank: Bank,
    name: Annotated[str, Argument(metavar="NAME", help="The adapter.")],
    output: Annotated[str, Option(help="Folder for its checkpoint; `ttnet-llm export` makes LoRA of that.")],
    base: Base = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write one adapter as an ordinary checkpoint."""
    with one_sentence_errors(resumable=False, quiet=quiet, as_json=as_json) as screen:
        _open(bank, base).export(name, output)
        screen.say(f"Saved in {output}: the adapter {name}.")
        screen.result({"output": output, "adapter": name})


def _named(text: str) -> tuple[str, str]:
    """Read NAME=FOLDER, or a folder alone, whose name is that of the run where it is called `adapter`."""
    if "=" in text and not Path(text).exists():
        return text.rpartition("=")[0], text.rpartition("=")[2]
    path = Path(text).resolve()
    return (path.parent.name if path.name == "adapter" else path.name), text


def _open(bank: str, base: str | None) -> Any:
    from ttnet_llm.bank import AdapterBank
    from ttnet_llm.bank.saving import read_index
    from ttnet_llm.loading import load_skeleton

    read_index(bank)  # whose errors speak of banks
    return AdapterBank.load(bank, load_skeleton(bank, base=base), device="cpu")
