"""Under which name this is installed: `ttnet` on the package index is another project, with the same name to import."""

from functools import cache
from importlib import metadata

NAME = "ttnet-torch"


@cache  # which takes half a millisecond to read, for every config of an adapter
def version() -> str:
    """Give the installed version.

    Returns:
        Such as `"0.2.0"`.

    Example:
        >>> version().count(".")
        2
    """
    return metadata.version(NAME)
