"""Folders put on the Hugging Face hub, without what only their author's machine can make sense of."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import huggingface_hub

from ttnet.errors import TTError
from ttnet_llm.cards import CARD, is_local, shown_base
from ttnet_llm.files import write_text
from ttnet_llm.folders import MARKER
from ttnet_llm.loading import find_model
from ttnet_llm.lora.checkpoint import CONFIG
from ttnet_llm.slim.saving import RECORD


def push(
    path: str | Path, repo: str, *, base: str | None = None, private: bool = False, message: str = "Upload the model"
) -> str:
    """Put an adapter or model on the hub.

    Args:
        path: The folder of a run, adapter or model.
        repo: The id on the hub, such as `"me/reviews"`; it is made if there is none.
        base: The id of the base model of an adapter that was trained from a folder, or of a slim model that was cut out
            of one; `None` tells the folder's name.
        private: Whether a new repository is private.
        message: Of the commit.

    Returns:
        The address.

    Raises:
        TTFileError: If there is no such folder.
        TTError: If the hub cannot be reached, or does not let you.
    """
    folder = find_model(path)
    with tempfile.TemporaryDirectory() as place:
        staged = Path(place, "model")
        shutil.copytree(folder, staged, ignore=shutil.ignore_patterns(MARKER))
        _name_base(staged, base)
        try:
            api = huggingface_hub.HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo, folder_path=str(staged), commit_message=message))
        except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
            raise TTError(
                f"{repo!r} cannot be written on the hub: {error} Look at the name, log in with `hf auth login`, and "
                "see that the hub can be reached."
            ) from error


def _name_base(folder: Path, base: str | None) -> None:
    """Write the base model's id into config and card, or at least no path."""
    record = folder / RECORD
    if record.is_file():
        told: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        told["base"] = base or shown_base(str(told["base"]))
        write_text(record, json.dumps(told, indent=1) + "\n")
    config = folder / CONFIG
    if not config.is_file():
        return
    fields: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    old = fields.get("base_model_name_or_path") or ""
    new = base or (shown_base(old) if old else old)
    fields["base_model_name_or_path"] = new
    write_text(config, json.dumps(fields, indent=2, sort_keys=True) + "\n")
    card = folder / CARD
    if base and old and is_local(old) and card.is_file():
        text = card.read_text(encoding="utf-8").replace(
            f"| base model | {shown_base(old)} |", f"| base model | {base} |"
        )
        write_text(card, text.replace("---\n", f"---\nbase_model: {base}\n", 1))
