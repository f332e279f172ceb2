"""Folders that are either whole or as they were, whenever the program stops."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ttnet.errors import TTFileError


@contextmanager
def atomic_folder(path: str | Path, *, replaces: Collection[str] = ()) -> Iterator[Path]:
    """Give a temporary folder to write to, and put it in place of `path` once the block has ended well.

    Args:
        path: The folder to write or replace; the folders above it are created.
        replaces: Names of files that a folder may hold to be replaced; one that holds anything else is left alone.

    Yields:
        The temporary folder, a sibling of `path`.

    Raises:
        TTFileError: If there is something that must not be replaced.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with atomic_folder(Path(place, "new")) as folder:
        ...         _ = (folder / "a.txt").write_text("whole")
        ...     [str(file.relative_to(place)) for file in Path(place, "new").iterdir()]
        ['new/a.txt']
    """
    from ttnet_llm.training.files import replace_folder  # here, as that package imports the methods

    path = Path(path).absolute()
    if path.exists() and not path.is_dir():
        raise TTFileError(f"{str(path)!r} is a file; name a folder.")
    foreign = sorted({file.name for file in path.iterdir()} - set(replaces)) if path.exists() else []
    if foreign:
        raise TTFileError(
            f"The folder {str(path)!r} holds {foreign[0]!r}, which would be lost; name a new folder or an empty one."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
