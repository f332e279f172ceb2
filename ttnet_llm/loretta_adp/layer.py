"""The tensorised bottleneck adapter around one frozen linear layer (arXiv:2402.11417, section 3.1)."""

from collections.abc import Callable, Hashable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ttnet_llm.loretta_adp.config import LorettaAdpConfig
from ttnet_llm.matrices.config import is_pair
from ttnet_llm.matrices.thin import along, pays_along
from ttnet_llm.tuner import AdapterLayer
from ttnet_llm.tuner.mixed import Matrices


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
        down_rank, up_rank = config.tt_rank if is_pair(config.tt_rank) else (config.tt_rank, config.tt_rank)
        self.down = config.matrix(size, config.bottleneck, down_rank)
        self.down_bias = nn.Parameter(torch.empty(config.bottleneck))
        self.non_linearity, self.activation = config.non_linearity, ACT2FN[config.non_linearity]
        self.up = config.matrix(size, config.bottleneck, up_rank)
        self.up_bias = nn.Parameter(torch.zeros(size))
        # Drawn as `nn.Linear(size, bottleneck)` and back; a zero `up` makes the identity.
        config.draw(self.down, 1 / (3 * size))
        config.draw(self.up, 1 / (3 * config.bottleneck), zero=True)
        nn.init.uniform_(self.down_bias, -(size**-0.5), size**-0.5)

    @property
    def learns_activation(self) -> bool:
        """Whether the non-linearity has parameters of its own."""
        return any(True for _ in self.activation.parameters())

    def matrices(self) -> tuple[Tensor, ...]:
        """Give the matrices down, their bias, those up, from the last to the first, and their bias."""
        return *self.down.chain(), self.down_bias, *self.up.chain(), self.up_bias

    def forward(self, h: Tensor, dropout: nn.Module, scaling: float) -> Tensor:  # h: (*batch, size)
        """Return `scaling * up(dropout(act(down(h))))`, each map as skinny products."""
        z = self.activation(_apply(h, [factor.T for factor in self.down.chain()], 1.0, self.down_bias))
        return _apply(dropout(z), self.up.chain()[::-1], scaling, self.up_bias)


def change_by_row(
    z: Tensor,  # (n, tokens, size)
    matrices: Sequence[Tensor],
    downs: int,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:  # (n, tokens, size)
    """Compute `up(act(down(z)))` with an adapter for each row.

    Args:
        z: The rows, `(n, tokens, size)`.
        matrices: The chain down, its bias, the chain up and its bias, each with the rows in front.
        downs: How many matrices the chain down has.
        activation: The non-linearity.

    Returns:
        What the adapters add, `(n, tokens, size)`.
    """
    matrices = [matrix.to(z) for matrix in matrices]
    inner = z
    for matrix in matrices[:downs]:
        inner = torch.bmm(inner, matrix)
    inner = activation(inner + matrices[downs][:, None])
    for matrix in reversed(matrices[downs + 1 : -1]):
        inner = torch.bmm(inner, matrix.mT)
    return inner + matrices[-1][:, None]


def _apply(x: Tensor, weights: Sequence[Tensor], scaling: float, bias: Tensor) -> Tensor:
    """Multiply by matrices one after the other, in `F.linear`'s layout, and scale the last product and the bias."""
    if pays_along(x, min(map(min, (weight.shape for weight in weights)))):
        weights = [along(weight) for weight in weights]
    for weight in weights[:-1]:
        x = F.linear(x, weight)
    return F.linear(x, weights[-1], bias) if scaling == 1.0 else F.linear(x, scaling * weights[-1], scaling * bias)


class LorettaAdpLinear(AdapterLayer, method="loretta_adp"):
    """A linear layer with LoRETTA_adp adapters on its input or output."""

    def make_network(self, config: LorettaAdpConfig) -> BottleneckNetwork:
        """Build the two trains of one adapter."""
        on_input = config.position == "input" or (config.position == "auto" and self.in_features < self.out_features)
        return BottleneckNetwork(self.in_features if on_input else self.out_features, config, on_input)

    def adapt_input(self, adapter: str, x: Tensor) -> Tensor:  # x: (*batch, in_features)
        """Return `x + scaling * up(act(down(x)))` where the adapter sits on the input."""
        return self._adapt(adapter, x) if self._on_input(adapter) else x

    def adapt_output(self, adapter: str, x: Tensor, result: Tensor) -> Tensor:
        """Return `result + scaling * up(act(down(result)))` where the adapter sits on the output."""
        return result if self._on_input(adapter) else self._adapt(adapter, result)

    @property
    def stacks(self) -> bool:
        """Whether adapters are computed together where a batch mixes them: in evaluation."""
        return not self.training

    def structure(self, adapter: str) -> Hashable:
        """Say what adapters agree in that can be stacked: not those that learn their non-linearity."""
        network = cast(BottleneckNetwork, self.networks[adapter])
        return None if network.learns_activation else super().structure(adapter)

    def stack(self, adapters: list[str]) -> Matrices:
        """Give the two chains of matrices of adapters, and their biases."""
        network = cast(BottleneckNetwork, self.networks[adapters[0]])
        made = self.ask_together(adapters, BottleneckNetwork.matrices)
        downs = len(network.down.chain())
        scales = self.scales(adapters, made[0])
        up, bias = made[downs + 1] * scales, made[-1] * scales[:, 0]
        tensors = *made[: downs + 1], up, *made[downs + 2 : -1], bias
        return Matrices(tensors, (network.on_input, downs, network.non_linearity))

    def adapt_input_by_row(self, matrices: Matrices, x: Tensor) -> Tensor:  # x: (n, *tokens, in_features)
        """Adapt the input, where the adapters sit there."""
        return self._adapt_by_row(matrices, x) if matrices.kind[0] else x

    def adapt_output_by_row(self, matrices: Matrices, x: Tensor, result: Tensor) -> Tensor:
        """Adapt the output, where the adapters sit there."""
        return result if matrices.kind[0] else self._adapt_by_row(matrices, result)

    def _adapt_by_row(self, matrices: Matrices, h: Tensor) -> Tensor:
        _, downs, non_linearity = matrices.kind
        z = self._cast_input_dtype(h, matrices.tensors[-1].dtype).reshape(len(h), -1, h.shape[-1])
        return (h + change_by_row(z, matrices.tensors, downs, ACT2FN[non_linearity]).view(h.shape)).to(h.dtype)

    def _on_input(self, adapter: str) -> bool:
        return cast(BottleneckNetwork, self.networks[adapter]).on_input

    def _adapt(self, adapter: str, h: Tensor) -> Tensor:
        network = cast(BottleneckNetwork, self.networks[adapter])
        z = self._cast_input_dtype(h, network.up_bias.dtype)
        return (h + network(z, self.dropouts[adapter], self.scalings[adapter])).to(h.dtype)
