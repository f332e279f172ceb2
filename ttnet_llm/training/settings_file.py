"""Settings in a YAML file, which repeats a run."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml

from ttnet.errors import TTFileError, TTValueError
from ttnet.near import near
from ttnet_llm.training.settings import FinetuneSettings

SETTINGS = "settings.yaml"  # in the folder of a run
_EXPECTED = {
    str: "a text, in quotes where it looks like something else",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, for which 1e-3 would be a text."""


class _Dumper(yaml.SafeDumper):
    """The one that writes for it, and puts the text 1e-3 in quotes."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def write_settings(settings: FinetuneSettings) -> str:
    """Write settings as YAML, without those that say nothing.

    Args:
        settings: The settings.

    Returns:
        The text of a file.

    Example:
        >>> print(write_settings(FinetuneSettings("bert", "run", task="sst2", seed=5)))
        # `ttnet-llm finetune --config THIS_FILE --output NEW_FOLDER` repeats the run.
        model: bert
        output: run
        method: loretta-rep
        task: sst2
        ...
    """
    values = json.loads(json.dumps(asdict(settings)))  # as YAML has no tuples
    said = {name: value for name, value in values.items() if value not in (None, [], {})}
    about = "# `ttnet-llm finetune --config THIS_FILE --output NEW_FOLDER` repeats the run.\n"
    return about + yaml.dump(said, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_settings(
    path: str | Path,
    names: Mapping[str, str] | None = None,
    readers: Mapping[str, Callable[[str], Any]] | None = None,
) -> dict[str, Any]:
    """Read settings from a YAML or JSON file.

    Args:
        path: The file: names of `FinetuneSettings` and their values.
        names: What else a setting may be called, such as `{"lr": "learning_rate"}`.
        readers: What reads a setting that is written in one word, as on the command line.

    Returns:
        Arguments of `FinetuneSettings`, of their types.

    Raises:
        TTFileError: If there is no such file, or it is no YAML.
        TTValueError: If a name is unknown or said twice, or a value is of the wrong type.
    """
    try:
        raw = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise TTFileError(f"The settings in {str(path)!r} cannot be read: {error}; check the path.") from error
    except yaml.YAMLError as error:
        raise TTFileError(f"{str(path)!r} is no YAML: {' '.join(str(error).split())}.") from error
    if raw is not None and not isinstance(raw, dict):
        raise TTFileError(f"{str(path)!r} holds no settings; expected lines such as `epochs: 3`.")
    hints = get_type_hints(FinetuneSettings)
    known = dict(names or {}) | {name: name for name in hints}
    found: dict[str, Any] = {}
    for key, value in (raw or {}).items():
        name = known.get(str(key).replace("-", "_"))
        if name is None:
            raise TTValueError(
                f"{key} in {str(path)!r} is no setting; {near(str(key), known)}there are {', '.join(hints)}."
            )
        if name in found:
            raise TTValueError(f"{name} is said twice in {str(path)!r}, the second time as {key}; leave out one.")
        if isinstance(value, str) and name in (readers or {}):
            value = (readers or {})[name](value)
        try:
            found[name] = _of_type(value, hints[name])
        except TypeError as error:
            raise TTValueError(f"{key} is {value!r} in {str(path)!r}; expected {error}.") from error
    return found


def _of_type(value: Any, hint: Any) -> Any:
    """Give a value in the type that a setting has.

    Raises:
        TypeError: If it is of none that will do; the message is what was expected.
    """
    outer, inner = get_origin(hint), get_args(hint)
    if outer in (Union, types.UnionType):
        wanted = next(each for each in inner if each is not types.NoneType)
        return value if type(value) in inner else _of_type(value, wanted)
    if outer is tuple:
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(_of_type(each, inner[0]) for each in values)
    if outer is dict:
        if not isinstance(value, dict):
            raise TypeError("names and values, each in a line of its own")
        return {str(key): _of_type(each, inner[1]) for key, each in value.items()}
    if hint is Any or type(value) is hint:
        return value
    if hint is float and type(value) is int:
        return float(value)
    raise TypeError(_EXPECTED[hint])
