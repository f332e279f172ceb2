"""What is checked of the tensors that a contraction is called with."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from ttnet.contraction.equation import Shape
from ttnet.errors import TTShapeError, TTTypeError, TTValueError
from ttnet.numerics.scales import complex_dtype
from ttnet.trains.habits import TensorHabits

_INTEGERS = frozenset([torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
_DTYPES = _INTEGERS | {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128}


def shapes_of(tensors: Sequence[Tensor]) -> tuple[Shape, ...]:
    """Give the shapes of operands, or say which is not a tensor."""
    for number, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            trains = isinstance(tensor, TensorHabits)
            advice = ": take their cores, or train.dot, ttnet.outer and train.sum" if trains else ""
            raise TTTypeError(f"operand {number} is a {type(tensor).__name__}; expected a torch.Tensor{advice}.")
    if torch.compiler.is_compiling():  # a plan is for known sizes, where a compiler may try unknown ones
        return tuple([tuple(map(int, tensor.shape)) for tensor in tensors])
    return tuple([tensor.shape for tensor in tensors])


def unplanned(tensors: Sequence[Tensor], shapes: tuple[Shape, ...]) -> TTShapeError:
    """Say what is wrong with operands that a plan was not made for."""
    if len(tensors) != len(shapes):
        return TTShapeError(f"{len(tensors)} tensors were given; expected {len(shapes)}, one for each operand.")
    number = next(k for k, tensor in enumerate(tensors) if tensor.shape != shapes[k])
    return TTShapeError(
        f"operand {number} has shape {tuple(tensors[number].shape)}; expected {shapes[number]}, the shape that "
        "this contraction was planned for. Make a plan for the new shapes."
    )


def common_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """Promote as `torch.result_type` does for two, where a scalar tensor lends its kind, not its width."""
    for number, tensor in enumerate(tensors):
        if tensor.device != tensors[0].device:
            raise TTValueError(
                f"operand {number} is on {tensor.device} but operand 0 is on {tensors[0].device}; move them to one "
                "device."
            )
    sized = [tensor.dtype for tensor in tensors if tensor.ndim]
    scalar = [tensor.dtype for tensor in tensors if not tensor.ndim]
    if not sized or not scalar:
        return reduce(torch.promote_types, sized or scalar)
    wide, lent = reduce(torch.promote_types, sized), reduce(torch.promote_types, scalar)
    if _kind(lent) <= _kind(wide):
        return wide
    return complex_dtype(wide) if wide.is_floating_point else torch.promote_types(wide, lent)


def _kind(dtype: torch.dtype) -> int:
    return 3 if dtype.is_complex else 2 if dtype.is_floating_point else int(dtype != torch.bool)


def check_dtype(dtype: torch.dtype, device: torch.device) -> None:
    """Refuse numbers that torch cannot multiply as matrices."""
    if dtype not in _DTYPES or (dtype in _INTEGERS and device.type == "cuda"):
        raise TTTypeError(
            f"the operands have dtype {dtype}, of which torch makes no matrix products on {device}; convert them to "
            "another dtype first."
        )
