"""Print the lowest versions that pyproject.toml promises, as the constraints that `make test-lowest` gives to pip."""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,]+\])?>=(?P<version>[\w.]+)")


def requirements(pyproject=PYPROJECT):
    """Give every requirement of a project and of its extras, but for those on its own extras."""
    project = tomllib.loads(pyproject.read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [text for group in groups for text in group if not text.startswith(f"{project['name']}[")]


def pin(requirement):
    """Turn `name[extra]>=1.2,<2` into `name==1.2`; without a lower bound it would promise what nobody tried."""
    bound = REQUIREMENT.match(requirement)
    if bound is None:
        raise ValueError(f"{requirement!r} in pyproject.toml has no lower bound: write it as name>=version.")
    return f"{bound['name']}=={bound['version']}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{pin(requirement)}\n" for requirement in requirements())
