"""How many examples the properties are tried on."""

from hypothesis import settings


def examples(share: float) -> settings:
    """Take more or fewer examples than the profile has: for a wide space, or where each takes long."""
    return settings(max_examples=max(20, round(share * settings().max_examples)))
