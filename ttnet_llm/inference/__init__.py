"""A trained model at work: what it says of new data, texts that it writes, and chats."""

from ttnet_llm.inference.chooser import Chooser
from ttnet_llm.inference.generation import Generation, generate
from ttnet_llm.inference.predictor import Predictor

__all__ = ["Chooser", "Generation", "Predictor", "generate"]
