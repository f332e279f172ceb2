"""Rank truncation of trains and sums of trains, given by their cores; `ttnet.round` itself is in `ttnet.trains`."""

from ttnet.rounding.methods import round_cores

__all__ = ["round_cores"]
