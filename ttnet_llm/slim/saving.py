"""Slim models saved and loaded: whole, by transformers' own functions, or as a small record beside the base model.

A record is a folder with the base model's config, a table of what is left (`slim.json`), and the numbers of what was
kept with their factors (`slim.safetensors`). Where transformers looks for a model's weights in it, it is given those of
the base model, and what is loaded of them is cut.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.utils import (
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
)
from transformers.utils.hub import get_checkpoint_shard_files

from ttnet.errors import TTFileError, TTTypeError, TTValueError
from ttnet_llm.files import write_text
from ttnet_llm.folders import atomic_folder
from ttnet_llm.lora.checkpoint import save_tensors
from ttnet_llm.slim.architectures import Axis, axes, find_axes
from ttnet_llm.slim.cutting import Plan, check_plan, cut, sample
from ttnet_llm.slim.entry import FORMAT, METHOD, SlimConfig, is_slim, say_slim
from ttnet_llm.training.model import load_config

KIND = "slim"  # what marks the folders written here
RECORD, NUMBERS, PICTURE = "slim.json", "slim.safetensors", "slim.png"
# Stands for the weights' name in the config. transformers ends its error with it where this package is not imported.
_UNREAD = "a slim model, which `import ttnet_llm` makes known to transformers; import it before loading the model"

_QUIET = {f"_raise_exceptions_for_{each}": False for each in ("gated_repo", "missing_entries", "connection_errors")}


class SlimLoader(HfQuantizer):
    """Cuts a model before its weights are read, or those of its base model after it."""

    requires_calibration = True  # transformers then refuses to make a model so that is not saved so
    _plan: Plan | None = None

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Say that such models can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Say that such models can be trained."""
        return True

    def update_attn_implementation(self, config: Any) -> Any:
        """Name the file that a record has in the place of weights, before transformers looks for them."""
        if getattr(config, "transformers_weights", None) == _UNREAD:
            config.transformers_weights = NUMBERS
        return config

    update_tp_plan = update_attn_implementation  # so it was up to transformers 5.17

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **_: Any
    ) -> None:
        entry = self.quantization_config
        if entry.version != FORMAT:
            raise TTFileError(
                f"The config's entry of a slim model is of format {entry.version}; expected format {FORMAT}: use the "
                "version of ttnet_llm that saved the model."
            )
        if checkpoint_files and Path(checkpoint_files[0]).name == NUMBERS:
            folder = Path(checkpoint_files[0]).parent
            cached_file(model.config.name_or_path, RECORD, **_QUIET)  # of a hub's files only those asked for are here
            base, self._plan = read_record(folder)
            _check_fit(find_axes(model), self._plan, f"What {str(folder / RECORD)!r} says")
            checkpoint_files[:] = _weights_of(entry.base or base, folder)  # what transformers goes on with
        else:
            cut_as_said(model)

    def postprocess_model(self, model: PreTrainedModel, **_: Any) -> Any:
        """Finish the model, and let it be an ordinary one, that is saved whole."""
        if self._plan is not None:
            _check_weights(model, self._plan)
            cut(model, self._plan)
        self.remove_quantization_config(model)
        say_slim(model, self.quantization_config.kept)
        if getattr(model.config, "transformers_weights", None) is not None:
            del model.config.transformers_weights
        return model


def _register() -> None:
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(SlimConfig)
        register_quantizer(METHOD)(SlimLoader)


_register()


def cut_as_said(model: nn.Module) -> nn.Module:
    """Give a model that was made of a config the sizes that the config says it has left.

    Args:
        model: The model, of whole size; whose weights are not there yet, or do not matter.

    Returns:
        The same model; as it was, if its config says nothing.

    Raises:
        TTFileError: If the config's entry does not fit the model.
    """
    config: Any = getattr(model, "config", None)
    if not is_slim(config):
        return model
    entry = config.quantization_config
    said = entry["kept"] if isinstance(entry, dict) else entry.kept
    found = find_axes(model)
    with torch.device("cpu"):  # where the model is on the meta device, so would these numbers be
        kept = {axis.name: torch.arange(int(said.get(axis.name, axis.groups))) for axis in found}
        factors = {name: torch.ones(len(each)) for name, each in kept.items()}
    counts = Plan(kept, factors, {axis.name: axis.groups for axis in found}, 0)
    _check_fit(found, counts, "The config's entry of a slim model")
    cut(model, counts)
    return model


