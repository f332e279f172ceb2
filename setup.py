"""What pyproject.toml cannot say: the links of README.md as whole addresses, for the pages of package indexes.

They are relative, as a repository shows them. Once `[project.urls]` in pyproject.toml has a `Repository`, what is built
leads there, to the files of its own version.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent


def with_whole_links(text: str, repository: str, version: str) -> str:
    """Let relative links and pictures of a page lead to a repository's files at the tag of a version."""

    def whole(link: re.Match[str]) -> str:
        kind = "raw" if link[1].endswith(".png") else "blob"
        return f"]({repository.rstrip('/')}/{kind}/v{version}/{link[1]})"

    return re.sub(r"\]\((?!\w+:|#)([^)\s]+)\)", whole, text)


def readme() -> str:
    """Give README.md as it is to be read outside of the repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = (ROOT / "README.md").read_text("utf-8")
    repository = project.get("urls", {}).get("Repository")
    return with_whole_links(text, repository, project["version"]) if repository else text


if __name__ == "__main__":
    setup(long_description=readme(), long_description_content_type="text/markdown")
