"""Instruments that look at the weights alone."""

from lowland.measure.weights.norm import WeightNorm, weight_norm
from lowland.measure.weights.rank import MatrixRank, WeightRanks, weight_ranks

__all__ = [
    "MatrixRank",
    "WeightNorm",
    "WeightRanks",
    "weight_norm",
    "weight_ranks",
]
