"""The singular values of updates, taken from their thin factors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttnet.errors import TTValueError
from ttnet_llm.linear import LinearAdapterLayer
from ttnet_llm.lora.checkpoint import PREFIX, read_lora
from ttnet_llm.lora.export import needed_rank
from ttnet_llm.matrices.thin import thin_svd
from ttnet_llm.tuner import AdapterLayer
from ttnet_llm.tuner.names import plain_name


@dataclass(frozen=True)
class ModuleSpectrum:
    """What an adapter does to one module.

    Args:
        name: The module's full name.
        shape: Its input and output size.
        parameters: Number of the adapter's parameters that the module holds. What modules share counts for the
            first of them.
        train_ranks: The ranks of the trains that the parameters are made of, the outer ones included.
        singular_values: Those of the update, descending, without what is rounding noise; `None` where the adapter is
            not linear in its input.

    Example:
        >>> ModuleSpectrum("layer", (64, 64), 1024, (), (2.0, 2.0)).effective_rank
        2.0
    """

    name: str
    shape: tuple[int, int]
    parameters: int
    train_ranks: tuple[tuple[int, ...], ...]
    singular_values: tuple[float, ...] | None

    @property
    def effective_rank(self) -> float | None:
        """The exponential of the entropy of the singular values, as shares of their sum (Roy & Vetterli 2007)."""
        if self.singular_values is None:
            return None
        values = torch.tensor(self.singular_values, dtype=torch.float64)
        shares = values / values.sum()
        return float(torch.special.entr(shares).sum().exp()) if len(values) else 0.0


def lora_spectra(folder: Path) -> list[ModuleSpectrum]:
    """Take a LoRA checkpoint apart, module by module.

    Args:
        folder: Where it lies.

    Returns:
        The modules, in their order.

    Raises:
        TTFileError: If there is none.
        TTValueError: If weights are not finite.
    """
    return [
        ModuleSpectrum(
            name, (left.shape[0], right.shape[1]), left.numel() + right.numel(), (), _values(name, left, right)
        )
        for name, (left, right) in read_lora(folder).factors.items()
    ]


def module_spectra(model: nn.Module) -> list[ModuleSpectrum]:
    """Take the adapter `default` of a model apart, module by module.

    Args:
        model: With an adapter of a method of this package.

    Returns:
        The modules, in their order; none where the model has no such adapter.

    Raises:
        TTValueError: If weights are not finite.
    """
    return [
        _spectrum(plain_name(name).removeprefix(PREFIX), layer)
        for name, layer in model.named_modules()
        if isinstance(layer, AdapterLayer)
    ]


@torch.no_grad()
def _spectrum(name: str, layer: AdapterLayer) -> ModuleSpectrum:
    network = layer.networks["default"]
    values = None
    if isinstance(layer, LinearAdapterLayer):
        values = _values(name, *layer.update("default"))
    return ModuleSpectrum(
        name,
        (layer.in_features, layer.out_features),
        sum(parameter.numel() for parameter in network.parameters()),
        tuple(_ranks(part) for part in network.modules() if hasattr(part, "cores")),
        values,
    )


def _ranks(train: nn.Module) -> tuple[int, ...]:
    cores: Any = train.cores
    return (1, *(core.shape[-1] for core in cores))


def _values(name: str, left: Tensor, right: Tensor) -> tuple[float, ...]:
    if not (bool(torch.isfinite(left).all()) and bool(torch.isfinite(right).all())):
        raise TTValueError(f"The adapter's weights in {name!r} are NaN or infinite.")
    values = thin_svd(left, right)[1]
    return tuple(values[: needed_rank(values)].tolist())
