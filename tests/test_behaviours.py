"""What docs/comparison.md says of ttnet holds: every behaviour that it shows as ok is tried here."""

import re
from pathlib import Path

import pytest

from benchmarks.behaviours import machinery, numerics, solving, values  # noqa: F401 (they register their cases)
from benchmarks.behaviours.judging import BEHAVIOURS
from benchmarks.behaviours.libraries import Ttnet


@pytest.fixture(scope="module")
def library():
    return Ttnet()


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.name)
def test_behaviour(library, behaviour):
    behaviour.check(library)


def test_names_are_unique():
    assert len({b.name for b in BEHAVIOURS}) == len(BEHAVIOURS)


def test_the_readme_counts_them():
    [count] = re.findall(r"\[(\d+) behaviours", (Path(__file__).parents[1] / "README.md").read_text("utf-8"))
    assert int(count) == len(BEHAVIOURS)
