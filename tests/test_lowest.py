"""What `make test-lowest` installs is what pyproject.toml promises."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.lowest import PYPROJECT, pin, requirements


@pytest.mark.parametrize("text", requirements())
def test_every_requirement_is_pinned_to_its_lower_bound(text):
    promised, pinned = Requirement(text), Requirement(pin(text))
    (exact,) = pinned.specifier
    assert exact.operator == "=="
    assert pinned.name == promised.name
    assert promised.specifier.contains(exact.version)
    assert f">={exact.version}" in {str(specifier) for specifier in promised.specifier}


def test_the_extras_are_among_them():
    assert {"torch", "transformers", "peft", "typer", "quimb", "pytest"} <= {
        Requirement(text).name for text in requirements()
    }


@pytest.mark.parametrize("text", ["numpy", "numpy<3", "numpy==2.0", "numpy!=2.0,>=1.26"])
def test_a_requirement_without_a_lower_bound_is_an_error(text):
    with pytest.raises(ValueError, match="write it as name>=version"):
        pin(text)


def test_the_environment_of_peers_has_what_ttnet_needs():
    # `make peers` installs ttnet without its dependencies, so that peers' own bounds decide.
    peers = (PYPROJECT.parent / "benchmarks" / "peers.txt").read_text()
    needed = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    assert {Requirement(text).name for text in needed} <= {
        name.replace("lazy-loader", "lazy_loader") for name in re.findall(r"^([\w-]+)==", peers, re.MULTILINE)
    }
