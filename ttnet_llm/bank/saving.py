"""A bank on the disk: its config, an index, and parts with the numbers of some hundred adapters each.

A save writes the parts that have changed under new names, then puts the new index in the place of the old one, and only
then removes what no index names. Whenever it stops, one index or the other is there with all of its parts.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ttnet.errors import TTFileError
from ttnet_llm.bank.storage import BLOCK, Storage
from ttnet_llm.files import atomic, naming_a_full_disk, write_text
from ttnet_llm.lora.checkpoint import CONFIG, read_config
from ttnet_llm.tuner import AdapterConfig

INDEX = "bank.json"
_FORMAT = 1


@dataclass(frozen=True)
class Index:
    """What a bank's index says.

    Args:
        dtype: Name of the numbers' dtype.
        capacity: How many adapters the bank may hold.
        size: How many numbers an adapter has.
        numbers: The adapters' rows by their names.
        parts: The files, in the order of their rows.
    """

    dtype: str
    capacity: int
    size: int
    numbers: dict[str, int]
    parts: list[str]


def is_bank(path: str | Path) -> bool:
    """Tell whether a folder holds a bank.

    Args:
        path: The folder.

    Returns:
        Whether it does.
    """
    return (Path(path) / INDEX).is_file()


def read_index(path: str | Path) -> Index:
    """Read a bank's index.

    Args:
        path: The bank's folder.

    Returns:
        The index.

    Raises:
        TTFileError: If there is none, or it cannot be read.
    """
    file = Path(path) / INDEX
    if not file.is_file():
        raise TTFileError(f"{str(path)!r} holds no bank (there is no {INDEX}); check the path.")
    try:
        raw: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if raw["format"] != _FORMAT:
            raise TTFileError(
                f"{str(file)!r} is of format {raw['format']}; expected {_FORMAT}: use the version that saved it."
            )
        parts = [str(name) for name in raw["parts"]]
        numbers = {str(name): int(number) for name, number in raw["adapters"].items()}
        index = Index(str(raw["dtype"]), int(raw["capacity"]), int(raw["size"]), numbers, parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TTFileError(f"{str(file)!r} cannot be read: {error!r}; restore it from a copy.") from error
    if any(Path(name).name != name for name in parts):
        raise TTFileError(f"{str(file)!r} names a part outside of its folder; restore it from a copy.")
    if any(not 0 <= number < len(parts) * BLOCK for number in numbers.values()):
        raise TTFileError(f"{str(file)!r} names rows that its {len(parts)} parts do not have; restore it from a copy.")
    return index


def read_bank_config(path: str | Path) -> dict[str, Any]:
    """Read the config of a bank's adapters.

    Args:
        path: The bank's folder.

    Returns:
        Its fields.
    """
    return dict(read_config(path))


def check_place(path: str | Path) -> Path:
    """Refuse a folder in which something else would be lost.

    Args:
        path: Where to save: a new or empty folder, or a bank's.

    Returns:
        The folder.

    Raises:
        TTFileError: If it is a file, or holds something else.
    """
    folder = Path(path).resolve()
    if folder.exists() and not folder.is_dir():
        raise TTFileError(f"{str(path)!r} is a file; name a folder.")
    if folder.is_dir() and not is_bank(folder) and (found := next(folder.iterdir(), None)) is not None:
        raise TTFileError(
            f"The folder {str(path)!r} holds {found.name!r} and no bank; name a new folder, or a bank's own."
        )
    return folder


def write_bank(
    folder: Path, config: AdapterConfig, storage: Storage, numbers: Mapping[str, int], capacity: int
) -> None:
    """Write what has changed of a bank.

    Args:
        folder: As `check_place` gives it.
        config: Of the adapters.
        storage: Their numbers; its blocks are those of the folder afterwards.
        numbers: The adapters' rows.
        capacity: Of the bank.
    """
    earlier = _parts_of(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / CONFIG).is_file() or not earlier:
        with atomic(folder / CONFIG) as file:
            file.write_text(json.dumps(_as_json(config), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    used = {number // BLOCK for number in numbers.values()}
    blocks = storage.blocks[: max(used, default=-1) + 1]
    parts = []
    for place, block in enumerate(blocks):
        kept = block.file if block.file is not None and not block.changed else None
        if kept is None or kept.parent != folder or kept.name not in earlier:
            kept = folder / f"part-{place:05d}-{secrets.token_hex(4)}.safetensors"
            _write_part(block.rows, kept)
        parts.append(kept)
    index = {
        "format": _FORMAT,
        "dtype": str(storage.dtype).removeprefix("torch."),
        "capacity": capacity,
        "size": storage.size,
        "parts": [part.name for part in parts],
        "adapters": dict(numbers),
    }
    write_text(folder / INDEX, json.dumps(index) + "\n")
    for block, part in zip(blocks, parts, strict=True):
        block.file, block.changed = part, False
    for name in earlier - {part.name for part in parts}:
        (folder / name).unlink(missing_ok=True)


def _write_part(rows: Tensor, file: Path) -> None:
    with naming_a_full_disk(file.parent), atomic(file) as partial:
        save_file({"rows": rows.detach().cpu().contiguous()}, partial, metadata={"format": "pt"})
        with partial.open("rb") as written:
            os.fsync(written.fileno())


def _parts_of(folder: Path) -> set[str]:
    """Give the parts of the bank that is there now; none where there is none, or its index cannot be read."""
    try:
        return set(read_index(folder).parts)
    except TTFileError:
        return set()


def _as_json(config: AdapterConfig) -> dict[str, Any]:
    fields = config.to_dict()
    return {name: sorted(value) if isinstance(value, set) else value for name, value in fields.items()}
