"""Tokenizers that put the placeholders of a soft prompt before every text, so that nothing else needs to know of it."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from tokenizers import Tokenizer, models, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.prompts.placeholders import longest_text, placeholders


def prompted(tokenizer: Any, model: nn.Module) -> Any:
    """Make a tokenizer put the placeholders of a model's prompt before every text.

    They count as its special tokens: towards `max_length`, and not where `add_special_tokens` is false. A text that is
    cut is cut to what the adapter takes, too. Texts for a decoder to write (`text_target`) have none.

    Args:
        tokenizer: The model's tokenizer.
        model: The model, with its adapter.

    Returns:
        A tokenizer of its own; the same one where no adapter of DePT is active.

    Raises:
        TTTypeError: If the tokenizer is not a fast one.
        TTValueError: If it has tokens that the model has no embeddings for, or the prompt leaves no room for a text.

    Example:
        >>> from peft import get_peft_model
        >>> from transformers import BertConfig, BertModel
        >>> from ttnet_llm import DeptConfig
        >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "text": 2}, unk_token="[UNK]"))
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=3)
        >>> model = get_peft_model(BertModel(config), DeptConfig(num_virtual_tokens=2, r=2))
        >>> prompted(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"), model)("text")["input_ids"]
        [3, 4, 2]
    """
    marks, longest = placeholders(model), longest_text(model)
    if longest is None:
        return tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise TTTypeError(
            f"The tokenizer {type(tokenizer).__name__} is no fast one, which can be told to put a prompt before texts; "
            "call prepend_prompt on the batches that it makes."
        )
    if len(tokenizer) > marks.start:
        raise TTValueError(
            f"The tokenizer has {len(tokenizer)} tokens, and the model embeddings of {marks.start}, from where on ids "
            "stand for the prompt; resize the model's embeddings before the adapter is put on it."
        )
    config: Any = getattr(model, "config", None)
    known = getattr(config.get_text_config(), "max_position_embeddings", None) if config is not None else None
    if known is not None:
        longest = min(longest, known - len(marks))
        if longest < 1:
            raise TTValueError(
                f"The model has {known} positions, which leaves no room beside a prompt of {len(marks)}; take fewer "
                "(num_virtual_tokens)."
            )
    plain = tokenizer.plain() if isinstance(tokenizer, _Prompted) else copy.deepcopy(tokenizer)
    below: Any = type(plain)
    plain.__class__ = _prompted_class(below)
    plain.take(marks, longest)
    return plain


class _Prompted(PreTrainedTokenizerFast):
    """What is put before the class of a fast tokenizer."""

    _marks: range
    _longest: int
    _unprompted: Any  # the tokenizer's own post-processor
    _unprompted_length: int
    model_max_length: int

    def take(self, marks: range, longest: int) -> None:
        """Put placeholders before texts from now on."""
        self._marks, self._longest, self._unprompted_length = marks, longest, self.model_max_length
        self.model_max_length = min(self.model_max_length, len(marks) + longest)
        self._unprompted = self._tokenizer.post_processor
        self._put_prompt()

    def plain(self) -> Any:
        """Give a copy that puts none."""
        plain = copy.deepcopy(self)
        plain._tokenizer.post_processor, plain.model_max_length = plain._unprompted, plain._unprompted_length
        plain.__class__ = type(plain).__mro__[2]
        return plain

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save the tokenizer without the prompt, which comes with the adapter."""
        return self.plain().save_pretrained(*args, **kwargs)

    def _put_prompt(self) -> None:
        self._tokenizer.post_processor = with_prompt(self._unprompted, self._marks)

    # transformers calls these two, where a tokenizer has them, around texts that a decoder has to write.
    def _switch_to_input_mode(self) -> None:
        self._switch("_switch_to_input_mode")
        self._put_prompt()

    def _switch_to_target_mode(self) -> None:
        self._switch("_switch_to_target_mode")

    def _switch(self, mode: str) -> None:
        """Let the class below have it as it likes, as those of many languages do."""
        self._tokenizer.post_processor = self._unprompted
        if (below := getattr(super(), mode, None)) is not None:
            below()
            self._unprompted = self._tokenizer.post_processor

    def update_post_processor(self) -> None:
        """Take what the class below makes anew for the tokenizer's own."""
        super().update_post_processor()
        self._unprompted = self._tokenizer.post_processor
        self._put_prompt()

    def set_truncation_and_padding(
        self, padding_strategy: Any, truncation_strategy: Any, max_length: int, *args: Any, **kwargs: Any
    ) -> None:
        """Cut texts to what the adapter takes, too, and refuse to leave nothing of them."""
        own = self._tokenizer.num_special_tokens_to_add(False)
        if truncation_strategy.value != "do_not_truncate" and own >= len(self._marks):
            max_length = min(max_length, len(self._marks) + self._longest)
            if max_length <= own:
                raise TTValueError(
                    f"max_length is {max_length}, of which the prompt takes {len(self._marks)} and tokens that stand "
                    f"around texts {own - len(self._marks)}, so that nothing is left of a text; raise it."
                )
        super().set_truncation_and_padding(padding_strategy, truncation_strategy, max_length, *args, **kwargs)

    def __reduce__(self) -> Any:
        return _restored, (type(self).__mro__[2], dict(self.__dict__))


@cache
def _prompted_class(below: Any) -> Any:
    return type(below.__name__, (_Prompted, below), {})


def _restored(below: Any, state: dict[str, Any]) -> Any:
    cls = _prompted_class(below)
    tokenizer = cls.__new__(cls)
    tokenizer.__dict__.update(state)
    return tokenizer


def with_prompt(processor: Any, marks: range) -> Any:
    """Make a post-processor that puts ids before what another one makes.

    Args:
        processor: Any of the library `tokenizers`, or `None` where there is none.
        marks: The ids.

    Returns:
        A template.

    Example:
        >>> cls = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        >>> with_prompt(cls, range(90, 92)).num_special_tokens_to_add(False)
        4
    """
    # What it puts around texts is seen from what it makes of one token.
    probe = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    text, other = probe.encode("a"), probe.encode("a")
    names: dict[int, str] = {}

    def template(*given: Any) -> list[str]:
        if processor is None:
            return ["prompt:0", "$A:0", "$B:1"][: 1 + len(given)]
        made = processor.process(*given)
        pieces = ["prompt:0"]
        for k, kind, special, sequence in zip(
            made.ids, made.type_ids, made.special_tokens_mask, made.sequence_ids, strict=True
        ):
            piece = names.setdefault(k, f"s{k}") if special else "$A" if sequence in (None, 0) else "$B"
            pieces.append(f"{piece}:{kind}")
        return pieces

    single, pair = template(text), template(text, other)
    specials = [{"id": name, "ids": [k], "tokens": [name]} for k, name in names.items()]
    prompt = {"id": "prompt", "ids": list(marks), "tokens": [f"[PROMPT{k}]" for k in range(len(marks))]}
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=[prompt, *specials])
