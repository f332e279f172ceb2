"""Rank truncation of trains and of sums of trains; orthogonal forms, which keep the ranks, are in `ttnet.trains`."""

from ttnet.rounding.methods import round, round_sum
from ttnet.trains.orthogonal import right_orthogonalise

__all__ = ["right_orthogonalise", "round", "round_sum"]
