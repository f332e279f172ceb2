"""LoRA checkpoints: reading and writing them, exact export, compression, spectra; nothing is trained here."""
