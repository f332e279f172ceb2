"""Training what a decomposition has lost back into the trains."""

from __future__ import annotations

from torch import nn

from ttnet.errors import TTValueError
from ttnet.nn import TTWeight


def train_trains_only(model: nn.Module, *, biases: bool = False) -> int:
    """Make the cores of a model's trains trainable, and freeze everything else; the ordinary `Trainer` does the rest.

    Args:
        model: A model that `tensorize` has changed, or that was saved so.
        biases: Whether the biases of the layers with trains are trained, too.

    Returns:
        The number of trainable parameters.

    Raises:
        TTValueError: If the model has no trains.

    Example:
        >>> from ttnet.nn import TTLinear
        >>> model = nn.Sequential(TTLinear(8, 8, ranks=2, modes=((8,), (8,)), layout="aligned"), nn.Linear(8, 2))
        >>> train_trains_only(model)
        32
    """
    owners = [module for module in model.modules() if isinstance(getattr(module, "tt", None), TTWeight)]
    if not owners:
        raise TTValueError(f"the {type(model).__name__} has no layers with trains; call tensorize first.")
    model.requires_grad_(False)
    for owner in owners:
        owner.tt.requires_grad_(True)
        bias = getattr(owner, "bias", None)
        if biases and bias is not None:
            bias.requires_grad_(True)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
