"""Who may import whom, read from the source: no module depends on itself by way of others."""

import ast
import os
import pkgutil
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def modules_of(*packages: Path) -> dict[str, Path]:
    """Give every module of packages by its full name."""
    found = {}
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules_of(ROOT / "ttnet", ROOT / "ttnet_llm")


def imports_of(name: str, path: Path, *, within_functions: bool) -> Iterator[str]:
    """List what a module imports, also for the type checker alone: names of modules, or of what is in them."""
    queue: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if path.name.startswith("__init__.") else name.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)
        elif within_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            queue += ast.iter_child_nodes(node)


def lazy_names(package: str, path: Path) -> dict[str, str]:
    """Say what a package's public names stand for, which its stub lists and `lazy_loader` imports."""
    stub = path.with_suffix(".pyi")
    if path.name != "__init__.py" or not stub.exists():
        return {}
    targets = imports_of(package, stub, within_functions=False)
    return {f"{package}.{target.rpartition('.')[2]}": target for target in targets}


def graph_of(modules: dict[str, Path], *, within_functions: bool) -> dict[str, set[str]]:
    """Give the modules that each module imports, of those that are known.

    What is imported at the top also runs the packages that it lies in, except those that are being imported already.
    """
    public = {name: target for package, path in modules.items() for name, target in lazy_names(package, path).items()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        graph[name] = set()
        for target in imports_of(name, path, within_functions=within_functions):
            target = target if target in modules else public.get(target, target)
            target = target if target in modules else target.rpartition(".")[0]
            parts = target.split(".")
            above = [".".join(parts[:k]) for k in range(1, len(parts))]
            run = [] if within_functions else [each for each in above if not f"{name}.".startswith(f"{each}.")]
            graph[name] |= {target, *run} & modules.keys() - {name}
    return graph


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_module_imports_itself_by_way_of_others():
    assert find_cycle(graph_of(MODULES, within_functions=False)) is None


def test_nothing_that_trains_need_needs_trains():
    """Methods of trains call functions that build trains, by imports inside; that circle stays in one room."""

    def place(name):
        return "trains" if name == "ttnet.io" or f"{name}.".startswith("ttnet.trains.") else name

    places: dict[str, set[str]] = {}
    graph = graph_of(MODULES, within_functions=True)
    for name, targets in graph.items():
        if name.split(".")[0] == "ttnet":
            places.setdefault(place(name), set()).update(place(target) for target in targets)
    places["trains"].discard("trains")
    assert find_cycle(places) is None
    # What the rule is for: trains do reach the other rooms.
    assert {"ttnet.rounding.methods", "ttnet.decomposition.in_memory"} <= places["trains"]


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] == "ttnet"])
def test_mathematics_knows_no_language_models(name):
    found = {target.split(".")[0] for target in imports_of(name, MODULES[name], within_functions=True)}
    assert found.isdisjoint({"ttnet_llm", "transformers", "peft"})


FILES = {
    "__init__.py": "",
    "__init__.pyi": "from .room.last import thing",
    "first.py": "from pack import thing",
    "room/__init__.py": "from pack.room.middle import value",
    "room/middle.py": "value = 1",
    "room/last.py": "from ..side import other\nfrom . import middle",
    "side.py": "import os",
}


@pytest.mark.parametrize(
    ("changed", "text", "cycle"),
    [
        ("side.py", "import os", None),
        ("side.py", "from pack import first", {"pack.first", "pack.side"}),
        ("side.py", "from pack.first import anything", {"pack.first", "pack.side"}),
        ("side.py", "if TYPE_CHECKING:\n    import pack.first", {"pack.first", "pack.side"}),
        ("side.py", "class A:\n    from pack import thing", {"pack.room.last", "pack.side"}),
        ("side.py", "def f():\n    from pack import first", None),
        ("room/middle.py", "import pack.first", {"pack.first", "pack.room.middle"}),
        ("side.py", "from pack.room.middle import value", None),
        ("room/middle.py", "from pack.room import value", {"pack.room", "pack.room.middle"}),
        ("room/middle.py", "from pack.side import value", None),
    ],
)
def test_cycles_are_found(tmp_path, changed, text, cycle):
    for name, content in (FILES | {changed: text}).items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = find_cycle(graph_of(modules_of(tmp_path / "pack"), within_functions=False))
    assert (found is None) == (cycle is None)
    assert cycle is None or cycle <= set(found)
    inside = find_cycle(graph_of(modules_of(tmp_path / "pack"), within_functions=True))
    assert (inside is None) == (cycle is None and "def f" not in text)


@pytest.mark.parametrize("overwritten", [True, False])
def test_another_package_of_the_same_name_is_told(overwritten, tmp_path):
    """`ttnet` on the package index is another project's, and empty at its top."""
    if overwritten:
        for package in ("ttnet", "ttnet_llm"):
            shutil.copytree(ROOT / package, tmp_path / package)
    else:
        (tmp_path / "ttnet").mkdir()
    (tmp_path / "ttnet" / "__init__.py").write_text("")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", "import ttnet_llm"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert "ttnet' is that of another project, the distribution `ttnet`" in said
    assert "pip uninstall -y ttnet ttnet-torch, and install ttnet-torch again" in said


SCRIPTS = modules_of(*(ROOT / folder for folder in ("benchmarks", "demo", "examples")))


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_scripts_import_of_ours_is_there(name: str) -> None:
    """Scripts are run by hand, so that nothing else tells when a name has moved."""
    for target in imports_of(name, SCRIPTS[name], within_functions=True):
        if target.startswith(("ttnet.", "ttnet_llm.")):
            try:
                pkgutil.resolve_name(target)
            except (ImportError, AttributeError) as error:
                pytest.fail(f"{name} imports {target}: {error}")
