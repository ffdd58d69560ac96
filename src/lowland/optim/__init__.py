"""Sharpness-aware optimizers: one engine, four small interfaces, named presets.

`SAM` and the other presets are `SharpnessAware` with its parts filled in; any other combination of
parts works the same way.
"""

from lowland.optim.adaptive import AdaSAM, LightSAM
from lowland.optim.agnostic import AgnosticSAM
from lowland.optim.amp import AMP
from lowland.optim.asam import ASAM
from lowland.optim.balanced import BalancedSAM, label_weights
from lowland.optim.bayesian import BayesianSAM
from lowland.optim.esam import ESAM
from lowland.optim.federated import FedASAM, FedSAM, MoFedSAM
from lowland.optim.fsam import FSAM
from lowland.optim.gcsam import GCSAM
from lowland.optim.gradient import Gradient, Part
from lowland.optim.gradient_norm import GradientNorm
from lowland.optim.gsam import GSAM, MinusOrthogonal
from lowland.optim.lastlayer import LastLayerSAM, LogitsSAM
from lowland.optim.layerwise import AWP, LayerwiseSAM
from lowland.optim.looksam import LookSAM
from lowland.optim.methods import METHODS, Method, create
from lowland.optim.metrics import (
    Elementwise,
    Euclidean,
    Filterwise,
    Fixed,
    Layerwise,
    Metric,
    PerTensor,
    Scaled,
)
from lowland.optim.monge import MongeSAM
from lowland.optim.msam import MSAM
from lowland.optim.mup import MuP2, coordinate_check, mup_groups
from lowland.optim.nsam import NSAM
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import (
    Combine,
    Evaluate,
    Evaluation,
    LossTerm,
    Pass,
    Plan,
    Program,
    TwoPass,
    Update,
)
from lowland.optim.radii import Mixed, Normalized, Pullback, Radius, Unnormalized
from lowland.optim.record import StepRecord
from lowland.optim.rwsam import RWSAM
from lowland.optim.sam import SAM
from lowland.optim.samon import SAMON
from lowland.optim.schedules import Cosine, Linear, Schedule
from lowland.optim.selections import (
    Everything,
    Matrices,
    Named,
    NormLayers,
    OutputLayer,
    Selection,
)
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.slsam import SLSAM
from lowland.optim.stateless_adam import StatelessAdam
from lowland.optim.step import Step
from lowland.optim.trajectory import MESA, SAF
from lowland.optim.transforms import Centralized, MinusRunningMean, RunningMean, Transform
from lowland.optim.uncorrected import UncorrectedAdaGrad, UncorrectedAdam
from lowland.optim.universal import DetSAM, FrobSAM, Measure, TraceSAM, UniversalSAM
from lowland.optim.usam import USAM, UnifiedSAM
from lowland.optim.wsam import WSAM

__all__ = [
    "AMP",
    "ASAM",
    "AWP",
    "ESAM",
    "FSAM",
    "GCSAM",
    "GSAM",
    "MESA",
    "METHODS",
    "MSAM",
    "NSAM",
    "RWSAM",
    "SAF",
    "SAM",
    "SAMON",
    "SLSAM",
    "USAM",
    "WSAM",
    "AdaSAM",
    "AgnosticSAM",
    "BalancedSAM",
    "BayesianSAM",
    "Centralized",
    "Combine",
    "Cosine",
    "DetSAM",
    "Elementwise",
    "Euclidean",
    "Evaluate",
    "Evaluation",
    "Everything",
    "FedASAM",
    "FedSAM",
    "Filterwise",
    "Fixed",
    "FrobSAM",
    "Gradient",
    "GradientNorm",
    "LastLayerSAM",
    "Layerwise",
    "LayerwiseSAM",
    "LightSAM",
    "Linear",
    "LogitsSAM",
    "LookSAM",
    "LossTerm",
    "Matrices",
    "Measure",
    "Method",
    "Metric",
    "MinusOrthogonal",
    "MinusRunningMean",
    "Mixed",
    "MoFedSAM",
    "MongeSAM",
    "MuP2",
    "Named",
    "NormLayers",
    "Normalized",
    "OutputLayer",
    "Part",
    "Pass",
    "PerTensor",
    "Perturbation",
    "Plan",
    "Program",
    "Pullback",
    "Radius",
    "RunningMean",
    "Scaled",
    "Schedule",
    "Selection",
    "SharpnessAware",
    "StatelessAdam",
    "Step",
    "StepRecord",
    "TraceSAM",
    "Transform",
    "TwoPass",
    "UncorrectedAdaGrad",
    "UncorrectedAdam",
    "UnifiedSAM",
    "UniversalSAM",
    "Unnormalized",
    "Update",
    "coordinate_check",
    "create",
    "label_weights",
    "mup_groups",
]
