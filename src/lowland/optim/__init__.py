"""Sharpness-aware optimizers: one engine, four small interfaces, named presets.

`SAM` and the other presets are `SharpnessAware` with its parts filled in; any other combination of
parts works the same way.
"""

from lowland.optim.asam import ASAM
from lowland.optim.fsam import FSAM
from lowland.optim.gradient import Gradient, Part
from lowland.optim.looksam import LookSAM
from lowland.optim.methods import METHODS, Method, create
from lowland.optim.msam import MSAM
from lowland.optim.perturbation import (
    Elementwise,
    Euclidean,
    Everything,
    Metric,
    MinusRunningMean,
    Named,
    Normalized,
    NormLayers,
    Perturbation,
    Radius,
    Selection,
    Transform,
)
from lowland.optim.plan import (
    Combine,
    Evaluate,
    Evaluation,
    LossTerm,
    Plan,
    Program,
    TwoPass,
    Update,
)
from lowland.optim.sam import SAM
from lowland.optim.samon import SAMON
from lowland.optim.schedules import Cosine, Linear, Schedule
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step, StepRecord

__all__ = [
    "ASAM",
    "FSAM",
    "METHODS",
    "MSAM",
    "SAM",
    "SAMON",
    "Combine",
    "Cosine",
    "Elementwise",
    "Euclidean",
    "Evaluate",
    "Evaluation",
    "Everything",
    "Gradient",
    "Linear",
    "LookSAM",
    "LossTerm",
    "Method",
    "Metric",
    "MinusRunningMean",
    "Named",
    "NormLayers",
    "Normalized",
    "Part",
    "Perturbation",
    "Plan",
    "Program",
    "Radius",
    "Schedule",
    "Selection",
    "SharpnessAware",
    "Step",
    "StepRecord",
    "Transform",
    "TwoPass",
    "Update",
    "create",
]
