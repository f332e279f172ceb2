"""The table of word embeddings with soft prompts in the place of ids that it does not have (arXiv:2309.05173).

Ids from the size of the table on are placeholders: `vocabulary + k` stands for row k of the prompt. A word's place is
counted from the last placeholder of its row, so that padding on either side moves nothing, and attention masks,
positions, labels and caches take placeholders for words.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import TTEmbedding
from ttnet_llm.prompts.config import DeptConfig
from ttnet_llm.tuner import AdapterLayer


class PromptNetwork(nn.Module):
    """The prompt P, and the factors A and B of the offset.

    Args:
        start: What P starts as, shape `(num_virtual_tokens, d)`.
        config: The method's config.
    """

    def __init__(self, start: Tensor, config: DeptConfig) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.empty(start.shape))  # (m, d)
        self.A = nn.Parameter(torch.empty(config.max_length, config.r))
        self.B = nn.Parameter(torch.zeros(config.r, start.shape[1]))
        with torch.no_grad():
            self.prompt.copy_(start)
        bound = config.r**-0.5
        nn.init.uniform_(self.A, -bound, bound)  # Kaiming's, as the authors draw it
        if not config.init_weights:
            nn.init.uniform_(self.B, -bound, bound)

    def forward(
        self,
        ids: Tensor,  # (*batch, n), integers
        words: Tensor,  # (*batch, n, d), what the table has for those that are no placeholders
        dropout: nn.Module,
        scaling: float,
        vocabulary: int,
        padding: int | None,
    ) -> Tensor:  # (*batch, n, d)
        """Put rows of P in the place of placeholders, and add `scaling * A[:n] B` to the words after them."""
        is_prompt, place = places(ids, vocabulary)
        within = (place >= 0) & (place < len(self.A))
        beyond = place >= len(self.A)
        if padding is not None:
            beyond = beyond & (ids != padding)  # what is left of it is looked up, and refused, as the table ends there
        table = scaling * (dropout(self.A[: max(ids.shape[-1], 1)]) @ self.B)  # (at most n, d)
        offset = F.embedding(torch.where(within | beyond, place, 0), table)
        prompt = F.embedding((ids - vocabulary).clamp(min=0), self.prompt)
        shifted = torch.where(within[..., None], words + offset, words.to(offset.dtype))
        return torch.where(is_prompt[..., None], prompt.to(shifted.dtype), shifted).to(words.dtype)


def places(ids: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Find the placeholders of texts, and count the words after them.

    Args:
        ids: Integers, shape `(*batch, n)`.
        vocabulary: The first id that is a placeholder.

    Returns:
        Which ids are placeholders; and each word's place after the last placeholder before it, from 0 on, and -1 where
        there is none. Both have the shape of `ids`.

    Example:
        >>> places(torch.tensor([[0, 9, 9, 4, 5], [4, 5, 6, 0, 0]]), 9)[1]
        tensor([[-1, -1, -1,  0,  1],
                [-1, -1, -1, -1, -1]])
    """
    is_prompt = ids >= vocabulary
    position = torch.arange(ids.shape[-1], device=ids.device)
    after = torch.cummax(is_prompt * (position + 1), -1).values
    return is_prompt, torch.where(after > 0, position - after, -1)


