"""How values are written on the command line."""

from __future__ import annotations

import ast
import re
from typing import Any

from ttnet.errors import TTValueError


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """Read `KEY=VALUE` pairs; values are Python literals where they can be, otherwise strings.

    Args:
        pairs: Such as `["tt_rank=5", "target_modules=q_proj,v_proj"]`; a comma makes a list.

    Returns:
        The options.

    Raises:
        TTValueError: If a pair has no `=`.

    Example:
        >>> parse_options(["tt_rank=5", "train_norms=true", "target_modules=q_proj,v_proj"])
        {'tt_rank': 5, 'train_norms': True, 'target_modules': ['q_proj', 'v_proj']}
    """
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise TTValueError(f"--method-option is {pair!r}; expected KEY=VALUE, such as tt_rank=5.")
        options[key.strip()] = _literal(value.strip())
    return options


def parse_rates(value: str) -> dict[str, float]:
    """Read learning rates by name.

    Args:
        value: `NAME=RATE` pairs with commas between them.

    Returns:
        The rates.

    Raises:
        TTValueError: If a pair is none, or a rate no number.

    Example:
        >>> parse_rates("layer.0=1e-3, classifier=0.01")
        {'layer.0': 0.001, 'classifier': 0.01}
    """
    rates = {}
    for pair in value.split(","):
        name, _, rate = pair.rpartition("=")
        try:
            rates[name.strip()] = float(rate)
        except ValueError:
            name = ""
        if not name.strip():
            raise TTValueError(f"learning_rates has {pair.strip()!r}; expected NAME=RATE, such as classifier=1e-3.")
    return rates


def parse_seeds(value: str) -> tuple[int, ...]:
    """Read integers with commas between them.

    Args:
        value: Such as `0,1,2`.

    Returns:
        The integers.

    Raises:
        TTValueError: If one is none.

    Example:
        >>> parse_seeds("0, 1,2")
        (0, 1, 2)
    """
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise TTValueError(f"seeds is {value!r}; expected integers with commas between, such as 0,1,2.") from error


def parse_targets(value: str) -> Any:
    """Read which modules to adapt.

    Args:
        value: Names with commas between them, a regular expression, or `all-linear`.

    Returns:
        A tuple of names, or a string.

    Example:
        >>> parse_targets("q_proj, v_proj"), parse_targets("all-linear"), parse_targets(".*q_proj")
        (('q_proj', 'v_proj'), 'all-linear', '.*q_proj')
    """
    if value == "all-linear" or not re.fullmatch(r"[\w.,\s]+", value):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _literal(value: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return words[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return [part.strip() for part in value.split(",") if part.strip()] if "," in value else value
