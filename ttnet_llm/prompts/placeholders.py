"""The ids that stand for a soft prompt, put before the texts of a batch."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet_llm.prompts.layer import DeptEmbedding, PromptNetwork

IGNORED = -100  # labels that count in no loss
# What a placeholder has where a word has an entry; of `input_ids` it is the placeholder itself.
_FILLS = {"attention_mask": 1, "token_type_ids": 0, "special_tokens_mask": 1, "labels": IGNORED}
_POSITIONS = ("start_positions", "end_positions")  # of answers, counted in tokens


def placeholders(model: nn.Module) -> range:
    """Give the ids that stand for the prompt of a model's active adapter.

    Args:
        model: Any model.

    Returns:
        The ids; none where no adapter of DePT is active.

    Example:
        >>> from peft import get_peft_model
        >>> from transformers import BertConfig, BertModel
        >>> from ttnet_llm import DeptConfig
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=100)
        >>> model = get_peft_model(BertModel(config), DeptConfig(num_virtual_tokens=4, r=2))
        >>> placeholders(model)
        range(100, 104)
        >>> with model.disable_adapter():
        ...     placeholders(model)
        range(0, 0)
    """
    found = _active(model)
    return range(0) if found is None else range(found[0], found[0] + len(found[1].prompt))


def longest_text(model: nn.Module) -> int | None:
    """Count the tokens that a text may have after the prompt of a model's active adapter.

    Args:
        model: Any model.

    Returns:
        The number; `None` where no adapter of DePT is active.

    Example:
        >>> longest_text(nn.Linear(2, 2)) is None
        True
    """
    found = _active(model)
    return None if found is None else len(found[1].A)


def _active(model: nn.Module) -> tuple[int, PromptNetwork] | None:
    """Find the first placeholder and the prompt of the active adapter."""
    for layer in model.modules():
        if isinstance(layer, DeptEmbedding) and not layer.disable_adapters:
            for name in layer.active_adapters:
                if name in layer.networks:
                    return layer.in_features, cast(PromptNetwork, layer.networks[name])
    return None


def prepend_prompt(batch: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """Put the placeholders of a model's prompt before every text of a batch, after padding on the left.

    Args:
        batch: What a tokenizer or a collator makes: `input_ids`, integers of shape `(batch, n)`, and what there is of
            `attention_mask`, `token_type_ids` and `special_tokens_mask` of the same shape, and of labels. Labels of
            tokens are `-100` for placeholders; others, such as a class for each text, or the text that a decoder has to
            write, stay as they are.
        model: The model, with its adapter.

    Returns:
        A new batch, with m more places; the same entries where no adapter of DePT is active.

    Raises:
        TTTypeError: If `input_ids` is no matrix of integers.
        TTValueError: If the batch says of each token what a placeholder has no answer to, such as its position, has
            placeholders already, or a mask of another shape.

    Example:
        >>> from peft import get_peft_model
        >>> from transformers import BertConfig, BertModel
        >>> from ttnet_llm import DeptConfig
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=100)
        >>> model = get_peft_model(BertModel(config), DeptConfig(num_virtual_tokens=2, r=2))
        >>> batch = {"input_ids": torch.tensor([[0, 7, 8]]), "attention_mask": torch.tensor([[0, 1, 1]])}
        >>> prepend_prompt(batch, model)["input_ids"]
        tensor([[  0, 100, 101,   7,   8]])
    """
    marks, ids = placeholders(model), batch.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
        shape = f" of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else ""
        raise TTTypeError(
            f"input_ids is a {type(ids).__name__}{shape}; expected a tensor of integers of shape (batch, n), as "
            "tokenizers make with return_tensors='pt'."
        )
    if not marks:
        return dict(batch)
    if ids.numel() and int(ids.max()) >= marks.start:
        raise TTValueError(
            f"input_ids has placeholders already (ids from {marks.start} on); put them in once, by a prompted "
            "tokenizer or by prepend_prompt."
        )
    config: Any = getattr(model, "config", None)
    decodes = bool(getattr(config, "is_encoder_decoder", False))
    mask = batch.get("attention_mask")
    if mask is not None and mask.shape != ids.shape:
        raise TTValueError(
            f"attention_mask has the shape {tuple(mask.shape)}, and input_ids {tuple(ids.shape)}; expected the same, "
            "with 1 for words and 0 for padding."
        )
    # The place of the first word, which padding on the left comes before.
    first = torch.zeros(len(ids), dtype=torch.long, device=ids.device) if mask is None else mask.long().argmax(-1)
    old = torch.arange(ids.shape[1], device=ids.device) + len(marks) * (
        torch.arange(ids.shape[1], device=ids.device) >= first[:, None]
    )  # (batch, n): where each old entry goes
    new = first[:, None] + torch.arange(len(marks), device=ids.device)  # (batch, m)

    def longer(values: Tensor, fill: Tensor) -> Tensor:
        out = values.new_empty(len(values), values.shape[1] + len(marks))
        return out.scatter(1, old, values).scatter(1, new, fill.to(values).expand(len(values), -1))

    out = dict(batch)
    for name, values in batch.items():
        of_tokens = isinstance(values, Tensor) and values.shape[:2] == ids.shape
        if name == "input_ids":
            out[name] = longer(values, torch.tensor(marks, device=ids.device))
        elif name in _POSITIONS:
            out[name] = values + len(marks)
        elif name == "labels" and (decodes or (of_tokens and values.is_floating_point())):
            continue
        elif of_tokens and name in _FILLS and values.ndim == 2:
            out[name] = longer(values, torch.full((len(marks),), _FILLS[name], device=ids.device))
        elif of_tokens and not name.startswith("decoder_"):
            raise TTValueError(
                f"{name} has an entry for every token, and what it is for the {len(marks)} placeholders of the prompt "
                f"is unclear; leave it out, or put the prompt in yourself (ids {marks.start} to {marks.stop - 1})."
            )
    return out
