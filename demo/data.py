"""The demo's task: which library does this piece of documentation come from?

The text is real and on every machine that installed ttnet: the docstrings of the libraries it depends on. They
are read from the source files without importing anything. Only the prose before the first section or example
is kept, and the names that would give the answer away are masked.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ttnet.errors import TTError, TTValueError

MASK = "[MASK]"
MIN_CHARACTERS = 80  # shorter ones ("Return the size.") belong to any library


@dataclass(frozen=True)
class Area:
    """A class of the task: folders of installed packages, or of the standard library, and folders to leave out."""

    name: str
    folders: tuple[str, ...]
    without: tuple[str, ...] = ()


# Only what ttnet's own dependencies bring in, so that the data are there wherever the demo is installed.
AREAS = (
    Area("torch.nn", ("torch/nn", "torch/optim", "torch/ao")),
    Area("torch.distributed", ("torch/distributed",)),
    Area("torch.compile", ("torch/_inductor", "torch/_dynamo", "torch/fx")),
    Area("numpy", ("numpy",)),
    Area("scipy", ("scipy",)),
    Area("pandas", ("pandas",)),
    Area("matplotlib", ("matplotlib", "mpl_toolkits")),
    Area("transformers", ("transformers",), without=("models",)),  # the models' docstrings are boilerplate
    Area("hub", ("datasets", "huggingface_hub", "fsspec")),
    Area("sympy", ("sympy",)),
    Area("networkx", ("networkx",)),
    Area("stdlib", (".",), without=("site-packages", "dist-packages", "idlelib", "lib2to3")),
)

_NAMES = (
    "torch pytorch libtorch aten autograd inductor torchinductor dynamo torchdynamo torchscript fx nn numpy np "
    "scipy sp pandas pd matplotlib pyplot plt mpl transformers huggingface hf hub datasets dataset sympy "
    "networkx nx python cpython"
)
_NOT_OURS = {"tests", "test", "testing", "_vendor", "externals", "_testing"}
_SECTION = re.compile(  # where the prose ends: a section heading, an example, a directive or a field list
    r"^\s*(?:"
    r"(?:\w+ )?(?:parameters?|params|args?|arguments?|returns?|raises|yields|examples?|notes?|references|attributes"
    r"|usage|warnings?|warns|explanation|shape|inputs?|outputs?|methods?|see also)\s*:{0,2}\s*$"
    r"|(?:args|returns|examples?|note|usage)\s*:|>>>|\.\. |```|[-=~^*]{3,}\s*$|:(?:param|return|type|rtype|raises))",
    re.MULTILINE | re.IGNORECASE,
)
_ROLE = re.compile(r":[\w:]+:`~?!?([^`<]*)(?:<[^>]*>)?`")
_LINK = re.compile(r"https?://\S+")
_DOTTED = re.compile(r"\b(?:[A-Za-z_]\w+\.)+(?=[A-Za-z_]\w)")
_NAME = re.compile(rf"\b(?:{'|'.join(_NAMES.split())})\b|(?:torch|numpy|scipy|pandas|sympy|networkx)", re.IGNORECASE)


@dataclass(frozen=True)
class DocstringTask:
    """Texts and labels of the two splits; `labels` index `names`."""

    names: tuple[str, ...]
    train: list[tuple[str, int]]
    validation: list[tuple[str, int]]


def prose(docstring: str) -> str:
    r"""Keep a docstring's opening prose, and mask the names that tell where it is from.

    Args:
        docstring: A docstring as `ast.get_docstring` gives it.

    Returns:
        One line of text, empty when the docstring opens with a section.

    Example:
        >>> prose("Like :func:`numpy.sum`, for a torch.Tensor.\n\nArgs:\n    x: The input.")
        'Like sum, for a Tensor.'
        >>> prose("Convert to a NumPy array. See https://numpy.org.")
        'Convert to a [MASK] array. See'
    """
    section = _SECTION.search(docstring)
    text = docstring[: section.start()] if section else docstring
    text = _LINK.sub(" ", _ROLE.sub(r"\1", text)).replace("`", "")
    return " ".join(_NAME.sub(MASK, _DOTTED.sub("", text)).split())


def load(train_per_area: int, validation_per_area: int, *, areas: Sequence[Area] = AREAS) -> DocstringTask:
    """Gather the texts of every area, balanced, without duplicates, and split by a hash of the text.

    Args:
        train_per_area: Training examples per class, at least 1.
        validation_per_area: Validation examples per class, at least 1.
        areas: The classes.

    Returns:
        The task; the same on every call with the same installed libraries.

    Raises:
        TTValueError: If a size is below 1.
        TTError: If an area has too few texts, because a library is missing or has shrunk.
    """
    for name, size in (("train_per_area", train_per_area), ("validation_per_area", validation_per_area)):
        if size < 1:
            raise TTValueError(f"{name} is {size}; expected at least 1 example for each class.")
    wanted = train_per_area + validation_per_area
    # Half as many again: those that two areas share are dropped below.
    texts = [_first(_docstrings(area), wanted + wanted // 2) for area in areas]
    owners = Counter(text for area_texts in texts for text in area_texts)
    train: list[tuple[str, int]] = []
    validation: list[tuple[str, int]] = []
    for label, (area, area_texts) in enumerate(zip(areas, texts, strict=True)):
        own = sorted((text for text in area_texts if owners[text] == 1), key=_digest)[:wanted]
        if len(own) < wanted:
            raise TTError(
                f"the class '{area.name}' has {len(own)} docstrings of {MIN_CHARACTERS} or more characters, and "
                f"{wanted} are needed; install the demo's dependencies, or ask for fewer examples."
            )
        validation += [(text, label) for text in own[:validation_per_area]]
        train += [(text, label) for text in own[validation_per_area:]]
    return DocstringTask(tuple(area.name for area in areas), sorted(train, key=_key), sorted(validation, key=_key))


def _first(texts: Iterator[str], count: int) -> list[str]:
    """The first `count` texts that differ in more than case and digits."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(re.sub(r"[\d\W]+", " ", text.lower()), text)
        if len(found) == count:
            break
    return list(found.values())


def _docstrings(area: Area) -> Iterator[str]:
    for file in _sources(area):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escape sequences
            try:
                tree = ast.parse(file.read_text(encoding="utf-8", errors="ignore"))
            except SyntaxError:  # templates and deliberately broken files
                continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                text = prose(ast.get_docstring(node) or "")
                if len(text) >= MIN_CHARACTERS:
                    yield text


def _sources(area: Area) -> list[Path]:
    """The area's files, in an order that mixes its parts and depends only on their names."""
    root = Path(sysconfig.get_paths()["stdlib" if area.folders == (".",) else "purelib"])
    skip = _NOT_OURS.union(area.without)
    files = (file for folder in area.folders for file in (root / folder).rglob("*.py"))
    kept = [file for file in files if skip.isdisjoint(file.relative_to(root).parts)]
    return sorted(kept, key=lambda file: _digest(file.relative_to(root).as_posix()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _key(example: tuple[str, int]) -> str:
    return _digest(example[0])
