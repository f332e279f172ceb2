"""The method that docs/own_method.md writes, taken from the page, so that PEFT's tests run over it as over ours."""

import re
from pathlib import Path

from tests.ttnet_llm.methods import METHODS, Method

PAGE = Path(__file__).parents[2] / "docs" / "own_method.md"
_first = re.search(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
assert _first is not None
# As this module's own, since checkpoints and copies look classes up where they say that they are.
exec(compile(_first[1], str(PAGE), "exec"), globals())

WITH_OWN = [*METHODS, Method("cp", globals()["CpConfig"])]
