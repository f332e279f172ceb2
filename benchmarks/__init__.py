"""Measurements, each side by side in one run; `make bench` repeats them and rewrites their tables."""

from importlib.metadata import version


def versions(*names: str) -> str:
    """Name packages with the versions that measured, for the end of a page."""
    return ", ".join(f"{name} {version(name)}" for name in names)
