"""Entities in sentences whose words have tags such as `B-PER`, and how well they are found."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Entity = tuple[str, int, int]  # its type, its first word, and the one after its last

_TAG = re.compile(r"([BIESLU])-(.+)")  # L and U are other names of E and S
_OUTSIDE = "O"


def mark_entities(names: Iterable[str]) -> bool:
    """Tell whether tags mark where entities begin and end.

    Args:
        names: The tags.

    Returns:
        Whether all are `O` or a type with `B-`, `I-`, `E-`, `S-` (or `L-`, `U-`) before it, and not all are `O`.

    Example:
        >>> mark_entities(["O", "B-PER", "I-PER"]), mark_entities(["NOUN", "VERB"])
        (True, False)
    """
    others = [name for name in names if name != _OUTSIDE]
    return bool(others) and all(_TAG.fullmatch(name) for name in others)


def find_entities(tags: Sequence[str | None]) -> set[Entity]:
    """Find the entities of a sentence.

    A word goes on with the entity of the one before it if both are of one type, the one before does not end it (`E-`,
    `S-`), and the word does not begin another (`B-`, `S-`). So tags of IOB1, IOB2, BIOES and BILOU are read alike, and
    an entity that a model begins with `I-` counts.

    Args:
        tags: A tag for every word; `None` is no entity.

    Returns:
        Types with their first words, and the ones after their last.

    Example:
        >>> sorted(find_entities(["B-PER", "I-PER", "O", "I-LOC", "S-LOC"]))
        [('LOC', 3, 4), ('LOC', 4, 5), ('PER', 0, 2)]

    Source:
        Tjong Kim Sang and De Meulder, Introduction to the CoNLL-2003 shared task, 2003, section 2.
    """
    found: set[Entity] = set()
    begin, kind, closed = 0, "", True
    for at, tag in enumerate([*tags, None]):
        part = _TAG.fullmatch(tag or "")
        if kind and (part is None or closed or part[1] in "BSU" or part[2] != kind):
            found.add((kind, begin, at))
            kind = ""
        if part is not None:
            if not kind:
                begin, kind = at, part[2]
            closed = part[1] in "ESLU"
    return found


def entity_f1(predictions: Iterable[Sequence[str | None]], wanted: Iterable[Sequence[str | None]]) -> float:
    """Return the F1 score of the entities of all sentences together; 0 where there are none on either side.

    An entity is found if its type, its first word and its last one are all right.

    Args:
        predictions: Tags of the words of every sentence; `None` is no entity.
        wanted: The right ones.

    Returns:
        A number in [0, 1].

    Example:
        >>> entity_f1([["B-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "B-LOC"]])
        0.5
    """
    hits = named = 0
    for said, right in zip(predictions, wanted, strict=True):
        one, other = find_entities(said), find_entities(right)
        hits += len(one & other)
        named += len(one) + len(other)
    return 2 * hits / named if named else 0.0
