"""The weights of base layers: how quantised ones are read and written, and which ones can take up an update at all.

PEFT has a backend for every quantisation that it knows. Here is what PEFT's leave open.
"""

import sys
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.utils import resolve_quantization_backend
from peft.utils.quantization_utils import Bnb4bitBackend, HqqBackend, QuantizationBackend, TorchaoBackend
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from transformers.pytorch_utils import Conv1D

from ttnet.errors import TTTypeError
from ttnet.nn import TTEmbedding, TTLinear

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def quantization_backend(base_layer: nn.Module, **quantization: Any) -> QuantizationBackend | None:
    """Find out how the quantised weight of a layer is read and written.

    Args:
        base_layer: The layer.
        **quantization: What PEFT's `get_quantization_kwargs` returned for the model.

    Returns:
        PEFT's backend or one of ours; `None` for a layer that is not quantised.
    """
    quanto = getattr(sys.modules.get("optimum.quanto"), "QTensor", None)
    if quanto is not None and isinstance(getattr(base_layer, "weight", None), quanto):
        return _Quanto()
    backend = resolve_quantization_backend(base_layer, **({"get_apply_tensor_subclass": _not_told} | quantization))
    if isinstance(backend, TorchaoBackend) and backend.get_apply_tensor_subclass is _not_told:
        backend.supports_merge = False
    elif isinstance(backend, Bnb4bitBackend):
        return _Bnb4bit()
    elif isinstance(backend, HqqBackend):
        return _Hqq()
    return backend


def _not_told() -> Any:
    """Stand for the recipe that transformers keeps of a model that it quantised, and that `quantize_` leaves nobody."""
    raise TTTypeError("the model does not tell how torchao quantised it; quantise the merged weight yourself.")


class _Quanto(QuantizationBackend):
    """Backend of optimum-quanto's frozen layers, whose weights take no sum and lose what is written to them."""

    supports_merge = True
    backend_name = "optimum-quanto"
    layer_type = "linear"

    def get_base_weight(self, base_layer: nn.Module) -> Tensor:
        return cast(Tensor, base_layer.weight).dequantize()

    def set_base_weight(self, peft_layer: Any, weight_data: Tensor) -> None:
        base_layer = peft_layer.get_base_layer()
        base_layer.weight = nn.Parameter(weight_data, requires_grad=False)
        base_layer.freeze()


class _Bnb4bit(Bnb4bitBackend):
    """PEFT's backend, that also reads what bitsandbytes packs for CPUs with AVX-512 on the first forward pass."""

    def get_base_weight(self, base_layer: nn.Module) -> Tensor:
        if getattr(cast(Any, base_layer.weight).quant_state, "packing_format_for_cpu", False):
            base_layer.state_dict()  # unpacks it
        return super().get_base_weight(base_layer)


class _Hqq(HqqBackend):
    """PEFT's backend, that also keeps the bias of the layer that it puts another one in the place of."""

    def set_base_weight(self, peft_layer: Any, weight_data: Tensor) -> None:
        bias = peft_layer.get_base_layer().bias
        super().set_base_weight(peft_layer, weight_data)
        peft_layer.get_base_layer().bias = bias


def why_no_sum(base_layer: nn.Module, backend: QuantizationBackend | None) -> str | None:
    """Say why a layer's weight cannot take up an update, if it cannot.

    A weight can if it is a plain parameter that the layer computes with as it stands, or if it is quantised in a way
    that can be repeated.

    Args:
        base_layer: The layer.
        backend: What `quantization_backend` answered for it.

    Returns:
        A part of a sentence that also says what to do; `None` for a weight that can.

    Example:
        >>> why_no_sum(nn.Linear(2, 2), None) is None
        True
        >>> print(why_no_sum(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), None))
        its weight is made by a parametrisation; take that away first (parametrize.remove_parametrizations)
    """
    if backend is not None:
        if backend.supports_merge:
            return None
        return (
            f"its weight is quantised by {backend.backend_name}, and cannot be quantised again from here; merge into "
            "the dense model, and quantise that"
        )
    weight = base_layer._parameters.get("weight", base_layer._buffers.get("weight"))
    if is_parametrized(base_layer, "weight"):
        return "its weight is made by a parametrisation; take that away first (parametrize.remove_parametrizations)"
    if weight is None:
        return (
            "its weight is no parameter, but made anew for every forward pass, as by weight_norm, spectral_norm or "
            "pruning; take that away first (remove_weight_norm, remove_spectral_norm, prune.remove)"
        )
    if reason := why_not_read(base_layer, backend):
        return f"{reason}; merge into the dense model"
    return None


def why_not_read(base_layer: nn.Module, backend: QuantizationBackend | None) -> str | None:
    """Say why a layer's weight, as it is read, is not what the layer computes with, if it is not.

    Args:
        base_layer: The layer.
        backend: What `quantization_backend` answered for it, which reads quantised weights.

    Returns:
        A part of a sentence; `None` for a weight that is.

    Example:
        >>> why_not_read(nn.Linear(2, 2), None) is None
        True
    """
    if backend is not None or isinstance(base_layer, TTLinear | TTEmbedding):
        return None
    weight: Any = base_layer.weight
    if type(weight.data) is not Tensor or weight.dtype not in FLOATS:
        return f"its weight is a {type(weight.data).__name__} of {weight.dtype}, which takes no sum"
    if not computes_with_weight(base_layer):
        return "it computes with something else than its weight as it stands"
    return None


@torch.no_grad()
def computes_with_weight(base_layer: nn.Module) -> bool:
    """Tell whether a layer does what its kind does with its weight: by its class, or else by trying it.

    Args:
        base_layer: A layer with a plain weight. One that is not loaded yet is taken to do so.

    Returns:
        Whether it is linear in its input, or looks its input up.

    Example:
        >>> class Doubling(nn.Linear):
        ...     def forward(self, x):
        ...         return 2 * super().forward(x)
        >>> computes_with_weight(nn.Linear(3, 3)), computes_with_weight(Doubling(3, 3))
        (True, False)
    """
    weight: Any = base_layer.weight
    kind: Any = next(kind for kind in (nn.Linear, Conv1D, nn.Embedding, nn.Module) if isinstance(base_layer, kind))
    if type(base_layer).forward is kind.forward or kind is nn.Module or weight.is_meta:
        return True
    if kind is nn.Embedding:
        x = torch.arange(min(len(weight), 8), device=weight.device)
        expected = F.embedding(x, weight) * getattr(base_layer, "embed_scale", 1.0)
    else:
        matrix, bias = (weight.T if kind is Conv1D else weight), cast(Tensor | None, base_layer.bias)
        x = torch.randn(2, matrix.shape[1], generator=torch.Generator().manual_seed(0)).to(matrix)
        expected = F.linear(x, matrix, bias)
    try:
        found = base_layer(x)
    except Exception:
        return False
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return False
    tolerance = max(0.02, 8 * torch.finfo(weight.dtype).eps)  # of the norm; another weight is off by far more
    return bool((found - expected).float().norm() <= tolerance * expected.float().norm())
