"""Config fields of the methods that are made of tensor trains, and the matrices that they ask for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from ttnet.errors import TTValueError
from ttnet_llm.matrices.aligned import AlignedMatrix
from ttnet_llm.matrices.expert import ExpertTrain
from ttnet_llm.matrices.interleaved import InterleavedMatrix
from ttnet_llm.matrices.train_matrix import TrainMatrix
from ttnet_llm.tuner.config import AdapterConfig

LAYOUTS: dict[str, type[TrainMatrix]] = {"aligned": AlignedMatrix, "interleaved": InterleavedMatrix}

Rank = int | Sequence[int]  # one for all bonds, or one for each inner bond


@dataclass
class TrainConfig(AdapterConfig):
    """Fields of a method whose matrices are tensor trains.

    Args:
        tt_rank: The largest rank of the trains, at least 1. In `rank_pattern`, for modes that are given, also a list
            with a rank for every inner bond; for LoRETTA_rep two lists, for A and for B, and for LoRETTA_adp one, or
            two, for down and for up.
        modes: How dimensions are factored: `"auto"` takes the factors with the fewest parameters, any size;
            `"paper"` takes the tables of the LoRETTA paper, and only has the sizes in them; a dict gives the modes
            of rows and columns by the shape of the matrix, such as `{"768x8": [[8, 8, 12], [8]]}`, and shapes that
            it lacks are factored automatically.
        layout: `"aligned"`: one train, rows first, columns after them, cut between the two, so that the matrix has
            at most the rank of that bond; `"interleaved"`: a TT-matrix, every core with a row and a column mode,
            whose matrix rank the bonds do not bound.
        tt_head: Whether the hidden dense layer of a classification head (RoBERTa's `classifier.dense`, the pooler
            of BERT and DeBERTa) becomes a train, too, which is trained and saved with the adapter.
        recorded_modes: What `"auto"` chose; filled in, so that an adapter loads as it was made.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from ttnet_llm import LorettaRepConfig
        >>> config = LorettaRepConfig(tt_rank=2, modes={"64x8": [[8, 8], [8]]})
        >>> matrix = config.matrix(64, 8)
        >>> config.draw(matrix, variance=1 / 64)
        >>> matrix.layout.split_modes, matrix.layout.ranks
        ([[8, 8], [8]], (1, 2, 2, 1))
        >>> config.expert_train(64, 8, experts=4).layout.ranks
        (1, 2, 2, 2, 1)
    """

    rank_field: ClassVar[str] = "tt_rank"
    starts: ClassVar[tuple[str, ...]] = ("gaussian",)

    tt_rank: Any = field(default=5)
    modes: str | dict[str, Any] = field(default="auto")
    layout: str = field(default="aligned")
    tt_head: bool = field(default=False)
    recorded_modes: dict[str, Any] = field(default_factory=dict)

    def _check_fields(self) -> None:
        super()._check_fields()
        if not all(isinstance(rank, int) and rank is not True and rank >= 1 for rank in _ranks(self.tt_rank)):
            raise TTValueError(
                f"tt_rank is {self.tt_rank!r}; expected an integer of at least 1, or for given modes a list of those, "
                "one for each inner bond (for LoRETTA_rep two lists, for A and for B)."
            )
        if isinstance(self.modes, dict):
            for shape, modes in self.modes.items():
                _check_modes(shape, modes)
        else:
            self._check_choice("modes", ("auto", "paper"))
        self._check_choice("layout", tuple(LAYOUTS))
        if self.modes == "paper" and self.layout != "aligned":
            raise TTValueError(
                f"layout is {self.layout!r} with modes 'paper', but the published modes are those of aligned trains; "
                "use modes='auto'."
            )

    @property
    def largest_rank(self) -> int:
        """The largest of all ranks in `tt_rank`."""
        return max(_ranks(self.tt_rank), default=1)

    def matrix(self, rows: int, cols: int, rank: Rank | None = None) -> TrainMatrix:
        """Make a trainable matrix, without setting its entries.

        Args:
            rows: Number of rows, at least 1.
            cols: Number of columns, at least 1.
            rank: Its ranks; `None` takes `tt_rank`.

        Returns:
            The matrix. What was chosen automatically is recorded in the config.
        """
        make = partial(LAYOUTS[self.layout].choose, rows, cols)
        return self._with_modes(make, f"{rows}x{cols}", f"{rows}x{cols}", rank)

    def expert_train(self, rows: int, cols: int, experts: int, rank: Rank | None = None) -> ExpertTrain:
        """Make the trainable matrices of several experts as one train, without setting its entries.

        Args:
            rows: Number of rows, at least 1.
            cols: Number of columns of each matrix, at least 1.
            experts: How many there are, at least 1.
            rank: The train's ranks; `None` takes `tt_rank`.

        Returns:
            The train. What was chosen automatically is recorded in the config.
        """
        make = partial(ExpertTrain.of_experts, experts, rows, cols)
        return self._with_modes(make, f"{rows}x{cols}", f"{rows}x{experts}x{cols}", rank)

    def _with_modes(self, make: Callable[..., Any], shape: str, recorded: str, rank: Rank | None) -> Any:
        rank = self.tt_rank if rank is None else rank
        modes = self.modes.get(shape, "auto") if isinstance(self.modes, dict) else self.modes
        if modes != "auto":
            return make(rank=rank, modes=modes)
        key = f"{recorded}@{rank}" if isinstance(rank, int) else f"{recorded}@{','.join(map(str, rank))}"
        matrix = make(rank=rank, modes=self.recorded_modes.get(key, "auto"))
        self.recorded_modes.setdefault(key, matrix.layout.split_modes)
        return matrix

    def draw(self, matrix: TrainMatrix, variance: float, zero: bool = False) -> None:
        """Set a matrix's entries as `init_weights` says.

        Args:
            matrix: The matrix.
            variance: Mean square of its entries, at least 0.
            zero: Whether it is the one that is zero where the adapter starts as the identity.
        """
        if self.init_weights == "gaussian":
            matrix.reset_parameters(variance, gaussian=True)
        else:
            matrix.reset_parameters(variance, zero=zero and self.init_weights is not False)


@dataclass
class FittedConfig(TrainConfig):
    """Fields of a method whose trains can start from an update that there is already.

    Args:
        init_weights: Besides True and False: `"gaussian"` draws every core from a normal distribution; `"tt_svd"`
            starts in the principal directions of the layer's weight, by TT-SVD, and counts from there, so that the
            model's output is unchanged; `"lora"` takes over the LoRA adapter in `lora_path`, as nearly as the ranks
            allow.
        lora_path: Folder of a LoRA checkpoint of PEFT's, for `init_weights="lora"`.

    Raises:
        TTValueError: If one of the two is given without the other.

    Example:
        >>> from ttnet_llm import TTLoraConfig
        >>> try:
        ...     TTLoraConfig(init_weights="lora")
        ... except TTValueError as error:
        ...     print(error)
        init_weights is 'lora' and lora_path is None; give init_weights='lora' and the folder of a LoRA checkpoint
        together, or neither.
    """

    starts: ClassVar[tuple[str, ...]] = ("gaussian", "tt_svd", "lora")

    lora_path: str | None = field(default=None)

    @property
    def why_no_parameters(self) -> str | None:
        """Why the weights of experts cannot be one train; `None` if they can."""
        if self.layout != "aligned":
            return f"layout is {self.layout!r}, whose cores have no place for a mode of experts"
        if self.modes == "paper":
            return "modes is 'paper', whose tables have no mode for experts"
        if self.init_weights == "lora":
            return "init_weights is 'lora', which starts linear layers only"
        return None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.init_weights == "lora") != (self.lora_path is not None):
            raise TTValueError(
                f"init_weights is {self.init_weights!r} and lora_path is {self.lora_path!r}; give init_weights='lora' "
                "and the folder of a LoRA checkpoint together, or neither."
            )

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as they are saved: once it has started, an adapter no longer needs the LoRA checkpoint."""
        fields: dict[str, Any] = super().to_dict()
        if fields["init_weights"] == "lora":
            fields |= {"init_weights": True, "lora_path": None}
        return fields


