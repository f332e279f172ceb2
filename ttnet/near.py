"""The question whether another word was meant."""

import difflib
from collections.abc import Iterable


def near(word: str, known: Iterable[str]) -> str:
    """Ask whether a known word was meant by one that comes near.

    Args:
        word: What was said.
        known: What there is.

    Returns:
        The beginning of a sentence; empty if nothing comes near.

    Example:
        >>> near("lorretta-rep", ["loretta-rep", "lora"]), near("x", ["lora"])
        ("did you mean 'loretta-rep'? ", '')
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"did you mean {found[0]!r}? " if found else ""
