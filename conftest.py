"""What examples in docstrings find in the folder that they run in: a small encoder and some labelled texts."""

import functools
import shutil
import tempfile
from pathlib import Path

import pytest


@functools.cache
def _made() -> tempfile.TemporaryDirectory[str]:
    from tests.ttnet_llm.tiny import rows, save_model, save_rows

    folder = tempfile.TemporaryDirectory()
    save_model(Path(folder.name) / "encoder")
    save_rows(Path(folder.name) / "reviews.jsonl", rows(24))
    return folder


@pytest.fixture(autouse=True)
def _examples_folder(request: pytest.FixtureRequest) -> None:
    if isinstance(request.node, pytest.DoctestItem) and '"encoder"' in request.node.dtest.docstring:
        folder = request.getfixturevalue("tmp_path") / "work"
        shutil.copytree(_made().name, folder)
        request.getfixturevalue("monkeypatch").chdir(folder)