def is_pair(rank: Any) -> bool:
    """Tell whether `tt_rank` has ranks of its own for either of two trains.

    Args:
        rank: The field.

    Returns:
        Whether it is a list of lists.

    Example:
        >>> is_pair(5), is_pair([2, 3]), is_pair([[2, 3], [4]])
        (False, False, True)
    """
    return isinstance(rank, list | tuple) and any(isinstance(inner, list | tuple) for inner in rank)


def _ranks(rank: Any) -> list[Any]:
    """All entries of nested lists; a train of one core has an empty one."""
    return [entry for inner in rank for entry in _ranks(inner)] if isinstance(rank, list | tuple) else [rank]


def _check_modes(shape: str, modes: Any) -> None:
    try:
        rows, cols = (int(size) for size in shape.split("x"))
        row_modes, col_modes = ([int(mode) for mode in side] for side in modes)
    except (ValueError, TypeError, AttributeError) as error:
        raise TTValueError(
            f"modes[{shape!r}] is {modes!r}; expected a shape such as '768x8' and two lists, the modes of its rows "
            "and of its columns, such as [[8, 8, 12], [8]]."
        ) from error
    for name, size, side in (("rows", rows, row_modes), ("columns", cols, col_modes)):
        product = 1
        for mode in side:
            product *= mode
        if product != size or min(side, default=0) < 1:
            raise TTValueError(
                f"modes[{shape!r}] factors the {size} {name} into {side}, whose product is {product}; expected {size}."
            )
