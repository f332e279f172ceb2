"""Trains and TT-matrices as safetensors files.

A file holds the cores as `cores.0`, `cores.1`, ... and, in its metadata, the format's tag and version, the kind of
value and its dtype. Complex cores are written as real ones with a last axis of size 2 (real, imaginary), since the
format does not know every complex dtype.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch

from ttnet.chain import CoreChain
from ttnet.errors import TTError, TTFileError, TTTypeError
from ttnet.tensor_train import TensorTrain
from ttnet.tt_matrix import TTMatrix

FORMAT = "ttnet"
VERSION = 1
_KINDS: dict[str, Callable[[Iterable[torch.Tensor]], TensorTrain | TTMatrix]] = {
    "TensorTrain": TensorTrain,
    "TTMatrix": TTMatrix,
}


def save(value: CoreChain, path: str | os.PathLike[str]) -> None:
    """Write a train or TT-matrix to a safetensors file, whole or not at all.

    The bytes go to a second file in the same folder, which then takes the place of the first: neither a crash nor a
    full disk harms an old file.

    Args:
        value: A `TensorTrain` or `TTMatrix`, on any device.
        path: Where to write.

    Raises:
        TTTypeError: If `value` is of another type.
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
    target = Path(path)
    scratch = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with scratch.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(target)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise TTFileError(f"Cannot write '{target}': {reason}; check the folder, its rights and its space.") from error
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str]) -> TensorTrain | TTMatrix:
    """Read a train or TT-matrix from a file that `save` wrote.

    Args:
        path: The file.

    Returns:
        The value, on the CPU.

    Raises:
        TTFileError: If the file is missing, damaged, of another kind or from a newer version.

    Example:
        >>> import tempfile, ttnet
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ttnet.ones((2, 3)).save(f"{folder}/ones.safetensors")
        ...     load(f"{folder}/ones.safetensors").full()
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    name = os.fspath(path)
    if not Path(path).exists():
        raise TTFileError(f"There is no file '{name}'; check the path.")
    if Path(path).is_dir():
        raise TTFileError(f"'{name}' is a folder; give the name of a file.")
    try:
        with safetensors.safe_open(name, framework="pt") as file:
            metadata = file.metadata() or {}
            build = _check_metadata(metadata, name)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, safetensors.SafetensorError) as error:
        if isinstance(error, TTError):
            raise
        raise TTFileError(f"'{name}' is not a whole safetensors file: {error}.") from error
    try:
        cores = [tensors.pop(f"cores.{k}") for k in range(len(tensors))]
        if metadata["dtype"].startswith("complex"):
            cores = [torch.view_as_complex(core) for core in cores]
        value = build(cores)
    except (KeyError, RuntimeError, TTError) as error:
        raise TTFileError(f"'{name}' does not hold the cores of a {metadata['kind']}: {error}") from error
    return value


def _check_metadata(metadata: dict[str, Any], name: str) -> Callable[[Iterable[torch.Tensor]], TensorTrain | TTMatrix]:
    if metadata.get("format") != FORMAT:
        raise TTFileError(f"'{name}' is a safetensors file, but not one of ttnet's; expected what `save` writes.")
    version = metadata.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise TTFileError(
            f"'{name}' has format version {version or 'none'}; this ttnet reads up to {VERSION}: upgrade it."
        )
    kind, dtype = metadata.get("kind", ""), metadata.get("dtype", "")
    if kind not in _KINDS or not dtype:
        raise TTFileError(f"'{name}' holds a value of kind {kind!r}; expected one of {', '.join(_KINDS)}.")
    return _KINDS[kind]
