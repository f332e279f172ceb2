"""What goes into the layers of a model, gathered as second moments while batches run through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, overload

import torch
from torch import Tensor, nn

from ttnet.errors import TTTypeError, TTValueError
from ttnet.nn import RowCounts, SecondMoment
from ttnet_llm.tensorize.targets import Target


class Moment(Protocol):
    """What is kept of a layer's inputs."""

    count: int

    def update(self, x: Tensor) -> None:
        """Take in further inputs."""


M = TypeVar("M", bound=Moment)


@overload
def gather_moments(
    model: nn.Module, targets: Sequence[Target], batches: Iterable[Any], advance: Callable[[], None]
) -> dict[str, SecondMoment | RowCounts]: ...


@overload
def gather_moments(
    model: nn.Module,
    targets: Sequence[Target],
    batches: Iterable[Any],
    advance: Callable[[], None],
    kind: Callable[[int], M],
) -> dict[str, M]: ...


@torch.no_grad()
def gather_moments(
    model: nn.Module,
    targets: Sequence[Target],
    batches: Iterable[Any],
    advance: Callable[[], None],
    kind: Callable[[int], Any] = SecondMoment,
) -> dict[str, Any]:
    """Run batches through a model, and keep the mean of `x^T x` of layers' inputs, or how often rows are read.

    The model runs in evaluation mode and without gradients. Memory holds `in_features**2` doubles for a linear layer,
    however many batches there are. Tokens that a batch's `attention_mask` masks do not count.

    Args:
        model: The model.
        targets: The layers.
        batches: Dictionaries of the model's arguments, or tensors that are its only argument.
        advance: Called after each batch.
        kind: What is kept of inputs that are vectors, made for their size.

    Returns:
        The moments by the names of the layers; none of a table that is not reached.

    Raises:
        TTTypeError: If a batch is of another type.
        TTValueError: If there is no batch, a layer is not reached, or its inputs are NaN or infinite.
    """
    found: dict[str, Any] = {
        target.name: (kind if target.takes_vectors else RowCounts)(target.matrix.shape[0]) for target in targets
    }
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    mask: Tensor | None = None

    def take(name: str) -> Callable[[nn.Module, Any, dict[str, Any]], None]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            if (
                mask is not None
                and x.ndim == (2 if isinstance(module, nn.Embedding) else 3)
                and x.shape[:2] == mask.shape
            ):
                x = x[mask.to(x.device)]
            try:
                found[name].update(x)
            except TTValueError as error:
                raise TTValueError(f"The inputs of {name!r}: {error}") from error

        return hook

    handles: list[Any] = []
    count = 0
    with in_mode(model, training=False):
        try:
            handles = [t.module.register_forward_pre_hook(take(t.name), with_kwargs=True) for t in targets]
            for count, batch in enumerate(batches, 1):
                mask = None
                if isinstance(batch, Mapping):
                    inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
                    given = inputs.get("attention_mask")
                    mask = given.bool() if isinstance(given, Tensor) and given.ndim == 2 else None
                    _check_finite(inputs.values(), count)
                    model(**inputs)
                elif isinstance(batch, Tensor):
                    _check_finite([batch], count)
                    model(batch.to(device))
                else:
                    raise TTTypeError(
                        f"calibration holds a {type(batch).__name__}; expected batches that are dictionaries of the "
                        "model's arguments, or tensors."
                    )
                advance()
        finally:
            for handle in handles:
                handle.remove()
    if not count:
        raise TTValueError("calibration holds no batches; expected at least one.")
    for name, moment in list(found.items()):
        if not moment.count and isinstance(moment, RowCounts):
            del found[name]  # it goes by its weight
        elif not moment.count:
            raise TTValueError(f"calibration reaches {name!r} with no input; name it in exclude, or give others.")
    return found


def _check_finite(values: Iterable[Any], number: int) -> None:
    for value in values:
        # Not infinite numbers, which a mask may well hold; those of a layer's inputs are found there.
        if isinstance(value, Tensor) and value.is_floating_point() and bool(torch.isnan(value).any()):
            raise TTValueError(f"calibration holds NaN in batch {number}; expected finite inputs.")


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation mode while the block runs, and every module of it back afterwards.

    Args:
        model: The model.
        training: Which mode.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
