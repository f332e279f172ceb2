"""Configuration of DePT, and which models it is for."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ttnet.errors import TTValueError
from ttnet_llm.tuner import AdapterConfig

WHY_NOT_CAUSAL = (
    "DePT is not for language models that read and write in one: its offset is added to every token of an answer in "
    "training, but to none that is generated one at a time from a cache. Take an encoder, or a model with an encoder "
    "and a decoder; for a causal model PEFT's PromptTuningConfig, or a method that adapts its layers"
)


@dataclass
class DeptConfig(AdapterConfig):
    """Configuration of DePT: a soft prompt, and `alpha / sqrt(r) * A[:n] B` added to the n word embeddings after it.

    The prompt P is written as `num_virtual_tokens` placeholders before each text, by `prepend_prompt` or a `prompted`
    tokenizer; a text without them is embedded as by the base model. It trains `num_virtual_tokens * d + max_length * r
    + r * d` parameters for d features. The fields of `AdapterConfig` apply too, but for those that are about layers.

    Args:
        num_virtual_tokens: Vectors of the prompt P, of shape `(num_virtual_tokens, d)`, at least 1.
        r: Rank of the offset, at least 1.
        max_length: Rows of A, of shape `(max_length, r)`: tokens that a text may have, at least 1.
        alpha: The offset's factor is `alpha / sqrt(r)`.
        prompt_tuning_init_text: A text whose word embeddings P starts as, repeated or cut to its length; `None` takes
            those of words that are drawn.
        tokenizer_name_or_path: What makes tokens of that text; `None` takes the model's own tokenizer.
        prompt_tuning_init_ids: The ids of that text's tokens; filled in, or given in its place.

    Raises:
        TTValueError: If a value is outside its range, or the task is `CAUSAL_LM`.

    Example:
        >>> from peft import get_peft_model
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=768, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        >>> get_peft_model(BertModel(config), DeptConfig()).get_nb_trainable_parameters()[0]
        76800

    Source: arXiv:2309.05173, section 2.3; the factor is that of the authors' code, and no word of it is in the paper.
    """

    method: ClassVar[str] = "dept"
    rank_field: ClassVar[str] = "r"
    # PEFT saves a whole table beside adapters of it, but for those that say which of its rows they train: here none.
    trainable_token_indices: ClassVar[dict[str, list[int]]] = {}

    num_virtual_tokens: int = field(default=40)
    r: int = field(default=45)
    max_length: int = field(default=256)
    alpha: float = field(default=8)
    prompt_tuning_init_text: str | None = field(default=None)
    tokenizer_name_or_path: str | None = field(default=None)
    prompt_tuning_init_ids: list[int] | None = field(default=None)

    @property
    def update_scale(self) -> float:
        """The factor on the offset."""
        return self.alpha / math.sqrt(self.r)

    def _check_fields(self) -> None:
        super()._check_fields()
        self._check_positive("num_virtual_tokens", "r", "max_length")
        if self.task_type == "CAUSAL_LM":
            raise TTValueError(f"task_type is 'CAUSAL_LM', and {WHY_NOT_CAUSAL}.")
        if self.target_modules == "all-linear":
            raise TTValueError(
                "target_modules is 'all-linear', but DePT adapts the table of word embeddings and no linear layer; "
                "leave it out."
            )
        if self.prompt_tuning_init_text is not None and not self.prompt_tuning_init_text.strip():
            raise TTValueError("prompt_tuning_init_text is empty; expected a text, or None for words that are drawn.")
        if self.prompt_tuning_init_ids is not None and not _are_ids(self.prompt_tuning_init_ids):
            raise TTValueError(
                f"prompt_tuning_init_ids is {self.prompt_tuning_init_ids!r}; expected a list of ids of tokens, of at "
                "least 1, or None."
            )


def _are_ids(ids: Any) -> bool:
    return isinstance(ids, list) and bool(ids) and all(isinstance(k, int) and k >= 0 for k in ids)
