"""What a saved model needs to be used on new data, in a file next to PEFT's own."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ttnet.errors import TTFileError
from ttnet_llm.files import write_text
from ttnet_llm.folders import mark_folder, refuse_seeds

DETAILS = "finetune.json"
MODULES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; what a kind of training does not use is empty.

    Args:
        text: The text: one column, or two for pairs.
        label: The label, or labels.
        prompt: What the model is given.
        completion: What it has to say then.
        messages: A chat.
        choices: What the model may say.
    """

    text: tuple[str, ...] = ()
    label: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: str | None = None
    choices: str | None = None


@dataclass(frozen=True)
class Details:
    """How a saved model was fed and judged.

    Args:
        columns: Which columns of the files held what.
        max_length: Tokens that inputs were cut to.
        measures: What it was judged by, the one that counts first.
        kind: A key of `KINDS`.
        options: What else the kind keeps.
    """

    columns: Columns
    max_length: int
    measures: tuple[str, ...]
    kind: str = "classify"
    options: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `finetune.json`.

        Args:
            folder: The adapter's or model's folder.
        """
        columns = {name: value for name, value in asdict(self.columns).items() if value}
        values = {
            "kind": self.kind,
            "columns": columns,
            "max_length": self.max_length,
            "measures": self.measures,
            "options": self.options,
        }
        write_text(folder / DETAILS, json.dumps(values, indent=2) + "\n")


def find_saved(folder: str | Path) -> Path:
    """Find what `finetune` saved.

    Args:
        folder: The output folder of a run, or the folder `adapter` or `model` in it.

    Returns:
        The folder with the weights.

    Raises:
        TTFileError: If there is none.
    """
    folder = Path(folder)
    for inner in (folder / "adapter", folder / "model", folder):
        if (inner / DETAILS).is_file():
            return inner
    refuse_seeds(folder)
    raise TTFileError(
        f"{str(folder)!r} holds no model made by `ttnet-llm finetune` (there is no {DETAILS}); check the path."
    )


def carry_details(source: str | Path, target: str | Path, *, kind: str | None = None) -> None:
    """Let a model that was made of another be fed and judged as that one.

    Args:
        source: The folder of the other; nothing happens if it says nothing.
        target: The new folder.
        kind: What the new folder is marked with, if it is.
    """
    if (Path(source) / DETAILS).is_file():
        write_text(Path(target) / DETAILS, (Path(source) / DETAILS).read_text(encoding="utf-8"))
        _carry_modules(Path(source), Path(target))
        if kind is not None:
            mark_folder(Path(target), kind)


def _carry_modules(source: Path, target: Path) -> None:
    """Copy what sentence-transformers puts after a model to make vectors, if there is anything."""
    if not (source / MODULES[0]).is_file():
        return
    after = json.loads((source / MODULES[0]).read_text(encoding="utf-8"))[1:]
    for name in (*MODULES, *(module["path"] for module in after)):
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        elif (source / name).is_file():
            shutil.copy(source / name, target / name)


def read_details(folder: Path) -> Details:
    """Read what `Details.write` wrote, in this version or an earlier one.

    Args:
        folder: As `find_saved` gives it.

    Returns:
        The details.
    """
    raw = json.loads((folder / DETAILS).read_text(encoding="utf-8"))
    # The first version had classifiers only.
    columns = raw.get("columns") or {"text": raw["text_columns"], "label": raw["label_column"]}
    columns = Columns(**columns | {"text": tuple(columns.get("text", ()))})
    kind, options = raw.get("kind", "classify"), raw.get("options", {})
    return Details(columns, raw["max_length"], tuple(raw["measures"]), kind, options)
