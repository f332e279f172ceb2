"""The kinds of training: what each takes from data, what it trains, and how it is judged."""

from __future__ import annotations

from ttnet.errors import TTValueError
from ttnet.near import near
from ttnet_llm.training.kinds.causal import Causal
from ttnet_llm.training.kinds.choices import Choices
from ttnet_llm.training.kinds.classify import Classify, Regress
from ttnet_llm.training.kinds.embed import Embed
from ttnet_llm.training.kinds.kind import Judgement, Kind, Task
from ttnet_llm.training.kinds.seq2seq import Seq2Seq
from ttnet_llm.training.kinds.tokens import Tokens

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (Classify(), Regress(), Causal(), Seq2Seq(), Tokens(), Embed(), Choices())
}

__all__ = ["KINDS", "Judgement", "Kind", "Task", "find_kind"]


def find_kind(name: str) -> Kind:
    """Look up a kind of training.

    Args:
        name: A key of `KINDS`.

    Returns:
        The kind.

    Raises:
        TTValueError: If there is none of that name.

    Example:
        >>> find_kind("classify").measures
        ('accuracy',)
    """
    if name not in KINDS:
        raise TTValueError(f"kind is {name!r}; {near(name, KINDS)}expected one of {', '.join(KINDS)}.")
    return KINDS[name]
