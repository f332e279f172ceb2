"""Any linear method's adapter as an ordinary LoRA checkpoint, exactly, which every serving engine loads."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet.numerics.truncation import check_eps
from ttnet_llm.class_names import CLASSIFIERS, class_fields
from ttnet_llm.folders import output_folder
from ttnet_llm.linear import LinearAdapterLayer, ParameterLayer
from ttnet_llm.lora.checkpoint import EXPORT, PREFIX, LoraCheckpoint, write_lora
from ttnet_llm.lora.contents import base_model, find_targets, lora_config, trained_whole
from ttnet_llm.lora.engines import beyond_lora
from ttnet_llm.lora.mlx import write_mlx
from ttnet_llm.lora.verify import loading_faults, skeleton
from ttnet_llm.matrices.thin import thin_svd
from ttnet_llm.tuner import AdapterConfig, AdapterLayer
from ttnet_llm.tuner.names import plain_name


@dataclass(frozen=True)
class ExportedModule:
    """What became of one module.

    Args:
        name: Its full name.
        shape: Its input and output size.
        rank: Rank of the exported update, before padding.
        parameters: Number of LoRA parameters in the file.
        error: Relative Frobenius error of the exported update, before it was cast to the file's dtype.

    Example:
        >>> import tempfile
        >>> from peft import get_peft_model
        >>> from ttnet_llm import TTLoraConfig
        >>> config = TTLoraConfig(tt_rank=3, target_modules=["0"], init_weights=False)
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 48)), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_lora(model, folder)
        >>> [(module.name, module.shape, module.rank) for module in report.modules]
        [('0', (64, 48), 3)]
    """

    name: str
    shape: tuple[int, int]
    rank: int
    parameters: int
    error: float


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and where to.

    Args:
        path: The folder.
        rank: The rank that the config names.
        modules: The modules, in the order of the model.
        caution: What is in the file besides LoRA, and which engines do without it; empty if there is nothing.

    Example:
        >>> import tempfile
        >>> from peft import get_peft_model
        >>> from ttnet_llm import TTLoraConfig
        >>> config = TTLoraConfig(tt_rank=3, target_modules=["0"], init_weights=False)
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 48)), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_lora(model, folder)
        >>> report.rank, report.parameters
        (3, 336)
    """

    path: Path
    rank: int
    modules: tuple[ExportedModule, ...]
    caution: str = ""

    @property
    def parameters(self) -> int:
        """Number of LoRA parameters in the file."""
        return sum(module.parameters for module in self.modules)


