"""How sums of trains, given by their cores, are brought to smaller ranks; `ttnet.round` is in `ttnet.trains`."""

from ttnet.rounding.methods import round_cores

__all__ = ["round_cores"]
