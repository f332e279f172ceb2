"""A train in one line of text: every core as its modes in brackets, every bond as its rank between dashes."""

from __future__ import annotations

from collections.abc import Sequence


def draw_chain(
    shapes: Sequence[Sequence[int]],  # each (r, *modes, r')
    width: int = 72,
) -> str:
    """Draw a chain of cores in one line of ASCII, with its middle left out if it is long.

    The outer ranks, which are 1, are not drawn.

    Args:
        shapes: The shapes of the cores, at least one.
        width: How many characters the line may have, more than the outermost cores take.

    Returns:
        The line.

    Example:
        >>> draw_chain([(1, 4, 3), (3, 5, 2), (2, 6, 1)])
        '[4]-3-[5]-2-[6]'
        >>> draw_chain([(1, 2, 3, 7), (7, 2, 3, 1)])
        '[2x3]-7-[2x3]'
        >>> draw_chain([(1, 2, 2), *[(2, 2, 2)] * 998, (2, 2, 1)], width=40)
        '[2]-2-[2]-2-[2]-2-...-2-[2]-2-[2]-2-[2]'
    """
    # No line of this width holds more cores than this.
    if len(shapes) <= width:
        whole = _stretch(shapes)
        if len(whole) <= width:
            return whole
    for kept in range(min(len(shapes) // 2, width), 0, -1):
        head, tail = shapes[:kept], shapes[-kept:]
        line = f"{_stretch(head)}-{head[-1][-1]}-...-{tail[0][0]}-{_stretch(tail)}"
        if len(line) <= width:
            return line
    return f"{_stretch(shapes[:1])}-...-{_stretch(shapes[-1:])}" if len(shapes) > 1 else _stretch(shapes)


def _stretch(shapes: Sequence[Sequence[int]]) -> str:
    """Draw some neighbouring cores, from the first one's modes to the last one's."""
    text = ""
    for k, shape in enumerate(shapes):
        text += (f"-{shape[0]}-" if k else "") + f"[{'x'.join(map(str, shape[1:-1]))}]"
    return text
