"""MELoRA: n block-diagonal mini-LoRAs, together of rank n r at the size of one LoRA of rank r (arXiv:2402.17263)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from ttnet.nn.offload import bring_back
from ttnet_llm.linear import FactorNetwork, LinearAdapterLayer, LinearConfig, LinearModel
from ttnet_llm.matrices.thin import best_factors
from ttnet_llm.networks.targets import QUERY_VALUE
from ttnet_llm.registry import register


@dataclass
class MeloraConfig(LinearConfig):
    """Configuration of MELoRA: `delta_W = (alpha / r) * diag(A_1 B_1, ..., A_n B_n)`.

    All fields of `AdapterConfig` apply too; by default the query and value projections are adapted. Where n does
    not divide a side of the layer, the blocks differ by one in size.

    Args:
        r: Rank of every mini-LoRA, at least 1.
        n: Number of mini-LoRAs, at least 1.
        alpha: The update is scaled by `alpha / r`.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from peft import get_peft_model
        >>> model = nn.Sequential(nn.Linear(768, 512))
        >>> model = get_peft_model(model, MeloraConfig(r=2, n=4, target_modules=["0"]))
        >>> model.get_nb_trainable_parameters()[0] == 2 * (768 + 512)
        True
    """

    method: ClassVar[str] = "melora"

    n: int = field(default=2)

    def _check_fields(self) -> None:
        super()._check_fields()
        self._check_positive("n")


class MeloraNetwork(FactorNetwork):
    """The mini-LoRAs of one layer: row i of A and column j of B belong to the blocks that i and j lie in.

    Args:
        in_features: The layer's input size.
        out_features: The layer's output size.
        fan_in: How many inputs an output adds up.
        config: The method's config, as it holds for the layer.
    """

    def __init__(self, in_features: int, out_features: int, fan_in: int, config: MeloraConfig) -> None:
        super().__init__(in_features, out_features, fan_in, config)
        self.n = min(config.n, in_features, out_features)
        self.A = nn.Parameter(torch.empty(in_features, config.r))
        self.B = nn.Parameter(torch.zeros(config.r, out_features))
        # Every block is drawn as a LoRA of its own size; a zero B makes the identity.
        spread = max(fan_in / self.n, 1) ** -0.5
        nn.init.uniform_(self.A, -spread, spread)
        if config.init_weights is not True:
            nn.init.uniform_(self.B, -(config.r**-0.5), config.r**-0.5)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the two block-diagonal factors, of shapes `(in_features, n r)` and `(n r, out_features)`."""
        if self.A.is_meta:
            bring_back(self)
        left = torch.block_diag(*torch.tensor_split(self.A, self.n, dim=0))
        right = torch.block_diag(*torch.tensor_split(self.B, self.n, dim=1))
        return left, right

    @classmethod
    def add_up(cls, new: Sequence[Self], given: Sequence[Sequence[Self]], scales: Sequence[float]) -> None:
        """Put the mini-LoRAs of every block side by side, and keep what is largest where there is no room for all."""
        (target,), r = new, new[0].A.shape[1]
        left = torch.cat([network.A.double() for (network,) in given], dim=1)
        right = torch.cat([network.B.double() * scale for (network,), scale in zip(given, scales, strict=True)])
        if left.shape[1] > r:
            lefts, rights = left.tensor_split(target.n, dim=0), right.tensor_split(target.n, dim=1)
            sides = [best_factors(a, b, r) for a, b in zip(lefts, rights, strict=True)]
            left, right = torch.cat([a for a, _ in sides]), torch.cat([b for _, b in sides], dim=1)
        target.A.copy_(left)
        target.B.copy_(right)


class MeloraLinear(LinearAdapterLayer, method="melora", network=MeloraNetwork):
    """A linear layer with MELoRA adapters."""


class MeloraModel(LinearModel):
    """The tuner of MELoRA.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), MeloraConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, MeloraModel)
        True
    """

    prefix = "melora_"
    tuner_layer_cls = MeloraLinear
    target_module_mapping = QUERY_VALUE


register("melora", MeloraConfig, MeloraModel)
