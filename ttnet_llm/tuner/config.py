"""The config fields that every method has, with PEFT's names where PEFT has the thing."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft import PeftConfig

from ttnet.errors import TTValueError
from ttnet_llm.registry import peft_type

MODES = ("auto", "paper")


@dataclass
class AdapterConfig(PeftConfig):
    """Configuration fields shared by every method; use a method's own class, such as `LorettaRepConfig`.

    Args:
        target_modules: The modules to adapt: a list of names or name endings, one regular expression for whole
            names, or `"all-linear"`. `None` takes the method's default for the model's architecture.
        exclude_modules: Modules not to adapt, given in the same way.
        layers_to_transform: Indices of the layers to adapt; `None` means all.
        layers_pattern: Name of the layer list that `layers_to_transform` counts in, such as `"layers"`.
        modules_to_save: Modules that are trained whole and saved with the adapter, such as a new head.
        bias: Which biases of the base model to train: `"none"`, `"all"`, or `"<method>_only"` for those of the
            adapted modules.
        init_weights: `True` starts as the identity; `False` draws a random start that is not.
        train_norms: Whether to train the base model's normalisation layers too; they are saved with the adapter.
        tt_rank: The largest rank of the tensor trains, at least 1.
        modes: How dimensions are factored: `"auto"` takes the factors with the fewest parameters, any size;
            `"paper"` takes the tables of the LoRETTA paper, and only has the sizes in them.
        dropout: The probability of dropout inside the adapter, in [0, 1).

    Raises:
        TTValueError: If a value is outside its range.
    """

    method: ClassVar[str]

    target_modules: list[str] | set[str] | str | None = field(default=None)
    exclude_modules: list[str] | set[str] | str | None = field(default=None)
    layers_to_transform: list[int] | int | None = field(default=None)
    layers_pattern: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)
    bias: str = field(default="none")
    init_weights: bool = field(default=True)
    train_norms: bool = field(default=False)
    tt_rank: int = field(default=5)
    modes: str = field(default="auto")
    dropout: float = field(default=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type(self.method.upper())
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        if isinstance(self.target_modules, str) and self.target_modules != "all-linear":
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    raise TTValueError(
                        f"{name} is {getattr(self, name)!r} while target_modules is a regular expression; "
                        "write the layers into the expression, or give target_modules as a list."
                    )
        if self.layers_pattern and self.layers_to_transform is None:
            raise TTValueError(
                f"layers_pattern is {self.layers_pattern!r} but layers_to_transform is None; give the layers' indices."
            )
        biases = ("none", "all", f"{self.method}_only")
        if self.bias not in biases:
            raise TTValueError(f"bias is {self.bias!r}; expected one of {', '.join(map(repr, biases))}.")
        if self.modes not in MODES:
            raise TTValueError(f"modes is {self.modes!r}; expected one of {', '.join(map(repr, MODES))}.")
        if not 0.0 <= self.dropout < 1.0:
            raise TTValueError(f"dropout is {self.dropout!r}; expected a probability in [0, 1).")
        self._check_positive("tt_rank")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TTValueError(f"{name} is {value!r}; expected an integer of at least 1.")
