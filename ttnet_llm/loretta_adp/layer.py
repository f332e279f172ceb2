"""The tensorised bottleneck adapter around one frozen linear layer (arXiv:2402.11417, section 3.1)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ttnet_llm.loretta_adp.config import LorettaAdpConfig
from ttnet_llm.train_matrix import TrainLayout, TrainMatrix
from ttnet_llm.tuner import AdapterLayer


class BottleneckNetwork(nn.Module):
    """The map `up(act(down(h)))` with both matrices tensor trains.

    Both are held as tall matrices (up as its transpose), as the paper's tables have them.

    Args:
        size: Size of `h`.
        config: The method's config.
        on_input: Whether `h` is the layer's input; otherwise it is its output.
    """

    def __init__(self, size: int, config: LorettaAdpConfig, on_input: bool) -> None:
        super().__init__()
        self.on_input = on_input
        layout = TrainLayout.choose(size, config.bottleneck, rank=config.tt_rank, modes=config.modes)
        self.down = TrainMatrix(layout)
        self.down_bias = nn.Parameter(torch.empty(config.bottleneck))
        self.activation = ACT2FN[config.non_linearity]
        self.up = TrainMatrix(layout)
        self.up_bias = nn.Parameter(torch.zeros(size))
        # Drawn as `nn.Linear(size, bottleneck)` and back; a zero `up` makes the identity.
        self.down.reset_parameters(1 / (3 * size))
        self.up.reset_parameters(1 / (3 * config.bottleneck), zero=config.init_weights)
        nn.init.uniform_(self.down_bias, -(size**-0.5), size**-0.5)

    def forward(self, h: Tensor, dropout: nn.Module, scaling: float) -> Tensor:  # h: (*batch, size)
        """Return `scaling * up(dropout(act(down(h))))`, each map as two skinny products."""
        left, right = self.down.factors()
        z = self.activation(F.linear(h @ left, right.T, self.down_bias))
        left, right = self.up.factors()
        return F.linear(dropout(z) @ right.T, scaling * left, scaling * self.up_bias)


class LorettaAdpLinear(AdapterLayer, method="loretta_adp"):
    """A linear layer with LoRETTA_adp adapters on its input or output."""

    def make_network(self, config: LorettaAdpConfig) -> BottleneckNetwork:
        """Build the two trains of one adapter."""
        on_input = config.position == "input" or (config.position == "auto" and self.in_features < self.out_features)
        return BottleneckNetwork(self.in_features if on_input else self.out_features, config, on_input)

    def scaling_of(self, config: LorettaAdpConfig) -> float:
        """Return the config's `scaling`."""
        return config.scaling

    def adapt_input(self, adapter: str, x: Tensor) -> Tensor:  # x: (*batch, in_features)
        """Return `x + scaling * up(act(down(x)))` where the adapter sits on the input."""
        return self._adapt(adapter, x) if self._on_input(adapter) else x

    def adapt_output(self, adapter: str, x: Tensor, result: Tensor) -> Tensor:
        """Return `result + scaling * up(act(down(result)))` where the adapter sits on the output."""
        return result if self._on_input(adapter) else self._adapt(adapter, result)

    def _on_input(self, adapter: str) -> bool:
        return cast(BottleneckNetwork, self.networks[adapter]).on_input

    def _adapt(self, adapter: str, h: Tensor) -> Tensor:
        network = cast(BottleneckNetwork, self.networks[adapter])
        z = self._cast_input_dtype(h, network.up_bias.dtype)
        return (h + network(z, self.dropouts[adapter], self.scalings[adapter])).to(h.dtype)
