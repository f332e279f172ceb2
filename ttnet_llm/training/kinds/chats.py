"""Chats: what a cell holds, and which tokens of a chat are the assistant's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ttnet.errors import TTValueError, import_extra
from ttnet_llm.training.labels import describe

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}  # as ShareGPT has them


@dataclass(frozen=True)
class Message:
    """A turn of a chat."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        """Give it as templates take it."""
        return {"role": self.role, "content": self.content}


def read_chat(cell: Any, row: int, path: str) -> tuple[Message, ...]:
    """Read a chat from a cell: a list of `{"role": ..., "content": ...}` or `{"from": ..., "value": ...}`, or its JSON.

    Args:
        cell: What the cell holds.
        row: Its row, for messages.
        path: Where it is from, for messages.

    Returns:
        The turns.

    Raises:
        TTValueError: If it is none, or no turn is the assistant's.

    Example:
        >>> read_chat([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], 1, "a.jsonl")[1]
        Message(role='assistant', content='Hello')
    """
    messages = read_turns(cell, row, path)
    if not any(message.role == "assistant" for message in messages[1:]):
        raise TTValueError(
            f"The chat in row {row} of {path!r} has no turn of the assistant's after another, so there is nothing to "
            "learn; add one, or remove the row."
        )
    return messages


def read_turns(cell: Any, row: int, path: str) -> tuple[Message, ...]:
    """Read the turns of a chat from a cell, as `read_chat`, whoever they are.

    Args:
        cell: What the cell holds.
        row: Its row, for messages.
        path: Where it is from, for messages.

    Returns:
        The turns, at least one.

    Raises:
        TTValueError: If it is no chat.
    """
    turns = cell
    if isinstance(cell, str):
        try:
            turns = json.loads(cell)
        except ValueError:
            turns = None
    if not isinstance(turns, list) or not turns:
        raise TTValueError(
            f"Row {row} of {path!r} holds {describe(cell)} where a chat should be; expected a list of "
            '{"role": ..., "content": ...}.'
        )
    return tuple(_message(turn, row, path) for turn in turns)


def _message(turn: Any, row: int, path: str) -> Message:
    role = content = None
    if isinstance(turn, dict):
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        raise TTValueError(
            f"A turn of the chat in row {row} of {path!r} is {describe(turn)}; expected "
            '{"role": "user" or "assistant" or "system", "content": a text}.'
        )
    return Message(_ROLES.get(role, role), content)


def encode_chat(tokenizer: Any, messages: tuple[Message, ...]) -> tuple[list[int], list[bool]]:
    """Tokenise a chat by the model's template, and say which tokens the assistant has to say.

    Templates that mark the assistant's turns are asked; for those that TRL knows, its own version with marks is taken.
    With any other, a turn is what the template adds to the turns before it once it is asked for an answer.

    Args:
        tokenizer: The model's.
        messages: The turns.

    Returns:
        The tokens, and for each whether it is the assistant's.

    Raises:
        TTValueError: If there is no template, or it writes the beginning of a chat in another way once more follows.
    """
    if not tokenizer.chat_template:
        raise TTValueError(
            f"The tokenizer of {tokenizer.name_or_path!r} has no template for chats; take a model that was tuned for "
            "chats, or give prompts and completions instead of messages."
        )
    turns = [message.as_dict() for message in messages]
    template = _with_marks(tokenizer)
    if template is not None:
        found = tokenizer.apply_chat_template(
            turns, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        return list(found["input_ids"]), [bool(count) for count in found["assistant_masks"]]
    whole = _render(tokenizer, turns)
    counts = [False] * len(whole)
    for k, turn in enumerate(turns):
        if turn["role"] == "assistant" and k:
            begin, end = _render(tokenizer, turns[:k], answer=True), _render(tokenizer, turns[: k + 1])
            if whole[: len(end)] != end or end[: len(begin)] != begin:
                raise TTValueError(
                    f"The template for chats of {tokenizer.name_or_path!r} writes a turn in another way once more "
                    "turns follow, so which tokens are the assistant's is unclear; give prompts and completions, or "
                    "put {% generation %} marks into the template."
                )
            counts[len(begin) : len(end)] = [True] * (len(end) - len(begin))
    return whole, counts


def _with_marks(tokenizer: Any) -> Any:
    template = tokenizer.chat_template
    if "{% generation" in str(template) or "{%- generation" in str(template):
        return template
    try:
        return import_extra("trl", extra="trl").get_training_chat_template(tokenizer)
    except ValueError:  # unknown to TRL
        return None


def _render(tokenizer: Any, turns: list[dict[str, str]], answer: bool = False) -> list[int]:
    return list(tokenizer.apply_chat_template(turns, add_generation_prompt=answer, return_dict=True)["input_ids"])
