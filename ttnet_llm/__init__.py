"""Ultra-small tensor-train adapters for Hugging Face models."""