def _check_fit(found: list[Axis], plan: Plan, what: str) -> None:
    try:
        check_plan(found, plan)
    except TTValueError as error:
        raise TTFileError(f"{what} does not fit the model: {error}") from error


def _check_weights(model: nn.Module, plan: Plan) -> None:
    """Refuse a base model whose weights are not those that the plan was made for, but for another precision."""
    for axis in find_axes(model):
        if axis.name in plan.samples:
            expected, found = plan.samples[axis.name], sample(model, axis)
            known = ~(expected.isnan() | found.isnan())  # those of a device for offloading are not there yet
            # 2^-8 is what bfloat16 rounds by at most, and twice that tells two roundings of one number
            if found.shape != expected.shape or not torch.allclose(found[known], expected[known], 2**-7, 1e-6):
                raise TTFileError(
                    f"The base model of the slim model has other weights at {axis.name!r} than the one that was cut; "
                    "name the folder that has those with base (--base), or make the record again."
                )


def save_slim(plan: Plan, path: str | Path, *, base: str | Path, tokenizer: Any = None) -> None:
    """Save which heads and neurons of a model stay: a small folder that is loaded as the slim model.

    It has no weights but the factors of what stays: those of the base model are read when it is loaded, by `load`,
    `load_slim` or transformers' own `AutoModel...from_pretrained`, and give the slim model to the bit. A slim model
    whose weights were trained is saved by `save_pretrained` instead.

    Args:
        plan: What `plan` has chosen.
        path: A new folder, or that of an earlier record, which is replaced.
        base: Folder or hub id of the whole model. The record names a relative path as it is from its own folder.
        tokenizer: The model's, saved along if there is one.

    Raises:
        TTFileError: If there is no such base model, or the folder holds something else.
        TTTypeError: If the base model cannot be cut.
        TTValueError: If the plan is not one for it.

    Example:
        >>> import tempfile
        >>> from transformers import BertConfig, BertModel
        >>> from ttnet_llm.slim import axes, plan, slim
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     model = BertModel(config)
        ...     model.save_pretrained(f"{place}/base")
        ...     found = plan(model, {axis.name: torch.rand(axis.groups) for axis in axes(model)})
        ...     save_slim(found, f"{place}/slim", base=f"{place}/base")
        ...     load_slim(f"{place}/slim").encoder.layer[0].intermediate.dense.out_features
        4
    """
    with slim_folder(path, reads=(base,)) as folder:
        write_slim(plan, folder, path, base=base, tokenizer=tokenizer)


def slim_folder(path: str | Path, *, reads: tuple[Any, ...] = ()) -> AbstractContextManager[Path]:
    """Give a temporary folder for a record, which takes its place once the block has ended well.

    Args:
        path: A new folder, or that of an earlier record.
        reads: What is read meanwhile.

    Returns:
        A context manager for the temporary folder; on entering it raises `TTFileError` if `path` holds something else.
    """
    return atomic_folder(path, kind=KIND, reads=reads, also=(PICTURE,))


def write_slim(
    plan: Plan,
    folder: Path,
    place: str | Path,
    *,
    base: str | Path,
    tokenizer: Any,
    told: Mapping[str, Any] | None = None,
) -> tuple[int, int]:
    """Write the files of a record.

    Args:
        plan: As for `save_slim`.
        folder: An empty folder.
        place: Where it goes when it is whole.
        base: As for `save_slim`.
        tokenizer: As for `save_slim`.
        told: What else `slim.json` says, such as how the masks were learnt.

    Returns:
        The number of parameters of the model without its head, before and after.
    """
    config = load_config(str(base))
    with torch.device("meta"):
        skeleton = AutoModel.from_config(copy.deepcopy(config))
    found = axes(skeleton)
    check_plan(found, plan)
    config.quantization_config = SlimConfig({name: len(kept) for name, kept in plan.kept.items()})
    config.save_pretrained(folder)
    fields = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8")) | {"transformers_weights": _UNREAD}
    write_text(folder / CONFIG_NAME, json.dumps(fields, indent=2, sort_keys=True) + "\n")
    before = skeleton.num_parameters()
    values = {
        "version": FORMAT,
        "base": _seen_from(Path(place), str(base)),
        "parameters": {"before": before, "after": before - plan.removed},
        **(told or {}),
        "axes": {
            axis.name: {"kind": axis.kind, "of": axis.groups, "kept": len(plan.kept[axis.name])} for axis in found
        },
    }
    write_text(folder / RECORD, json.dumps(values, indent=1) + "\n")
    tensors = {f"{name}.kept": kept.int() for name, kept in plan.kept.items()}
    tensors |= {f"{name}.factors": each for name, each in plan.factors.items()}
    tensors |= {f"{name}.sample": each for name, each in plan.samples.items()}
    save_tensors(tensors, folder / NUMBERS)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return before, before - plan.removed


