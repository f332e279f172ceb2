"""The documentation's code runs, its pictures are drawn by it, and its prose reads as it is meant."""

import re

import pytest

from tests.pages import ALONE, PAGES, PICTURES, ROOT, blocks, programs, run_program

# Drawn by `ttnet-llm` and `python -m demo` in runs of their own, of which their pages tell.
BY_COMMANDS = {"ranks.png", "slim.png", "tune.png"}
PROGRAMS = [(page, program) for page in PAGES for program in programs(page)]


@pytest.mark.parametrize(
    ("page", "program"),
    PROGRAMS,
    ids=[f"{page.name}:{program[0][0]}" if page in ALONE else page.name for page, program in PROGRAMS],
)
def test_the_examples_of_a_page_run(page, program, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    run_program(page, program, tmp_path)


def test_blocks_of_the_first_pages_stand_alone():
    assert len(ALONE) == 2
    for page in ALONE:
        assert len(programs(page)) == len(blocks(page)) >= 3


def test_every_picture_is_shown_and_drawn_by_something():
    texts = {page: page.read_text("utf-8") for page in PAGES}
    drawing = "".join(path.read_text("utf-8") for path in [*texts, *ROOT.glob("benchmarks/**/*.py")])
    picture = re.compile(r"!\[[^]]*\]\((?:[./\w]*/)?images/(\w+\.png)\)")
    shown = {name for text in texts.values() for name in picture.findall(text)}
    assert shown == {path.name for path in PICTURES.glob("*.png")}
    assert {name for name in shown if not re.search(rf"""["/]{name}["']""", drawing)} <= BY_COMMANDS


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


GUIDES = [page for page in PAGES if page.parent == ROOT / "docs"]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_every_page_leads_on(page):
    others = set(re.findall(r"\]\(([\w./]+\.md)", page.read_text("utf-8"))) - {page.name}
    assert others, "expected a link to another page"


RESULTS = sorted([*ROOT.glob("docs/results/*.md"), *ROOT.glob("benchmarks/results/*.md"), ROOT / "docs/comparison.md"])


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: f"{page.parts[-3]}/{page.name}")
def test_results_say_how_they_came_about(page):
    text = page.read_text("utf-8")
    assert re.search(r"python -m (benchmarks|demo)", text), "the command that repeats it"
    assert re.search(r"\btorch 2\.\d+", text), "the versions"
    assert re.search(r"thread|core|machine|CPU", text), "what it ran on"
    if re.search(r"accurac|learns|pieces of", text) and "Made by `python -m benchmarks.published`" not in text:
        assert re.search(r"\bseeds?\b", text), "what was drawn"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_outside_of_the_site_lead_to_files(page):
    """Those within the site are followed by a strict `mkdocs build`."""
    links = re.findall(r"\]\(([^)#]+)(#[^)]*)?\)", (ROOT / page).read_text("utf-8"))
    for target, anchor in links:
        if "://" in target:
            continue
        assert (ROOT / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (ROOT / target).read_text("utf-8"), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^\w\s-]", "", title).lower().replace(" ", "-") for title in headings}
