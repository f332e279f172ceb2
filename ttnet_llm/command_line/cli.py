"""The command `ttnet-llm`: what its commands are; each of them stands in a module of its own kind."""

from __future__ import annotations

import os
import sys
from typing import Annotated

from ttnet.errors import MissingExtraError

try:
    from ttnet_llm.command_line import (
        allocate,
        bank,
        commands,
        counting,
        finetune,
        slim,
        sparsify,
        tensorize,
        tune,
        using,
    )
    from ttnet_llm.command_line.console import typer
except MissingExtraError as _error:  # the command is installed with or without its extra
    sys.exit(str(_error))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

app = typer.Typer(
    help="Fine-tune Hugging Face models with kilobyte-sized tensor-train adapters.",
    epilog="Exit codes: 0 done; 1 an error, said in one sentence; 2 wrong usage; 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        from ttnet.distribution import version

        print(f"ttnet-llm {version()}")  # noqa: T201
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tune Hugging Face models with kilobyte-sized tensor-train adapters."""


for _command in (
    finetune.finetune,
    *tune.COMMANDS,
    *allocate.COMMANDS,
    *slim.COMMANDS,
    *using.COMMANDS,
    *counting.COMMANDS,
    *commands.COMMANDS,
    *tensorize.COMMANDS,
    *sparsify.COMMANDS,
):
    app.command(name=_command.__name__)(_command)
app.add_typer(bank.app, name="bank")


def main() -> None:
    """Run the command."""
    app()


if __name__ == "__main__":
    main()
