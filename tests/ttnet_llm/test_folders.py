"""Which folders a command may replace: earlier ones of its own kind, by whatever path, and nothing else."""

import os
from pathlib import Path

import pytest

from ttnet.errors import TTFileError
from ttnet_llm.folders import MARKER, atomic_folder, mark_folder, output_file, output_folder, replace_folder


def write(path: Path, kind: str | None = "run", text: str = "new") -> None:
    with atomic_folder(path, kind=kind) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "weights").write_text(text)


def content(place: Path) -> dict[str, str]:
    files = (file for file in place.rglob("*") if file.is_symlink() or file.is_file())
    return {str(file.relative_to(place)): file.read_text() for file in files if file.name != MARKER}


def test_an_earlier_one_of_its_kind_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "run", text="old")
    write(tmp_path / "run")
    assert content(tmp_path) == {"run/part/weights": "new"}
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o777 & ~_umask()


@pytest.mark.parametrize("kind", [None, "other"])
def test_what_another_command_wrote_stays(tmp_path: Path, kind: str | None) -> None:
    write(tmp_path / "run", text="old")
    with pytest.raises(TTFileError, match=r"holds 'part', which would be lost; .* written by 'run'"):
        write(tmp_path / "run", kind)
    assert content(tmp_path) == {"run/part/weights": "old"}


@pytest.mark.parametrize("name", ["thesis.tex", "part/notes.txt", ".hidden", "sub/sub/file", "link"])
def test_files_of_the_users_own_stay(tmp_path: Path, name: str) -> None:
    write(tmp_path / "run", text="old")
    own = tmp_path / "run" / name
    own.parent.mkdir(parents=True, exist_ok=True)
    if name == "link":
        own.symlink_to(tmp_path)
    else:
        own.write_text("years of work")
    with pytest.raises(TTFileError, match=f"holds '{name}', which would be lost; name a new folder or an empty one"):
        write(tmp_path / "run")
    assert own.is_symlink() or own.read_text() == "years of work"
    own.unlink()
    write(tmp_path / "run")


@pytest.mark.parametrize("marker", [None, "", "[]", '{"kind": "run"}', '{"kind": "run", "files": 3}'])
def test_a_folder_that_is_not_marked_as_ours_stays(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.txt").write_text("mine")
    if marker is not None:
        (tmp_path / "run" / MARKER).write_text(marker)
    with pytest.raises(TTFileError, match=r"holds 'a\.txt', which would be lost"):
        write(tmp_path / "run")


def test_files_that_come_later_are_ours(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "run", kind="run", also=("later.png", "parts/")):
        pass
    (tmp_path / "run" / "parts" / "one").mkdir(parents=True)
    (tmp_path / "run" / "parts" / "one" / "a").write_text("a")
    (tmp_path / "run" / "later.png").write_text("b")
    write(tmp_path / "run")
    assert content(tmp_path) == {"run/part/weights": "new"}


def test_empty_folders_are_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write(tmp_path / "run", None)
    assert content(tmp_path) == {"run/part/weights": "new"}
    assert not (tmp_path / "run" / MARKER).exists()


@pytest.mark.parametrize(
    "path", ["model", "./model/", "model/../model", "link", "link/../model", "../{here}/model", ""]
)
@pytest.mark.parametrize("reads", ["model", "link", "model/weights", "{absolute}/model", "model/deep/../weights"])
def test_what_is_read_stays_by_whatever_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, reads: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "weights").write_text("pretrained")
    mark_folder(tmp_path / "model", "run")
    (tmp_path / "link").symlink_to("model")
    path, reads = path.format(here=tmp_path.name), reads.format(absolute=tmp_path)
    with pytest.raises(TTFileError, match="would be replaced, and with it"):
        output_folder(path, kind="run", reads=[None, "hub/id", reads])
    assert content(tmp_path / "model") == {"weights": "pretrained"}


@pytest.mark.parametrize("path", [".", "..", "", "../..", "/", "{absolute}"])
def test_the_current_folder_and_those_above_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    here = tmp_path / "project" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(TTFileError, match="and with it the current folder; name another"):
        write(path.format(absolute=here))
    assert here.is_dir()


def test_a_link_leads_to_the_folder_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/run")
    write(tmp_path / "link", text="old")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "disk") == {"run/part/weights": "new"}
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(TTFileError, match="is a link that leads nowhere but to itself"):
        write(tmp_path / "loop")


def test_files_and_mounts_are_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("text,label")
    for path in ("a.csv", "a.csv/run/deep"):
        with pytest.raises(TTFileError, match=r"a\.csv' is a file; name a folder"):
            write(tmp_path / path)
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "disk")
    with pytest.raises(TTFileError, match="is where a disk is mounted; name a folder in it"):
        write(tmp_path / "disk")


def test_what_comes_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(TTFileError, match=r"holds 'a\.txt', which would be lost"), atomic_folder(tmp_path / "run"):  # noqa: PT012
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "a.txt").write_text("mine")
    assert content(tmp_path) == {"run/a.txt": "mine"}


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path / "run", text="old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "nowhere", tmp_path / "run")
    assert content(tmp_path) == {"run/part/weights": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["run"]


def test_folders_beside_it_stay(tmp_path: Path) -> None:
    for name in (".run.replaced", f".run.{os.getpid()}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("mine")
    write(tmp_path / "run", text="old")
    write(tmp_path / "run")
    assert len(content(tmp_path)) == 3


def test_files_are_not_written_over_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "link").symlink_to("rows.jsonl")
    for path in ("rows.jsonl", "link", "../" + tmp_path.name + "/rows.jsonl"):
        with pytest.raises(TTFileError, match=r"would be replaced, and with it '.*rows\.jsonl', which is read"):
            output_file(tmp_path / path, reads=[tmp_path / "rows.jsonl"])
    with pytest.raises(TTFileError, match="is a folder; name a file"):
        output_file(tmp_path)
    output_file(tmp_path / "other.jsonl", reads=[tmp_path / "rows.jsonl"])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
