"""LoRA checkpoints: reading and writing them, exact export, compression, spectra; nothing is trained here."""

from ttnet_llm.lora.checkpoint import LoraCheckpoint, read_lora

__all__ = ["LoraCheckpoint", "read_lora"]
