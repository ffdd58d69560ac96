"""The loss around the weights: means, sharpness, noise, landscapes, paths."""

from lowland.measure.surface.activation_noise import (
    ActivationNoiseSharpness,
    activation_noise_sharpness,
)
from lowland.measure.surface.average import AverageSharpness, average_sharpness
from lowland.measure.surface.curve import bezier_path
from lowland.measure.surface.directions import Direction, direction_towards, random_direction
from lowland.measure.surface.landscape import Landscape, loss_line, loss_plane
from lowland.measure.surface.loss import MeanLoss, mean_loss
from lowland.measure.surface.one_step import OneStepSharpness, one_step_sharpness
from lowland.measure.surface.path import WeightPath, linear_path
from lowland.measure.surface.presets import SHARPNESS_PRESETS, sharpness_preset
from lowland.measure.surface.trajectory import TrajectoryDirections, trajectory_directions
from lowland.measure.surface.worst import WorstSharpness, worst_sharpness

__all__ = [
    "SHARPNESS_PRESETS",
    "ActivationNoiseSharpness",
    "AverageSharpness",
    "Direction",
    "Landscape",
    "MeanLoss",
    "OneStepSharpness",
    "TrajectoryDirections",
    "WeightPath",
    "WorstSharpness",
    "activation_noise_sharpness",
    "average_sharpness",
    "bezier_path",
    "direction_towards",
    "linear_path",
    "loss_line",
    "loss_plane",
    "mean_loss",
    "one_step_sharpness",
    "random_direction",
    "sharpness_preset",
    "trajectory_directions",
    "worst_sharpness",
]
