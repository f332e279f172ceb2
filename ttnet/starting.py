"""Whether this process is one of the commands, which answer to `--help` without what takes long to import."""

import sys
from pathlib import Path

MODULES = {"ttnet": "ttnet.cli", "ttnet-llm": "ttnet_llm.command_line.cli"}


def is_command(name: str) -> bool:
    """Tell whether a command was started, as a script or as `python -m MODULE`.

    Args:
        name: The command, `"ttnet"` or `"ttnet-llm"`.

    Returns:
        Whether it was.

    Example:
        >>> is_command("ttnet-llm")
        False
    """
    script = "".join(sys.argv[:1])
    # While Python looks for the module that -m names, its path is not known yet.
    return Path(script).stem == name or (script == "-m" and MODULES[name] in sys.orig_argv)
