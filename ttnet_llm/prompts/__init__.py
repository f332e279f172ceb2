"""DePT: a soft prompt with a low-rank offset, as an adapter of the word embeddings (arXiv:2309.05173)."""

from ttnet_llm.prompts.config import DeptConfig
from ttnet_llm.prompts.model import DeptModel
from ttnet_llm.prompts.placeholders import longest_text, placeholders, prepend_prompt
from ttnet_llm.prompts.tokenizer import prompted

__all__ = ["DeptConfig", "DeptModel", "longest_text", "placeholders", "prepend_prompt", "prompted"]
