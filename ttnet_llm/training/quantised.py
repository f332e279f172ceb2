"""Base models whose weights are kept in 4 or 8 bits, by bitsandbytes; adapters and heads are not."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from peft import prepare_model_for_kbit_training

from ttnet.errors import TTValueError, import_extra
from ttnet_llm.training.model import load_config
from ttnet_llm.training.settings import FinetuneSettings

# New layers have no weights to quantise yet, and are trained.
HEADS = ("classifier", "score", "lm_head", "embed_out")
PROBE = 256  # features of a layer to try out; the kernels want blocks of 64


def quantised_options(settings: FinetuneSettings) -> dict[str, Any]:
    """Say how a base model is quantised while it is loaded, if it is.

    Four bits are NF4 with scales that are quantised again, as in QLoRA.

    Args:
        settings: The settings.

    Returns:
        For `from_pretrained`; nothing without `load_in_4bit` and `load_in_8bit`.

    Raises:
        MissingExtraError: If bitsandbytes is not installed.
        TTValueError: If it cannot be used on this machine.

    Example:
        >>> quantised_options(FinetuneSettings("bert", "run", task="sst2"))
        {}

    Source:
        T. Dettmers, A. Pagnoni, A. Holtzman, L. Zettlemoyer, "QLoRA: Efficient Finetuning of Quantized LLMs", 2023.
    """
    if not (settings.load_in_4bit or settings.load_in_8bit):
        return {}
    from ttnet_llm.slim.entry import is_slim  # which reads configs by this room

    name = "load_in_4bit" if settings.load_in_4bit else "load_in_8bit"
    if is_slim(load_config(settings.model)):
        raise TTValueError(f"The model {settings.model!r} is slim, which bitsandbytes does not load; leave {name} out.")
    library = import_extra("bitsandbytes", extra="bnb")
    device = PartialState(cpu=settings.device == "cpu").device
    dtype = getattr(torch, settings.dtype or "float32")
    try:
        _try_out(library, name, device, dtype)
    except Exception as error:  # of many kinds, by what the machine lacks
        raise TTValueError(
            f"{name} was asked for, which bitsandbytes cannot do on this machine's {device.type}: {error}; leave it "
            "out."
        ) from error
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        **{name: True},
        llm_int8_skip_modules=list(HEADS),
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def make_trainable(model: Any) -> Any:
    """Make a quantised model one that adapters can be trained on.

    Args:
        model: Loaded with `quantised_options`.

    Returns:
        The model, frozen, with what is not quantised in float32.
    """
    for module in model.modules():
        # At its first evaluation a layer of 4 bits is packed for CPUs with AVX-512, and has no gradients ever after.
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def _try_out(library: Any, name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Compute with a small quantised layer, forwards and backwards."""
    if name == "load_in_4bit":
        layer = library.nn.Linear4bit(PROBE, PROBE, quant_type="nf4", compute_dtype=dtype, compress_statistics=True)
    else:
        layer = library.nn.Linear8bitLt(PROBE, PROBE, has_fp16_weights=False)
    layer = layer.requires_grad_(False).to(device)
    x = torch.ones(2, PROBE, dtype=dtype, device=device, requires_grad=True)
    layer(x).sum().backward()
