"""Let the site show doctests as code: griffe reads a section `Examples:`, the docstrings here say `Example:`."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Rename the section `Example:` wherever a docstring has one."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename it in one object's docstring."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
