"""Texts that a language model writes after prompts, or as the next turn of chats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ttnet.errors import TTTypeError, TTValueError

Turn = dict[str, str]  # {"role": ..., "content": ...}
Prompt = str | list[Turn]


@dataclass(frozen=True)
class Generation:
    """How a text is written.

    Args:
        max_new_tokens: Tokens to write at most, at least 1.
        temperature: What the logits are divided by before a token is drawn, at least 0; 0 takes the likeliest.
        top_p: Only the likeliest tokens are drawn that together have this probability, above 0 and at most 1.
        seed: Of the draws; `None` draws anew every time.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> Generation(max_new_tokens=20).options()
        {'max_new_tokens': 20, 'do_sample': False}
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise TTValueError(f"max_new_tokens is {self.max_new_tokens}; expected an integer of at least 1.")
        if not 0 <= self.temperature < float("inf"):
            raise TTValueError(f"temperature is {self.temperature}; expected a number of at least 0.")
        if not 0 < self.top_p <= 1:
            raise TTValueError(f"top_p is {self.top_p}; expected a probability above 0 and at most 1.")

    def options(self) -> dict[str, Any]:
        """Say the same to `model.generate`."""
        if self.temperature == 0:
            return {"max_new_tokens": self.max_new_tokens, "do_sample": False}
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0,
        }


def generate(
    model: nn.Module,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    how: Generation | None = None,
    *,
    max_length: int | None = None,
    streamer: Any = None,
) -> list[str]:
    """Let a language model go on after prompts, all of them in one batch.

    Args:
        model: A language model of transformers', with or without an adapter; put into evaluation mode.
        tokenizer: Its tokenizer.
        prompts: Texts, or chats as lists of `{"role": ..., "content": ...}`, which the tokenizer's template writes.
        how: How to write; `None` takes the likeliest tokens.
        max_length: Tokens of a prompt to keep, the last ones, or the first where an encoder reads it; `None` keeps all.
        streamer: What transformers tells of each token, such as its `TextStreamer`; for one prompt only.

    Returns:
        What came after each prompt, without special tokens.

    Raises:
        TTTypeError: If the model writes no texts, or there is no tokenizer.
        TTValueError: If a prompt is empty, or there is a chat, and no template for chats.

    Example:
        >>> Generation(max_new_tokens=4).options()
        {'max_new_tokens': 4, 'do_sample': False}
    """
    how = how or Generation()
    check_writes(model)
    if tokenizer is None:
        raise TTTypeError("tokenizer is None; load it with ttnet_llm.load, or save it in the folder of the model.")
    if not prompts:
        return []
    encodes = bool(_config(model).is_encoder_decoder)
    ids = [_encode(tokenizer, prompt, max_length, read=encodes) for prompt in prompts]
    device = next(model.parameters()).device
    batch = tokenizer.pad({"input_ids": ids}, padding_side="right" if encodes else "left", return_tensors="pt")
    if how.seed is not None:
        torch.manual_seed(how.seed)
    model.eval()
    with torch.inference_mode():
        written: Any = model.generate(  # type: ignore[operator]
            **batch.to(device), **how.options(), pad_token_id=tokenizer.pad_token_id, streamer=streamer
        )
    begin = 0 if encodes else batch["input_ids"].shape[1]
    return [text.strip() for text in tokenizer.batch_decode(written[:, begin:], skip_special_tokens=True)]


def check_writes(model: nn.Module) -> None:
    """Refuse a model that writes no texts.

    Args:
        model: The model.

    Raises:
        TTTypeError: If it is of another kind.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    if not (hasattr(base, "can_generate") and base.can_generate()):
        raise TTTypeError(
            f"The model is a {type(base).__name__}, which writes no texts; use `ttnet-llm predict`, or name a language "
            "model."
        )


def _encode(tokenizer: Any, prompt: Prompt, max_length: int | None, *, read: bool) -> list[int]:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise TTValueError("A prompt is empty; expected a text.")
        if read:
            cut = {"truncation": True, "max_length": max_length} if max_length else {}
            return list(tokenizer(prompt, **cut)["input_ids"])
        ids = list(tokenizer(prompt)["input_ids"])
        ids = ids if len(ids) < 2 or ids[-1] != tokenizer.eos_token_id else ids[:-1]
        return ids[-(max_length or 0) :]
    if not tokenizer.chat_template:
        raise TTValueError(
            f"The tokenizer of {tokenizer.name_or_path!r} has no template for chats; give the prompt as it is, with "
            "--raw, or take a model that was tuned for chats."
        )
    ids = list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])
    return ids[-(max_length or 0) :]


def _config(model: Any) -> Any:
    return model.config
