"""How values are written on the command line."""

from __future__ import annotations

import ast
import re
from typing import Any

from ttnet.errors import TTValueError

_SHORT = {"lr": "learning_rate", "head_lr": "head_learning_rate"}  # as finetune's options are called


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


def parse_words(value: str) -> dict[str, str]:
    """Read words by classes.

    Args:
        value: `CLASS=WORD` pairs with commas between them.

    Returns:
        The words.

    Raises:
        TTValueError: If a pair is none, or a class is named twice.

    Example:
        >>> parse_words("0=terrible, 1=great")
        {'0': 'terrible', '1': 'great'}
    """
    words: dict[str, str] = {}
    for pair in value.split(","):
        name, equals, word = (part.strip() for part in pair.partition("="))
        if not (name and equals and word) or name in words:
            raise TTValueError(f"label_words has {pair.strip()!r}; expected CLASS=WORD once for each, such as 1=great.")
        words[name] = word
    return words


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


def parse_number(text: str) -> int:
    """Read a number such as 5000, 50k or 1.5M.

    Args:
        text: The number.

    Returns:
        It, at least 1.

    Raises:
        TTValueError: If it is none.

    Example:
        >>> parse_number("1.5M"), parse_number("20_000")
        (1500000, 20000)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", text.replace("_", "").replace(",", ""))
    number = 0 if found is None else int(float(found[1]) * {"": 1, "k": 10**3, "m": 10**6}[found[2].lower()])
    if number < 1:
        raise TTValueError(f"budget is {text!r}; expected a number of parameters such as 5000, 50k or 1.5M.")
    return number


def parse_share(name: str, text: str) -> float:
    """Read a share such as 0.25, 25% or 1/4.

    Args:
        name: What it is called.
        text: The share.

    Returns:
        It.

    Raises:
        TTValueError: If it is none.

    Example:
        >>> parse_share("heads", "1/4"), parse_share("heads", "25%"), parse_share("heads", "0.25")
        (0.25, 0.25, 0.25)
    """
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        top, _, bottom = text.partition("/")
        return float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise TTValueError(f"{name} is {text!r}; expected a share such as 1/3, 0.33 or 33%.") from error


def parse_space(pairs: list[str]) -> dict[str, Any]:
    """Read what to search.

    Args:
        pairs: `NAME=FROM..TO` for all integers, or for numbers of any size if one of them has a point or an exponent;
            or `NAME=VALUE,VALUE` for some values.

    Returns:
        What `Space` takes.

    Raises:
        TTValueError: If a pair is none.

    Example:
        >>> parse_space(["lr=1e-4..0.1", "tt_rank=2..16", "schedule=linear,cosine"])
        {'learning_rate': Log(0.0001, 0.1), 'tt_rank': Whole(2, 16), 'schedule': Choice('linear', 'cosine')}
    """
    from ttnet_llm.search import Choice, Log, Whole

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, values = (part.strip() for part in pair.partition("="))
        low, dots, high = values.partition("..")
        try:
            if not (equals and name and values):
                raise ValueError
            if dots:
                bounds = [int(bound) if re.fullmatch(r"\s*\d+\s*", bound) else float(bound) for bound in (low, high)]
                whole = all(isinstance(bound, int) for bound in bounds)
                dimension: Any = Whole(*map(int, bounds)) if whole else Log(*bounds)
            else:
                dimension = Choice(*(_literal(value.strip()) for value in values.split(",") if value.strip()))
        except ValueError as error:
            if isinstance(error, TTValueError):
                raise TTValueError(f"--try is {pair!r}: {error}") from error
            raise TTValueError(
                f"--try is {pair!r}; expected NAME=FROM..TO or NAME=VALUE,VALUE, such as lr=1e-4..1e-1 or r=4,8,16."
            ) from error
        found[_SHORT.get(name.replace("-", "_"), name.replace("-", "_"))] = dimension
    return found


def _literal(value: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return words[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return [part.strip() for part in value.split(",") if part.strip()] if "," in value else value
