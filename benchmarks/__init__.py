"""Measurements, each side by side in one run; `make bench` repeats them and rewrites their tables."""

import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path


def versions(*names: str) -> str:
    """Name packages with the versions that measured, for the end of a page."""
    return ", ".join(f"{name} {version(name)}" for name in names)


def processor() -> str:
    """Name the processor, as its maker does where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def run_on() -> str:
    """Say when and on what, for the end of a page."""
    return f"run on {today()} on {processor()}"


def today() -> str:
    """Give the date, for the end of a page."""
    return date.today().isoformat()
