"""Let the site show docstrings as they are meant: doctests as code, and powers as powers.

griffe reads a section `Examples:`, the docstrings here say `Example:`; it knows no arguments of a `NamedTuple`, which
are its attributes; Markdown reads `2**20`, twice in a paragraph, as bold.
"""

import re
from typing import Any

import griffe

POWER = re.compile(r"(?<=[\w)])\*\*(?=[\w(])")


def escape_powers(text: str) -> str:
    """Escape powers in prose; code, in backticks or after a prompt, is shown as it is."""
    parts = re.split(r"(`[^`]*`|^ *(?:>>>|\.\.\.).*$)", text, flags=re.MULTILINE)
    return "".join(part if k % 2 else POWER.sub(r"\\*\\*", part) for k, part in enumerate(parts))


class Examples(griffe.Extension):
    """Rename sections wherever a docstring has them, and escape powers."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Do both in one object's docstring."""
        if obj.docstring:
            text = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
            if isinstance(obj, griffe.Class) and "NamedTuple" in map(str, obj.bases):
                text = text.replace("\nArgs:\n", "\nAttributes:\n")
            obj.docstring.value = escape_powers(text)
