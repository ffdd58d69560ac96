"""Instruments that look at the weights alone."""

from lowland.measure.weights.norm import WeightNorm, weight_norm

__all__ = [
    "WeightNorm",
    "weight_norm",
]
