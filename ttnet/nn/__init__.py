"""Layers whose weights are trains, from scratch or from dense layers; trains as values are in `ttnet.trains`."""

from ttnet.nn.calibration import RowCounts, SecondMoment
from ttnet.nn.decompose import Decomposition, candidate_layouts
from ttnet.nn.embedding import TTEmbedding
from ttnet.nn.layout import Layout
from ttnet.nn.linear import TTLinear
from ttnet.nn.ranks import Spectrum, spend
from ttnet.nn.weight import TTWeight

__all__ = [
    "Decomposition",
    "Layout",
    "RowCounts",
    "SecondMoment",
    "Spectrum",
    "TTEmbedding",
    "TTLinear",
    "TTWeight",
    "candidate_layouts",
    "spend",
]
