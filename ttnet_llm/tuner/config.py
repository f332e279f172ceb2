"""The config fields that every method has, with PEFT's names where PEFT has the thing."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from peft import PeftConfig
from peft.utils.other import get_pattern_key

from ttnet.distribution import version
from ttnet.errors import TTValueError
from ttnet_llm.registry import peft_type


@dataclass
class AdapterConfig(PeftConfig):
    """Configuration fields shared by every method; use a method's own class, such as `LorettaRepConfig`.

    Args:
        target_modules: The modules to adapt: a list of names or name endings, one regular expression for whole
            names, or `"all-linear"`. `None` takes the method's default for the model's architecture.
        exclude_modules: Modules not to adapt, given in the same way.
        target_parameters: Parameters to adapt that their module reads directly, as those that hold the weights of all
            experts of a layer: a list of names or name endings, such as `"mlp.experts.down_proj"`. LoRETTA_rep and
            TT-LoRA only. `None` means those of all experts where `target_modules` is `"all-linear"`, and otherwise
            none.
        layers_to_transform: Indices of the layers to adapt; `None` means all.
        layers_pattern: Name of the layer list that `layers_to_transform` counts in, such as `"layers"`.
        modules_to_save: Modules that are trained whole and saved with the adapter, such as a new head.
        bias: Which biases of the base model to train: `"none"`, `"all"`, or `"<method>_only"` for those of the
            adapted modules.
        init_weights: `True` starts as the identity; `False` draws a random start that is not. Methods may know
            more ways, by name.
        rank_pattern: Ranks of single modules: name endings or regular expressions to the rank, or to a dict of
            several fields, such as `{"v_proj": 2, "q_proj": {"r": 8, "tt_rank": 3}}`.
        alpha_pattern: The same for the factor on the update.
        train_norms: Whether to train the base model's normalisation layers too; they are saved with the adapter.
        dropout: The probability of dropout inside the adapter, in [0, 1).
        id2label: Names of a classifier's classes by their indices. `None` takes the model's, and they are saved; an
            adapter that is loaded gives a base model with other ones a head of its own number, and its names.
        ttnet_version: The version that made the adapter; filled in.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from ttnet_llm import MeloraConfig
        >>> config = MeloraConfig(r=8, rank_pattern={"v_proj": 2})
        >>> isinstance(config, AdapterConfig), config.for_module("layer.0.v_proj").r, config.for_module("q_proj").r
        (True, 2, 8)
        >>> config.changes_of_ranks("layer.0.v_proj")
        {'r': 2}
    """

    method: ClassVar[str]
    rank_field: ClassVar[str]  # what an integer in `rank_pattern` sets
    scale_field: ClassVar[str] = "alpha"  # what `alpha_pattern` sets
    reads_weights: ClassVar[bool] = False  # whether what is added to a weight depends on that weight
    classes_are_the_models = False  # whether `id2label` was taken from a model, so that another's goes before it
    task_cores: ClassVar[tuple[str, ...]] = ()  # parameters with a slice for each task, where tasks share all others
    starts: ClassVar[tuple[str, ...]] = ()  # names that `init_weights` takes, besides True and False

    target_modules: list[str] | set[str] | str | None = field(default=None)
    exclude_modules: list[str] | set[str] | str | None = field(default=None)
    target_parameters: list[str] | None = field(default=None)
    layers_to_transform: list[int] | int | None = field(default=None)
    layers_pattern: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)
    bias: str = field(default="none")
    init_weights: bool | str = field(default=True)
    rank_pattern: dict[str, Any] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    train_norms: bool = field(default=False)
    dropout: float = field(default=0.0)
    id2label: dict[int, str] | None = field(default=None)
    ttnet_version: str | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type(self.method.upper())
        self.ttnet_version = self.ttnet_version or version()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        if isinstance(self.target_parameters, str):
            raise TTValueError(f"target_parameters is {self.target_parameters!r}; expected a list of names.")
        if self.target_parameters and self.why_no_parameters is not None:
            raise TTValueError(
                f"target_parameters is {self.target_parameters!r}, and {self.why_no_parameters}; name linear layers in "
                "target_modules. Experts that are held as one parameter are adapted by LoRETTA_rep and TT-LoRA, with "
                "the aligned layout, or by PEFT's LoRA."
            )
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
        self._check_choice("bias", ("none", "all", f"{self.method}_only"))
        if not isinstance(self.init_weights, bool):
            self._check_choice("init_weights", (True, False, *self.starts))
        if self.id2label is not None:
            self.id2label = self._check_names(self.id2label)
        if not 0.0 <= self.dropout < 1.0:
            raise TTValueError(f"dropout is {self.dropout!r}; expected a probability in [0, 1).")
        self._check_fields()
        self._check_patterns()

    @property
    def why_no_parameters(self) -> str | None:
        """Why parameters cannot be adapted that are no weight of a linear layer; `None` if they can."""
        return f"{self.method} adapts modules, not bare parameters"

    @property
    def update_scale(self) -> float:
        """The factor on the adapter's contribution."""
        raise NotImplementedError

    def for_module(self, name: str) -> "AdapterConfig":
        """Give the config that holds for one module, with what the patterns say of it.

        Args:
            name: The module's full name.

        Returns:
            This config itself where no pattern matches, a changed shallow copy of it otherwise.
        """
        changes = self.changes_of_ranks(name)
        scale = self.alpha_pattern.get(get_pattern_key(self.alpha_pattern, name))
        if scale is not None:
            changes[self.scale_field] = scale
        return self._changed(changes) if changes else self

    def changes_of_ranks(self, name: str) -> dict[str, Any]:
        """Give the fields that `rank_pattern` sets for one module.

        Args:
            name: The module's full name.

        Returns:
            A new dict of fields, empty where no pattern matches.
        """
        ranks = self.rank_pattern.get(get_pattern_key(self.rank_pattern, name))
        return {} if ranks is None else dict(self._rank_changes(ranks))

    def _rank_changes(self, ranks: Any) -> dict[str, Any]:
        return ranks if isinstance(ranks, dict) else {self.rank_field: ranks}

    def _changed(self, changes: dict[str, Any]) -> "AdapterConfig":
        config = copy.copy(self)  # shares what it records with this one
        for key, value in changes.items():
            setattr(config, key, value)
        config._check_fields()
        return config

    def _check_fields(self) -> None:
        """Check the method's own fields, which patterns may change for single modules; methods extend it."""
        self._check_number(self.scale_field, zero=self.init_weights not in ("tt_svd", "lora"))

    def _check_names(self, names: dict[Any, str]) -> dict[int, str]:
        try:
            by_index = {int(k): str(name) for k, name in names.items()}  # JSON has strings for keys
        except (AttributeError, TypeError, ValueError):
            by_index = {}
        if not by_index or sorted(by_index) != list(range(len(by_index))):
            raise TTValueError(f"id2label is {names!r}; expected names by the indices 0, 1, ... of the classes.")
        return by_index

    def _check_patterns(self) -> None:
        known = set(self.__dataclass_fields__) - set(AdapterConfig.__dataclass_fields__)
        for pattern, ranks in self.rank_pattern.items():
            changes = self._rank_changes(ranks)
            if unknown := sorted(set(changes) - known):
                raise TTValueError(
                    f"rank_pattern[{pattern!r}] sets {', '.join(unknown)}, which {type(self).__name__} does not have; "
                    f"it has {', '.join(sorted(known))}."
                )
            self._changed(changes)

    def _check_number(self, name: str, zero: bool = True) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TTValueError(f"{name} is {value!r}; expected a finite number.")
        if value == 0 and not zero:
            raise TTValueError(f"{name} is 0, and init_weights {self.init_weights!r} divides by it; give another.")

    def _check_choice(self, name: str, choices: tuple[Any, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise TTValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}.")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TTValueError(f"{name} is {value!r}; expected an integer of at least 1.")
