"""Config fields of the linear methods."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

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

    Example:
        >>> from ttnet_llm import MeloraConfig
        >>> config = MeloraConfig(r=4, alpha=8)
        >>> isinstance(config, LinearConfig), config.update_scale, config.fields_of_a_sum([config, config], rounds=True)
        (True, 2.0, {})
    """

    rank_field: ClassVar[str] = "r"

    r: int = field(default=8)
    alpha: float = field(default=16)

    @property
    def update_scale(self) -> float:
        """The factor on the update, `alpha / r`."""
        return self.alpha / self.r

    def fields_of_a_sum(self, configs: Sequence[Self], rounds: bool) -> dict[str, Any]:
        """Give the fields, besides the ranks, of the sum of several adapters, of which this is the first one's config.

        Args:
            configs: The configs of all.
            rounds: Whether the sum has the size of the first, rather than room for all.

        Returns:
            Fields by their names; those that are missing keep their defaults.
        """
        return {}

    def _check_fields(self) -> None:
        super()._check_fields()
        self._check_positive("r")


@dataclass
class SharedConfig(AdapterConfig):
    """Fields of a method whose modules share one network, so that they have one rank; a base beside others.

    Raises:
        TTValueError: If a value is outside its range, or single modules are given ranks of their own.

    Example:
        >>> from ttnet_llm import LotrConfig
        >>> try:
        ...     LotrConfig(rank_pattern={"v_proj": 2})
        ... except TTValueError as error:
        ...     print(error)
        rank_pattern is {'v_proj': 2}, but lotr shares one network between all modules of a shape, which has one rank;
        set r, or add a second adapter for the modules that want another.
    """

    def _check_patterns(self) -> None:
        if self.rank_pattern:
            raise TTValueError(
                f"rank_pattern is {self.rank_pattern!r}, but {self.method} shares one network between all modules of "
                "a shape, which has one rank; set r, or add a second adapter for the modules that want another."
            )
        super()._check_patterns()
