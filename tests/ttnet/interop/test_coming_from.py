"""The pairs of calls that docs/coming_from.md shows, where the other library is installed: `make peers`."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "coming_from.md"
PAIRS = dict(re.findall(r"^```py\n# (\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


def test_the_pairs_are_found():
    assert set(PAIRS) == {"torchtt", "tntorch", "quimb"}


@pytest.mark.parametrize("library", PAIRS)
def test_both_calls_give_the_same(library):
    pytest.importorskip(library, reason=f"{library} is in the environment that `make peers` makes")
    exec(compile(PAIRS[library], str(PAGE), "exec"), {"__name__": library})
