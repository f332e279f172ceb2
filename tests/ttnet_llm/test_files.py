import errno
import shutil

import pytest

from ttnet_llm.files import atomic, naming_a_full_disk


def test_files_are_whole_or_absent(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), atomic(tmp_path / "a.txt") as file:  # noqa: PT012
        file.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def fail():
        with naming_a_full_disk(tmp_path):
            raise RuntimeError("unexpected pos 8384 vs 8278")

    with pytest.raises(RuntimeError, match="unexpected pos"):  # there is space, so something else went wrong
        fail()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(OSError, match="No space left") as caught:
        fail()
    assert caught.value.errno == errno.ENOSPC