@torch.no_grad()
def export_lora(
    model: nn.Module,
    path: str | Path,
    *,
    adapter_name: str = "default",
    eps: float | None = None,
    rank: int | None = None,
    pad_to: int | Literal["uniform"] | None = "uniform",
    dtype: torch.dtype | None = None,
    save_embedding_layers: bool | Literal["auto"] = "auto",
    verify: bool = True,
    format: Literal["peft", "mlx"] = "peft",
) -> ExportReport:
    """Write an adapter of any linear method as a LoRA checkpoint, which needs this package no more.

    Every module's update `scaling * L @ R` is written at the smallest rank that holds it, found from its thin
    factors, the scaling folded in, so that `lora_alpha` is the rank; that of experts as PEFT's `target_parameters`, at
    the smallest rank that holds each. What was trained with the adapter (heads, norms, biases) goes along, with a
    warning of the engines that do without it, and trains in a head become ordinary layers. Whether the adapter is
    merged does not matter.

    Args:
        model: A `PeftModel`, or a transformers model with an adapter from `add_adapter`.
        path: A new folder, or that of an earlier export, which is replaced once the new one is whole.
        adapter_name: The adapter. Of a MetaTT adapter for several tasks, the task in use is exported.
        eps: Bound on every update's relative Frobenius error, at least 0. None or 0 drops only what is rounding
            noise, some ten times the machine epsilon of float32 for the usual adapters.
        rank: Largest rank of a module, at least 1; it goes before `eps`.
        pad_to: `"uniform"` pads all modules with zeros to the largest rank among them, an integer to that rank, as
            vLLM, SGLang, TGI and llama.cpp need it, which know one rank for all modules and misread others without a
            word; `None` writes every module at its own, for PEFT and transformers.
        dtype: The dtype of the LoRA weights in the file; `None` keeps the adapter's, float32 at least.
        save_embedding_layers: Whether the base model's embeddings go along, as in PEFT's `save_pretrained`; `"auto"`
            takes them where the vocabulary was resized, and leaves out those that the adapter adapts.
        verify: Whether to try out first, on the model without its weights, that plain PEFT gives every module its
            update, and no other module one. Only for PEFT's own format.
        format: `"mlx"` writes the adapter folder of mlx-lm instead, for models whose modules it calls as transformers
            does (it refuses others), and without what is no LoRA.

    Returns:
        The folder and the ranks.

    Raises:
        TTTypeError: If the adapter is of another method, or is not linear in its input, or PEFT or mlx-lm would not
            load what is written as it is meant.
        TTValueError: If there is no adapter of that name, an argument is out of range, a module's rank is above
            `pad_to`, or a weight is not finite.
        TTFileError: If the folder holds something else.

    Example:
        >>> import tempfile
        >>> import ttnet_llm
        >>> from peft import PeftModel, get_peft_model
        >>> config = ttnet_llm.TTLoraConfig(tt_rank=3, target_modules=["0"], init_weights=False)
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 48)), config)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_lora(model, folder)
        ...     loaded = PeftModel.from_pretrained(model.unload(), folder)
        >>> report.rank, report.parameters, loaded.peft_config["default"].peft_type.value
        (3, 336, 'LORA')
    """
    bound = check_eps(eps)
    for name, value in (("rank", rank), ("pad_to", None if pad_to == "uniform" else pad_to)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            choices = 'an integer of at least 1, "uniform" or None' if name == "pad_to" else "an integer of at least 1"
            raise TTValueError(f"{name} is {value!r}; expected {choices}.")
    if format not in ("peft", "mlx"):
        raise TTValueError(f"format is {format!r}; expected 'peft' or 'mlx'.")
    output_folder(path, kind=EXPORT)
    model = getattr(model, "_orig_mod", model)  # of a compiled one
    layers = dict(linear_layers(model, adapter_name))
    factors, errors = {}, {}
    for name, layer in layers.items():
        left, right = _factors(layer, adapter_name)
        _check_finite(name, left, right)
        left, right, errors[name] = smallest_factors(left, right, bound, rank)
        factors[name] = left, right
    ranks = {name: left.shape[-1] for name, (left, _) in factors.items()}
    if pad_to is not None:
        width = max(ranks.values()) if pad_to == "uniform" else pad_to
        for name, most in ranks.items():
            if most > width:
                raise TTValueError(
                    f"pad_to is {width}, but the update of {name!r} has rank {most}; pad to that or more, or bound the "
                    "ranks with rank or eps."
                )
        factors = {name: _padded(left, right, width) for name, (left, right) in factors.items()}
    if dtype is not None:
        factors = {name: (left.to(dtype), right.to(dtype)) for name, (left, right) in factors.items()}
    config, base = _configs(model)[adapter_name], base_model(model)
    checkpoint = LoraCheckpoint(
        lora_config(model, config, layers, find_targets(model, config, layers)),
        factors,
        frozenset(name for name, layer in layers.items() if layer.is_embedding),
        trained_whole(model, adapter_name, layers, save_embedding_layers),
        frozenset(name for name, layer in layers.items() if isinstance(layer, ParameterLayer)),
        class_fields(base.config) if config.task_type in CLASSIFIERS else {},
    )
    if format == "mlx":
        common_rank, caution = write_mlx(path, checkpoint, tied=_is_tied(base)), ""
    else:
        if verify and (faults := loading_faults(skeleton(base), checkpoint)):
            raise TTTypeError(
                f"PEFT {version('peft')} does not load this export as it is meant: {'; '.join(faults)}. Merge the "
                "adapter (`ttnet-llm merge`), keep it and load it with this package, or adapt other modules; "
                "`verify=False` writes the export all the same."
            )
        common_rank = write_lora(path, checkpoint).r
        caution = beyond_lora(skeleton(base), checkpoint.others, checkpoint.parameters)
    if caution:
        warnings.warn(caution, stacklevel=3)  # that of the caller, past the decorator
    modules = (
        ExportedModule(
            name,
            (layer.in_features, layer.out_features),
            ranks[name],
            sum(factor.numel() for factor in factors[name]),
            errors[name],
        )
        for name, layer in layers.items()
    )
    return ExportReport(Path(path), common_rank, tuple(modules), caution)


def linear_layers(model: nn.Module, adapter_name: str) -> Iterator[tuple[str, LinearAdapterLayer]]:
    """List the layers of an adapter that is linear in its input, with the names that the base model has for them.

    Args:
        model: A `PeftModel`, or a transformers model with an adapter from `add_adapter`.
        adapter_name: The adapter.

    Yields:
        Names and layers.

    Raises:
        TTTypeError: If the adapter is of another method, or is not linear in its input.
        TTValueError: If there is no adapter of that name.

    Example:
        >>> from peft import get_peft_model
        >>> from ttnet_llm import LotrConfig
        >>> model = get_peft_model(nn.Sequential(nn.Linear(6, 4)), LotrConfig(target_modules=["0"]))
        >>> [name for name, _ in linear_layers(model, "default")]
        ['0']
    """
    configs = _configs(model)
    if adapter_name not in configs:
        there = f"the model has {', '.join(map(repr, configs))}" if configs else "the model has no adapter"
        raise TTValueError(f"adapter_name is {adapter_name!r}, but {there}.")
    if not isinstance(configs[adapter_name], AdapterConfig):
        method = configs[adapter_name].peft_type.value
        advice = (
            "it is LoRA already; use `save_pretrained`" if method == "LORA" else "PEFT's own `convert_to_lora` may do"
        )
        raise TTTypeError(f"The adapter {adapter_name!r} is {method}, no method of this package: {advice}.")
    for name, layer in model.named_modules():
        if not isinstance(layer, AdapterLayer) or adapter_name not in layer.networks:
            continue
        if not isinstance(layer, LinearAdapterLayer):
            raise TTTypeError(
                f"The adapter {adapter_name!r} is {layer.method}, which {layer.why_no_lora}, so that no LoRA is equal "
                "to it; save it with `save_pretrained`, and serve it with this package."
            )
        yield plain_name(name).removeprefix(PREFIX), layer


def _factors(layer: LinearAdapterLayer, adapter: str) -> tuple[Tensor, Tensor]:
    """Give an update as two factors, those of experts one after the other, with what PEFT takes for the inputs first.

    PEFT takes the last size of a parameter for that, unless its module says that it is transposed.
    """
    if not isinstance(layer, ParameterLayer) or layer.experts is None:
        return layer.update(adapter)
    transposed = getattr(layer.base_layer, "is_transposed", False)
    if layer.experts == 1 and transposed:
        raise TTTypeError(
            f"{layer.weight_name} holds a single expert with its inputs first, of which PEFT would form the update "
            "the other way round; merge the adapter, or leave this parameter out of it."
        )
    left, middle, right = layer.thin_factors(adapter)
    left, right = left.expand(layer.experts, *left.shape), middle @ (right * layer.scalings[adapter])
    return (right.mT, left.mT) if layer.inputs_first and not transposed else (left, right)


def smallest_factors(
    left: Tensor,  # (*experts, m, k)
    right: Tensor,  # (*experts, k, n)
    eps: float = 0.0,
    max_rank: int | None = None,
) -> tuple[Tensor, Tensor, float]:
    """Write a product of thin factors with as few columns as an error bound allows.

    Args:
        left: Shape `(m, k)`, or `(experts, m, k)`.
        right: Shape `(k, n)`, or `(experts, k, n)`.
        eps: Bound on the relative Frobenius error, at least 0; never taken to be below the rounding noise of the
            factors' dtype, float32 at least.
        max_rank: Largest number of columns, at least 1; it goes before `eps`.

    Returns:
        Factors of shapes `(m, r)` and `(r, n)`, on the CPU, with r at least 1 and the root of the singular values on
        either side, and the relative Frobenius error of their product. Of a product that is zero, the right one is.
        Of experts, stacks of these, of the rank that the one with the largest needs, and the largest error.

    Example:
        >>> right = torch.diag(torch.tensor([3.0, 2.0, 0.0]))
        >>> left, right, error = smallest_factors(torch.eye(4, 3), right)
        >>> left.shape[1], round(error, 6)
        (2, 0.0)
    """
    if left.ndim == 3:
        parts = [smallest_factors(*pair, eps, max_rank) for pair in zip(left, right, strict=True)]
        rank = max(part[0].shape[1] for part in parts)
        padded = [_padded(part[0], part[1], rank) for part in parts]
        lefts, rights = zip(*padded, strict=True)
        return torch.stack(lefts), torch.stack(rights), max(part[2] for part in parts)
    dtype = torch.promote_types(left.dtype, torch.float32)
    u, s, v = thin_svd(left.cpu(), right.cpu())
    rank = needed_rank(s, eps, dtype)
    if rank == 0 and s[0] == 0:
        return u[:, :1].to(dtype), torch.zeros_like(v[:1], dtype=dtype), 0.0
    rank = max(1, min(rank, max_rank or rank))
    root = s[:rank].sqrt()
    error = float(torch.linalg.vector_norm(s[rank:]) / torch.linalg.vector_norm(s))
    return (u[:, :rank] * root).to(dtype), (root[:, None] * v[:rank]).to(dtype), error


def needed_rank(
    s: Tensor,  # (t,), descending
    eps: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Count the leading singular values that an error bound needs.

    Args:
        s: Shape `(t,)`, descending.
        eps: Bound on the relative Frobenius error, at least 0; never taken to be below the rounding noise.
        dtype: The dtype of the factors that they belong to, which sets the noise.

    Returns:
        The smallest number that leaves no more than the bound to the others; 0 if all are zero.

    Example:
        >>> s = torch.tensor([4.0, 3.0, 1e-9])
        >>> needed_rank(s), needed_rank(s, eps=0.6), needed_rank(0 * s)
        (2, 1, 0)
    """
    tails = s.double().square().flip(0).cumsum(0).flip(0).sqrt()
    noise = torch.finfo(dtype).eps * (8 + 2 * math.sqrt(len(s)))
    return int((tails > max(eps, noise) * tails[0]).sum())


def _configs(model: nn.Module) -> dict[str, Any]:
    return getattr(model, "peft_config", {})


def _is_tied(base: nn.Module) -> bool:
    """Tell whether the output layer is the embedding, by the configs of the model and of its text part."""
    config: Any = getattr(base, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    return any(getattr(part, "tie_word_embeddings", False) for part in (config, text))


def _check_finite(name: str, *factors: Tensor) -> None:
    if any(factor.is_meta for factor in factors):
        raise TTValueError(f"The adapter's weights in {name!r} are on the meta device; load them first.")
    if not all(bool(torch.isfinite(factor).all()) for factor in factors):
        raise TTValueError(f"The adapter's weights in {name!r} are NaN or infinite; there is nothing to export.")


def _padded(left: Tensor, right: Tensor, width: int) -> tuple[Tensor, Tensor]:
    missing = width - left.shape[-1]
    zeros = nn.functional.pad
    return zeros(left, (0, missing)), zeros(right, (0, 0, 0, missing))
