"""Where a run works, and what it may replace."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.folders import output_folder
from ttnet_llm.training.settings import FinetuneSettings

KIND = "finetune"  # what marks the folders written here


def open_folders(settings: FinetuneSettings, *, resume: bool, overwrite: bool) -> tuple[Path, Path]:
    """Settle whether a run may start, where it goes, and where it works until it is done.

    Args:
        settings: The settings.
        resume: Whether to go on with an interrupted run.
        overwrite: Whether to replace an earlier one.

    Returns:
        The output folder, and the one to work in.

    Raises:
        TTFileError: If something would be lost, or there is nothing to resume.
        TTValueError: If the settings are others than those of the run that is to be resumed.
    """
    if resume and overwrite:
        raise TTValueError("resume and overwrite were both given; resume goes on with a run, overwrite starts again.")
    reads = (settings.model, settings.train, settings.validation)
    output = output_folder(settings.output, kind=KIND, reads=reads)
    partial = output.with_name(f"{output.name}.partial")
    if partial.is_symlink():
        raise TTFileError(f"The run would work in {str(partial)!r}, which is a link; name another output folder.")
    interrupted = (partial / "settings.json").is_file()
    if resume:
        if not interrupted:
            raise TTFileError(f"There is no interrupted run in {str(partial)!r} to resume; start one without --resume.")
        then, now = json.loads((partial / "settings.json").read_text("utf-8")), json.loads(to_json(settings))
        changed = [name for name in now if then.get(name) != now[name]]
        if changed:
            name = changed[0]
            raise TTValueError(
                f"{name} is {now[name]!r} but was {then.get(name)!r} when the run began; resume with the same "
                "settings, or say --overwrite to start again."
            )
    elif interrupted and not overwrite:
        raise TTFileError(
            f"An interrupted run is in {str(partial)!r}; say --resume to go on with it, or --overwrite to start again."
        )
    else:
        output_folder(partial, kind=KIND, reads=reads)
    if not resume and not overwrite and output.exists() and any(output.iterdir()):
        raise TTFileError(
            f"The output folder {settings.output!r} is not empty; say --overwrite to replace the run in it, or name "
            "another."
        )
    return output, partial


def to_json(value: Any) -> str:
    """Write a dataclass as JSON."""
    return json.dumps(asdict(value), indent=2) + "\n"
