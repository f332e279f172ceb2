"""Every script in `examples/` runs by itself, offline, and stands on the page that lists them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BY_HAND = {"get_smollm2.py"}  # needs a package that is not installed here
PACKAGES = {"antibodies.py": ("antiberty", "abstar")}  # which `make test-slow` installs
SCRIPTS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name not in BY_HAND)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs(script: Path, tmp_path: Path) -> None:
    for package in PACKAGES.get(script.name, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"The package {package} is not installed.")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_page_lists_every_example() -> None:
    page = (ROOT / "docs" / "examples.md").read_text()
    scripts = (ROOT / "examples").glob("*.py")
    assert [path.name for path in scripts if f"examples/{path.name}" not in page] == []
