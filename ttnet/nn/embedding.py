"""An embedding table held as a tensor train."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ttnet.errors import TTIndexError, TTShapeError, TTTypeError, TTValueError
from ttnet.nn.calibration import RowCounts
from ttnet.nn.decompose import Decomposition, decompose, plain_weight
from ttnet.nn.layout import Layout, Modes, check_modes, check_size, padded_size
from ttnet.nn.linear import TTLinear
from ttnet.nn.weight import TTWeight, describe
from ttnet.trains.tensor_train import TensorTrain
from ttnet.trains.tt_matrix import TTMatrix


class TTEmbedding(nn.Module):
    """A table `(num_embeddings, embedding_dim)` as a tensor train, in place of `nn.Embedding`.

    A call contracts only the rows asked for, each once where that pays. A vocabulary that has a large prime factor is
    filled up to a size that has none; the rows beyond it are never seen. Source: Hrinchuk et al. 2020, "Tensorized
    Embedding Layers", Section 3.

    Args:
        num_embeddings: Number of rows, at least 1.
        embedding_dim: Size of a row, at least 1.
        ranks: The largest rank, capped at each bond by the sizes left and right of it; or, for modes that are given,
            one rank for each inner bond.
        modes: `"auto"` for the fewest parameters at that rank, or the modes of the rows, whose product may be larger
            than `num_embeddings`, and those of the columns.
        layout: `"interleaved"` or `"aligned"`; see `TTLinear`.
        padding_idx: A row that is not trained, as for `nn.Embedding`: zero at first, and held outside of the train.
        device: As for `nn.Embedding`.
        dtype: As for `nn.Embedding`.
        cache_limit: Bytes of merged cores that may be held between calls in eval mode; 0 holds none.
        embed_scale: A factor on the rows that a call gives, rounded to their dtype first; neither `weight` nor a tied
            head has it. So do the scaled tables of Gemma, BART and others.

    Raises:
        TTTypeError: If an argument is of the wrong type.
        TTShapeError: If modes or ranks do not fit.
        TTValueError: If a value is out of range.

    Example:
        >>> table = TTEmbedding(30522, 384, ranks=16)
        >>> table(torch.tensor([[0, 7], [30521, 7]])).shape
        torch.Size([2, 2, 384])
        >>> sum(core.numel() for core in table.cores), table.weight.shape
        (7552, torch.Size([30522, 384]))
    """

    tt: TTWeight

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        ranks: int | Sequence[int],
        modes: Modes = "auto",
        layout: str = "interleaved",
        padding_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        cache_limit: int = 0,
        embed_scale: float = 1.0,
    ) -> None:
        rows, cols = check_size(num_embeddings, "num_embeddings"), check_size(embedding_dim, "embedding_dim")
        chosen = Layout.choose(_padded(rows, cols, modes), cols, kind=layout, ranks=ranks, modes=modes)
        self._build(TTWeight(chosen, rows, device=device, dtype=dtype), padding_idx, cache_limit, embed_scale)
        self.reset_parameters()

    def _build(self, tt: TTWeight, padding_idx: int | None, cache_limit: int, embed_scale: float) -> None:
        super().__init__()
        self.tt = tt
        self.num_embeddings, self.embedding_dim = tt.rows, tt.cols
        self.padding_idx = _check_padding(padding_idx, tt.rows)
        self.cache_limit = cache_limit
        # A tensor, as the scaled tables of transformers have it, and PEFT looks for it; on the CPU it multiplies all.
        scale = _check_scale(embed_scale)
        self.embed_scale = None if scale == 1 else torch.tensor(scale, dtype=torch.float64, device="cpu")
        self.report: Decomposition | None = None
        if self.padding_idx is not None:
            tt.fix_row(self.padding_idx)

    @classmethod
    def from_embedding(
        cls,
        layer: nn.Embedding,
        *,
        eps: float | None = None,
        max_rank: int | Sequence[int] | None = None,
        ratio: float | None = None,
        budget: int | None = None,
        modes: Modes = "auto",
        layout: str = "aligned",
        calibration: Tensor | Iterable[Tensor] | RowCounts | None = None,
        cache_limit: int = 0,
    ) -> Self:
        """Decompose a dense table; give one of `eps`, `max_rank`, `ratio` and `budget`.

        Args:
            layer: The dense table, which stays as it is. The row of its `padding_idx` is kept as it is. Of a subclass,
                such as Gemma's, one that multiplies the rows by its `embed_scale` and does nothing else.
            eps: Bound on the relative Frobenius error of the table; with `calibration`, of the rows asked for, each as
                often as it is, where rows that are not asked for still count a little. In bfloat16
                and float16, to which the cores are rounded in the end, a bound below their precision cannot hold;
                the report states the error.
            max_rank: Bound on the ranks, an int or, for modes that are given, one int for each inner bond.
            ratio: Bound on the parameters of the train relative to those of the table, above 0.
            budget: Bound on the parameters of the train.
            modes: As for the class; `"auto"` also tries how many modes are best.
            layout: As for the class.
            calibration: Row numbers as the table will be asked for, one tensor or an iterable of them, or `RowCounts`
                of them: then rows count by how often they occur. The rows are one mode of an aligned train then.
            cache_limit: As for the class.

        Returns:
            The layer, on the device and of the dtype of the dense one; its `report` says what it has come to.

        Raises:
            TTTypeError: If an argument is of the wrong type.
            TTShapeError: If modes or ranks do not fit.
            TTValueError: If a value is out of range, the table is not finite, or it uses an option that only a dense
                table has: `max_norm`, which changes rows as they are read, or `scale_grad_by_freq`.

        Example:
            >>> layer = TTEmbedding.from_embedding(nn.Embedding(1000, 32), budget=10_000)
            >>> layer.report.parameters <= 10_000
            True
        """
        if not isinstance(layer, nn.Embedding):
            raise TTTypeError(f"layer is a {type(layer).__name__}; expected an nn.Embedding.")
        scale = scale_of(layer)
        if scale is None:
            raise TTTypeError(
                f"layer is a {type(layer).__name__} that does more than an nn.Embedding, which a train would not do; "
                "decompose a plain table with its weight."
            )
        for name in ("max_norm", "scale_grad_by_freq"):
            if getattr(layer, name):
                raise TTValueError(
                    f"layer has {name}={getattr(layer, name)!r}, which only a dense table can do; decompose a table "
                    "without it."
                )
        table = plain_weight(layer)
        if layer.padding_idx is not None:
            table = table.clone()
            table[layer.padding_idx] = 0
        rows, cols = table.shape
        counts = None if calibration is None else RowCounts.of(calibration, rows)
        cores, chosen, report = decompose(
            table,
            eps=eps,
            max_rank=max_rank,
            ratio=ratio,
            budget=budget,
            modes=modes,
            layout=layout,
            calibration=counts,
            padded_rows=_padded(rows, cols, modes) if counts is None else None,
        )
        made = cls.__new__(cls)
        made._build(TTWeight.of(cores, chosen, rows), layer.padding_idx, cache_limit, scale)
        if made.tt.fixed_row is not None:
            made.tt.fixed_row.copy_(layer.weight.detach()[layer.padding_idx])
        made.report = report
        made.tt.requires_grad_(layer.weight.requires_grad)
        return made.train(layer.training)

    def reset_parameters(self) -> None:
        """Draw the table with the spread of `nn.Embedding`'s, a variance of 1; the row of `padding_idx` is zero."""
        self.tt.reset_parameters(1.0)
        if self.tt.fixed_row is not None:
            nn.init.zeros_(self.tt.fixed_row)

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
        """The table as a train (aligned) or TT-matrix (interleaved) of the parameters, padded rows and all."""
        return self.tt.value

    @property
    def weight(self) -> Tensor:  # (num_embeddings, embedding_dim)
        """The dense table, formed anew at each access at the cost of merging all cores; gradients flow through it."""
        return self.tt.matrix()

    def forward(
        self,
        ids: Tensor,  # (*batch,)
    ) -> Tensor:  # (*batch, embedding_dim)
        """Look rows up.

        Args:
            ids: Row numbers of an integer dtype, from 0 to `num_embeddings - 1`.

        Returns:
            The rows, of the dtype of the cores.

        Raises:
            TTTypeError: If `ids` is not of an integer dtype.
            TTIndexError: If a number is out of range; on a GPU and in compiled code that is a device-side assertion.
        """
        if not isinstance(ids, Tensor) or ids.dtype not in (
            torch.int64,
            torch.int32,
            torch.int16,
            torch.int8,
            torch.uint8,
        ):
            kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise TTTypeError(f"ids is of {kind}; expected a tensor of an integer dtype.")
        rows = self.tt.look_up(ids, hold=0 if self.training else self.cache_limit)
        return rows if self.embed_scale is None else rows * self.embed_scale.to(rows.dtype)

    def as_linear(self, *, bias: bool = False) -> TTLinear:
        """Give the output head that is tied to this table, `logits = x @ weight^T`: it holds the same parameters.

        Args:
            bias: Whether the head has a bias of its own, which is zero at first.

        Returns:
            A layer from `embedding_dim` to `num_embeddings`.

        Example:
            >>> table = TTEmbedding(100, 16, ranks=4)
            >>> head = table.as_linear()
            >>> head(torch.ones(2, 16)).shape, head.cores[0] is table.cores[0]
            (torch.Size([2, 100]), True)
        """
        return TTLinear.tied(self.tt, transposed=True, bias=bias, cache_limit=self.cache_limit)

    def to_dense(self) -> nn.Embedding:
        """Form the table as an `nn.Embedding`.

        Returns:
            The dense table, with the scale in its weight; it shares nothing with this one.

        Example:
            >>> table = TTEmbedding(10, 4, ranks=2, padding_idx=3)
            >>> ids = torch.tensor([1, 3, 9])
            >>> torch.allclose(table.to_dense()(ids), table(ids), atol=1e-6)
            True
        """
        with torch.no_grad():
            weight = self.weight.clone(memory_format=torch.contiguous_format)
            weight = weight if self.embed_scale is None else weight * self.embed_scale.to(weight.dtype)
        needs = any(core.requires_grad for core in self.cores)
        dense = nn.Embedding.from_pretrained(weight, freeze=not needs, padding_idx=self.padding_idx)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        """Say what the table is made of."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        scale = "" if self.embed_scale is None else f", embed_scale={float(self.embed_scale):g}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}{scale}, {describe(self.tt.layout)}"


@torch.no_grad()
def scale_of(layer: nn.Embedding) -> float | None:
    """Say by what a table multiplies the rows that it gives, if it does nothing else with them.

    Args:
        layer: The table, on a real device.

    Returns:
        1 for an `nn.Embedding`; for a subclass its `embed_scale`, if some rows are found to be those of its weight
        times that; None otherwise.

    Example:
        >>> scale_of(nn.Embedding(4, 2))
        1.0
    """
    if type(layer).forward is nn.Embedding.forward and "forward" not in vars(layer):
        return 1.0
    given = getattr(layer, "embed_scale", None)
    if layer.max_norm or not isinstance(given, int | float | Tensor):
        return None
    if isinstance(given, Tensor) and given.numel() != 1:
        return None
    scale, weight = float(given), layer.weight
    ids = torch.linspace(0, len(weight) - 1, min(len(weight), 64), device=weight.device).long()[None]
    try:
        found = layer(ids)
    except (TypeError, RuntimeError):  # it takes more than ids, or other ones
        return None
    expected = nn.functional.embedding(ids, weight) * torch.tensor(scale, dtype=weight.dtype, device="cpu")
    # In half precision scales are rounded before or after the product.
    close = found.shape == expected.shape and torch.allclose(
        found, expected, rtol=4 * torch.finfo(weight.dtype).eps, atol=0
    )
    return scale if close else None


def _check_scale(scale: Any) -> float:
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise TTTypeError(f"embed_scale is {scale!r}; expected a number.")
    if not math.isfinite(scale):
        raise TTValueError(f"embed_scale is {scale}; expected a finite number.")
    return float(scale)


def _padded(rows: int, cols: int, modes: Modes) -> int:
    """Give the number of rows that the train holds."""
    if isinstance(modes, str):
        return padded_size(rows)
    sides = check_modes(modes, None, cols)
    held = 1
    for mode in sides[0]:
        held *= mode
    if held < rows:
        raise TTShapeError(f"modes[0] is {sides[0]}, which multiplies to {held}; expected at least {rows}.")
    return held


def _check_padding(padding_idx: Any, rows: int) -> int | None:
    if padding_idx is None:
        return None
    if isinstance(padding_idx, bool) or not isinstance(padding_idx, int):
        raise TTTypeError(f"padding_idx is {padding_idx!r}; expected an int or None.")
    if not -rows <= padding_idx < rows:
        raise TTIndexError(f"padding_idx is {padding_idx}; expected {-rows} to {rows - 1}.")
    return padding_idx % rows
