"""What a linear method's network is: something that answers with thin factors."""

import copy
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttnet.errors import TTTypeError
from ttnet_llm.linear.turns import Turn
from ttnet_llm.tuner import AdapterConfig


class FactorNetwork(nn.Module):
    """Base of the networks of linear methods: what they do to a layer, in thin factors.

    A layer with the weight M of shape `(in, out)` becomes `H @ M @ H' + L @ R`: `factors` are added to the weight, and
    turns (`before`, `after`) change what goes into the layer and what comes out of it, without a look at the weight.

    Args:
        in_features: The layer's input size.
        out_features: The layer's output size.
        fan_in: How many inputs an output adds up, which the spread of fresh weights goes by: all of a linear layer's,
            one row of an embedding.
        config: The method's config, as it holds for the layer.

    Example:
        >>> from ttnet_llm.linear import LinearConfig
        >>> class Row(FactorNetwork):  # the same row is added to all of the weight's
        ...     def __init__(self, in_features, out_features, fan_in, config):
        ...         super().__init__(in_features, out_features, fan_in, config)
        ...         self.row = nn.Parameter(torch.zeros(1, out_features))
        ...
        ...     def factors(self):
        ...         return torch.ones(self.in_features, 1), self.row
        >>> network = Row(6, 4, 6, config=None)
        >>> (network.factors()[0] @ network.factors()[1]).shape, network.before(), network.few_tokens
        (torch.Size([6, 4]), None, 0)
    """

    def __init__(self, in_features: int, out_features: int, fan_in: int, config: AdapterConfig) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return `L` of shape `(in_features, t)` and `R` of shape `(t, out_features)`."""
        raise NotImplementedError

    def see(self, x: Tensor) -> None:
        """Look at what the layer reads in a training step, before the step; for networks that start by that.

        Args:
            x: The tokens, `(*batch, in_features)`; indices `(*batch)` for an embedding.
        """

    def before(self) -> Turn | None:
        """Return the turn H of the layer's input; `None` for the identity."""
        return None

    def after(self) -> Turn | None:
        """Return the turn H' of the layer's output, its bias left out; `None` for the identity."""
        return None

    def expert_factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the update of several experts' weights; only asked of networks that are made for them.

        Returns:
            `L` of shape `(in_features, t)`, `M` of shape `(experts, t, u)` and `R` of shape `(u, out_features)`: the
            update of expert e is `L @ M[e] @ R`.
        """
        raise NotImplementedError

    @property
    def few_tokens(self) -> int:
        """Up to so many tokens `multiply` is cheaper than the factors are."""
        return 0

    @property
    def moves(self) -> tuple[int, int] | None:
        """Numbers written on the way by forming the factors, and by `multiply` for each token; `None` without it."""
        return None

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply tokens without forming the factors; only asked for where `few_tokens` is not 0, or by `moves`.

        Args:
            x: The tokens, `(tokens, in_features)`.

        Returns:
            `x @ L @ R`, of shape `(tokens, out_features)`.
        """
        raise NotImplementedError

    @classmethod
    def add_up(cls, new: Sequence[Self], given: Sequence[Sequence[Self]], scales: Sequence[float]) -> None:
        """Let networks become a weighted sum of others, rounded where their ranks are smaller than the sum's.

        Args:
            new: The networks to set, which belong together: those of one module, or of all that share a network.
            given: For each adapter that is added, its networks of the same modules.
            scales: The factor on each adapter.

        Raises:
            TTTypeError: If the method has no way to do that.
        """
        raise TTTypeError(f"{cls.__name__} cannot be added up; export the adapters with export_lora instead.")

    @property
    def fit_rank(self) -> int:
        """The largest matrix rank of an update that `fit` can take over."""
        raise TTTypeError(f"{type(self).__name__} cannot be fitted to a given update; use another `init_weights`.")

    def fit(self, left: Tensor, right: Tensor) -> None:
        """Take over the update `left @ right`, as nearly as the ranks allow.

        Args:
            left: Shape `(in_features, k)`.
            right: Shape `(k, out_features)`.

        Raises:
            TTTypeError: If the method has no way to do that.
        """
        raise TTTypeError(f"{type(self).__name__} cannot be fitted to a given update; use another `init_weights`.")


class Anchored(FactorNetwork):
    """A network whose update counts from where it started: `L @ R - L_0 @ R_0`, with the start kept fixed.

    Adding it to a weight W is the same as training `L @ R` on top of the frozen remainder `W - L_0 @ R_0`; but W
    stays what it is, so adapters can be switched, removed and combined, and the base may be quantised.

    Args:
        network: The network that is trained.
    """

    def __init__(self, network: FactorNetwork) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = network.in_features, network.out_features
        self.network = network
        self.start = _frozen(network)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the factors of both updates side by side."""
        left, right = self.network.factors()
        start_left, start_right = self.start.factors()
        return torch.cat([left, -start_left], dim=1), torch.cat([right, start_right])

    def expert_factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factors of both updates side by side."""
        left, middle, right = self.network.expert_factors()
        start_left, start_middle, start_right = self.start.expert_factors()
        above = F.pad(middle, (0, start_middle.shape[2]))
        below = F.pad(start_middle, (middle.shape[2], 0))
        return (
            torch.cat([left, -start_left], dim=1),
            torch.cat([above, below], dim=1),
            torch.cat([right, start_right]),
        )

    @property
    def fit_rank(self) -> int:
        """The largest matrix rank that the trained network can take over."""
        return self.network.fit_rank

    def fit(self, left: Tensor, right: Tensor) -> None:
        """Let the trained network take over `left @ right`, and count from there."""
        self.network.fit(left, right)
        self.start.load_state_dict(self.network.state_dict())


def _frozen(network: FactorNetwork) -> FactorNetwork:
    """Copy a network, with buffers in the place of its parameters, so that nothing can make them trainable."""
    network = copy.deepcopy(network)
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                delattr(module, name)
                module.register_buffer(name, parameter.detach())
    return network
