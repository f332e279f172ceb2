"""Where a run works, and what it may replace."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.budget import ParameterBudget
from ttnet_llm.folders import output_folder
from ttnet_llm.training.settings import FinetuneResult, FinetuneSettings
from ttnet_llm.training.settings_file import SETTINGS, read_settings

KIND = "finetune"  # what marks the folders written here
RESULTS = "results.json"
OLD_SETTINGS = "settings.json"  # of runs that an earlier version began


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
    earlier = [partial / name for name in (SETTINGS, OLD_SETTINGS) if (partial / name).is_file()]
    if resume:
        if not earlier:
            raise TTFileError(f"There is no interrupted run in {str(partial)!r} to resume; start one without --resume.")
        _refuse_others(settings, earlier[0])
    elif earlier and not overwrite:
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


def _refuse_others(settings: FinetuneSettings, file: Path) -> None:
    """Refuse settings that differ from those that a run began with."""
    then = asdict(FinetuneSettings(**read_settings(file)))
    for name, value in json.loads(to_json(settings)).items():
        if value != (before := json.loads(json.dumps(then[name]))):
            raise TTValueError(
                f"{name} is {value!r} but was {before!r} when the run began; resume with the same settings, or say "
                "--overwrite to start again."
            )


def read_result(folder: Path) -> FinetuneResult:
    """Read what came of a run from its folder.

    Args:
        folder: The run's.

    Returns:
        The result.
    """
    values = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    pairs = {name: [(int(step), float(value)) for step, value in values[name]] for name in ("losses", "scores")}
    rest: dict[str, Any] = {
        "settings": FinetuneSettings(**read_settings(folder / SETTINGS)),
        "parameters": ParameterBudget(**values["parameters"]),
        "examples": tuple(values["examples"]),
        "names": None if values["names"] is None else tuple(values["names"]),
    }
    return FinetuneResult(**values | pairs | rest)


def to_json(value: Any) -> str:
    """Write a dataclass as JSON."""
    return json.dumps(asdict(value), indent=2) + "\n"
