"""Optimisers that move a train as one point of the manifold of its ranks, not its cores each on their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.nn.weight import TTWeight
from ttnet.solvers.manifold import retract_cores
from ttnet.solvers.tangent_space import TangentSpace, TangentVector
from ttnet.trains.chain import CoreChain

Trains = nn.Module | CoreChain | Sequence[Tensor]


class _Riemannian(Optimizer):
    """What both optimisers share: the groups are trains, and a step is a retraction."""

    def __init__(self, trains: Trains | Iterable[Any], defaults: dict[str, Any]) -> None:
        for name, value in defaults.items():
            numbers = value if isinstance(value, tuple) else (value,)
            # Only rates that multiply what was before have a limit.
            limit = 1.0 if name in ("momentum", "betas") else float("inf")
            for number in numbers:
                if not 0 <= number < limit:
                    above = " below 1" if limit == 1 else ""
                    raise TTValueError(f"{name} is {value}; expected numbers >= 0{above}.")
        groups = list(_groups(trains))
        if not groups:
            raise TTValueError("trains has no train: no layer of ttnet.nn, no train and no list of cores.")
        super().__init__(groups, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add one more train.

        Args:
            param_group: Its cores as "params", from left to right, and options of its own.

        Raises:
            TTShapeError: If these are no cores of a train.
            TTValueError: If its ranks are larger than any tensor needs.
        """
        cores = list(param_group["params"])
        _check_cores(cores)
        TangentSpace(cores)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every train by its derivatives.

        Args:
            closure: Computes the loss and the derivatives anew; None if they are there.

        Returns:
            What it gives.

        Raises:
            TTValueError: If a core of a train has a derivative and another one none, or a derivative is NaN or
                infinite.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            cores: list[Tensor] = group["params"]
            missing = [core.grad is None for core in cores]
            if all(missing):
                continue
            if any(missing):
                raise TTValueError(
                    f"core {missing.index(True)} of a train has no gradient and others have one; expected all cores of "
                    "a train to be trained."
                )
            space = TangentSpace(cores)
            gradient = space.of_core_gradients([core.grad for core in cores if core.grad is not None])
            if not torch.isfinite(gradient.norm()):
                raise TTValueError("a gradient is NaN or infinite; lower lr, or leave out the step.")
            if decay := group["weight_decay"]:
                gradient = gradient + TangentVector(space, tuple(_at(space))) * decay
            direction = self._direction(group, gradient)
            for core, new in zip(cores, retract_cores(direction * -group["lr"]), strict=True):
                core.copy_(new.reshape(core.shape))
            self._carry(cores, direction)
        return loss

    def _direction(self, group: dict[str, Any], gradient: TangentVector) -> TangentVector:
        raise NotImplementedError

    def _mean(self, group: dict[str, Any], gradient: TangentVector, kept: float, new: float) -> TangentVector:
        """Give `kept` times what was carried here, and `new` times the gradient."""
        cores = group["params"]
        if not kept or "carried" not in self.state[cores[0]]:
            return gradient * new
        space = gradient.space
        deltas = (self.state[core]["carried"].reshape(d.shape) for core, d in zip(cores, gradient.deltas, strict=True))
        return TangentVector(space, tuple(delta.to(space.left[0].dtype) for delta in deltas)) * kept + gradient * new

    def _carry(self, cores: Sequence[Tensor], direction: TangentVector) -> None:
        """Keep what the next step is to know of this one's direction, in the tangent space where it begins."""
        if not any("carried" in self.state[core] for core in cores):
            return
        moments = TangentVector(direction.space, tuple(self.state[core]["carried"] for core in cores))
        there = TangentSpace(cores).project_cores(moments.train().cores)
        for core, delta in zip(cores, there.deltas, strict=True):
            self.state[core]["carried"] = delta


