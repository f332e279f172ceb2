"""Folders that are whole or as they were, whenever the program stops, and that take the place of our own only."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ttnet.errors import TTFileError
from ttnet_llm.files import write_text

MARKER = "ttnet_llm.json"  # says which command wrote a folder, and which files


def output_folder(path: str | Path, *, kind: str | None = None, reads: Iterable[str | Path | None] = ()) -> Path:
    """Settle which folder will be written, and refuse one in whose place something would be lost.

    Args:
        path: The folder, by any path that leads to it.
        kind: What will be written, such as `"finetune"`: a folder that `mark_folder` marked with the same word may be
            replaced, if it holds nothing else. `None` takes a new or empty folder only.
        reads: Files and folders that are read meanwhile; what is not there, such as a hub id, does not count.

    Returns:
        The folder, absolute and with all links followed.

    Raises:
        TTFileError: If it must not be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = output_folder(Path(place, "models", "..", "new"))
        ...     folder == Path(place).resolve() / "new"
        True
    """
    folder = _follow(path)
    first = next(place for place in (folder, *folder.parents) if place.exists())
    if not first.is_dir():
        raise TTFileError(f"{str(path if first == folder else first)!r} is a file; name a folder.")
    if folder == first:
        _refuse_to_lose(folder, [*reads, Path.cwd()], path)
        if folder.is_mount():
            raise TTFileError(f"The folder {str(path)!r} is where a disk is mounted; name a folder in it.")
        _refuse_others_files(folder, kind, path)
    return folder


def output_file(path: str | Path, *, reads: Iterable[str | Path | None] = ()) -> None:
    """Refuse to write a file over what is read.

    Args:
        path: The file.
        reads: As for `output_folder`.

    Raises:
        TTFileError: If it must not be written.
    """
    if Path(path).is_dir():
        raise TTFileError(f"{str(path)!r} is a folder; name a file.")
    _refuse_to_lose(Path(path), reads, path)


def refuse_seeds(folder: str | Path) -> None:
    """Refuse a folder of runs by several seeds where one model is wanted.

    None of them is taken without being named: the best by the held-out data would promise more than it keeps.

    Args:
        folder: Any path.

    Raises:
        TTFileError: If it is such a folder.
    """
    if names := sorted(place.name for place in Path(folder).glob("seed-*") if (place / MARKER).is_file()):
        raise TTFileError(
            f"{str(folder)!r} holds runs by several seeds, each of which is a model; name one of them: "
            f"{', '.join(str(Path(folder, name)) for name in names)}."
        )


def mark_folder(folder: Path, kind: str, *, also: Iterable[str] = ()) -> None:
    """Mark a folder as one that the next of its kind may replace, with all the files that are in it now.

    Args:
        folder: The folder.
        kind: What wrote it, such as `"finetune"`.
        also: Files that will come, relative to the folder; one that ends in `/` stands for all in that folder.
    """
    files = {*_files(folder), *also, MARKER}
    write_text(folder / MARKER, json.dumps({"kind": kind, "files": sorted(files)}, indent=1) + "\n")


@contextmanager
def atomic_folder(
    path: str | Path, *, kind: str | None = None, reads: Iterable[str | Path | None] = (), also: Iterable[str] = ()
) -> Iterator[Path]:
    """Give a temporary folder to write to, and put it in place of `path` once the block has ended well.

    Args:
        path: The folder to write or replace; the folders above it are created.
        kind: As for `output_folder`; the new folder is marked with it.
        reads: As for `output_folder`.
        also: As for `mark_folder`.

    Yields:
        The temporary folder.

    Raises:
        TTFileError: If `path` must not be replaced, before the block and, should it have changed, after it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with atomic_folder(Path(place, "new")) as folder:
        ...         _ = (folder / "a.txt").write_text("whole")
        ...     [str(file.relative_to(place)) for file in Path(place, "new").iterdir()]
        ['new/a.txt']
    """
    target = output_folder(path, kind=kind, reads=reads)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target) as place:
        temporary = place / target.name
        temporary.mkdir()
        yield temporary
        if kind is not None:
            mark_folder(temporary, kind, also=also)
        output_folder(path, kind=kind, reads=reads)
        replace_folder(temporary, target)


def replace_folder(new: Path, target: Path) -> None:
    """Put a finished folder in the place of another; what was there is removed last.

    Args:
        new: The finished folder, on the same file system as `target`.
        target: Where it goes, as `output_folder` gives it; it may exist.
    """
    with _beside(target) as place:
        old = place / target.name
        try:
            if target.exists():
                target.rename(old)
            new.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Give a temporary folder on the same file system."""
    place = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _follow(path: str | Path) -> Path:
    try:
        folder = Path(path).resolve()
    except (OSError, RuntimeError):  # which of them depends on the version of Python
        folder = Path(path)
    if folder.is_symlink():
        raise TTFileError(f"{str(path)!r} is a link that leads nowhere but to itself; name another folder.")
    return folder


def _refuse_to_lose(target: Path, reads: Iterable[str | Path | None], path: str | Path) -> None:
    for read in reads:
        if read is None or not target.exists() or not Path(read).exists():
            continue
        real = Path(read).resolve()
        if any(place.samefile(target) for place in (real, *real.parents)):
            what = "the current folder" if real == Path.cwd() else f"{str(read)!r}, which is read"
            raise TTFileError(f"{str(path)!r} would be replaced, and with it {what}; name another.")


def _refuse_others_files(folder: Path, kind: str | None, path: str | Path) -> None:
    try:
        marker: Any = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        marked, listed = str(marker["kind"]), [str(name) for name in marker["files"]]
    except (OSError, ValueError, TypeError, KeyError):
        marked, listed = None, []
    if marked is not None and marked == kind:
        names, folders = set(listed), tuple(name for name in listed if name.endswith("/"))
        foreign = [name for name in _files(folder) if name not in names and not name.startswith(folders)]
    else:
        foreign = sorted(file.name for file in folder.iterdir())
    if foreign:
        whose = f"It was written by {marked!r}." if marked not in (None, kind) else ""
        raise TTFileError(
            f"The folder {str(path)!r} holds {foreign[0]!r}, which would be lost; name a new folder or an empty one. "
            f"{whose}".rstrip()
        )


def _files(folder: Path) -> list[str]:
    """All files in a folder and the folders in it, and links, which are not followed."""
    found = (file for file in folder.rglob("*") if file.is_symlink() or not file.is_dir())
    return sorted(file.relative_to(folder).as_posix() for file in found)
