"""Reading LoRA checkpoints of PEFT's."""

from pathlib import Path

from torch import Tensor


def lora_factors(path: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Read the updates of a LoRA checkpoint of PEFT's.

    Args:
        path: Folder with `adapter_config.json` and `adapter_model.safetensors`.

    Returns:
        For the name of every adapted module `L` of shape `(in_features, r)` and `R` of shape `(r, out_features)`, the
        scaling included in `R`.

    Raises:
        TTFileError: If the folder has no such files.
        TTTypeError: If the checkpoint is of another method, or its update is not a plain product.
    """
    raise NotImplementedError
