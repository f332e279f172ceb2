"""Places: modules of a model that read one input, and share the turn of it."""

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from ttnet.errors import TTValueError
from ttnet_llm.linear import Group, SharedConfig, SharedView, Turn
from ttnet_llm.tuner.targets import READERS


@dataclass(frozen=True)
class Places:
    """What the modules of a group read: query, key and value of an attention one input, gate and up another.

    Args:
        of_projection: The place that a projection has among those of its layer.
        in_layer: How many a layer has.
        count: How many all layers have.

    Example:
        >>> names = ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"]
        >>> Places.of(Group.of([f"layers.{k}.{name}" for k in range(2) for name in names], 8, 8, 8, head_size=4))
        Places(of_projection=(0, 0, 1), in_layer=2, count=4)
    """

    of_projection: tuple[int, ...]
    in_layer: int
    count: int

    @classmethod
    def of(cls, group: Group) -> Self:
        """Find the places of a group.

        Args:
            group: The modules.

        Returns:
            Their places.
        """
        readings = [_reading(projection) for projection in group.projections]
        unique = list(dict.fromkeys(readings))
        return cls(tuple(unique.index(reading) for reading in readings), len(unique), len(group.layers) * len(unique))


class PlaceView(SharedView):
    """The turn of one module's input, among those of all places with inputs of one size.

    Args:
        in_features: The layer's input size.
        out_features: The layer's output size.
        fan_in: How many inputs an output adds up.
        config: The method's config.

    Raises:
        TTValueError: If the layer has a single input, which cannot be turned.
    """

    features: ClassVar[str]  # name of a core of the common network

    def __init__(self, in_features: int, out_features: int, fan_in: int, config: SharedConfig) -> None:
        super().__init__(in_features, out_features, fan_in, config)
        if in_features == 1:
            raise TTValueError(
                "target_modules names a layer with one input, and a single number cannot be turned; leave it out."
            )

    @classmethod
    def shape(cls, in_features: int, out_features: int, fan_in: int) -> tuple[int, int, int]:
        """Let all modules with inputs of one size share their turns, whatever comes out of them."""
        return in_features, in_features, fan_in

    @property
    def place(self) -> int:
        """The module's place, counted over all layers from 0."""
        places: Places = self.shared.places
        return self.layer * places.in_layer + places.of_projection[self.projection]

    def before(self) -> Turn:
        """Return the turn of the module's input."""
        raise NotImplementedError

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return factors without columns and rows: nothing is added to the weight."""
        features = self.part(self.features)
        return features.new_zeros(self.in_features, 0), features.new_zeros(0, self.out_features)


def _reading(projection: str) -> str:
    """Name what a module reads: what its siblings do, if it is known to read the residual stream."""
    known = any(f".{projection}".endswith(f".{name}") for name in READERS)
    return projection.rpartition(".")[0] if known else f"{projection} alone"