class DeptEmbedding(AdapterLayer, method="dept"):
    """A table of word embeddings with the prompts of its adapters."""

    base_types = (nn.Embedding, TTEmbedding)
    why_no_lora = "puts a prompt before texts, and adds to words by their place"
    padding: int | None = None  # the id that pads texts, where the model says which

    def make_network(self, config: DeptConfig) -> PromptNetwork:
        """Make the prompt of embeddings of words, as the layer gives them out."""
        count, device = config.num_virtual_tokens, self._get_base_layer_device_and_dtype(self.get_base_layer())[0]
        if config.prompt_tuning_init_ids:
            repeats = -(-count // len(config.prompt_tuning_init_ids))
            ids = torch.tensor((config.prompt_tuning_init_ids * repeats)[:count])
            if int(ids.max()) >= self.in_features:
                raise TTValueError(
                    f"prompt_tuning_init_ids has {int(ids.max())}, and the model has embeddings of {self.in_features} "
                    "tokens; check tokenizer_name_or_path, which has to be the model's."
                )
        else:
            ids = torch.randint(self.in_features, (count,))
        with torch.no_grad():
            return PromptNetwork(self.base_layer(ids.to(device)).float(), config)

    def adapt_input(self, adapter: str, x: Tensor) -> Tensor:  # x: (*batch, n), ids
        """Put some word in the place of placeholders, which the table does not have."""
        return torch.where(x < self.in_features, x, 0)

    def adapt_output(self, adapter: str, x: Tensor, result: Tensor) -> Tensor:  # result: (*batch, n, d)
        """Put the prompt in the place of placeholders, and add the offset to the words after them."""
        network = cast(PromptNetwork, self.networks[adapter])
        return network(x, result, self.dropouts[adapter], self.scalings[adapter], self.in_features, self.padding)

    def forward(self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Tensor:
        """Embed ids, shape `(*batch, n)`, after a look at what is no word among them."""
        # While it is compiled, where no entry is known, an index that is out of range is an error that says less.
        if not torch.compiler.is_compiling():
            self._check_ids(x, adapter_names)
        return super().forward(x, *args, adapter_names=adapter_names, **kwargs)

    def _check_ids(self, ids: Tensor, adapter_names: list[str] | None) -> None:
        """Refuse ids that neither the table nor the prompt has, and texts that are too long for the offset."""
        if ids.is_meta or not ids.numel() or int(ids.max()) < self.in_features:
            return
        active = [name for name in self.active_adapters if name in self.networks]
        if adapter_names is None and len(active) > 1:
            raise TTValueError(
                f"input_ids has placeholders, and the adapters {', '.join(active)} are active, so that it is unclear "
                "whose prompt is meant; call set_adapter with one of them."
            )
        if self.disable_adapters or (adapter_names is None and not active):
            self._check_rows(None, ids)
        elif adapter_names is None:
            self._check_rows(active[0], ids)
        elif len(adapter_names) == len(ids):  # or else what comes next says so
            for name in set(adapter_names):
                self._check_rows(name, ids[[row for row, other in enumerate(adapter_names) if other == name]])

    def _check_rows(self, adapter: str | None, ids: Tensor) -> None:
        known = adapter is not None and adapter in self.networks
        network = cast(PromptNetwork, self.networks[adapter or ""]) if known else None
        highest, count = int(ids.max()), 0 if network is None else len(network.prompt)
        if highest >= self.in_features + count:
            why = (
                f"no prompt is active for it{'' if adapter is None else f' ({adapter})'}; give the text without "
                "placeholders, or with an adapter of DePT"
                if network is None
                else f"the {count} placeholders of the adapter {adapter!r} end at {self.in_features + count - 1}; make "
                "them with prepend_prompt for this model"
            )
            raise TTValueError(
                f"input_ids has the id {highest}, but the model has embeddings of {self.in_features} tokens, and {why}."
            )
        if network is None:
            return
        is_prompt, _ = places(ids, self.in_features)
        counts = is_prompt.sum(-1, keepdim=True)
        position = torch.arange(ids.shape[-1], device=ids.device)
        first = is_prompt.to(torch.uint8).argmax(-1, keepdim=True)
        as_written = ~is_prompt | (ids - self.in_features == position - first)
        if not bool((((counts == 0) | (counts == count)) & as_written.all(-1, keepdim=True)).all()):
            raise TTValueError(
                f"input_ids has placeholders that are not the {count} of the adapter {adapter!r}, all of them once and "
                "in order; make them with prepend_prompt for this model. The tokenizer may have tokens that the model "
                "has no embeddings for."
            )
        if ids.shape[-1] <= len(network.A):
            return
        _, place = places(ids, self.in_features)
        words = place if self.padding is None else torch.where(ids == self.padding, -1, place)
        if (longest := int(words.max()) + 1) > len(network.A):
            padding = "" if self.padding is not None else " with its padding, as the model's config names no pad token"
            raise TTValueError(
                f"A text has {longest} tokens after the prompt{padding}, and max_length of the adapter {adapter!r} is "
                f"{len(network.A)}; cut texts to so many, or train an adapter with a larger max_length."
            )

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse to merge."""
        raise cannot_merge()


def cannot_merge() -> TTTypeError:
    """Say why DePT is not merged, and what to do."""
    return TTTypeError(
        "DePT cannot be merged: its prompt stands in places that no text has without it, and its offset depends on a "
        "word's place, so that no table of word embeddings holds them. Keep it as an adapter, or call `unload()` to "
        "get the base model back. For an update that merges, adapt layers; on models with a table of positions, a LoRA "
        "of that table (target_modules=['position_embeddings']) is the same offset."
    )
