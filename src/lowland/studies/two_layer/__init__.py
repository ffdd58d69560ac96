"""Two-layer teacher-student networks (arXiv 2305.16292, section 4): many at once."""

from lowland.studies.two_layer.activations import ACTIVATIONS, PENALTIES, Activation
from lowland.studies.two_layer.draws import Draw, Network, draw
from lowland.studies.two_layer.readings import Reading, ranks
from lowland.studies.two_layer.run import Point, TwoLayerRun, log_points, run, run_all
from lowland.studies.two_layer.training import Plan, Trainer

__all__ = [
    "ACTIVATIONS",
    "PENALTIES",
    "Activation",
    "Draw",
    "Network",
    "Plan",
    "Point",
    "Reading",
    "Trainer",
    "TwoLayerRun",
    "draw",
    "log_points",
    "ranks",
    "run",
    "run_all",
]
