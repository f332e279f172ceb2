"""Colour the cells of the comparison with other libraries by what they say, and keep numbers on one line."""

import re
from typing import Any

PAGE = "comparison.md"
# How a cell begins, as `benchmarks/behaviours` writes it.
BEGINNINGS = {"good": r"ok\b", "bad": "<strong>wrong", "failed": "<em>error"}


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Give each such cell a class, and each number with an exponent, for which `stylesheets/extra.css` says more."""
    if page.file.src_uri != PAGE:
        return html
    for name, beginning in BEGINNINGS.items():
        html = re.sub(rf"<td>(?={beginning})", f'<td class="{name}">', html)
    return re.sub(r"\d\.\d+e[-+]\d+", r'<span class="number">\g<0></span>', html)
