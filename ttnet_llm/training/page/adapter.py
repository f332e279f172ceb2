"""What a trained adapter does to the modules of its base model, as far as that can be told."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn
from torch.distributed.tensor import DTensor

from ttnet.errors import TTFileError, TTValueError
from ttnet_llm.lora.checkpoint import CONFIG, read_config
from ttnet_llm.lora.spectrum import ModuleSpectrum, lora_spectra, module_spectra

logger = logging.getLogger(__name__)


def spectra_of(model: nn.Module, folder: Path) -> list[ModuleSpectrum]:
    """Take an adapter apart.

    Args:
        model: The trained model, with the adapter.
        folder: Where it was saved.

    Returns:
        What it does to every module; nothing where it is trained whole, not finite, or spread over several devices.
    """
    if not (folder / CONFIG).is_file() or any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return []
    try:
        is_lora = read_config(folder).get("peft_type") == "LORA"
        return lora_spectra(folder) if is_lora else module_spectra(model)
    except (TTFileError, TTValueError) as error:  # a head alone, or a run that went astray, which needs a report, too
        logger.info("The report says nothing of the adapter: %s", error)
        return []
