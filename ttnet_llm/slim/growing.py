"""An adapter of a slim model given back for the whole one: rows of zeros for what was cut out."""

from __future__ import annotations

import copy
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import _get_in_out_features
from torch import Tensor, nn
from transformers import AutoModel

from ttnet.errors import TTFileError, TTTypeError
from ttnet_llm.loading import base_name, find_adapter, find_model, load_adapter
from ttnet_llm.lora.checkpoint import EXPORT, LoraCheckpoint, read_config, read_lora, write_lora
from ttnet_llm.lora.export import export_lora
from ttnet_llm.slim.architectures import find_axes
from ttnet_llm.slim.cutting import Plan, positions
from ttnet_llm.slim.saving import read_record
from ttnet_llm.training.details import carry_details
from ttnet_llm.training.model import load_config


def grow_adapter(adapter: str | Path, output: str | Path, *, base: str | None = None) -> LoraConfig:
    """Write an adapter that was trained on a slim model as LoRA for the whole model ("plug and play").

    What it adds to the heads and neurons that were kept is what it adds on the slim model, and nothing to the others;
    these take part as they do in the base model.

    Args:
        adapter: Folder of an adapter of LoRA or any linear method here, or of a run of `ttnet-llm finetune`.
        output: Folder for the LoRA checkpoint; new, or that of an earlier export.
        base: The record of the slim model; `None` takes the base model that the adapter names.

    Returns:
        The config as written; it names the whole model.

    Raises:
        TTFileError: If there is no adapter, its base model has no record, or the output folder holds something else.
        TTTypeError: If no LoRA is equal to the adapter, or biases of what was cut were trained with it.

    Source:
        Gu et al., Light-PEFT (arXiv:2406.03792), section 4.5.

    Example:
        >>> from peft import get_peft_model
        >>> from transformers import BertConfig, BertModel
        >>> from ttnet_llm.slim import axes, load_slim, plan, save_slim
        >>> base = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6))
        >>> found = plan(base, {axis.name: torch.rand(axis.groups) for axis in axes(base)})
        >>> with tempfile.TemporaryDirectory() as place:
        ...     base.save_pretrained(f"{place}/base")
        ...     save_slim(found, f"{place}/slim", base=f"{place}/base")
        ...     config = LoraConfig(r=2, target_modules=["intermediate.dense"])
        ...     model = get_peft_model(load_slim(f"{place}/slim"), config)
        ...     model.save_pretrained(f"{place}/adapter")
        ...     _ = grow_adapter(f"{place}/adapter", f"{place}/grown")
        ...     [right.shape[1] for _, right in read_lora(f"{place}/grown").factors.values()]
        [6]
    """
    folder = find_adapter(adapter)
    slim_name = base_name(folder, base)
    whole, plan = read_record(find_model(slim_name))
    if read_config(folder).get("peft_type") == "LORA":
        checkpoint = read_lora(folder)
    else:
        with tempfile.TemporaryDirectory() as place:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # no engine gets to see this one
                export_lora(load_adapter(folder, model=slim_name, weights=False), Path(place, "lora"))
            checkpoint = read_lora(Path(place, "lora"))
    with torch.device("meta"):
        skeleton = AutoModel.from_config(copy.deepcopy(load_config(whole)))
    grown = _grown(checkpoint, skeleton, plan)
    grown.config.base_model_name_or_path = whole
    config = write_lora(output, grown)
    carry_details(folder, output, kind=EXPORT)
    return config


def _grown(checkpoint: LoraCheckpoint, skeleton: nn.Module, plan: Plan) -> LoraCheckpoint:
    factors = dict(checkpoint.factors)
    for axis in find_axes(skeleton):
        kept = plan.kept[axis.name]
        if len(kept) == axis.groups:
            continue
        for writer, repeats in axis.writers:
            if stray := next((key for key in checkpoint.others if _is(key.removesuffix(".bias"), writer)), None):
                raise TTTypeError(
                    f"The adapter holds {stray!r}, numbers of what was cut, which the whole model has others of; train "
                    "one without biases."
                )
            for name in (name for name in factors if _is(name, writer)):
                left, right = factors[name]
                _check_size(name, right.shape[1], _sizes(skeleton, writer)[1] // axis.groups * len(kept))
                factors[name] = left, _spread(right, 1, kept, axis.groups, repeats)
        for reader in axis.readers:
            for name in (name for name in factors if _is(name, reader)):
                left, right = factors[name]
                _check_size(name, left.shape[0], _sizes(skeleton, reader)[0] // axis.groups * len(kept))
                factors[name] = _spread(left, 0, kept, axis.groups), right
    return replace(checkpoint, config=copy.deepcopy(checkpoint.config), factors=factors)


def _sizes(skeleton: nn.Module, name: str) -> tuple[int, int]:
    sizes: tuple[int, int] = _get_in_out_features(skeleton.get_submodule(name))
    return sizes


def _check_size(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise TTFileError(
            f"The adapter has {found} features at {name!r}, where the slim model has {expected}; name the record of "
            "the model that it was trained on, with base (--base)."
        )


def _is(name: str, wanted: str) -> bool:
    """Tell whether a name is that of a module, which the model without its head calls so."""
    return f".{name}".endswith(f".{wanted}")


def _spread(factor: Tensor, dim: int, kept: Tensor, groups: int, repeats: int = 1) -> Tensor:
    """Put the kept features where they were, and zeros between them."""
    shape = list(factor.shape)
    shape[dim] = shape[dim] // len(kept) * groups
    places = positions(kept, groups, shape[dim], repeats)
    return factor.new_zeros(shape).index_copy(dim, places, factor)
