"""What a linear method's network is: something that answers with two thin factors."""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial

from ttnet.errors import TTTypeError
from ttnet_llm.tuner import AdapterConfig


class FactorNetwork(nn.Module):
    """Base of the networks of linear methods: the update of a layer's weight is `L @ R`, and this is what gives both.

    Args:
        in_features: The layer's input size.
        out_features: The layer's output size.
        config: The method's config, as it holds for the layer.
        fan_in: How many inputs an output adds up, which the spread of fresh weights goes by; `None`: all of them.
    """

    def __init__(self, in_features: int, out_features: int, config: AdapterConfig, fan_in: int | None = None) -> None:
        super().__init__()
        self.in_features = in_features
        self.fan_in = in_features if fan_in is None else fan_in
        self.out_features = out_features

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return `L` of shape `(in_features, t)` and `R` of shape `(t, out_features)`."""
        raise NotImplementedError

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


class SharedView(FactorNetwork):
    """One module's view of a network that all modules of a shape have in common.

    The common part is held by the first module's view alone, so that it is counted, moved and saved once. The
    others keep a reference that torch does not look into.
    """

    layer: int
    projection: int
    _shared: tuple[nn.Module, ...] = ()

    @classmethod
    def make_shared(
        cls,
        in_features: int,
        out_features: int,
        fan_in: int,
        layers: int,
        projections: int,
        head_size: int,
        config: AdapterConfig,
    ) -> nn.Module:
        """Build what all modules of one shape have in common.

        Args:
            in_features: The modules' input size.
            out_features: The modules' output size.
            fan_in: How many inputs an output adds up.
            layers: Number of layers that have such a module.
            projections: Number of such modules in a layer, by name.
            head_size: Size of an attention head, a divisor of `out_features`.
            config: The method's config.

        Returns:
            The common part.
        """
        raise NotImplementedError

    @property
    def shared(self) -> Any:
        """The common part."""
        return self._shared[0]

    def part(self, name: str) -> Tensor:
        """Give a parameter of the common part.

        Where FSDP2 shards the model by layers, it gathers the common part for the layer that holds it alone: in the
        others it is gathered here, and the gradients of all of them are averaged as FSDP2's own are.

        Args:
            name: The parameter's name.

        Returns:
            The parameter, whole.
        """
        parameter = getattr(self.shared, name)
        if isinstance(parameter, DTensor):
            return parameter.full_tensor(grad_placements=[Partial("avg")] * parameter.device_mesh.ndim)
        return parameter

    def connect(self, shared: nn.Module, layer: int, projection: int, owner: bool) -> Self:
        """Say what the view looks at.

        Args:
            shared: The common part.
            layer: The module's layer, counted among those that have such a module.
            projection: The module's place in its layer.
            owner: Whether this view holds the common part for all.

        Returns:
            The view.
        """
        self._shared = (shared,)
        self.layer, self.projection = layer, projection
        if owner:
            self.common = shared  # registered with torch
        return self
