"""What `make release-check` asks of the files, asked of these and of some that disagree."""

import itertools
import re
import runpy
import shutil

import pytest

from tests.release import ROOT, programs_of, told_everywhere, where_links_lead

FILES = ("pyproject.toml", "CHANGELOG.md", "CITATION.cff", "README.md")


def test_this_version_is_told_everywhere():
    assert re.fullmatch(r"\d+\.\d+\.\d+", told_everywhere())


@pytest.mark.parametrize(
    ("file", "pattern", "words"),
    [
        ("CHANGELOG.md", r"^## \S+", "the newest section of CHANGELOG.md says 9.9.9"),
        ("CITATION.cff", r"^version: \S+", "CITATION.cff says 9.9.9"),
        ("README.md", r"ttnet_torch-[\d.]+-py3", r"names the wheel of 9\.9\.9"),
    ],
)
def test_files_that_disagree_are_named(file, pattern, words, tmp_path):
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    text = (tmp_path / file).read_text()
    found = re.search(pattern, text, re.MULTILINE)[0]
    other = re.sub(r"\d+\.\d+\.\d+", "9.9.9", found)
    (tmp_path / file).write_text(text.replace(found, other, 1))
    with pytest.raises(SystemExit, match=words):
        told_everywhere(tmp_path)


def test_each_block_of_a_page_is_a_program():
    programs = programs_of(ROOT / "README.md")
    assert len(programs) == 4
    for program in programs:
        compile(program, "README.md", "exec")
        assert "import ttnet" in program


def test_links_are_whole_once_an_address_is_stated(tmp_path):
    for name in ("README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    told = (tmp_path / "pyproject.toml").read_text()
    assert "\n[project.urls]" not in told, "let this test take the address that there is by now"
    text = (ROOT / "README.md").read_text()
    assert runpy.run_path(str(tmp_path / "setup.py"))["readme"]() == text
    assert "not on a package index yet" in where_links_lead(tmp_path)
    address = "https://example.org/who/ttnet"
    (tmp_path / "pyproject.toml").write_text(
        told.replace("[project.scripts]", f'[project.urls]\nRepository = "{address}/"\n\n[project.scripts]')
    )
    assert address in where_links_lead(tmp_path)
    whole = runpy.run_path(str(tmp_path / "setup.py"))["readme"]()
    targets = re.findall(r"\]\(([^)]*)\)", whole)
    assert len(targets) == len(re.findall(r"\]\(([^)]*)\)", text)) > 30
    assert all(target.startswith(("https://", "#")) for target in targets)
    own = [target.removeprefix(address).split("#")[0] for target in targets if target.startswith(address)]
    assert len(own) > 30
    for target in own:
        _, kind, version, path = target.split("/", 3)
        assert version == f"v{told_everywhere()}"
        assert (ROOT / path).exists()
        assert kind == ("raw" if path.endswith(".png") else "blob")


def test_nothing_sends_readers_to_the_other_project():
    """`ttnet` on the package index is another project."""
    other = re.compile(r"pypi\.org/project/ttnet(?!-torch)|pip install '?ttnet(?!-torch)")
    paths = [path for kind in ("py", "md", "toml", "yml", "cff") for path in ROOT.rglob(f"*.{kind}")]
    roots = [path.relative_to(ROOT).parts[0] for path in paths]
    ours = [not (root in ("site", "tests") or root.startswith(".venv")) for root in roots]  # `make peers` has its own
    files = list(itertools.compress(paths, ours))
    assert len(files) > 300
    assert [path for path in files if other.search(path.read_text("utf-8"))] == []
