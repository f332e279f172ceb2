"""Config fields of the linear methods."""

from dataclasses import dataclass, field
from typing import ClassVar

from ttnet.errors import TTValueError
from ttnet_llm.tuner import AdapterConfig


@dataclass
class LinearConfig(AdapterConfig):
    """Fields of a method whose update is `(alpha / r) * L @ R`.

    Args:
        r: The update's inner rank, at least 1.
        alpha: The update is scaled by `alpha / r`.

    Raises:
        TTValueError: If a value is outside its range.
    """

    rank_field: ClassVar[str] = "r"

    r: int = field(default=8)
    alpha: float = field(default=16)

    @property
    def update_scale(self) -> float:
        """The factor on the update, `alpha / r`."""
        return self.alpha / self.r

    def _check_fields(self) -> None:
        super()._check_fields()
        self._check_positive("r")


@dataclass
class SharedConfig(AdapterConfig):
    """Fields of a method whose modules share one network, so that they have one rank; a base beside others.

    Raises:
        TTValueError: If a value is outside its range, or single modules are given ranks of their own.
    """

    def _check_patterns(self) -> None:
        if self.rank_pattern:
            raise TTValueError(
                f"rank_pattern is {self.rank_pattern!r}, but {self.method} shares one network between all modules of "
                "a shape, which has one rank; set r, or add a second adapter for the modules that want another."
            )
        super()._check_patterns()
