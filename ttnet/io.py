"""Trains and TT-matrices as safetensors files.

A file holds the cores as `cores.0`, `cores.1`, ... and, in its metadata, the format's tag and version, the kind of
value and its dtype. Complex cores are written as real ones with a last axis of size 2 (real, imaginary), since the
format does not know every complex dtype.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import safetensors
import safetensors.torch
import torch

from ttnet.errors import TTError, TTFileError, TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.truncation import check_readable
from ttnet.trains.chain import CoreChain
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

FORMAT = "ttnet"
VERSION = 1
Builder = Callable[[Iterable[torch.Tensor]], TensorTrain | TTMatrix]
_KINDS: dict[str, Builder] = {
    "TensorTrain": TensorTrain,
    "TTMatrix": TTMatrix,
}


def save(value: CoreChain, path: str | os.PathLike[str]) -> None:
    """Write a train or TT-matrix to a safetensors file, whole or not at all.

    The bytes go to a second file in the same folder, which then takes the place of the first: neither a crash nor a
    full disk harms an old file. A link is followed, and a replaced file's rights are kept.

    Args:
        value: A `TensorTrain` or `TTMatrix`, on any device.
        path: Where to write.

    Raises:
        TTTypeError: If an argument is of another type.
        TTValueError: If `value` is on the meta device.
        TTFileError: If the file cannot be written.

    Example:
        >>> import tempfile, ttnet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(ttnet.ones((2, 3)), f"{folder}/ones.safetensors")
        ...     load(f"{folder}/ones.safetensors")
        TensorTrain([2]-1-[3], float32)
    """
    kind = type(value).__name__
    if kind not in _KINDS:
        raise TTTypeError(f"value is a {kind}; expected a TensorTrain or a TTMatrix.")
    if value.device.type == "meta":
        raise TTValueError("value is on the meta device, where cores have no entries; expected another device.")
    check_readable(value.cores[0], "cores[0]")
    tensors = {}
    for k, core in enumerate(value.cores):
        core = core.detach().cpu().resolve_conj().resolve_neg()
        core = torch.view_as_real(core) if core.is_complex() else core
        tensors[f"cores.{k}"] = core.clone(memory_format=torch.contiguous_format)  # the format refuses shared storage
    dtype = str(value.dtype).removeprefix("torch.")
    metadata = {"format": FORMAT, "version": str(VERSION), "kind": kind, "dtype": dtype}
    data = safetensors.torch.save(tensors, metadata)
    write_atomically(path, lambda file: file.write(data))


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write a file by way of a second one in the same folder, so that it is whole or as it was before.

    Args:
        path: Where to write.
        write: Writes the whole content to the open file it is given.

    Raises:
        TTFileError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(f"{folder}/a", lambda file: file.write(b"text"))
        ...     Path(f"{folder}/a").read_bytes()
        b'text'
    """
    target = Path(os.path.realpath(_as_path(path)))  # a link stays and leads to the new file
    scratch = target.parent / f".ttnet-{secrets.token_hex(8)}.tmp"
    try:
        _check_ordinary(target)
        if exists := target.exists():
            target.open("r+b").close()  # a file that must not be written is not to be replaced either
        with scratch.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if exists:
            shutil.copymode(target, scratch)
        scratch.replace(target)
    except BaseException as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        if not isinstance(error, OSError) or isinstance(error, TTError):
            raise
        reason = error.strerror or str(error)
        raise TTFileError(f"Cannot write '{target}': {reason}; check the folder, its rights and its space.") from error


