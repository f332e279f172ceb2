"""The `ttnet` command; its subcommands live in `ttnet.commands`, which needs the extra `cli`."""

from __future__ import annotations

import sys

from ttnet.errors import MissingExtraError, import_extra


def main() -> None:
    """Run the `ttnet` command on the arguments of this process.

    Raises:
        SystemExit: Always, with 0 if all went well, 1 for an error that is told in one sentence, 2 for wrong usage.

    Example:
        >>> from unittest.mock import patch
        >>> with patch("sys.argv", ["ttnet", "info", "nowhere.safetensors"]):
        ...     try:
        ...         main()
        ...     except SystemExit as stop:
        ...         print(stop.code)
        1
    """
    try:
        for name in ("typer", "rich"):
            import_extra(name, extra="cli")
    except MissingExtraError as error:
        sys.exit(str(error))
    from ttnet.commands import app

    app()


if __name__ == "__main__":
    main()
