"""Rank truncation: bring the ranks of a train, or of a sum of trains, down to what an error bound needs."""

from ttnet.orthogonal import right_orthogonalise
from ttnet.rounding.methods import round, round_sum

__all__ = ["right_orthogonalise", "round", "round_sum"]
