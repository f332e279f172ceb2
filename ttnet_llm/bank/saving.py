"""A bank on the disk: its config, an index, and parts with the numbers of some hundred adapters each.

A save writes the parts that have changed under new names, then puts the new index in the place of the old one, and only
then removes what neither of both names. Whenever it stops, one index or the other is there with all of its parts, and
who has opened the bank before a save can still read it after that.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ttnet.errors import TTFileError
from ttnet_llm.bank.storage import BLOCK, Storage
from ttnet_llm.files import atomic, naming_a_full_disk, write_text
from ttnet_llm.lora.checkpoint import CONFIG
from ttnet_llm.tuner import AdapterConfig

logger = logging.getLogger(__name__)

INDEX = "bank.json"
_FORMATS = (1, 2)  # without common cores, and with them
_PART = re.compile(r"part-\d{5}-[0-9a-f]{8}\.safetensors")
_COMMON = re.compile(r"common-[0-9a-f]{8}\.safetensors")


@dataclass(frozen=True)
class Index:
    """What a bank's index says.

    Args:
        dtype: Name of the numbers' dtype.
        capacity: How many adapters the bank may hold.
        size: How many numbers an adapter has.
        numbers: The adapters' rows by their names.
        parts: The files, in the order of their rows; `None` for rows that no adapter has.
        shapes: The adapters' tensors, in the order in which they stand in a row.
        bank: What tells the bank from others.
        generation: How often it was saved.
        common: The file with what stands once for all adapters, if there is such.
    """

    dtype: str
    capacity: int
    size: int
    numbers: dict[str, int]
    parts: list[str | None]
    shapes: dict[str, tuple[int, ...]]
    bank: str
    generation: int
    common: str | None = None


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
        if raw["format"] not in _FORMATS:
            raise TTFileError(
                f"{str(file)!r} is of format {raw['format']}; expected {_FORMATS[0]} or {_FORMATS[1]}: use the version "
                "that saved it."
            )
        parts = [None if name is None else str(name) for name in raw["parts"]]
        numbers = {str(name): int(number) for name, number in raw["adapters"].items()}
        index = Index(
            dtype=str(raw["dtype"]),
            capacity=int(raw["capacity"]),
            size=int(raw["size"]),
            numbers=numbers,
            parts=parts,
            shapes={str(key): tuple(map(int, shape)) for key, shape in raw["tensors"].items()},
            bank=str(raw["bank"]),
            generation=int(raw["generation"]),
            common=raw.get("common"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TTFileError(f"{str(file)!r} cannot be read: {error!r}; restore it from a copy.") from error
    if not isinstance(dtype := getattr(torch, index.dtype, None), torch.dtype) or not dtype.is_floating_point:
        raise TTFileError(f"{str(file)!r} says the dtype {index.dtype!r}, which is none; restore it from a copy.")
    if any(name is not None and not _PART.fullmatch(name) for name in parts):
        raise TTFileError(f"{str(file)!r} names a part that is none of a bank's files; restore it from a copy.")
    if index.common is not None and not _COMMON.fullmatch(str(index.common)):
        raise TTFileError(f"{str(file)!r} names common cores that are none of a bank's files; restore it from a copy.")
    if len(set(numbers.values())) < len(numbers):
        raise TTFileError(f"{str(file)!r} gives two adapters one row; restore it from a copy.")
    if any(not 0 <= number < len(parts) * BLOCK for number in numbers.values()):
        raise TTFileError(f"{str(file)!r} names rows that its {len(parts)} parts do not have; restore it from a copy.")
    return index


def row_digest(path: str | Path, name: str) -> str:
    """Tell an adapter's numbers from others, without the model.

    Args:
        path: The bank's folder.
        name: The adapter's name, which is in the bank.

    Returns:
        A digest of them.

    Raises:
        TTFileError: If the part that holds them cannot be read.
    """
    index = read_index(path)
    number = index.numbers[name]
    part = Path(path) / str(index.parts[number // BLOCK])
    try:
        with safe_open(part, framework="pt") as opened:
            row = opened.get_slice("rows")[number % BLOCK : number % BLOCK + 1]
    except (SafetensorError, OSError) as error:
        raise TTFileError(f"{str(part)!r} cannot be read: {error}.") from error
    own = row.contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(own + (index.common or "").encode()).hexdigest()


def check_place(path: str | Path, bank: str, generation: int | None) -> Path:
    """Refuse a folder in which something else would be lost.

    Args:
        path: Where to save: a new or empty folder, or the bank's own.
        bank: What tells the bank from others.
        generation: How often it was saved in its folder when this program read or wrote it; `None` where it did not.

    Returns:
        The folder.

    Raises:
        TTFileError: If it is a file, holds something else or another bank, or the bank was changed meanwhile.
    """
    folder = Path(path).resolve()
    if folder.exists() and not folder.is_dir():
        raise TTFileError(f"{str(path)!r} is a file; name a folder.")
    if is_bank(folder):
        there = read_index(folder)
        if there.bank != bank:
            raise TTFileError(
                f"The folder {str(path)!r} holds another bank; name a new folder, or load that bank first."
            )
        if there.generation != generation:
            raise TTFileError(
                f"The bank in {str(path)!r} was changed since it was loaded; load it again, and do there what was done "
                "here, or save this one in a new folder."
            )
    elif folder.is_dir():
        ours = {CONFIG}  # what a first save leaves that did not end
        if found := [each.name for each in folder.iterdir() if each.name not in ours and not _is_ours(each.name)]:
            raise TTFileError(f"The folder {str(path)!r} holds {found[0]!r} and no bank; name a new folder.")
    return folder


def _is_ours(name: str) -> bool:
    return bool(_PART.fullmatch(name) or _COMMON.fullmatch(name))


def read_common(index: Index, folder: Path) -> dict[str, Tensor] | None:
    """Read the cores that all adapters of a saved bank have in common.

    Args:
        index: The bank's index.
        folder: Its folder.

    Returns:
        They by their keys in a checkpoint; `None` if there are none.

    Raises:
        TTFileError: If they cannot be read.
    """
    if index.common is None:
        return None
    try:
        return load_file(folder / index.common)
    except (SafetensorError, OSError) as error:
        raise TTFileError(
            f"{str(folder / index.common)!r} cannot be read: {error}; it holds what all adapters of the bank have in "
            "common: restore it from a copy, such as the checkpoint of an adapter that was exported."
        ) from error


def open_parts(storage: Storage, index: Index, folder: Path) -> None:
    """Give an empty storage the blocks of a saved bank; what cannot be read is told by a warning.

    Args:
        storage: The storage.
        index: The bank's index.
        folder: The bank's folder.
    """
    held: dict[int, list[str]] = {}
    for name, number in index.numbers.items():
        held.setdefault(number // BLOCK, []).append(name)
    for place, part in enumerate(index.parts):
        block = storage.open_block(None if part is None else folder / part, tuple(held.get(place, ())))
        if block.damage is not None:
            logger.warning("%s", block.complaint)
    storage.set_free(set(index.numbers.values()))


def write_bank(
    folder: Path,
    config: AdapterConfig,
    storage: Storage,
    index: Index,
    common: dict[str, Tensor] | None = None,
) -> None:
    """Write what has changed of a bank.

    Args:
        folder: As `check_place` gives it.
        config: Of the adapters.
        storage: Their numbers; its blocks are those of the folder afterwards.
        index: What the new index says but for its parts.
        common: What they have in common, by its keys in a checkpoint.
    """
    before = read_index(folder) if is_bank(folder) else None
    earlier = set() if before is None else {*before.parts, before.common}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / CONFIG) as file:
        file.write_text(json.dumps(_as_json(config), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    taken = set(index.numbers.values())
    storage.give_back(taken)
    used = {number // BLOCK for number in taken}
    parts: list[Path | None] = []
    for place, block in enumerate(storage.blocks):
        if place not in used:
            parts.append(None)
        elif (
            block.file is not None and not block.changed and block.file.parent == folder and block.file.name in earlier
        ):
            parts.append(block.file)
        else:
            part = folder / f"part-{place:05d}-{secrets.token_hex(4)}.safetensors"
            _write_part({"rows": block.rows}, part)
            parts.append(part)
    names = [None if part is None else part.name for part in parts]
    common_file = None
    if common is not None:  # some kilobytes, under a name that tells one content from another
        common_file = f"common-{_digest(common)[:8]}.safetensors"
        _write_part(common, folder / common_file)
    content = {
        "format": _FORMATS[common is not None],
        "bank": index.bank,
        "generation": index.generation,
        "dtype": index.dtype,
        "capacity": index.capacity,
        "size": index.size,
        "parts": names,
        "adapters": index.numbers,
        "tensors": index.shapes,
        "common": common_file,
    }
    write_text(folder / INDEX, json.dumps(content) + "\n")
    for block, written in zip(storage.blocks, parts, strict=True):
        block.file, block.changed = written, written is None
    for file in folder.iterdir():
        if _is_ours(file.name) and file.name not in {*earlier, *names, common_file}:
            file.unlink(missing_ok=True)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, t in sorted(tensors.items()):
        digest.update(key.encode() + t.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write_part(tensors: dict[str, Tensor], file: Path) -> None:
    with naming_a_full_disk(file.parent), atomic(file) as partial:
        whole = {key: t.detach().cpu().contiguous() for key, t in tensors.items()}
        save_file(whole, partial, metadata={"format": "pt"})
        with partial.open("rb") as written:
            os.fsync(written.fileno())


def _as_json(config: AdapterConfig) -> dict[str, Any]:
    fields = config.to_dict()
    return {name: sorted(value) if isinstance(value, set) else value for name, value in fields.items()}
