"""The one entry of a model's config that says how its weights are held: quantised, as trains, or slim."""

from __future__ import annotations

from typing import Any


def method_in(config: Any) -> Any:
    """Give the method that a config's `quantization_config` names.

    Args:
        config: A config of transformers'.

    Returns:
        The method; `None` if there is no such entry.

    Example:
        >>> from transformers import BertConfig
        >>> method_in(BertConfig(quantization_config={"quant_method": "ttnet"})), method_in(BertConfig())
        ('ttnet', None)
    """
    entry = getattr(config, "quantization_config", None)
    return entry.get("quant_method") if isinstance(entry, dict) else getattr(entry, "quant_method", None)
