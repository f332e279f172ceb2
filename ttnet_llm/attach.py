"""Any PEFT method put into a model, with errors that say what to change."""

from __future__ import annotations

import warnings
from typing import Any

from peft import PeftConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils.error import NoMatchingPeftModuleError
from torch import nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.tuner import AdapterConfig
from ttnet_llm.tuner.model import linear_names, near_misses
from ttnet_llm.tuner.targets import HEADS, INPUTS, STATE_SPACE, default_targets


def attach(model: nn.Module, config: PeftConfig | None) -> nn.Module:
    """Freeze a model but for an adapter and the head; leave all of it trainable without a config.

    Architectures that PEFT's own methods have no default targets for get those that ours adapt.

    Args:
        model: A transformers model.
        config: Any PEFT config; `None` leaves the model as it is.

    Returns:
        A `PeftModel`, or the model itself.

    Raises:
        NoMatchingPeftModuleError: If no module is targeted; the message names those with similar names.
        TTTypeError: If the method has no default targets for this architecture.
    """
    if config is None:
        return model
    if getattr(config, "target_modules", "") is None and not isinstance(config, AdapterConfig):
        kind = getattr(getattr(model, "config", None), "model_type", None)
        known = getattr(PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type], "target_module_mapping", None)
        if known is not None and kind not in known:  # without one, as IA3, a method has a way of its own
            config.target_modules = set(default_targets(model, INPUTS, STATE_SPACE)) or None
    if str(getattr(config, "target_modules", "")).lower() == "all-linear" and not isinstance(config, AdapterConfig):
        excluded = getattr(config, "exclude_modules", None)
        if not isinstance(excluded, str):  # PEFT would adapt a head, too, and then refuse to train it whole
            config.exclude_modules = [*(excluded or ()), *HEADS.get(config.task_type, ())] or None
    try:
        return as_peft_model(model, config)
    except NoMatchingPeftModuleError as error:
        hint = near_misses(model, config.target_modules)
        raise NoMatchingPeftModuleError(hint or str(error)) from error
    except ValueError as error:
        if "target_modules" not in str(error) or isinstance(error, TTValueError):
            raise
        raise TTTypeError(
            f"{config.peft_type.value} has no default target modules for {type(model).__name__}; "
            f"set target_modules to some of its linear layers: {', '.join(linear_names(model))}."
        ) from error


def as_peft_model(model: nn.Module, config: PeftConfig, adapter_name: str = "default") -> Any:
    """Do as PEFT's `get_peft_model`, without what transformers says of how PEFT asks it.

    Args:
        model: A model.
        config: Any PEFT config.
        adapter_name: What the adapter is called.

    Returns:
        The `PeftModel`.

    Raises:
        ValueError: What `get_peft_model` raises, such as for a config that names no module of the model.

    Example:
        >>> from peft import LoraConfig
        >>> type(as_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(target_modules=["0"]))).__name__
        'PeftModel'
    """
    with warnings.catch_warnings():
        # An old name for activation checkpointing, of which transformers 5.23 warns; nobody who reads it can change it.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, config, adapter_name)