def _seen_from(folder: Path, base: str) -> str:
    """Name a base model as it is found from a record's folder, so that both may be moved together.

    An absolute path stays as it was given, as in the configs of PEFT, and what is no folder is an id on the hub.
    """
    if Path(base).is_absolute() or not Path(base).is_dir():
        return base
    return Path(os.path.relpath(Path(base).resolve(), folder.resolve())).as_posix()


def load_slim(path: str | Path, *, base: str | None = None, **options: Any) -> PreTrainedModel:
    """Load a slim model, of the class that its base model was saved from.

    `AutoModel...from_pretrained` does the same, for the class that it stands for, once `ttnet_llm` is imported.

    Args:
        path: The folder, or the id of one on the hub.
        base: Folder or hub id of the base model of a record; `None` takes the one that it names.
        **options: For `from_pretrained`.

    Returns:
        The model in evaluation mode.

    Raises:
        TTFileError: If there is no slim model, or its base model is not to be found or has other weights by now.
        TTTypeError: If transformers has no such class.

    Example:
        >>> from ttnet_llm.slim import plan, save_slim
        >>> model = AutoModel.from_pretrained("encoder")
        >>> save_slim(plan(model, {axis.name: torch.rand(axis.groups) for axis in axes(model)}), "slim", base="encoder")
        >>> model.num_parameters() > load_slim("slim").num_parameters()
        True
    """
    config = load_config(str(path))
    if not is_slim(config):
        raise TTFileError(f"The model in {str(path)!r} is not cut; load it with transformers' from_pretrained.")
    if base is not None:
        config.quantization_config["base"] = str(base)
    names = getattr(config, "architectures", None) or []
    model_cls: Any = next((cls for name in names if (cls := getattr(transformers, name, None))), None)
    if model_cls is None:
        raise TTTypeError(f"transformers has no class {names}; load the model with that class's own from_pretrained.")
    model: PreTrainedModel = model_cls.from_pretrained(str(path), config=config, **options)
    return model


def read_record(folder: str | Path) -> tuple[str, Plan]:
    """Read what `save_slim` wrote.

    Args:
        folder: The record's folder.

    Returns:
        The base model, by its folder as it is found from here or by its id on the hub, and the plan.

    Raises:
        TTFileError: If something is missing, or cannot be read.
    """
    try:
        values = json.loads(Path(folder, RECORD).read_text(encoding="utf-8"))
        numbers = load_file(Path(folder, NUMBERS))
        rows = values["axes"]
        kept = {name: numbers[f"{name}.kept"].long() for name in rows}
        factors = {name: numbers[f"{name}.factors"] for name in rows}
        removed = values["parameters"]["before"] - values["parameters"]["after"]
        groups = {name: int(row["of"]) for name, row in rows.items()}
        samples = {name: numbers[f"{name}.sample"] for name in rows if f"{name}.sample" in numbers}
        found = Plan(kept, factors, groups, int(removed), samples)
        base = str(values["base"])
        beside = Path(folder, base)
        return os.path.normpath(beside) if beside.is_dir() else base, found
    except (FileNotFoundError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise TTFileError(
            f"{str(folder)!r} holds no record of a slim model that can be read ({error!r}); save it again."
        ) from error


def _weights_of(base: str, folder: Path) -> list[str]:
    """Find the files with a base model's weights."""
    if is_slim(load_config(base)):
        raise TTFileError(
            f"The base model {base!r} of the slim model in {str(folder)!r} is slim itself; name the whole one."
        )
    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        file = cached_file(base, name, **_QUIET)
        if file is not None:
            return list(get_checkpoint_shard_files(base, file)[0]) if name.endswith("index.json") else [str(file)]
    raise TTFileError(
        f"The base model {base!r} of the slim model in {str(folder)!r} has no weights that can be found; say where it "
        "is with base (--base)."
    )
