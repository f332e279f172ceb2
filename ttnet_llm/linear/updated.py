"""A weight with low-rank updates which is never added up: it stands in for a parameter while products are taken of it.

Models read some parameters directly, as those of experts: `F.linear(x, weight[e])`, grouped and batched products. Put
in the parameter's place, this object answers each with the product of the weight itself, by the same kernel, plus those
of the updates through their thin factors. It is no tensor: what it does not know is refused, and no kernel can read the
weight's memory past the updates.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ttnet.errors import TTTypeError
from ttnet_llm.matrices.thin import times_thin


@dataclass(frozen=True)
class ThinUpdate:
    """The update `left @ middle @ right` of one weight, or of several that differ in the middle alone.

    Args:
        left: Shape `(m, t)`.
        middle: Shape `(*batch, t, u)`.
        right: Shape `(u, n)`.
        dropout: What is done to inputs first.
    """

    left: Tensor
    middle: Tensor
    right: Tensor
    dropout: nn.Module

    @property
    def mT(self) -> "ThinUpdate":
        """The update of the transposed weight."""
        return ThinUpdate(self.right.mT, self.middle.mT, self.left.mT, self.dropout)

    def __getitem__(self, index: Any) -> "ThinUpdate":
        """Give the updates of some of the weights."""
        return ThinUpdate(self.left, self.middle[index], self.right, self.dropout)

    def add_to(
        self,
        result: Tensor,  # (*batch, tokens, n)
        x: Tensor,  # (*batch, tokens, m)
    ) -> Tensor:  # (*batch, tokens, n)
        """Add `x @ left @ middle @ right` to a product."""
        x = self.dropout(x.to(self.left.dtype))
        if x.ndim == self.middle.ndim == 2:
            if x.dtype == result.dtype:
                return times_thin(x, self.left, self.middle @ self.right, 1.0, to=result)
            return (result + times_thin(x, self.left, self.middle @ self.right, 1.0)).to(result.dtype)
        return (result + x @ self.left @ self.middle @ self.right).to(result.dtype)

    def add_grouped(
        self,
        result: Tensor,  # (tokens, n)
        x: Tensor,  # (tokens, m)
        ends: Tensor,  # (experts,)
    ) -> Tensor:  # (tokens, n)
        """Add products of tokens that are sorted by their weights, the first of which end at given places."""
        which = torch.searchsorted(ends, torch.arange(len(x), device=ends.device, dtype=ends.dtype), right=True)
        inner = self.dropout(x.to(self.left.dtype)) @ self.left  # (tokens, t)
        # Behind the last end stand rows that belong to no weight here, and are not used.
        middle = self.middle.index_select(0, which.clamp(max=len(self.middle) - 1))  # (tokens, t, u)
        inner = torch.bmm(inner[:, None], middle)[:, 0]
        if inner.dtype == result.dtype:
            return torch.addmm(result, inner, self.right)
        return (result + inner @ self.right).to(result.dtype)


class UpdatedWeight:
    """A weight `W + sum_k left_k @ middle_k @ right_k`, of which products are taken without forming it.

    Args:
        weight: The weight, `(*batch, m, n)`.
        updates: Updates of it, as it is stored.

    Example:
        >>> update = ThinUpdate(torch.ones(3, 1), torch.ones(2, 1, 1), torch.ones(1, 4), nn.Identity())
        >>> weight = UpdatedWeight(torch.zeros(2, 3, 4), [update])
        >>> torch.bmm(torch.ones(2, 1, 3), weight).flatten().tolist()
        [3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    """

    def __init__(self, weight: Tensor, updates: Sequence[ThinUpdate]) -> None:
        self.weight, self.updates = weight, updates

    @property
    def shape(self) -> torch.Size:
        """Its shape."""
        return self.weight.shape

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device that it lies on."""
        return self.weight.device

    @property
    def ndim(self) -> int:
        """Its number of dimensions."""
        return self.weight.ndim

    @property
    def mT(self) -> "UpdatedWeight":
        """The weight with its last two dimensions exchanged."""
        return UpdatedWeight(self.weight.mT, [update.mT for update in self.updates])

    @property
    def T(self) -> "UpdatedWeight":
        """The transpose of a matrix."""
        if self.ndim != 2:
            _refuse(f"T of {self.ndim} dimensions")
        return self.mT

    def size(self, dim: int | None = None) -> Any:
        """Give its shape, or one size of it."""
        return self.weight.size() if dim is None else self.weight.size(dim)

    def transpose(self, dim0: int, dim1: int) -> "UpdatedWeight":
        """Exchange the last two dimensions."""
        if {dim0 % self.ndim, dim1 % self.ndim} != {self.ndim - 2, self.ndim - 1}:
            _refuse(f"transpose({dim0}, {dim1})")
        return self.mT

    def to(self, dtype: torch.dtype) -> "UpdatedWeight":
        """Give the weight in another dtype; the updates are added in that, too, if it is the finer one."""
        if not isinstance(dtype, torch.dtype):
            _refuse(f"to({dtype!r})")
        return UpdatedWeight(self.weight.to(dtype), self.updates)

    def float(self) -> "UpdatedWeight":
        """Give the weight in single precision."""
        return self.to(torch.float32)

    def __len__(self) -> int:
        return len(self.weight)

    def __getitem__(self, index: Any) -> "UpdatedWeight":
        integers = isinstance(index, Tensor) and not index.is_floating_point() and index.dtype != torch.bool
        if self.ndim < 3 or not (integers or isinstance(index, int | slice)):
            _refuse(f"indexing with {index!r}")
        return UpdatedWeight(self.weight[index], [update[index] for update in self.updates])

    def __matmul__(self, other: Tensor) -> Tensor:
        return torch.matmul(self, other)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # Python asks for its protocols
            raise AttributeError(name)
        _refuse(name)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Tensor:
        """Answer torch's products."""
        name = getattr(func, "__name__", str(func))
        if name not in _PRODUCTS:
            _refuse(name)
        return _PRODUCTS[name](func, *args, **(kwargs or {}))


def _linear(func: Any, x: Tensor, weight: UpdatedWeight, bias: Tensor | None = None) -> Tensor:
    return _add(func(x, weight.weight, bias), x, weight.mT)


def _matmul(func: Any, left: Any, right: Any) -> Tensor:
    if not isinstance(left, UpdatedWeight):
        return _add(func(left, right.weight), left, right)
    if isinstance(right, UpdatedWeight):
        _refuse("products of two")
    return _add(func(left.weight, right).mT, right.mT, left.mT).mT


def _grouped(func: Any, x: Tensor, weight: UpdatedWeight, offs: Tensor, **kwargs: Any) -> Tensor:
    result = func(x, weight.weight, offs=offs, **kwargs)
    for update in weight.updates:
        result = update.add_grouped(result, x, offs)
    return result


def _add(result: Tensor, x: Tensor, weight: UpdatedWeight) -> Tensor:
    for update in weight.updates:
        result = update.add_to(result, x)
    return result


_PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm", "bmm"), _matmul),
    **dict.fromkeys(("grouped_mm", "_grouped_mm", "grouped_mm_fallback"), _grouped),
}


def _refuse(operation: str) -> NoReturn:
    raise TTTypeError(
        f"{operation}: a parameter with adapters is asked for something else than products, which its thin factors "
        "cannot answer. If a kernel of its own runs the experts, choose one of torch's with "
        "`model.set_experts_implementation('grouped_mm')`, 'batched_mm' or 'eager'; or merge the adapters first."
    )
