"""A LoRA checkpoint as the adapter folder that mlx-lm loads."""

import json
from pathlib import Path

import torch

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.folders import atomic_folder
from ttnet_llm.lora.checkpoint import CONFIG, EXPORT, LoraCheckpoint, save_tensors
from ttnet_llm.lora.verify import some_of

WEIGHTS = "adapters.safetensors"


def write_mlx(path: str | Path, checkpoint: LoraCheckpoint, *, tied: bool = False) -> int:
    """Write an adapter folder for mlx-lm, with every update scaled by 1.

    mlx-lm multiplies by `lora_a` of shape `(in_features, r)`, `lora_b` of shape `(r, out_features)` and a scale that it
    does not divide by the rank. It knows one rank for all modules, and finds them by their names in its own model.

    Args:
        path: A new folder, or that of an earlier export, which is replaced.
        checkpoint: What to write.
        tied: Whether the model's output layer is its embedding.

    Returns:
        The rank.

    Raises:
        TTTypeError: If there is something that mlx-lm has no place for, or would apply in another place too.
        TTValueError: If the ranks differ.
        TTFileError: If the folder holds something else.

    Example:
        >>> import tempfile
        >>> from peft import LoraConfig
        >>> checkpoint = LoraCheckpoint(LoraConfig(), {"model.norm_proj": (torch.ones(6, 2), torch.ones(2, 4))})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_mlx(folder, checkpoint), json.loads(Path(folder, CONFIG).read_text())["lora_parameters"]["scale"]
        (2, 1.0)
    """
    if checkpoint.parameters:
        raise TTTypeError(
            f"The adapter adapts parameters ({some_of(checkpoint.parameters, most=1)}), and mlx-lm adapts modules: its "
            "experts are others than transformers'. Merge the adapter (`ttnet-llm merge`), or train it without "
            "target_parameters."
        )
    ranks = {left.shape[1] for left, _ in checkpoint.factors.values()}
    if len(ranks) > 1:
        raise TTValueError(
            f"pad_to is None, and the updates have ranks {min(ranks)} to {max(ranks)}, but mlx-lm knows one rank for "
            'all modules; set pad_to to "uniform" or a number.'
        )
    if checkpoint.others:
        raise TTTypeError(
            f"The adapter holds more than LoRA ({some_of(checkpoint.others, most=1)}), which mlx-lm refuses. Merge the "
            "adapter (`ttnet-llm merge`), or train it without train_norms, modules_to_save and bias."
        )
    if tied and checkpoint.embeddings:
        raise TTTypeError(
            f"The adapter adapts {some_of(checkpoint.embeddings)}, which is the output layer too, and mlx-lm would "
            "adapt both. Merge the adapter (`ttnet-llm merge`), or leave the embedding out of target_modules."
        )
    tensors = {}
    for name, factors in checkpoint.factors.items():
        for side, factor in zip("ab", factors, strict=True):
            # mlx has float64 on the CPU only.
            tensors[f"{name}.lora_{side}"] = factor.float() if factor.dtype == torch.float64 else factor
    (rank,) = ranks
    parameters = {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": sorted(checkpoint.factors)}
    # The keys are full names, of modules in any layer, and not names inside each of the last `num_layers`.
    config = {"fine_tune_type": "lora", "num_layers": 0, "lora_parameters": parameters}
    with atomic_folder(path, kind=EXPORT) as folder:
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_tensors(tensors, folder / WEIGHTS)
    return rank
