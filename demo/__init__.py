"""Fine-tune a real encoder on real text with LoRETTA, LoRA and the head alone: `python -m demo`."""
