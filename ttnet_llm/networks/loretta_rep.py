"""LoRETTA_rep: a LoRA-like update `A @ B` with both factors tensor trains (arXiv:2402.11417, section 3.2)."""

from dataclasses import dataclass, field
from typing import ClassVar

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn

from ttnet_llm.linear import LinearAdapterLayer
from ttnet_llm.registry import register
from ttnet_llm.train_matrix import TrainLayout, TrainMatrix, thinnest_product
from ttnet_llm.tuner import AdapterConfig, AdapterModel

TARGET_MODULES: dict[str, list[str] | str] = {
    **TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    "camembert": ["query", "value"],
    "albert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "vit": ["q_proj", "v_proj"],
}


@dataclass
class LorettaRepConfig(AdapterConfig):
    """Configuration of LoRETTA_rep: `delta_W = (alpha / r) * A @ B`, both factors tensor trains.

    All fields of `AdapterConfig` apply too; by default the query and value projections are adapted.

    Args:
        r: Inner size of `A @ B`, at least 1.
        alpha: The update is scaled by `alpha / r`.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> import torch
        >>> from peft import get_peft_model
        >>> model = nn.Sequential(nn.Linear(768, 768))
        >>> model = get_peft_model(model, LorettaRepConfig(target_modules=["0"]))
        >>> model.get_nb_trainable_parameters()
        (790, 591382)
    """

    method: ClassVar[str] = "loretta_rep"

    r: int = field(default=8)
    alpha: float = field(default=16)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("r")


class LorettaRepNetwork(nn.Module):
    """The factors of one layer's update: A (in -> r) and B (r -> out), each held as a train.

    Both are held as tall matrices (B as its transpose), as the paper's tables have them.

    Args:
        in_features: The layer's input size.
        out_features: The layer's output size.
        config: The method's config.
    """

    def __init__(self, in_features: int, out_features: int, config: LorettaRepConfig) -> None:
        super().__init__()

        def train(size: int) -> TrainMatrix:
            return TrainMatrix(TrainLayout.choose(size, config.r, rank=config.tt_rank, modes=config.modes))

        self.A = train(in_features)
        self.B = train(out_features)
        # The spreads of `nn.Linear(in, r)` and `nn.Linear(r, out)`, as in LoRA; a zero B makes the identity.
        self.A.reset_parameters(1 / (3 * in_features))
        self.B.reset_parameters(1 / (3 * config.r), zero=config.init_weights)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return `L` of shape `(in_features, t)` and `R` of shape `(t, out_features)`, t at most r."""
        a_left, a_right = self.A.factors()
        b_left, b_right = self.B.factors()
        return thinnest_product([a_left, a_right, b_right.T, b_left.T])


class LorettaRepLinear(LinearAdapterLayer, method="loretta_rep"):
    """A linear layer with LoRETTA_rep adapters."""

    def make_network(self, config: LorettaRepConfig) -> LorettaRepNetwork:
        """Build the two trains of one adapter."""
        return LorettaRepNetwork(self.in_features, self.out_features, config)

    def scaling_of(self, config: LorettaRepConfig) -> float:
        """Return `alpha / r`."""
        return config.alpha / config.r


class LorettaRepModel(AdapterModel):
    """The tuner of LoRETTA_rep."""

    prefix = "loretta_rep_"
    tuner_layer_cls = LorettaRepLinear
    target_module_mapping = TARGET_MODULES


register("loretta_rep", LorettaRepConfig, LorettaRepModel)
