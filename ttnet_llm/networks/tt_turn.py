"""TT-Turn: turns of what the blocks of a model read, which are one tensor train."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ttnet_llm.linear import BlockTurn, Group, LinearModel, SharedConfig, Turn
from ttnet_llm.networks.ether import EtherLinear
from ttnet_llm.networks.places import Places, PlaceView
from ttnet_llm.registry import register
from ttnet_llm.tuner.targets import READERS, STATE_SPACE

STEP = 0.25  # of an entry of M for one of F's: at one learning rate, M is to move less than its basis


@dataclass
class TTTurnConfig(SharedConfig):
    """Configuration of TT-Turn: `H_s = I + sum_b F_b^T M_s F_b` turns what the modules in place s read.

    F_b holds r unit vectors of one of n diagonal blocks, and M_s, of shape `(r, r)`, is the same for all blocks: the
    turns of all places with inputs of one size are a train of three cores over (feature, place, feature), whose outer
    cores are one. Modules that read the same input, such as query, key and value of an attention, make up one place
    and share its turn. All fields of `AdapterConfig` apply too; by default every layer that reads the residual stream
    is adapted.

    Args:
        r: Rank of the train, at least 1.
        n: Number of diagonal blocks, at least 1: as many times r is the rank of every update, whatever the number of
            parameters. An input that cannot be cut into as many blocks of one size, of two entries or more, has the
            next smaller number that it can.
        scale: Every turn is `I + scale * (H - I)`.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from peft import get_peft_model
        >>> model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 64), nn.Linear(64, 32))
        >>> model = get_peft_model(model, TTTurnConfig(r=3, target_modules=["0", "2"]))
        >>> model.get_nb_trainable_parameters()[0] == 3 * 64 + 2 * 3**2
        True
    """

    method: ClassVar[str] = "tt_turn"
    rank_field: ClassVar[str] = "r"
    scale_field: ClassVar[str] = "scale"
    reads_weights: ClassVar[bool] = True

    r: int = field(default=9)
    n: int = field(default=8)
    scale: float = field(default=1.0)

    @property
    def update_scale(self) -> float:
        """The factor on what every turn changes."""
        return self.scale

    def _check_fields(self) -> None:
        super()._check_fields()
        self._check_positive("r")
        self._check_positive("n")


class TurnTrain(nn.Module):
    """The turns of all places with inputs of one size.

    Args:
        group: The modules.
        config: The method's config.
    """

    def __init__(self, group: Group, config: TTTurnConfig) -> None:
        super().__init__()
        d, r = group.in_features, config.r
        self.n = max(n for n in range(1, min(config.n, d // 2) + 1) if d % n == 0)
        self.places = Places.of(group)
        # Only directions count; blocks of norm 1 let a step of the optimiser turn them by its learning rate or so.
        self.features = nn.Parameter(torch.randn(r, d) * (self.n / d) ** 0.5)
        self.middle = nn.Parameter(torch.zeros(self.places.count, r, r))  # M / STEP
        if config.init_weights is not True:
            nn.init.normal_(self.middle, std=r**-0.5)


class TTTurnView(PlaceView):
    """The turn of one module's input."""

    common_cls = TurnTrain
    features = "features"

    def before(self) -> Turn:
        """Return the turn of the module's input, of rank n r."""
        blocks = self.part(self.features).unflatten(1, (self.shared.n, -1))  # (r, n, d / n)
        rows = F.normalize(blocks, dim=2).transpose(0, 1)
        return BlockTurn(rows.mT, self.part("middle")[self.place] * STEP @ rows)


class TTTurnLinear(EtherLinear, method="tt_turn", network=TTTurnView):
    """A linear layer with TT-Turn adapters."""


class TTTurnModel(LinearModel):
    """The tuner of TT-Turn.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), TTTurnConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, TTTurnModel)
        True
    """

    prefix = "tt_turn_"
    tuner_layer_cls = TTTurnLinear
    target_module_mapping: ClassVar[dict[str, list[str] | str]] = {}
    default_names = (READERS, STATE_SPACE)


register("tt_turn", TTTurnConfig, TTTurnModel)
