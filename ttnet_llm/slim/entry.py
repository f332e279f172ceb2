"""What a slim model's config says of it, in the one place that transformers asks before it reads a model's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.utils.quantization_config import QuantizationConfigMixin

from ttnet_llm.entries import method_in
from ttnet_llm.slim.architectures import find_core

METHOD = "ttnet-slim"
FORMAT = 1


class SlimConfig(QuantizationConfigMixin):
    """The entry of a config: nothing is quantised, and the model does not say so once it is loaded.

    Args:
        kept: By the names of the model's axes, how many of their heads or neurons it has.
        base: Where the weights are of a model that is saved without any; `None` takes what its record says.
        version: Of the format.
        **_: What transformers adds.
    """

    def __init__(
        self, kept: Mapping[str, int] | None = None, base: str | None = None, version: int = FORMAT, **_: Any
    ) -> None:
        self.quant_method: Any = METHOD
        self.kept = dict(kept or {})
        self.base = base
        self.version = version

    def to_dict(self) -> dict[str, Any]:
        """Give the entry of the config."""
        return {key: value for key, value in super().to_dict().items() if key != "base" or value is not None}


def say_slim(model: nn.Module, kept: Mapping[str, int]) -> None:
    """Write into a model's config what it has left, so that it is loaded as it was saved.

    Args:
        model: The model.
        kept: As `SlimConfig` takes it.
    """
    find_core(model).config.quantization_config = SlimConfig(kept)


def is_slim(config: Any) -> bool:
    """Tell whether a model's config says that it is cut.

    Args:
        config: The config.

    Returns:
        Whether it does.
    """
    return bool(method_in(config) == METHOD)
