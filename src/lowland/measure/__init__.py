"""Instruments: each takes a model or features, leaves them as they were and returns a record."""

from lowland.measure.activation_noise import ActivationNoiseSharpness, activation_noise_sharpness
from lowland.measure.active import ActiveUnits, active_units
from lowland.measure.capture import capture, matching_blocks, stream
from lowland.measure.live_bytes import LiveBytes, StepBytes, step_bytes
from lowland.measure.loss import MeanLoss, mean_loss
from lowland.measure.neighbors import NeighborError, knn_error
from lowland.measure.norms import WeightNorm, weight_norm
from lowland.measure.rank import FeatureRank, feature_rank
from lowland.measure.sharpness import OneStepSharpness, one_step_sharpness

__all__ = [
    "ActivationNoiseSharpness",
    "ActiveUnits",
    "FeatureRank",
    "LiveBytes",
    "MeanLoss",
    "NeighborError",
    "OneStepSharpness",
    "StepBytes",
    "WeightNorm",
    "activation_noise_sharpness",
    "active_units",
    "capture",
    "feature_rank",
    "knn_error",
    "matching_blocks",
    "mean_loss",
    "one_step_sharpness",
    "step_bytes",
    "stream",
    "weight_norm",
]
