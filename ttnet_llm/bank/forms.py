"""What the networks of one module make of many adapters at once: the matrices of every row of a batch.

A network is asked once for all of them: its own code runs under `torch.vmap` with the tensors of many adapters in the
place of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ttnet_llm.bank.rows import RowLayout
from ttnet_llm.linear import LinearAdapterLayer, ParameterLayer
from ttnet_llm.linear.network import FactorNetwork
from ttnet_llm.loretta_adp.layer import BottleneckNetwork, change_by_row
from ttnet_llm.matrices.by_row import add_thin
from ttnet_llm.tuner import AdapterLayer

Made = tuple[Tensor, ...]  # each of shape (n, ...)
_SMALL = 6  # how much longer small products take for a number that they write than those that form the matrices
_PATTERN = threading.Lock()  # as the pattern's tensors are others while it is asked


class Form(nn.Module):
    """Base of what a module's network makes: matrices by row, and how they are used.

    Args:
        layer: The module with one adapter of the configuration, which serves as a pattern.
        adapter: Its name.
        keys: The checkpoint's keys of the network's tensors, by their names in it and, for networks that modules share,
            in `shared`.
    """

    ends: tuple[int, ...]  # the matrices that are 0 for rows without an adapter

    def __init__(self, layer: AdapterLayer, adapter: str, keys: dict[str, str]) -> None:
        super().__init__()
        self.network = layer.networks[adapter]
        if "shared" in {name.partition(".")[0] for name in keys}:
            self.shared = cast(Any, self.network).shared
        self.scaling, self.dropout = layer.scalings[adapter], _dropout(layer.dropouts[adapter])
        self.keys = keys

    def matrices(self) -> Made:
        """Ask the network for its matrices."""
        raise NotImplementedError

    def forward(self, *x: Tensor) -> Any:
        """Do the same, or multiply tokens `(tokens, in)` core by core, as `functional_call` calls it."""
        return cast(Any, self.network).multiply(*x) if x else self.matrices()

    def make(
        self,
        rows: Tensor,  # (u, size)
        layout: RowLayout,
    ) -> Made:
        """Make the matrices of many adapters.

        Args:
            rows: The adapters, `(u, size)`.
            layout: Where their tensors stand.

        Returns:
            The matrices, each of shape `(u, ...)`.
        """
        made: Made = self._ask(rows, layout)
        return made

    def _ask(self, rows: Tensor, layout: RowLayout, *x: Tensor) -> Any:
        tensors = {name: layout.take(rows, key) for name, key in self.keys.items()}
        with _PATTERN:
            return torch.vmap(lambda given, *x: functional_call(self, given, x))(tensors, *x)

    def takes_cores(self, tokens: int) -> bool:
        """Say whether so many tokens of a row are multiplied core by core where no matrices are kept.

        They are where far fewer numbers are written, and read again, on that way than by forming the matrices.

        Args:
            tokens: How many there are in a row.

        Returns:
            Whether they are; never where there is no such way.
        """
        return False

    def multiply(
        self,
        rows: Tensor,  # (n, size)
        layout: RowLayout,
        x: Tensor,  # (n, tokens, in)
        training: bool,
    ) -> Tensor:  # (n, tokens, out)
        """Multiply the tokens of each row with its adapter, core by core.

        Args:
            rows: The adapters, `(n, size)`.
            layout: Where their tensors stand.
            x: The tokens, `(n, tokens, in)`.
            training: Whether to drop some of them.

        Returns:
            What the adapters add, `(n, tokens, out)`.
        """
        x = _wide(x, rows)
        update: Tensor = self._ask(rows.to(x.dtype), layout, self._dropped(x, training))
        return self.scaling * update

    def without(
        self,
        made: Made,
        named: Tensor,  # (n,)
    ) -> Made:
        """Make the matrices of rows without an adapter such that they change nothing.

        Args:
            made: The matrices, each of shape `(n, ...)`.
            named: Which rows have an adapter, `(n,)`.

        Returns:
            The matrices.
        """
        return tuple(
            torch.where(named.view(-1, *[1] * (matrix.ndim - 1)), matrix, 0) if place in self.ends else matrix
            for place, matrix in enumerate(made)
        )

    def _dropped(self, x: Tensor, training: bool) -> Tensor:
        return F.dropout(x, self.dropout, training) if self.dropout else x

    def before(self, x: Tensor, made: Made, training: bool) -> Tensor:  # x: (n, tokens, in)
        """Change what goes into the layer."""
        return x

    def after(self, x: Tensor, result: Tensor, made: Made, training: bool, bias: Tensor | None) -> Tensor:
        """Change what comes out of it; `x` is `(n, tokens, in)` and `result` `(n, tokens, out)`."""
        return result


class LinearForm(Form):
    """Thin factors of the update, and of the turns before and after the layer, by row."""

    def __init__(self, layer: AdapterLayer, adapter: str, keys: dict[str, str]) -> None:
        super().__init__(layer, adapter, keys)
        network = cast(FactorNetwork, self.network)
        self.adds = bool(network.factors()[0].shape[1])
        self.turns_input, self.turns_output = network.before() is not None, network.after() is not None
        self.ends = tuple(range(1, 2 * (self.adds + self.turns_input + self.turns_output), 2))

    def takes_cores(self, tokens: int) -> bool:
        """Say whether so many tokens of a row are multiplied core by core where no matrices are kept."""
        moves = cast(FactorNetwork, self.network).moves
        return moves is not None and _SMALL * tokens * moves[1] < moves[0]

    def matrices(self) -> Made:
        """Give L and R, and D and E of either turn, as far as there are such."""
        network = cast(FactorNetwork, self.network)
        pairs: list[Any] = [network.factors()] if self.adds else []
        pairs += [turn for turn in (network.before(), network.after()) if turn is not None]
        return tuple(factor for pair in pairs for factor in pair)

    def before(self, x: Tensor, made: Made, training: bool) -> Tensor:
        """Turn the input."""
        if not self.turns_input:
            return x
        down, up = made[2 * self.adds : 2 * self.adds + 2]
        wide = _wide(x, down)
        return add_thin(wide, self._dropped(wide, training), down, up, self.scaling).to(x.dtype)

    def after(self, x: Tensor, result: Tensor, made: Made, training: bool, bias: Tensor | None) -> Tensor:
        """Turn the output, its bias left out, and add the update's contribution."""
        dtype = result.dtype
        if self.turns_output:
            down, up = made[-2:]
            wide = _wide(result, down)
            result = add_thin(wide, self._dropped(wide, training), down, up, self.scaling, bias)
        if self.adds:
            left, right = made[:2]
            wide = _wide(result, left)
            result = add_thin(wide, self._dropped(x.to(wide), training), left, right, self.scaling)
        return result.to(dtype)


