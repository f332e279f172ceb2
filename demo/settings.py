"""The demo's rows and its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Size:
    """How much text, for how long."""

    train_per_area: int
    validation_per_area: int
    epochs: float
    evaluations: int  # in an epoch


FULL = Size(train_per_area=200, validation_per_area=40, epochs=3, evaluations=2)
QUICK = Size(train_per_area=20, validation_per_area=10, epochs=1, evaluations=2)

MAX_LENGTH = 48  # tokens; half of the texts are shorter
BATCH_SIZE = 16
HEAD_LEARNING_RATE = 1e-2  # of the new head, the same for every method


@dataclass(frozen=True)
class Row:
    """A row of the demo's table.

    Args:
        method: As `finetune` calls it.
        title: As the table does.
        learning_rate: Of the adapter.
        options: Of the method.
    """

    method: str
    title: str
    learning_rate: float
    options: Mapping[str, Any] = field(default_factory=dict)


# The learning rates are those that SST-2 chose (docs/results/accuracy.md); nothing was chosen on the demo's own texts.
ROWS = {
    "tt-ether": Row("tt-ether", "TT-ETHER r=4", 2e-2, {"r": 4, "n": 4, "tied": False}),
    # The paper trains the normalisation layers along with its adapters.
    "loretta-rep": Row("loretta-rep", "LoRETTA_rep", 3e-3, {"train_norms": True}),
    "lora-1": Row("lora", "LoRA r=1", 1e-2, {"r": 1, "lora_alpha": 2}),
    "lora-8": Row("lora", "LoRA r=8", 3e-3, {"r": 8, "lora_alpha": 16}),
    "head": Row("head", "Head only", HEAD_LEARNING_RATE),
}
