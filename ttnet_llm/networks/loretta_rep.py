"""LoRETTA_rep: a LoRA-like update `A @ B` with both factors tensor trains (arXiv:2402.11417, section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from ttnet_llm.linear import FactorNetwork, LinearAdapterLayer, LinearConfig, LinearModel, ParameterLayer
from ttnet_llm.matrices.aligned import AlignedMatrix
from ttnet_llm.matrices.config import FittedConfig
from ttnet_llm.matrices.expert import ExpertTrain
from ttnet_llm.matrices.thin import thin_svd, thinnest_product
from ttnet_llm.networks.targets import QUERY_VALUE
from ttnet_llm.registry import register
from ttnet_llm.tt_head import TTHeadModel


@dataclass
class LorettaRepConfig(FittedConfig, LinearConfig):
    """Configuration of LoRETTA_rep: `delta_W = (alpha / r) * A @ B`, both factors tensor trains.

    All fields of `AdapterConfig` and `FittedConfig` apply too; by default the query and value projections are
    adapted.

    Args:
        r: Inner size of `A @ B`, at least 1.
        alpha: The update is scaled by `alpha / r`.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from peft import get_peft_model
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(768, 768))
        >>> model = get_peft_model(model, LorettaRepConfig(target_modules=["0"]))
        >>> model.get_nb_trainable_parameters()
        (790, 591382)
    """

    method: ClassVar[str] = "loretta_rep"
    rank_field: ClassVar[str] = "r"


class LorettaRepNetwork(FactorNetwork):
    """The factors of one layer's update: A (in -> r) and B (r -> out), each held as a train.

    Both are held as tall matrices (B as its transpose), as the paper's tables have them.

    Args:
        in_features: The layer's input size.
        out_features: The layer's output size.
        fan_in: How many inputs an output adds up.
        config: The method's config, as it holds for the layer.
        experts: Number of experts that share A and have a mode of their own in B; `None` for a layer.
    """

    def __init__(
        self, in_features: int, out_features: int, fan_in: int, config: LorettaRepConfig, experts: int | None = None
    ) -> None:
        super().__init__(in_features, out_features, fan_in, config)
        rank = config.tt_rank
        a_rank, b_rank = rank if isinstance(rank, Sequence) else (rank, rank)
        self.A = config.matrix(in_features, config.r, a_rank)
        if experts is None:
            self.B = config.matrix(out_features, config.r, b_rank)
        else:
            self.B = config.expert_train(config.r, out_features, experts, b_rank)
        # The spreads of `nn.Linear(in, r)` and `nn.Linear(r, out)`, as in LoRA; a zero B makes the identity.
        config.draw(self.A, 1 / (3 * fan_in))
        config.draw(self.B, 1 / (3 * config.r), zero=True)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return `L` of shape `(in_features, t)` and `R` of shape `(t, out_features)`, t at most r."""
        b = self.B.chain() if isinstance(self.B, ExpertTrain) else [factor.T for factor in reversed(self.B.chain())]
        return thinnest_product([*self.A.chain(), *b])

    @property
    def moves(self) -> tuple[int, int] | None:
        """Numbers written on the way by forming the factors, and core by core for each token."""
        if not isinstance(self.A, AlignedMatrix) or not isinstance(self.B, AlignedMatrix):
            return None
        a, b = self.A.moves, self.B.moves
        return None if a is None or b is None else (a[0] + b[0], a[1] + b[1] + self.A.layout.cols)

    def multiply(self, x: Tensor) -> Tensor:
        """Contract tokens with the cores of A, and then with those of B from its other end."""
        return cast(AlignedMatrix, self.B).multiply_by_transpose(cast(AlignedMatrix, self.A).multiply(x))

    def expert_factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return A and B's parts on either side of the experts' core, multiplied together at the thinnest bonds."""
        b_left, middle, right = cast(ExpertTrain, self.B).expert_factors()
        left, inner = thinnest_product([*self.A.chain(), b_left])
        return left, inner @ middle, right

    @property
    def fit_rank(self) -> int:
        """The inner size r, at most the layer's sides."""
        return min(self.A.layout.cols, self.in_features, self.out_features)

    @torch.no_grad()
    def fit(self, left: Tensor, right: Tensor) -> None:
        """Take over `left @ right`: its leading singular vectors, with the root of their values on either side."""
        u, s, v = thin_svd(left, right)
        r = self.A.layout.cols
        u, s, v = u[:, :r], s[:r], v[:r]
        eye = torch.eye(r, dtype=u.dtype, device=u.device)[: len(s)]
        self.A.fit(u * s.sqrt(), eye)
        if isinstance(self.B, ExpertTrain):
            self.B.fit(eye.mT, s.sqrt()[:, None] * v)
        else:
            self.B.fit(v.mT * s.sqrt(), eye)


class LorettaRepLinear(LinearAdapterLayer, method="loretta_rep", network=LorettaRepNetwork):
    """A linear layer with LoRETTA_rep adapters."""


class LorettaRepParameter(ParameterLayer, LorettaRepLinear):
    """A parameter with LoRETTA_rep adapters."""


class LorettaRepModel(TTHeadModel, LinearModel):
    """The tuner of LoRETTA_rep.

    Example:
        >>> from peft import get_peft_model
        >>> from torch import nn
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), LorettaRepConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, LorettaRepModel)
        True
    """

    prefix = "loretta_rep_"
    tuner_layer_cls = LorettaRepLinear
    parameter_layer_cls = LorettaRepParameter
    target_module_mapping = QUERY_VALUE


register("loretta_rep", LorettaRepConfig, LorettaRepModel)
