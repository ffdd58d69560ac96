"""Instruments: each takes a model or features, leaves them as they were and returns a record."""

from lowland.measure.blocks import matching_blocks
from lowland.measure.features import (
    ActiveUnits,
    FeatureRank,
    NeighborError,
    active_units,
    capture,
    feature_rank,
    knn_error,
    stream,
)
from lowland.measure.inspection import Inspection, inspect_model
from lowland.measure.instruments import INSTRUMENTS, Instrument, check_options
from lowland.measure.live_bytes import LiveBytes, StepBytes, step_bytes
from lowland.measure.surface import (
    ActivationNoiseSharpness,
    MeanLoss,
    OneStepSharpness,
    activation_noise_sharpness,
    mean_loss,
    one_step_sharpness,
)
from lowland.measure.weights import WeightNorm, weight_norm

__all__ = [
    "INSTRUMENTS",
    "ActivationNoiseSharpness",
    "ActiveUnits",
    "FeatureRank",
    "Inspection",
    "Instrument",
    "LiveBytes",
    "MeanLoss",
    "NeighborError",
    "OneStepSharpness",
    "StepBytes",
    "WeightNorm",
    "activation_noise_sharpness",
    "active_units",
    "capture",
    "check_options",
    "feature_rank",
    "inspect_model",
    "knn_error",
    "matching_blocks",
    "mean_loss",
    "one_step_sharpness",
    "step_bytes",
    "stream",
    "weight_norm",
]
