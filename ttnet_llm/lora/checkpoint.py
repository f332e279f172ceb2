"""LoRA checkpoints of PEFT's: what is in them as thin factors, and thin factors as such a checkpoint."""

import copy
import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ttnet.errors import TTFileError, TTTypeError
from ttnet_llm.cards import Card, lora_card
from ttnet_llm.class_names import read_class_names, write_class_names
from ttnet_llm.folders import atomic_folder

PREFIX = "base_model.model."  # of all keys in a checkpoint
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EXPORT = "export"  # what marks the folders that `write_lora` writes

_KEY = re.compile(rf"(?:{re.escape(PREFIX)})?(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")

# Fields that say nothing of the update, or of which `lora_factors` takes account; others must have their defaults.
_UNDERSTOOD = {entry.name for entry in dataclasses.fields(PeftConfig)} | {
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out", "lora_dropout"),
    *("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("bias", "modules_to_save"),
    *("init_lora_weights", "eva_config", "loftq_config", "corda_config", "lora_ga_config", "velora_config"),
    *("megatron_config", "megatron_core", "qalora_group_size", "runtime_config"),
}
# Ways to start that leave the base model as it is. After all others the update counts from changed weights.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class LoraCheckpoint:
    """What a LoRA checkpoint of PEFT's holds.

    Args:
        config: Its config.
        factors: For the name of every adapted module `L` of shape `(in_features, r)` and `R` of shape
            `(r, out_features)`; the update is `L @ R`. For that of a parameter with the weights of several experts,
            stacks of these, with what PEFT takes for its inputs first.
        embeddings: Those of the modules that are embeddings.
        others: Everything else (modules trained whole, biases), by its key in the file.
        parameters: Those of the names that are parameters, which come in their order in the model.
        classes: What a config says of a classifier's classes, as `class_fields` gives it.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from peft import get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 48)), LoraConfig(r=2, target_modules=["0"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     checkpoint = read_lora(folder)
        >>> checkpoint.config.r, list(checkpoint.factors), checkpoint.others
        (2, ['0'], {})
    """

    config: LoraConfig
    factors: dict[str, tuple[Tensor, Tensor]]
    embeddings: frozenset[str] = frozenset()
    others: dict[str, Tensor] = field(default_factory=dict)
    parameters: frozenset[str] = frozenset()
    classes: dict[str, Any] = field(default_factory=dict)


def lora_factors(path: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Read the updates of a LoRA checkpoint of PEFT's.

    Args:
        path: Folder with `adapter_config.json` and `adapter_model.safetensors`.

    Returns:
        For the name of every adapted module `L` of shape `(in_features, r)` and `R` of shape `(r, out_features)`, the
        scaling included in `R`; in float32 at least.

    Raises:
        TTFileError: If the folder has no such files, or they do not fit together.
        TTTypeError: If the checkpoint is of another method, or its update is not a plain product.

    Example:
        >>> import tempfile
        >>> from peft import get_peft_model
        >>> model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 4)), LoraConfig(r=2, target_modules=["0"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     {name: (tuple(left.shape), tuple(right.shape)) for name, (left, right) in lora_factors(folder).items()}
        {'0': ((6, 2), (2, 4))}
    """
    return read_lora(path).factors


def read_lora(path: str | Path) -> LoraCheckpoint:
    """Read a LoRA checkpoint of PEFT's.

    Args:
        path: Folder with `adapter_config.json` and `adapter_model.safetensors`.

    Returns:
        Its content, the scaling included in the right factors; factors in float32 at least.

    Raises:
        TTFileError: If the folder has no such files, or they do not fit together.
        TTTypeError: If the checkpoint is of another method, or its update is not a plain product.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> from peft import get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 48)), LoraConfig(r=2, target_modules=["0"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     checkpoint = read_lora(folder)
        >>> [tuple(factor.shape) for factor in checkpoint.factors["0"]]
        [(64, 2), (2, 48)]
    """
    folder = Path(path)
    method = str(read_config(folder).get("peft_type"))
    if method != "LORA":
        raise TTTypeError(f"The adapter in {str(folder)!r} is {method}, not LoRA; name a folder with a LoRA adapter.")
    config = LoraConfig.from_pretrained(str(folder))
    _check_plain(config, folder)
    sides: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    embeddings = set()
    for key, tensor in read_weights(folder).items():
        found = _KEY.fullmatch(key)
        if found:
            sides.setdefault(found[1], {})[found[3]] = tensor
            if found[2]:
                embeddings.add(found[1])
        elif ".lora_" in key:
            raise TTTypeError(
                f"The adapter in {str(folder)!r} holds {key!r}, so that its update is not a plain product of two "
                "matrices; only plain LoRA is understood."
            )
        else:
            others[key] = tensor
    if not sides:
        raise TTFileError(f"The adapter in {str(folder)!r} holds no LoRA weights; save it again.")
    # The weight of a linear layer may as well be targeted as a parameter; others hold more than one matrix.
    if stacks := set(config.target_parameters or ()) - {f"{name}.weight" for name in sides}:
        raise _not_plain(folder, "target_parameters", sorted(stacks))
    factors = {name: _factors(name, pair, config, folder) for name, pair in sides.items()}
    return LoraCheckpoint(config, factors, frozenset(embeddings), others, classes=read_class_names(folder))


def read_config(folder: str | Path) -> dict[str, object]:
    """Read the config of an adapter of any method.

    Args:
        folder: Where it was saved.

    Returns:
        The fields.

    Raises:
        TTFileError: If the folder has no config that can be read.
    """
    file = Path(folder) / CONFIG
    if not file.is_file():
        raise TTFileError(f"{str(folder)!r} holds no adapter (there is no {CONFIG}); check the path.")
    try:
        fields: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TTFileError(f"{str(file)!r} cannot be read: {error}; save the adapter again.") from error
    return fields


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """Read the weights of an adapter of any method.

    Args:
        folder: Where it was saved.

    Returns:
        The tensors by their keys.

    Raises:
        TTFileError: If the folder has no weights that can be read.
    """
    file = Path(folder) / WEIGHTS
    if not file.is_file():
        raise TTFileError(
            f"{str(folder)!r} holds no {WEIGHTS}; load the adapter with PEFT and save it again with `save_pretrained`."
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise TTFileError(f"{str(file)!r} cannot be read: {error}; save the adapter again.") from error


def write_lora(path: str | Path, checkpoint: LoraCheckpoint) -> LoraConfig:
    """Write a LoRA checkpoint that PEFT loads, with every update scaled by 1.

    Args:
        path: A new folder, or that of an earlier export, which is replaced once the new one is whole.
        checkpoint: What to write. The ranks and alphas of its config are those of its factors.

    Returns:
        The config as written.

    Raises:
        TTFileError: If the folder holds something else.

    Example:
        >>> import tempfile
        >>> factors = {"0": (torch.ones(6, 2), torch.ones(2, 4))}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     config = write_lora(folder, LoraCheckpoint(LoraConfig(target_modules=["0"]), factors))
        ...     config.r, config.lora_alpha, bool(torch.equal(lora_factors(folder)["0"][1], factors["0"][1]))
        (2, 2, True)
    """
    config, tensors = as_peft(checkpoint)
    card = lora_card(config, sum(tensor.numel() for tensor in tensors.values()), checkpoint.classes)
    write_adapter(path, config, tensors, kind=EXPORT, classes=checkpoint.classes, card=card)
    return config


def as_peft(checkpoint: LoraCheckpoint) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Write a checkpoint in PEFT's terms, with every update scaled by 1.

    Args:
        checkpoint: The checkpoint.

    Returns:
        The config, and the tensors by their keys in the file.

    Example:
        >>> config, tensors = as_peft(LoraCheckpoint(LoraConfig(), {"0": (torch.ones(6, 2), torch.ones(2, 4))}))
        >>> config.r, {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        (2, {'base_model.model.0.lora_A.weight': (2, 6), 'base_model.model.0.lora_B.weight': (4, 2)})
    """
    ranks = {name: left.shape[-1] for name, (left, _) in checkpoint.factors.items()}
    config = copy.deepcopy(checkpoint.config)
    counts = Counter(ranks.values())
    config.r = config.lora_alpha = max(counts, key=lambda rank: (counts[rank], rank))
    config.use_rslora = False
    config.rank_pattern = {exactly(_target(n, config)): rank for n, rank in ranks.items() if rank != config.r}
    config.alpha_pattern = dict(config.rank_pattern)
    tensors = dict(checkpoint.others)
    for name, factors in checkpoint.factors.items():
        part, end = ("lora_embedding", "") if name in checkpoint.embeddings else ("lora", ".weight")
        place = _wrapper(name, checkpoint) if name in checkpoint.parameters else name
        tensors[f"{PREFIX}{place}.{part}_A{end}"], tensors[f"{PREFIX}{place}.{part}_B{end}"] = peft_weights(*factors)
    return config, tensors


def peft_weights(
    left: Tensor,  # (*experts, in_features, r)
    right: Tensor,  # (*experts, r, out_features)
) -> tuple[Tensor, Tensor]:
    """Lay an update's factors out as PEFT has them.

    Args:
        left: Shape `(in_features, r)`, or `(experts, in_features, r)`.
        right: Shape `(r, out_features)`, or `(experts, r, out_features)`.

    Returns:
        The weights of `lora_A`, of shape `(r, in_features)`, and of `lora_B`, of shape `(out_features, r)`; for experts
        `(experts * r, in_features)` and `(out_features, r * experts)`, the experts varying slowest in the one and
        fastest in the other.

    Example:
        >>> down, up = peft_weights(torch.ones(4, 6, 2), torch.ones(4, 2, 5))
        >>> tuple(down.shape), tuple(up.shape)
        ((8, 6), (5, 8))
    """
    if left.ndim == 2:
        return left.T, right.T
    return left.mT.flatten(0, 1), right.permute(2, 1, 0).flatten(1)


def _wrapper(name: str, checkpoint: LoraCheckpoint) -> str:
    """Name PEFT's wrapper of a parameter: those of one module are put around each other, the first one innermost."""
    module = name.rpartition(".")[0]
    siblings = [other for other in checkpoint.factors if other in checkpoint.parameters]
    siblings = [other for other in siblings if other.rpartition(".")[0] == module]
    return module + ".base_layer" * (len(siblings) - 1 - siblings.index(name))


def write_adapter(
    path: str | Path,
    config: PeftConfig,
    tensors: Mapping[str, Tensor],
    *,
    kind: str,
    classes: Mapping[str, Any],
    card: Card | None = None,
) -> None:
    """Write an adapter of any method, so that the folder is whole whenever the program stops.

    Args:
        path: A new folder, or an earlier one of its kind, which is replaced.
        config: A PEFT config.
        tensors: The weights by their keys.
        kind: What wrote it, as for `ttnet_llm.folders.atomic_folder`.
        classes: What a config says of a classifier's classes; empty for other models.
        card: The model card, if there is one.

    Raises:
        TTFileError: If the folder holds something else.
    """
    with atomic_folder(path, kind=kind) as folder:
        config.save_pretrained(str(folder))
        save_tensors(tensors, folder / WEIGHTS)
        write_class_names(folder, classes)
        if card is not None:
            card.write(folder)


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors as safetensors, also views and those that share memory, which the format does not know.

    Args:
        tensors: The tensors by their keys.
        file: The file.
    """
    copies = {key: t.detach().cpu().clone(memory_format=torch.contiguous_format) for key, t in tensors.items()}
    save_file(copies, file, metadata={"format": "pt"})


def exactly(name: str) -> str:
    """Give the key of a `rank_pattern` or `alpha_pattern` that matches one module only.

    Args:
        name: The module's full name.

    Returns:
        A regular expression for PEFT.

    Example:
        >>> key = exactly("layers.1.q_proj")
        >>> get_pattern_key([key], "layers.1.q_proj") == key, get_pattern_key([key], "decoder.layers.1.q_proj") == key
        (True, False)
    """
    return "^" + re.escape(name)


def _target(name: str, config: LoraConfig) -> str:
    """Give what PEFT calls a module in patterns: its weight, where that is targeted as a parameter."""
    weight = f"{name}.weight"
    return weight if weight in (config.target_parameters or ()) else name


def _check_plain(config: LoraConfig, folder: Path) -> None:
    for entry in dataclasses.fields(config):
        factory = entry.default_factory
        default = entry.default if factory is dataclasses.MISSING else factory()
        value = getattr(config, entry.name)
        if value and value != default and entry.name not in _UNDERSTOOD:
            raise _not_plain(folder, entry.name, value)
    if config.init_lora_weights not in _PLAIN_STARTS:
        raise TTTypeError(
            f"The LoRA adapter in {str(folder)!r} was started with init_lora_weights={config.init_lora_weights!r}, "
            "which changes the base model's weights; save it with `path_initial_model_for_weight_conversion`, as "
            "PEFT's documentation says, so that it counts from the weights as they are."
        )


def _not_plain(folder: Path, field: str, value: object) -> TTTypeError:
    return TTTypeError(
        f"The LoRA adapter in {str(folder)!r} was made with {field}={value!r}, so that its update is not a plain "
        "product of two matrices; only plain LoRA is understood."
    )


def _factors(name: str, pair: dict[str, Tensor], config: LoraConfig, folder: Path) -> tuple[Tensor, Tensor]:
    if len(pair) < 2:
        there, missing = ("A", "B") if "A" in pair else ("B", "A")
        raise TTFileError(
            f"The adapter in {str(folder)!r} holds lora_{there} of {name!r}, but no lora_{missing}; save it again."
        )
    ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
    target = _target(name, config)
    rank = ranks.get(get_pattern_key(ranks, target), config.r)
    alpha = alphas.get(get_pattern_key(alphas, target), config.lora_alpha)
    down, up = pair["A"], pair["B"]
    if down.ndim != 2 or up.ndim != 2:
        raise TTTypeError(
            f"The LoRA weights of {name!r} in {str(folder)!r} have shapes {tuple(down.shape)} and {tuple(up.shape)}; "
            "expected matrices. Only linear layers and embeddings are understood."
        )
    if down.shape[0] != rank or up.shape[1] != rank:
        raise TTFileError(
            f"The LoRA weights of {name!r} in {str(folder)!r} have shapes {tuple(down.shape)} and {tuple(up.shape)}, "
            f"but its config says rank {rank}; save it again."
        )
    dtype = torch.promote_types(torch.promote_types(down.dtype, up.dtype), torch.float32)
    return down.T.to(dtype), up.T.to(dtype) * (alpha / (math.sqrt(rank) if config.use_rslora else rank))
