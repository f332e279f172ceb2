"""Files that are either whole or not there, whenever the program stops."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_SPACE = 2**20  # bytes; torch writes in pieces, and may leave less than one


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary file to write, and put it in place of `path` once the block has ended well.

    Args:
        path: The file to write or replace; its folder is created.

    Yields:
        The temporary file's path, in the same folder and with the same suffix.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic(Path(folder, "a.txt")) as file:
        ...         _ = file.write_text("whole")
        ...     [p.name for p in Path(folder).iterdir()]
        ['a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes private files
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically.

    Args:
        path: The file to write or replace.
        text: Its new content.
    """
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def naming_a_full_disk(folder: str | Path) -> Iterator[None]:
    """Turn what torch says when a disk is full ("unexpected pos 8384 vs 8278") into the system's own error.

    Args:
        folder: Where the block writes.

    Raises:
        OSError: With `errno.ENOSPC`, if torch failed and the disk has no space left.
    """
    try:
        yield
    except RuntimeError as error:
        if shutil.disk_usage(folder).free < _NO_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
