"""The loss around the weights: means, sharpness, noise."""

from lowland.measure.surface.activation_noise import (
    ActivationNoiseSharpness,
    activation_noise_sharpness,
)
from lowland.measure.surface.loss import MeanLoss, mean_loss
from lowland.measure.surface.one_step import OneStepSharpness, one_step_sharpness

__all__ = [
    "ActivationNoiseSharpness",
    "MeanLoss",
    "OneStepSharpness",
    "activation_noise_sharpness",
    "mean_loss",
    "one_step_sharpness",
]
