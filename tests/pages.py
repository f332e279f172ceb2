"""Run the code of the documentation's pages, and put what it draws into the documentation: `make pictures`.

The blocks of a page fenced as `python` run from top to bottom in one namespace, those of README.md and of the first
page each in one of its own, as readers take them from there one by one. A block that cannot run as it stands (it needs
a model of the reader's, or a download) is fenced as `py`: it is shown the same way and not run. Pages that name
`"encoder"` and `reviews.jsonl` find a small model and some texts under these names.
"""

import contextlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
ALONE = {ROOT / "README.md", ROOT / "docs/index.md"}
PICTURES = ROOT / "docs/images"


def blocks(page):
    """Give each block with the line of the page it starts on, so that an error points there."""
    text = page.read_text("utf-8")
    return [(text[: match.start(1)].count("\n"), match[1]) for match in BLOCK.finditer(text)]


def programs(page):
    """Give what runs in one namespace each: a page's blocks, or every one of them for itself."""
    found = blocks(page)
    return [[block] for block in found] if page in ALONE else [found] if found else []


def run_program(page, program, folder):
    """Run blocks of a page in a folder."""
    if any('"encoder"' in code for _, code in program):
        from tests.ttnet_llm.tiny import rows, save_model, save_rows

        save_model(Path(folder, "encoder"))
        save_rows(Path(folder, "reviews.jsonl"), rows(64))
    namespace = {"__name__": page.stem}
    with contextlib.chdir(folder):
        for line, code in program:
            exec(compile("\n" * line + code, str(page), "exec"), namespace)


def main(names):
    """Draw the pictures of all pages, or of those that are named, anew."""
    os.environ["MPLBACKEND"] = "agg"
    for page in PAGES:
        if "savefig(" not in page.read_text("utf-8") or (names and page.stem not in names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            for program in programs(page):
                run_program(page, program, folder)
            for picture in sorted(Path(folder).glob("*.png")):
                if (PICTURES / picture.name).exists() or f"images/{picture.name}" in page.read_text("utf-8"):
                    shutil.copy(picture, PICTURES / picture.name)
                    print(f"{page.relative_to(ROOT)}: {picture.name}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
