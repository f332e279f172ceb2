"""What `make test-lowest` installs is what pyproject.toml promises."""

import pytest
from packaging.requirements import Requirement

from tests.lowest import pin, requirements


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
