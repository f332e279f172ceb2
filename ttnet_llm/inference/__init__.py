"""A trained model at work: what it says of new data, texts that it writes, and chats."""

from ttnet_llm.inference.generation import Generation, generate
from ttnet_llm.inference.predictor import Predictor

__all__ = ["Generation", "Predictor", "generate"]
