"""The tensorised bottleneck adapter around one frozen linear layer (arXiv:2402.11417, section 3.1)."""

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
    """

    def __init__(self, size: int, config: LorettaAdpConfig) -> None:
        super().__init__()
        layout = TrainLayout.choose(size, config.bottleneck, rank=config.tt_rank, modes=config.modes)
        self.down = TrainMatrix(layout)
        self.down_bias = nn.Parameter(torch.zeros(config.bottleneck))
        self.activation = ACT2FN[config.non_linearity]
        self.up = TrainMatrix(layout)
        self.up_bias = nn.Parameter(torch.zeros(size))
        # The spreads of `nn.Linear(size, bottleneck)` and back; a zero `up` makes the identity.
        self.down.reset_parameters(1 / (3 * size))
        self.up.reset_parameters(1 / (3 * config.bottleneck), zero=config.init_weights)

    def forward(self, h: Tensor, dropout: nn.Module, scaling: float) -> Tensor:  # h: (*batch, size)
        """Return `scaling * up(dropout(act(down(h))))`, each map as two skinny products."""
        left, right = self.down.factors()
        z = self.activation(F.linear(h @ left, right.T, self.down_bias))
        left, right = self.up.factors()
        return F.linear(dropout(z) @ right.T, scaling * left, scaling * self.up_bias)


class LorettaAdpLinear(AdapterLayer, method="loretta_adp"):
    """A linear layer with LoRETTA_adp adapters on its input or output."""

    def make_network(self, config: LorettaAdpConfig) -> BottleneckNetwork:  # type: ignore[override]
        """Build the two trains of one adapter."""
        on_input = config.position == "input" or (config.position == "auto" and self.in_features < self.out_features)
        network = BottleneckNetwork(self.in_features if on_input else self.out_features, config)
        network.on_input = on_input
        return network

    def scaling_of(self, config: LorettaAdpConfig) -> float:  # type: ignore[override]
        """Return the config's `scaling`."""
        return config.scaling

    def adapt_input(self, adapter: str, x: Tensor) -> Tensor:  # x: (*batch, in_features)
        """Return `x + scaling * up(act(down(x)))` where the adapter sits on the input."""
        return self._adapt(adapter, x) if self.networks[adapter].on_input else x

    def adapt_output(self, adapter: str, x: Tensor, result: Tensor) -> Tensor:
        """Return `result + scaling * up(act(down(result)))` where the adapter sits on the output."""
        return result if self.networks[adapter].on_input else self._adapt(adapter, result)

    def _adapt(self, adapter: str, h: Tensor) -> Tensor:
        network = self.networks[adapter]
        cast = self._cast_input_dtype(h, network.up_bias.dtype)
        return (h + network(cast, self.dropouts[adapter], self.scalings[adapter])).to(h.dtype)
