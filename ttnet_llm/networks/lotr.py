"""LoTR: Tucker-2, outer factors shared by all modules of a shape and a small core for each (arXiv:2402.01376)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from ttnet.nn.offload import bring_back
from ttnet_llm.linear import Group, LinearAdapterLayer, LinearConfig, LinearModel, SharedConfig, SharedView
from ttnet_llm.matrices.sums import set_to_sum
from ttnet_llm.networks.targets import QUERY_VALUE
from ttnet_llm.registry import register


@dataclass
class LotrConfig(SharedConfig, LinearConfig):
    """Configuration of LoTR: `delta_W_m = (alpha / r) * U @ G_m @ V` for module m.

    All fields of `AdapterConfig` apply too; by default the query and value projections are adapted. U and V are
    shared by all modules of a shape: modules of unequal sizes have factors of their own.

    Args:
        r: Rank of the outer factors and side of the cores, at least 1.
        alpha: The update is scaled by `alpha / r`.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from peft import get_peft_model
        >>> model = nn.Sequential(nn.Linear(768, 768), nn.Linear(768, 768))
        >>> model = get_peft_model(model, LotrConfig(r=2, target_modules=["0", "1"]))
        >>> model.get_nb_trainable_parameters()[0] == 2 * 768 * 2 + 2 * 2**2
        True
    """

    method: ClassVar[str] = "lotr"

    r: int = field(default=2)


class LotrFactors(nn.Module):
    """The outer factors of all modules of one shape.

    Args:
        group: The modules.
        config: The method's config.
    """

    def __init__(self, group: Group, config: LotrConfig) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.empty(group.in_features, config.r))
        self.V = nn.Parameter(torch.empty(config.r, group.out_features))
        nn.init.uniform_(self.U, -(group.fan_in**-0.5), group.fan_in**-0.5)
        nn.init.uniform_(self.V, -(config.r**-0.5), config.r**-0.5)


class LotrView(SharedView):
    """The core of one module, between the factors that it shares.

    Args:
        in_features: The layer's input size.
        out_features: The layer's output size.
        fan_in: How many inputs an output adds up.
        config: The method's config.
    """

    common_cls = LotrFactors

    def __init__(self, in_features: int, out_features: int, fan_in: int, config: LotrConfig) -> None:
        super().__init__(in_features, out_features, fan_in, config)
        # Zero cores make the identity, and learn at once, as U and V are not zero.
        self.core = nn.Parameter(torch.zeros(config.r, config.r))
        if config.init_weights is not True:
            nn.init.uniform_(self.core, -(config.r**-0.5), config.r**-0.5)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return U, of shape `(in_features, r)`, and `G @ V`, of shape `(r, out_features)`."""
        if self.core.is_meta:
            bring_back(self)
        right = self.part("V")
        return self.part("U"), self.core.to(right.device) @ right

    @classmethod
    def add_up(cls, new: Sequence[Self], given: Sequence[Sequence[Self]], scales: Sequence[float]) -> None:
        """Add the trains over (in, module, out) up, rounded where there is no room for the ranks of the sum."""
        target = _train(new)
        set_to_sum(target, [_train(views) for views in given], scales)
        for k, view in enumerate(new):
            view.core.copy_(target[1][:, k])


def _train(views: Sequence[LotrView]) -> list[Tensor]:
    """Give views of the outer factors and a copy of all cores, as the cores `(r, n, r')` of one train."""
    factors = views[0].shared
    return [factors.U[None], torch.stack([view.core for view in views], dim=1), factors.V[..., None]]


class LotrLinear(LinearAdapterLayer, method="lotr", network=LotrView):
    """A linear layer with LoTR adapters."""


class LotrModel(LinearModel):
    """The tuner of LoTR.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), LotrConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, LotrModel)
        True
    """

    prefix = "lotr_"
    tuner_layer_cls = LotrLinear
    target_module_mapping = QUERY_VALUE


register("lotr", LotrConfig, LotrModel)