def load(path: str | os.PathLike[str]) -> TensorTrain | TTMatrix:
    """Read a train or TT-matrix from a file that `save` wrote.

    Args:
        path: The file.

    Returns:
        The value, on the CPU, in memory of its own.

    Raises:
        TTTypeError: If `path` is no path.
        TTFileError: If the file is missing, damaged, of another kind or from a newer version.

    Example:
        >>> import tempfile, ttnet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ttnet.ones((2, 3)).save(f"{folder}/ones.safetensors")
        ...     load(f"{folder}/ones.safetensors").full()
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    path = _as_path(path)
    try:
        _check_ordinary(path)
        with path.open("rb"):
            pass  # safetensors tells every reason as a file that is not there
    except FileNotFoundError as error:
        raise TTFileError(f"There is no file '{path}'; check the path.") from error
    except OSError as error:
        if isinstance(error, TTError):
            raise
        raise TTFileError(f"Cannot read '{path}': {error.strerror or error}; check the file and its rights.") from error
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            kind, dtype = _check_metadata(metadata, path)
            # Copies: the tensors it gives are windows on the file, and change when that is written to.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                advice = "decompose its array by tt_svd or `ttnet decompose`."
                raise TTFileError(f"'{path}' is an array file of numpy's, not a train; {advice}") from error
        raise TTFileError(f"'{path}' is not a whole safetensors file: {error}.") from error
    try:
        return kind(_take_cores(tensors, dtype))
    except TTError as error:
        raise TTFileError(f"'{path}' does not hold the cores of a {metadata['kind']}: {error}") from error


def _as_path(path: object) -> Path:
    try:
        name = os.fsdecode(path)  # type: ignore[arg-type]
    except TypeError:
        raise TTTypeError(f"path is a {type(path).__name__}; expected a str or a path.") from None
    if not name or "\0" in name:
        raise TTFileError(f"path is {name!r}; expected the name of a file.")
    return Path(name)


def _check_ordinary(path: Path) -> None:
    """Refuse a folder, a pipe and a device, if there is such a thing of this name."""
    if path.is_dir():
        raise TTFileError(f"'{path}' is a folder; give the name of a file.")
    if path.exists() and not path.is_file():
        raise TTFileError(f"'{path}' is a pipe or a device; give the name of an ordinary file.")


def _check_metadata(metadata: dict[str, str], path: Path) -> tuple[Builder, torch.dtype]:
    """Give what to build of the cores, and their dtype."""
    if metadata.get("format") != FORMAT:
        raise TTFileError(f"'{path}' is a safetensors file, but not one of ttnet's; expected what `save` writes.")
    version = metadata.get("version", "none")
    if not (version.isascii() and version.isdecimal() and version.strip("0")):
        raise TTFileError(f"'{path}' has no format version but {version[:20]!r}; expected what `save` writes.")
    if len(version) > 9 or int(version) > VERSION:
        raise TTFileError(f"'{path}' has format version {version[:9]}; this ttnet reads up to {VERSION}: upgrade it.")
    kind, dtype = metadata.get("kind"), getattr(torch, metadata.get("dtype", ""), None)
    if kind not in _KINDS or not isinstance(dtype, torch.dtype):
        raise TTFileError(
            f"'{path}' holds a value of kind {kind!r} and dtype {metadata.get('dtype')!r}; expected one of "
            f"{', '.join(_KINDS)} of a dtype of torch."
        )
    return _KINDS[kind], dtype


def _take_cores(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    names = [f"cores.{k}" for k in range(len(tensors))]
    if set(names) != tensors.keys():
        raise TTShapeError(f"it has the tensors {', '.join(sorted(tensors))}; expected cores.0, cores.1 and so on.")
    stored = dtype.to_real() if dtype.is_complex else dtype
    for name, core in tensors.items():
        if core.dtype != stored or (dtype.is_complex and core.shape[-1:] != (2,)):
            last = " and a last axis of size 2" if dtype.is_complex else ""
            raise TTTypeError(
                f"{name} has dtype {core.dtype} and shape {tuple(core.shape)}; expected dtype {stored}{last}."
            )
    cores = [tensors[name] for name in names]
    return [torch.view_as_complex(core) for core in cores] if dtype.is_complex else cores
