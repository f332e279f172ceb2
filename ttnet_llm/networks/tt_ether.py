"""TT-ETHER: turns of what the blocks of a model read, whose vectors are one tensor train."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ttnet.errors import TTValueError
from ttnet_llm.linear import Group, LinearModel, SharedConfig, Turn
from ttnet_llm.networks.ether import EtherLinear, most_blocks, restored_reflection
from ttnet_llm.networks.places import Places, PlaceView
from ttnet_llm.registry import register
from ttnet_llm.tuner.targets import READERS, STATE_SPACE


@dataclass
class TTEtherConfig(SharedConfig):
    """Configuration of TT-ETHER: `H_s = I - U_s U_s^T + V_s V_s^T` turns what the modules in place s read.

    The turns are ETHER+'s (arXiv:2405.20271): U_s and V_s hold one unit vector for each of n diagonal blocks. Modules
    that read the same input, such as query, key and value of an attention, make up one place and share its turn; and
    the vectors of all places with inputs of one size are the rows of two trains of two cores, over (place, feature),
    or of one over (side, place, feature). All fields of `AdapterConfig` apply too; by default every layer that reads
    the residual stream is adapted.

    Args:
        r: Rank of the trains, at least 1, or 2 if `tied`; `None` gives every place its own vectors, as does a rank that
            is no less than the number of a train's rows: that of places, or twice that if `tied`.
        n: Number of diagonal blocks, at least 1; at most half of the input size, as a block of one entry cannot turn.
        scale: Every turn is `I + scale * (H - I)`.
        tied: Whether the vectors of U and V are rows of one train, so that a rank costs half as many parameters.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from peft import get_peft_model
        >>> model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 64), nn.Linear(64, 32))
        >>> model = get_peft_model(model, TTEtherConfig(r=1, target_modules=["0", "2"]))
        >>> model.get_nb_trainable_parameters()[0] == 2 * (2 + 64)
        True
    """

    method: ClassVar[str] = "tt_ether"
    rank_field: ClassVar[str] = "r"
    scale_field: ClassVar[str] = "scale"
    reads_weights: ClassVar[bool] = True

    r: int | None = field(default=4)
    n: int = field(default=4)
    scale: float = field(default=1.0)
    tied: bool = field(default=False)

    @property
    def update_scale(self) -> float:
        """The factor on what every turn changes."""
        return self.scale

    def _check_fields(self) -> None:
        super()._check_fields()
        if self.r is not None:
            self._check_positive("r")
        if self.r == 1 and self.tied:
            raise TTValueError(
                "r is 1 with tied=True, where both vectors of every turn are one direction, and nothing is turned; "
                "expected at least 2, or tied=False."
            )
        self._check_positive("n")


class VectorTrain(nn.Module):
    """A vector for every place, as a train over (place, feature).

    Args:
        places: Number of places.
        size: Number of features, d.
        r: Rank of the train; `None` for the vectors themselves.
        variance: Mean square of the entries of fresh vectors.
    """

    def __init__(self, places: int, size: int, r: int | None, variance: float) -> None:
        super().__init__()
        self.places = None if r is None else nn.Parameter(torch.randn(places, r) * r**-0.5)
        self.features: nn.Parameter | None = nn.Parameter(torch.randn(r or places, size) * variance**0.5)


class TTEtherTurns(nn.Module):
    """The turns of all places with inputs of one size.

    Args:
        group: The modules.
        config: The method's config.
    """

    def __init__(self, group: Group, config: TTEtherConfig) -> None:
        super().__init__()
        self.n = most_blocks(config.n, group.in_features)
        self.places = Places.of(group)
        places = self.places.count
        rows = 2 * places if config.tied else places  # of a train
        r = config.r if config.r is not None and config.r < rows else None
        # Only directions count; blocks of norm 1 let a step of the optimiser turn them by its learning rate or so.
        sizes = (places, group.in_features, r, self.n / group.in_features)
        self.mirror, self.restore = VectorTrain(*sizes), VectorTrain(*sizes)
        if config.init_weights is True:
            self.restore.load_state_dict(self.mirror.state_dict())
        if config.tied and r is not None:
            self.restore.features = None  # both sides take those of `mirror`


class TTEtherView(PlaceView):
    """The turn of one module's input."""

    common_cls = TTEtherTurns
    features = "mirror.features"

    def before(self) -> Turn:
        """Return the turn of the module's input."""
        mirror, restore = self._vector("mirror"), self._vector("restore")
        return restored_reflection(mirror, restore, self.shared.n)

    def _vector(self, name: str) -> Tensor:  # (d,)
        turns: TTEtherTurns = self.shared
        train: VectorTrain = getattr(turns, name)
        features = self.part(self.features if train.features is None else f"{name}.features")
        if train.places is None:
            return features[self.place]
        return self.part(f"{name}.places")[self.place] @ features


class TTEtherLinear(EtherLinear, method="tt_ether", network=TTEtherView):
    """A linear layer with TT-ETHER adapters."""


class TTEtherModel(LinearModel):
    """The tuner of TT-ETHER.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), TTEtherConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, TTEtherModel)
        True
    """

    prefix = "tt_ether_"
    tuner_layer_cls = TTEtherLinear
    target_module_mapping: ClassVar[dict[str, list[str] | str]] = {}
    default_names = (READERS, STATE_SPACE)


register("tt_ether", TTEtherConfig, TTEtherModel)
