"""Every method that the tests run over: a new one is one more entry here."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from ttnet_llm import (
    DeptConfig,
    EtherConfig,
    LorettaAdpConfig,
    LorettaRepConfig,
    LortaConfig,
    LotrConfig,
    MeloraConfig,
    MetaTTConfig,
    NeuronLoraConfig,
    TTEtherConfig,
    TTLoraConfig,
    TTTurnConfig,
)
from ttnet_llm.linear import SharedConfig
from ttnet_llm.matrices.config import TrainConfig
from ttnet_llm.tuner import AdapterConfig


@dataclass(frozen=True)
class Method:
    """A method with the options that it is tested with; calling it makes a config."""

    name: str
    config_cls: type[AdapterConfig]
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, **options: Any) -> AdapterConfig:
        return self.config_cls(**(self.options | options))

    @property
    def method(self) -> str:
        return self.config_cls.method

    @property
    def merges(self) -> bool:
        return self.config_cls not in (LorettaAdpConfig, DeptConfig)

    @property
    def turns(self) -> bool:
        return self.config_cls in (EtherConfig, TTEtherConfig, TTTurnConfig)

    @property
    def takes_embeddings(self) -> bool:
        return self.config_cls is not LorettaAdpConfig and not self.turns

    @property
    def adds_up(self) -> bool:
        return self.merges and not self.turns

    @property
    def has_trains(self) -> bool:
        return issubclass(self.config_cls, TrainConfig)

    @property
    def shares(self) -> bool:
        return issubclass(self.config_cls, SharedConfig)


METHODS = [
    Method("loretta_rep", LorettaRepConfig, {"tt_rank": 3}),
    Method("loretta_rep interleaved", LorettaRepConfig, {"tt_rank": 3, "layout": "interleaved"}),
    Method("loretta_adp", LorettaAdpConfig, {"tt_rank": 3}),
    Method("loretta_adp interleaved", LorettaAdpConfig, {"tt_rank": 3, "layout": "interleaved"}),
    Method("tt_lora", TTLoraConfig, {"tt_rank": 3}),
    Method("lorta", LortaConfig),
    Method("lotr", LotrConfig),
    Method("metatt", MetaTTConfig),
    Method("melora", MeloraConfig, {"r": 2, "n": 3}),
    Method("neuron_lora", NeuronLoraConfig, {"r": 2, "neurons": 5}),
    Method("ether", EtherConfig, {"n": 3}),
    Method("tt_ether", TTEtherConfig, {"r": 2, "n": 3, "tied": True}),
    Method("tt_turn", TTTurnConfig, {"r": 2, "n": 3}),
]

# It adapts the table of word embeddings, of no causal model, and changes texts with placeholders alone: what the others
# promise of layers is promised of it in `tests/ttnet_llm/prompts`.
DEPT = Method("dept", DeptConfig, {"num_virtual_tokens": 4, "r": 3})


def each(condition: str | None = None) -> pytest.MarkDecorator:
    """Run a test over all methods, or over those with a property, as its argument `make_config`."""
    chosen = [method for method in METHODS if condition is None or getattr(method, condition)]
    return pytest.mark.parametrize("config_cls", chosen, ids=[method.name for method in chosen])
