"""ETHER and ETHER+: hyperplane reflections of what goes into a layer and of what comes out of it (arXiv:2405.20271)."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ttnet.errors import TTValueError
from ttnet.nn import TTLinear
from ttnet.nn.offload import bring_back
from ttnet_llm.linear import FactorNetwork, LinearAdapterLayer, LinearModel, Turn
from ttnet_llm.networks.targets import QUERY_VALUE
from ttnet_llm.registry import register
from ttnet_llm.tuner import AdapterConfig

SIDES = ("both", "input", "output")


@dataclass
class EtherConfig(AdapterConfig):
    """Configuration of ETHER+, `H = I - U U^T + V V^T`, and of ETHER, `H = I - 2 U U^T`, on either side of the weight.

    U and V hold one unit vector for each of n diagonal blocks, so that n does not change the number of parameters: d or
    2 d for a side of size d. Where n does not divide a side, the blocks differ by one in size. All fields of
    `AdapterConfig` apply too; by default the query and value projections are adapted.

    Args:
        n: Number of diagonal blocks, at least 1; at most half of a side, as a block of one entry cannot turn.
        plus: Whether to train ETHER+, which starts as the identity. A reflection is never the identity: ETHER starts
            from random ones, and `init_weights=False` has to say so.
        sides: What is turned: the layer's `"input"`, its `"output"`, or `"both"`; a side of one entry is left alone.
        scale: Every turn is `I + scale * (H - I)`.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from peft import get_peft_model
        >>> model = nn.Sequential(nn.Linear(768, 512))
        >>> model = get_peft_model(model, EtherConfig(n=4, target_modules=["0"]))
        >>> model.get_nb_trainable_parameters()[0] == 2 * (768 + 512)
        True
    """

    method: ClassVar[str] = "ether"
    rank_field: ClassVar[str] = "n"
    scale_field: ClassVar[str] = "scale"
    reads_weights: ClassVar[bool] = True

    n: int = field(default=4)
    plus: bool = field(default=True)
    sides: str = field(default="both")
    scale: float = field(default=1.0)

    @property
    def update_scale(self) -> float:
        """The factor on what every turn changes."""
        return self.scale

    def _check_fields(self) -> None:
        super()._check_fields()
        self._check_positive("n")
        self._check_choice("plus", (True, False))
        self._check_choice("sides", SIDES)
        if not self.plus and self.init_weights is not False:
            raise TTValueError(
                f"init_weights is {self.init_weights!r} and plus is False, but a reflection is never the identity; "
                "pass init_weights=False to start from random ones, or plus=True."
            )


class Reflections(nn.Module):
    """The reflections of one side, in n blocks.

    Args:
        size: The side, d.
        n: Number of blocks; at most d / 2, as a block of one entry could not turn.
        plus: Whether a second vector restores what the first one takes away.
        identity: Whether both vectors are the same at the start.
    """

    def __init__(self, size: int, n: int, plus: bool, identity: bool) -> None:
        super().__init__()
        self.n = most_blocks(n, size)
        # Only directions count; blocks of norm 1 let a step of the optimiser turn them by its learning rate or so.
        self.mirror = nn.Parameter(torch.randn(size) * (self.n / size) ** 0.5)
        self.restore: nn.Parameter | None = None
        if plus:
            fresh = self.mirror.detach().clone() if identity else torch.randn(size) * (self.n / size) ** 0.5
            self.restore = nn.Parameter(fresh)

    def turn(self) -> Turn:
        """Return `H - I` as a product of thin factors, of rank n, or 2 n with a second vector."""
        if self.mirror.is_meta:
            bring_back(self)
        if self.restore is not None:
            return restored_reflection(self.mirror, self.restore, self.n)
        u = unit_blocks(self.mirror, self.n)
        return Turn(-2 * u.mT, u)


def most_blocks(n: int, size: int) -> int:
    """Cap a number of blocks: a block of one entry could not turn.

    Args:
        n: The number asked for.
        size: The side, d.

    Returns:
        At most d / 2, and at least 1.

    Example:
        >>> most_blocks(4, 384), most_blocks(4, 5), most_blocks(4, 1)
        (4, 2, 1)
    """
    return min(n, max(size // 2, 1))


def unit_blocks(vector: Tensor, n: int) -> Tensor:
    """Cut a vector into blocks of norm 1, each in a row of its own.

    Args:
        vector: Shape `(d,)`.
        n: Number of blocks, at least 1.

    Returns:
        U^T, of shape `(n, d)`, with orthonormal rows.

    Example:
        >>> unit_blocks(torch.tensor([3.0, 4.0, 5.0, 0.0]), 2)
        tensor([[0.6000, 0.8000, 0.0000, 0.0000],
                [0.0000, 0.0000, 1.0000, 0.0000]])
    """
    d = len(vector)
    block = torch.arange(d, device=vector.device) * n // d
    is_own = block == torch.arange(n, device=vector.device)[:, None]
    # A product takes a quarter of the time that `torch.where` does.
    return F.normalize(vector * is_own.to(vector.dtype), dim=1)


def restored_reflection(mirror: Tensor, restore: Tensor, n: int) -> Turn:
    """Give ETHER+'s turn, `H - I = V V^T - U U^T`.

    Args:
        mirror: The vector of U, `(d,)`.
        restore: The vector of V, `(d,)`.
        n: Number of blocks.

    Returns:
        The turn, of rank 2 n; zero in every bit where the two vectors are the same.

    Example:
        >>> turn = restored_reflection(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 1)
        >>> turn.down @ turn.up
        tensor([[-1.,  0.],
                [ 0.,  1.]])
    """
    u, v = unit_blocks(mirror, n), unit_blocks(restore, n)
    less, more = v - u, v + u
    # Half the sum of mixed products rather than the difference of two, for the sake of that zero.
    return Turn(torch.cat([less / 2, more / 2]).mT, torch.cat([more, less]))


class EtherNetwork(FactorNetwork):
    """The reflections of one layer's input and output.

    Args:
        in_features: The layer's input size.
        out_features: The layer's output size.
        fan_in: How many inputs an output adds up.
        config: The method's config, as it holds for the layer.

    Raises:
        TTValueError: If there is nothing to turn, as the side has a single entry.
    """

    def __init__(self, in_features: int, out_features: int, fan_in: int, config: EtherConfig) -> None:
        super().__init__(in_features, out_features, fan_in, config)
        identity = config.init_weights is True
        sizes = {"input": in_features, "output": out_features}
        chosen = [side for side in sizes if config.sides in (side, "both") and sizes[side] > 1]
        if not chosen:
            raise TTValueError(
                f"sides is {config.sides!r}, and a layer has {in_features} inputs and {out_features} outputs: a single "
                "number cannot be turned. Choose other sides, or leave the layer out of target_modules."
            )
        for side in chosen:
            self.add_module(side, Reflections(sizes[side], config.n, config.plus, identity))

    def before(self) -> Turn | None:
        """Return the reflections of the input."""
        return self._turn("input")

    def after(self) -> Turn | None:
        """Return the reflections of the output."""
        return self._turn("output")

    def _turn(self, side: str) -> Turn | None:
        reflections = self._modules.get(side)
        return reflections.turn() if isinstance(reflections, Reflections) else None

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return factors without columns and rows: nothing is added to the weight."""
        weight = next(self.parameters())
        if weight.is_meta:
            bring_back(self)
            weight = next(self.parameters())
        return weight.new_zeros(self.in_features, 0), weight.new_zeros(0, self.out_features)


class EtherLinear(LinearAdapterLayer, method="ether", network=EtherNetwork):
    """A linear layer with ETHER adapters."""

    base_types = (nn.Linear, Conv1D, TTLinear)


class EtherModel(LinearModel):
    """The tuner of ETHER.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), EtherConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, EtherModel)
        True
    """

    prefix = "ether_"
    tuner_layer_cls = EtherLinear
    target_module_mapping = QUERY_VALUE


register("ether", EtherConfig, EtherModel)