class RiemannianSGD(_Riemannian):
    """Stochastic gradient descent of trains on the manifold of their ranks, with momentum that is transported.

    A step goes along the Riemannian gradient, which is that of the tensor and does not depend on how the train is
    written as cores, and comes back by truncated SVDs; the cores are left-orthogonal afterwards. Other parameters of
    a model are for another optimiser. Source: Steinlechner 2016, "Riemannian optimization for high-dimensional tensor
    completion", section 4; Novikov, Rakhuba, Oseledets 2022, "Automatic differentiation for Riemannian optimization on
    low-rank matrix and tensor-train manifolds".

    Args:
        trains: A module, whose layers of `ttnet.nn` are meant; a train or TT-matrix whose cores require gradients; a
            list of cores; a dict of one of these as "params" and options of its own; or a list of all that.
        lr: The length of a step, as a multiple of the derivative by the entries of the tensor.
        momentum: How much of the direction before goes into the next one, at least 0 and below 1.
        weight_decay: How much of the train is added to its gradient.

    Raises:
        TTTypeError: If `trains` holds something else, or cores that take no gradient.
        TTShapeError: If tensors are no cores of a train.
        TTValueError: If there are none, an option is out of range, or ranks are larger than any tensor needs.

    Example:
        >>> import ttnet
        >>> wanted = ttnet.random((3, 4, 5), 2, seed=0)
        >>> x = ttnet.TensorTrain([c.requires_grad_() for c in ttnet.random((3, 4, 5), 2, seed=1).cores])
        >>> optimiser = RiemannianSGD(x, lr=0.5)
        >>> for _ in range(100):
        ...     optimiser.zero_grad()
        ...     (x - wanted).norm().square().backward()
        ...     optimiser.step()
        >>> bool((x - wanted).norm() < 1e-3 * wanted.norm())
        True
    """

    def __init__(
        self, trains: Trains | Iterable[Any], lr: float = 1e-2, *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(trains, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def _direction(self, group: dict[str, Any], gradient: TangentVector) -> TangentVector:
        direction = self._mean(group, gradient, group["momentum"], 1.0)
        if group["momentum"]:
            for core, delta in zip(group["params"], direction.deltas, strict=True):
                self.state[core]["carried"] = delta
        return direction


class RiemannianAdam(_Riemannian):
    """Adam of trains on the manifold of their ranks: one step size for each train, and a mean of transported gradients.

    The mean square of the gradient is taken over all independent directions of a train, so that a step is as long as
    Adam's in as many parameters. Source: Bécigneul & Ganea 2019, "Riemannian adaptive optimization methods", Algorithm
    1 (a product of manifolds, here of trains).

    Args:
        trains: As for `RiemannianSGD`.
        lr: The root mean square of a step over the independent directions, once gradients are steady.
        betas: How much of the means of gradients and of their squares is kept from step to step, each at least 0 and
            below 1.
        eps: What is added to the root mean square of the gradient.
        weight_decay: How much of the train is added to its gradient.

    Raises:
        TTTypeError: If `trains` holds something else, or cores that take no gradient.
        TTShapeError: If tensors are no cores of a train.
        TTValueError: If there are none, an option is out of range, or ranks are larger than any tensor needs.

    Example:
        >>> from ttnet.nn import TTLinear
        >>> layer = TTLinear(12, 8, ranks=2)
        >>> optimiser = RiemannianAdam(layer, lr=1e-2)
        >>> layer(torch.ones(5, 12)).square().mean().backward()
        >>> optimiser.step()
    """

    def __init__(
        self,
        trains: Trains | Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(trains, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay})

    def _direction(self, group: dict[str, Any], gradient: TangentVector) -> TangentVector:
        first, second = group["betas"]
        mean = self._mean(group, gradient, first, 1 - first)
        shared = self.state[group["params"][0]]
        step = shared.setdefault("step", torch.zeros(()))
        step += 1
        square = gradient.norm().square() / gradient.space.dimension
        shared["square"] = second * shared.get("square", torch.zeros_like(square)) + (1 - second) * square
        for core, delta in zip(group["params"], mean.deltas, strict=True):
            self.state[core]["carried"] = delta
        size = (shared["square"] / (1 - second ** float(step))).sqrt() + group["eps"]
        return mean * (1 / (size * (1 - first ** float(step))))


def _at(space: TangentSpace) -> Iterator[Tensor]:
    """Give the train itself as a vector of its tangent space."""
    yield from (torch.zeros_like(core) for core in space.left[:-1])
    yield space.left[-1]


def _groups(trains: object) -> Iterator[dict[str, Any]]:
    """Find the trains in what an optimiser is given, each as one group."""
    if isinstance(trains, dict):
        yield from ({**trains, **group} for group in _groups(trains.get("params")))
    elif isinstance(trains, nn.Module):
        weights = [module for module in trains.modules() if isinstance(module, TTWeight)]
        yield from ({"params": list(weight.cores)} for weight in weights)
    elif isinstance(trains, CoreChain):
        yield {"params": list(trains.cores)}
    elif isinstance(trains, Iterable) and not isinstance(trains, Tensor | str):
        items = list(trains)
        if items and all(isinstance(item, Tensor) for item in items):
            yield {"params": items}
        else:
            for item in items:
                yield from _groups(item)
    else:
        raise TTTypeError(
            f"trains holds a {type(trains).__name__}; expected layers of ttnet.nn, trains, or lists of their cores."
        )


def _check_cores(cores: Sequence[Tensor]) -> None:
    for k, core in enumerate(cores):
        if not core.requires_grad or not core.is_leaf:
            raise TTTypeError(
                f"core {k} of a train requires no gradient, or was computed from others; expected a parameter, as "
                "core.detach().requires_grad_() is."
            )
    ranks = [(core.shape[0], core.shape[-1]) if core.ndim > 1 else (0, 0) for core in cores]
    inner = [left[1] == right[0] for left, right in itertools.pairwise(ranks)]
    if not ranks or ranks[0][0] != 1 or ranks[-1][1] != 1 or not all(inner):
        raise TTShapeError(
            f"the cores of a train have the shapes {[tuple(core.shape) for core in cores]}; expected "
            "(1, ..., r), (r, ..., r'), ..., (r'', ..., 1)."
        )
