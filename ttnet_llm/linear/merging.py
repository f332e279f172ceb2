"""What merging into a base weight costs, and how it is refused."""

import warnings
from dataclasses import dataclass
from math import sqrt

from ttnet.errors import TTTypeError

NOTABLE = 0.5  # the part of an update that weights of less precision may round away before it is told


@dataclass(frozen=True)
class MergeLoss:
    """How far a merged weight is from what it should be, as squared Frobenius norms, which add up over layers.

    Args:
        lost: Of the difference.
        update: Of the update; 0 where nothing was rounded.
    """

    lost: float = 0.0
    update: float = 0.0

    def __add__(self, other: "MergeLoss") -> "MergeLoss":
        return MergeLoss(self.lost + other.lost, self.update + other.update)

    @property
    def ratio(self) -> float:
        """The norm of the difference, relative to that of the update; 0 where there is no update.

        Example:
            >>> (MergeLoss(3.0, 16.0) + MergeLoss(1.0, 0.0)).ratio
            0.5
        """
        return sqrt(self.lost / self.update) if self.update else 0.0


def refusal(what: str, reason: str) -> TTTypeError:
    """Make the error of a layer that cannot take up an update.

    Args:
        what: The layer, by its name or kind.
        reason: Why not, and what to do about it.

    Returns:
        The error.
    """
    return TTTypeError(
        f"{what} cannot take up an update: {reason}. Or keep the adapter beside it: as it is, or as a LoRA that "
        "serving engines load (export_lora). Nothing was merged."
    )


def warn_of_losses(losses: dict[str, MergeLoss], quantised: dict[str, str]) -> None:
    """Say how much of an update was lost when it was merged into weights of less precision.

    Args:
        losses: What was lost, by the names of the modules.
        quantised: How they are quantised, for those that are.
    """
    rounded = {name: loss for name, loss in losses.items() if name not in quantised}
    for group, least in ((losses.keys() & quantised.keys(), 0.0), (rounded.keys(), NOTABLE)):
        found = {name: losses[name] for name in losses if name in group and losses[name].update}
        total = sum(found.values(), MergeLoss()).ratio
        if not found or total < least:
            continue
        worst = max(found, key=lambda name: found[name].ratio)
        how = (
            f"weights that {', '.join(sorted({quantised[name] for name in found}))} quantises"
            if worst in quantised
            else "weights of half precision"
        )
        advice = "; unmerging does not give these weights back" if worst in quantised else ""
        warnings.warn(
            f"Merging into {how} lost {total:.0%} of the update ({worst}: {found[worst].ratio:.0%}; Frobenius norms of "
            f"what rounding changed, relative to the update){advice}. Merge into the base model in full precision, or "
            "keep the adapter beside it: as it is, or as a LoRA that serving engines load (export_lora).",
            stacklevel=3,
        )
