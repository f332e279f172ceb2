"""Pictures are small and quickly laid out in tests of runs, of whose time drawing them well was a quarter."""

from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.figure import Figure

save = Figure.savefig


def sketch(self: Figure, *arguments: Any, **options: Any) -> None:
    """Draw all that there is, in few pixels and with no search for the best places."""
    self.set_layout_engine("none")
    save(self, *arguments, **options | {"dpi": 30})


@pytest.fixture(scope="package", autouse=True)  # not longer, as pictures of other rooms are drawn whole
def sketches() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", sketch)
        yield


@pytest.fixture
def whole_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw pictures as users get them."""
    monkeypatch.setattr(Figure, "savefig", save)
