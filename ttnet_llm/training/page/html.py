"""Pieces of HTML, in which text stays text whatever it holds."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

# What HTML does not allow, or no file can hold: controls, and halves of surrogate pairs.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def escape(text: object) -> str:
    r"""Write a text so that it is shown as it is, in an element or in a quoted attribute.

    Args:
        text: Anything.

    Returns:
        HTML.

    Example:
        >>> escape('<b title="x">'), escape("a\x00b")
        ('&lt;b title=&quot;x&quot;&gt;', 'a\ufffdb')
    """
    return html.escape(_UNFIT.sub("\ufffd", str(text)))


def shorten(text: str, length: int = 1200) -> str:
    """Cut what is too long to be read, and say that something is missing.

    Example:
        >>> shorten("abcdef", 3), shorten("abc", 3)
        ('abc ...', 'abc')
    """
    return text if len(text) <= length else f"{text[:length]} ..."


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """Write a table that scrolls by itself where it is too wide.

    Args:
        header: Its first line, as text; empty for none.
        rows: The others, as text, the first cell of each being what it is about.
        kind: A class for the style.

    Returns:
        HTML.

    Example:
        >>> table([], [["a", "<"]])
        '<div class="wide"><table class=""><tbody><tr><th scope="row">a</th><td>&lt;</td></tr></tbody></table></div>'
    """
    cells = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    head = f"<thead><tr>{cells}</tr></thead>" if header else ""
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f'<div class="wide"><table class="{kind}">{head}<tbody>{body}</tbody></table></div>'


def section(title: str, *content: str) -> str:
    r"""Put HTML under a heading; nothing if there is none.

    Example:
        >>> section("A & B", "<p>c</p>"), section("Nothing", "")
        ('<section><h2>A &amp; B</h2>\n<p>c</p></section>', '')
    """
    inner = "\n".join(piece for piece in content if piece)
    return f"<section><h2>{escape(title)}</h2>\n{inner}</section>" if inner else ""


def folded(summary: str, content: str) -> str:
    """Hide HTML behind a line that opens it."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"