class BottleneckForm(Form):
    """The two chains of matrices of a bottleneck adapter and its biases, by row."""

    def __init__(self, layer: AdapterLayer, adapter: str, keys: dict[str, str]) -> None:
        super().__init__(layer, adapter, keys)
        network = cast(BottleneckNetwork, self.network)
        self.on_input = network.on_input
        self.downs, ups = len(network.down.chain()), len(network.up.chain())
        self.ends = (self.downs + 1, self.downs + 1 + ups)  # the last matrix up, and its bias

    def matrices(self) -> Made:
        """Give the matrices down, their bias, those up, from the last to the first, and their bias."""
        return cast(BottleneckNetwork, self.network).matrices()

    def _adapt(self, h: Tensor, made: Made, training: bool) -> Tensor:
        z, activation = _wide(h, made[-1]), cast(Any, self.network).activation
        change = change_by_row(z, made, self.downs, lambda inner: self._dropped(activation(inner), training))
        return (z + self.scaling * change).to(h.dtype)

    def before(self, x: Tensor, made: Made, training: bool) -> Tensor:
        """Adapt the input, where the adapter sits there."""
        return self._adapt(x, made, training) if self.on_input else x

    def after(self, x: Tensor, result: Tensor, made: Made, training: bool, bias: Tensor | None) -> Tensor:
        """Adapt the output, where the adapter sits there."""
        return result if self.on_input else self._adapt(result, made, training)


def _wide(x: Tensor, matrix: Tensor) -> Tensor:
    """Give a tensor in the wider of two dtypes, so that neither it nor the adapter is rounded."""
    return x.to(torch.promote_types(x.dtype, matrix.dtype))


def _dropout(module: nn.Module) -> float:
    return module.p if isinstance(module, nn.Dropout) else 0.0


def form_of(layer: AdapterLayer) -> Callable[[AdapterLayer, str, dict[str, str]], Form] | None:
    """Say how the adapters of a layer are used by row; `None` where there is no way."""
    if isinstance(layer, LinearAdapterLayer):
        return None if isinstance(layer, ParameterLayer) or layer.is_embedding else LinearForm
    return BottleneckForm if hasattr(layer, "_on_input") else None
