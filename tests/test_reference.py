"""The reference names every public name once, and each has a docstring that says what a caller has to know."""

import importlib
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
ROOMS = (
    *("ttnet", "ttnet.contraction", "ttnet.decomposition", "ttnet.interop", "ttnet.nn", "ttnet.operators"),
    *("ttnet.rounding", "ttnet.solvers", "ttnet.trains"),
    *("ttnet_llm", "ttnet_llm.bank", "ttnet_llm.inference", "ttnet_llm.linear", "ttnet_llm.lora"),
    *("ttnet_llm.loretta_adp", "ttnet_llm.networks", "ttnet_llm.prompts", "ttnet_llm.search", "ttnet_llm.slim"),
    *("ttnet_llm.tensorize", "ttnet_llm.training", "ttnet_llm.training.choices", "ttnet_llm.tuner"),
)


def find(path: str) -> Any:
    """Give what a full name stands for; a function goes before the module that it is written in."""
    parent, _, name = path.rpartition(".")
    owner = importlib.import_module(parent)
    return getattr(owner, name) if hasattr(owner, name) else importlib.import_module(path)


def home(thing: Any) -> str:
    """Give the full name under which something was written."""
    return thing.__name__ if isinstance(thing, ModuleType) else f"{thing.__module__}.{thing.__qualname__}"


def named() -> Iterator[tuple[str, Any]]:
    """Give what the pages of the reference name; a module stands for what is written in it, and for itself."""
    for page in sorted(ROOT.glob("docs/reference/**/*.md")):
        for path in DIRECTIVE.findall(page.read_text()):
            thing = find(path)
            yield path, thing
            if isinstance(thing, ModuleType):
                for name, part in vars(thing).items():
                    if not name.startswith("_") and getattr(part, "__module__", None) == path and callable(part):
                        yield f"{path}.{name}", part
                # A package of functions shows those that it gathers.
                for name in getattr(thing, "__all__", ()):
                    yield f"{path}.{name}", getattr(thing, name)


NAMED = list(named())


def members() -> Iterator[tuple[str, Any, type | None]]:
    """Give what is named, and the methods and properties that its classes have themselves."""
    for path, thing in NAMED:
        if isinstance(thing, ModuleType):
            continue
        yield path, thing, None
        if inspect.isclass(thing):
            for name, member in vars(thing).items():
                member = inspect.unwrap(getattr(member, "__func__", member))
                if not name.startswith("_") and (isinstance(member, property) or inspect.isfunction(member)):
                    yield f"{path}.{name}", member, thing


MEMBERS = list(members())


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_in_the_reference(room):
    known = {home(thing) for _, thing in NAMED}
    public = {name: getattr(importlib.import_module(room), name) for name in importlib.import_module(room).__all__}
    rooms = {name for name, thing in public.items() if isinstance(thing, ModuleType)}
    # What is neither a class nor a function is a table, which the functions that take its keys name.
    listed = {name for name, thing in public.items() if callable(thing)}
    assert listed | rooms
    assert [name for name in sorted(listed) if home(public[name]) not in known] == []


def test_no_name_is_in_the_reference_twice():
    assert [name for name, count in Counter(home(thing) for _, thing in NAMED).items() if count > 1] == []


def test_a_function_is_named_by_its_module_where_that_has_its_name():
    """As the site shows the module otherwise, and everything in it."""
    functions = [path for path, thing in NAMED if not isinstance(thing, ModuleType)]
    assert [path for path in functions if path in sys.modules] == []


def test_every_page_of_the_reference_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in ROOT.glob("docs/reference/**/*.md"):
        assert str(page.relative_to(ROOT / "docs")) in navigation


def overrides(member: Any, owner: type | None) -> bool:
    """Say whether a method is one that a base class, or a library's, has described already."""
    return owner is not None and any(hasattr(base, member.__name__) for base in owner.__mro__[1:])


def missing(path: str, member: Any, owner: type | None) -> list[str]:
    """List what a docstring lacks."""
    function = member.fget if isinstance(member, property) else member
    text = inspect.cleandoc(function.__doc__ or "")
    if not text:
        return ["docstring"]
    lacks = [] if text.partition("\n\n")[0].rstrip().endswith(".") else ["summary, one sentence"]
    if inspect.isclass(member) or owner is None:
        lacks += [] if "Example:\n" in text and ">>> " in text else ["Example"]
    if inspect.isclass(member) or isinstance(member, property) or overrides(member, owner):
        return lacks
    if "Example:\n" not in text and "Example:\n" not in (owner.__doc__ if owner else text):
        lacks.append("Example, here or at the class")
    signature = inspect.signature(member)
    arguments = [name for name in signature.parameters if name not in ("self", "cls")]
    described = text.partition("Args:\n")[2]
    lacks += [f"Args: {name}" for name in arguments if not re.search(rf"^\s+\**{name}[ :,]", described, re.MULTILINE)]
    # What a `with` statement takes gives nothing else.
    given = inspect.formatannotation(signature.return_annotation).strip("'")
    returns = not re.search(r"^None$|Iterator\[None\]$|_empty$", given)
    if arguments and returns and not re.search(r"^(Returns|Yields):$", text, re.MULTILINE):
        lacks.append("Returns")
    return lacks


def test_every_public_name_says_what_it_takes_and_gives_and_shows_an_example():
    assert len(MEMBERS) > 400
    lacking = {path: missing(path, member, owner) for path, member, owner in MEMBERS}
    assert {path: parts for path, parts in lacking.items() if parts} == {}
