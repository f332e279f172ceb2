"""What `make release-check` asks of the files, asked of these and of some that disagree."""

import re
import shutil

import pytest

from tests.release import ROOT, programs_of, told_everywhere

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


def test_nothing_sends_readers_to_the_other_project():
    """`ttnet` on the package index is another project."""
    other = re.compile(r"pypi\.org/project/ttnet(?!-torch)|pip install '?ttnet(?!-torch)")
    paths = [path for kind in ("py", "md", "toml", "yml", "cff") for path in ROOT.rglob(f"*.{kind}")]
    files = [path for path in paths if not {".venv", "site", "tests"} & set(path.relative_to(ROOT).parts)]
    assert len(files) > 300
    assert [path for path in files if other.search(path.read_text("utf-8"))] == []
