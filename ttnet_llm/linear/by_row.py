"""Layers of linear methods where a batch mixes adapters: the thin factors of all of them, row by row in one product."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ttnet.nn import TTEmbedding
from ttnet.nn.offload import read_parameter
from ttnet_llm.linear.network import Anchored, FactorNetwork
from ttnet_llm.linear.sharing import SharedView
from ttnet_llm.linear.turns import Turn
from ttnet_llm.matrices.by_row import add_thin
from ttnet_llm.tuner import AdapterLayer
from ttnet_llm.tuner.mixed import Matrices


class ByRowLayer(AdapterLayer):
    """Base of the layer of every linear method: what it does with an adapter for each row of a batch."""

    _held: dict[str, tuple[Tensor, ...]]

    def factors(self, adapter: str) -> tuple[Tensor, Tensor]:
        """Give an adapter's thin factors."""
        raise NotImplementedError

    def turns(self, adapter: str) -> tuple[Turn | None, Turn | None]:
        """Give an adapter's turns of the layer's input and output."""
        raise NotImplementedError

    @property
    def is_embedding(self) -> bool:
        """Whether the base layer is an embedding, dense or a train."""
        return isinstance(self.get_base_layer(), nn.Embedding | TTEmbedding)

    @property
    def stacks(self) -> bool:
        """Whether adapters are computed together where a batch mixes them: those of linear layers, in evaluation."""
        return not self.is_embedding and not self.training

    def network_parts(self, adapter: str) -> dict[str, nn.Module]:
        """Give the network of one adapter, and the one that it shares with other modules."""
        network = self.networks[adapter]
        inner = network.network if isinstance(network, Anchored) else network
        shared = {"shared": inner.shared} if isinstance(inner, SharedView) and not hasattr(inner, "common") else {}
        return {"network": network, **shared}

    def stack(self, adapters: list[str]) -> Matrices:
        """Give the thin factors of adapters, and those of their turns."""
        if all(adapter in self._held for adapter in adapters):
            turns = [turn is not None for turn in self.turns(adapters[0])]
            each = [_pairs(self.factors(adapter), *self.turns(adapter)) for adapter in adapters]
            made = tuple(torch.stack(matrices) for matrices in zip(*each, strict=True))
        else:
            turns = []

            def ask(network: FactorNetwork) -> tuple[Tensor, ...]:
                before, after = network.before(), network.after()
                turns[:] = before is not None, after is not None
                return _pairs(network.factors(), before, after)

            made = self.ask_together(adapters, ask)
        if any(self.scalings[adapter] != 1 for adapter in adapters):
            scales = self.scales(adapters, made[1])
            made = tuple(matrix * scales if place % 2 else matrix for place, matrix in enumerate(made))
        return Matrices(made, turns)

    def adapt_input_by_row(self, matrices: Matrices, x: Tensor) -> Tensor:  # x: (n, *tokens, in_features)
        """Turn the layer's input, where the networks do."""
        return self._turned_by_row(x, matrices.tensors[2:4]) if matrices.kind[0] else x

    def adapt_output_by_row(self, matrices: Matrices, x: Tensor, result: Tensor) -> Tensor:
        """Turn the output, where the networks do, and add the updates' contributions."""
        if matrices.kind[1]:
            result = self._turned_by_row(result, matrices.tensors[-2:], read_parameter(self.get_base_layer(), "bias"))
        left, right = matrices.tensors[:2]
        if not left.shape[2]:
            return result
        x = _by_row(self._cast_input_dtype(x, left.dtype))
        if x.dtype == result.dtype:
            return add_thin(_by_row(result), x, left, right).view(result.shape)
        update = torch.bmm(torch.bmm(x, left.to(x.device)), right.to(x.device))
        return (result + update.view(result.shape)).to(result.dtype)

    def _turned_by_row(self, x: Tensor, turn: Sequence[Tensor], shift: Tensor | None = None) -> Tensor:
        down, up = turn
        to = _by_row(self._cast_input_dtype(x, down.dtype))
        return add_thin(to, to, down, up, shift=shift).to(x.dtype).view(x.shape)


def _pairs(factors: tuple[Tensor, Tensor], *turns: Turn | None) -> tuple[Tensor, ...]:
    return *factors, *(factor for turn in turns if turn is not None for factor in turn)


def _by_row(x: Tensor) -> Tensor:  # (n, *tokens, d) -> (n, tokens, d)
    return x.reshape(len(x), -1, x.shape[-1])
