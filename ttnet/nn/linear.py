"""A linear layer whose weight is held as a tensor train."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ttnet.errors import TTShapeError, TTTypeError
from ttnet.nn.calibration import SecondMoment
from ttnet.nn.decompose import Decomposition, decompose, plain_weight
from ttnet.nn.layout import Layout, Modes, check_size
from ttnet.nn.weight import TTWeight, describe
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix

Calibration = Tensor | Iterable[Tensor] | SecondMoment


class TTLinear(nn.Module):
    """`y = x W^T + b` with `W^T`, of shape `(in_features, out_features)`, as a tensor train; in place of `nn.Linear`.

    A call contracts the tokens with the cores in the order that is cheapest for their number, and forms the weight
    only where that is cheapest. A backward pass sweeps once more instead of keeping intermediates: a call keeps its
    input, and merged cores only where there are few tokens. Source: Novikov et al. 2015, "Tensorizing Neural
    Networks", eq. 5.

    Args:
        in_features: Size of the input, at least 1.
        out_features: Size of the output, at least 1.
        ranks: The largest rank, capped at each bond by the sizes left and right of it; or, for modes that are given,
            one rank for each inner bond.
        modes: `"auto"` for the fewest parameters at that rank, or the modes of the input and those of the output.
        layout: `"interleaved"`: every core has a mode of the input and one of the output, so that even small ranks
            leave the weight its full matrix rank; `"aligned"`: the cores of the input come first, those of the output
            after them, and the bond between the two bounds the matrix rank.
        bias: Whether there is one.
        device: As for `nn.Linear`.
        dtype: As for `nn.Linear`.
        cache_limit: Bytes of merged cores that may be held between calls in eval mode; 0 holds none.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If modes or ranks do not fit.
        TTValueError: If a value is out of range.

    Example:
        >>> layer = TTLinear(768, 3072, ranks=8)
        >>> layer(torch.randn(2, 5, 768)).shape
        torch.Size([2, 5, 3072])
        >>> sum(core.numel() for core in layer.cores), layer.weight.shape
        (1920, torch.Size([3072, 768]))
    """

    tt: TTWeight
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        ranks: int | Sequence[int],
        modes: Modes = "auto",
        layout: str = "interleaved",
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        cache_limit: int = 0,
    ) -> None:
        in_features = check_size(in_features, "in_features")
        out_features = check_size(out_features, "out_features")
        chosen = Layout.choose(in_features, out_features, kind=layout, ranks=ranks, modes=modes)
        self._build(TTWeight(chosen, device=device, dtype=dtype), transposed=False, bias=bias, cache_limit=cache_limit)
        self.reset_parameters()

    def _build(self, tt: TTWeight, *, transposed: bool, bias: bool, cache_limit: int) -> None:
        super().__init__()
        self.tt = tt
        self.transposed = transposed
        self.in_features, self.out_features = (tt.cols, tt.rows) if transposed else (tt.rows, tt.cols)
        self.cache_limit = cache_limit
        self.report: Decomposition | None = None
        core = tt.cores[0]
        empty = torch.empty(self.out_features, device=core.device, dtype=core.dtype) if bias else None
        self.bias = None if empty is None else nn.Parameter(empty)

    @classmethod
    def tied(cls, tt: TTWeight, *, transposed: bool = False, bias: bool = False, cache_limit: int = 0) -> Self:
        """Make a layer around a weight that another layer may hold as well.

        Args:
            tt: The weight; a map from its rows to its columns.
            transposed: Whether the layer maps from the columns to the rows instead.
            bias: Whether the layer has a bias, which is zero at first.
            cache_limit: As for the class.

        Returns:
            The layer. The weight keeps its numbers.

        Example:
            >>> layer = TTLinear(6, 4, ranks=2)
            >>> back = TTLinear.tied(layer.tt, transposed=True)
            >>> back(layer(torch.ones(1, 6))).shape, back.cores[0] is layer.cores[0]
            (torch.Size([1, 6]), True)
        """
        layer = cls.__new__(cls)
        layer._build(tt, transposed=transposed, bias=bias, cache_limit=cache_limit)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return layer

    @classmethod
    def from_linear(
        cls,
        layer: nn.Linear,
        *,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
        ratio: float | None = None,
        budget: int | None = None,
        modes: Modes = "auto",
        layout: str = "aligned",
        calibration: Calibration | None = None,
        cache_limit: int = 0,
    ) -> Self:
        """Decompose the weight of a dense layer; give one of `eps`, `max_rank`, `ratio` and `budget`.

        Args:
            layer: The dense layer, which stays as it is.
            eps: Bound on the relative Frobenius error of the weight; with `calibration`, of the output. In bfloat16
                and float16, to which the cores are rounded in the end, a bound below their precision cannot hold;
                the report states the error.
            max_rank: Bound on the ranks, an int or, for modes that are given, one int for each inner bond.
            ratio: Bound on the parameters of the train relative to those of the dense weight, above 0.
            budget: Bound on the parameters of the train.
            modes: As for the class; `"auto"` also tries how many modes are best.
            layout: As for the class. Trained weights have most often the least error at a given size if `"aligned"`.
            calibration: Inputs of the layer, `(..., in_features)`, one tensor or an iterable of them, or a
                `SecondMoment` of them: then the error of the layer's output on these is minimised, and not that of
                the weight.
            cache_limit: As for the class.

        Returns:
            The layer, on the device and of the dtype of the dense one; its `report` says what it has come to.

        Raises:
            TTTypeError: If an argument is of the wrong type.
            TTShapeError: If modes, ranks or the calibration inputs do not fit.
            TTValueError: If a value is out of range, or the weight or the calibration inputs are not finite.

        Example:
            >>> dense = nn.Linear(64, 64)
            >>> layer = TTLinear.from_linear(dense, ratio=0.5)
            >>> layer.report.parameters <= 0.5 * 64 * 64, layer.report.ranks
            (True, (1, 16, 1))
        """
        if not isinstance(layer, nn.Linear):
            raise TTTypeError(
                f"layer is a {type(layer).__name__}; expected an nn.Linear: give the matrix of another kind of layer "
                "to TTLinear.from_matrix."
            )
        if type(layer).forward is not nn.Linear.forward or "forward" in vars(layer):
            raise TTTypeError(
                f"layer is a {type(layer).__name__} that does more than an nn.Linear, which a train would not do; give "
                "its matrix to TTLinear.from_matrix, if that is what is meant."
            )
        made = cls.from_matrix(
            plain_weight(layer).mT,
            layer.bias,
            eps=eps,
            max_rank=max_rank,
            ratio=ratio,
            budget=budget,
            modes=modes,
            layout=layout,
            calibration=calibration,
            cache_limit=cache_limit,
        )
        made.tt.requires_grad_(layer.weight.requires_grad)
        return made.train(layer.training)

    @classmethod
    def from_matrix(
        cls,
        matrix: Tensor,  # (in_features, out_features)
        bias: Tensor | None = None,  # (out_features,)
        *,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
        ratio: float | None = None,
        budget: int | None = None,
        modes: Modes = "auto",
        layout: str = "aligned",
        calibration: Calibration | None = None,
        cache_limit: int = 0,
    ) -> Self:
        """Decompose a matrix that tokens are multiplied by from the left, such as the weight of transformers' `Conv1D`.

        Args:
            matrix: The matrix, the transpose of what `nn.Linear` has.
            bias: The bias, which is copied; None for none.
            eps: As for `from_linear`, as are all that follow.
            max_rank: Bound on the ranks.
            ratio: Bound on the relative number of parameters.
            budget: Bound on the number of parameters.
            modes: The modes.
            layout: The layout.
            calibration: Inputs of the layer.
            cache_limit: As for the class.

        Returns:
            The layer, with its `report`.

        Raises:
            TTTypeError: If an argument is of the wrong type.
            TTShapeError: If modes, ranks, the bias or the calibration inputs do not fit.
            TTValueError: If a value is out of range, or the matrix or the calibration inputs are not finite.

        Example:
            >>> TTLinear.from_matrix(torch.ones(8, 4), eps=0.1).report.ranks
            (1, 1, 1, 1)
        """
        cores, chosen, report = decompose(
            matrix,
            eps=eps,
            max_rank=max_rank,
            ratio=ratio,
            budget=budget,
            modes=modes,
            layout=layout,
            calibration=calibration,
        )
        if bias is not None and tuple(bias.shape) != (matrix.shape[1],):
            raise TTShapeError(f"bias has shape {tuple(bias.shape)}; expected ({matrix.shape[1]},).")
        made = cls.tied(TTWeight.of(cores, chosen), bias=bias is not None, cache_limit=cache_limit)
        if made.bias is not None and bias is not None:
            made.bias.data = bias.detach().clone()
            made.bias.requires_grad_(bias.requires_grad)
        made.report = report
        return made

    def reset_parameters(self) -> None:
        """Draw the weight with the spread of `nn.Linear`'s, a variance of 1 / (3 in_features), and the bias so, too."""
        self.tt.reset_parameters(1 / (3 * self.in_features))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def cores(self) -> nn.ParameterList:
        """The cores, in order."""
        return self.tt.cores

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of all bonds, the outer ones included."""
        return self.tt.layout.ranks

    @property
    def value(self) -> TensorTrain | TTMatrix:
        """The weight as a train (aligned) or TT-matrix (interleaved) whose cores are the parameters."""
        return self.tt.value

    @property
    def weight(self) -> Tensor:  # (out_features, in_features)
        """The dense weight, formed anew at each access at the cost of merging all cores; gradients flow through it."""
        matrix = self.tt.matrix()
        return matrix if self.transposed else matrix.mT

    def forward(
        self,
        x: Tensor,  # (*batch, in_features)
    ) -> Tensor:  # (*batch, out_features)
        """Apply the layer.

        Args:
            x: The input, of the dtype of the cores (any, under autocast).

        Returns:
            The output.

        Raises:
            TTShapeError: If the last size of `x` is not `in_features`.
            TTTypeError: If its dtype is another one than the layer's.
        """
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise TTShapeError(f"x has shape {tuple(x.shape)}; expected (..., {self.in_features}).")
        hold = 0 if self.training else self.cache_limit
        return self.tt.multiply(x, bias=self.bias, transposed=self.transposed, hold=hold)

    def to_dense(self) -> nn.Linear:
        """Form the layer as an `nn.Linear`.

        Returns:
            The dense layer, which shares nothing with this one.

        Example:
            >>> layer = TTLinear(6, 4, ranks=2)
            >>> x = torch.randn(3, 6)
            >>> torch.allclose(layer.to_dense()(x), layer(x), atol=1e-6)
            True
        """
        with torch.no_grad():
            weight = self.weight
        dense = nn.Linear(1, 1, bias=False, device="meta")
        dense.in_features, dense.out_features = self.in_features, self.out_features
        needs = any(core.requires_grad for core in self.cores)
        dense.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format), requires_grad=needs)
        if self.bias is not None:
            dense.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=self.bias.requires_grad)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        """Say what the layer is made of."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"{describe(self.tt.layout)}"
        )

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        return super()._apply(fn, recurse)
