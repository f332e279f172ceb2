"""Run what the documentation shows.

The blocks of a page fenced as `python` run from top to bottom in one namespace. A block that cannot run as it
stands (it needs a model of the reader's, or a download) is fenced as `py`: it is shown the same way and not run.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [page for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if page.exists()]


def blocks(page):
    """Give each block with the line of the page it starts on, so that an error points there."""
    text = page.read_text()
    return [(text[: match.start(1)].count("\n"), match[1]) for match in BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem}
    for line, code in blocks(page):
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_pages_with_examples_are_found():
    assert {"index.md", "tensor_trains.md", "contraction.md", "modes.md"} <= {p.name for p in PAGES if blocks(p)}


def test_the_map_for_contributors_names_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for package in ("ttnet", "ttnet_llm"):
        mapped = re.search(rf"^    {package}/\n((?:      .*\n)+)", text, re.MULTILINE)[1]
        named = set(
            re.findall(r"[\w.]+(?:/|\.py)", re.sub(r"   .*", "", re.sub(r"^ +", "", mapped, flags=re.M), flags=re.M))
        )
        rooms = {f"{path.name}/" for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()}
        modules = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
        assert named == rooms | modules, package


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_powers_are_written_as_code(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`]*`|^    .*$", "", text, flags=re.MULTILINE)
    assert re.findall(r"(?<=[a-z0-9)])\*\*[\w(-]+", prose) == []  # Markdown reads two in a paragraph as bold
