"""Two-layer teacher-student networks (arXiv 2305.16292, section 4): many at once, and the study.

`run` and `run_all` train; `STUDY` is `low-rank/two-layer`: three activations, SAM, the gradient
norm, weight decay and teachers of 1 to 20 units over 30 seeds, Proposition 1 step by step, and the
published seed.
"""

from lowland.studies.study import Study
from lowland.studies.two_layer.activations import ACTIVATIONS, PENALTIES, Activation
from lowland.studies.two_layer.draws import Draw, Network, draw
from lowland.studies.two_layer.plan import DATA, plan
from lowland.studies.two_layer.readings import Reading, ranks
from lowland.studies.two_layer.run import Point, TwoLayerRun, log_points, run, run_all
from lowland.studies.two_layer.training import Plan, Trainer

STUDY = Study(
    name="low-rank/two-layer",
    title="How SAM induces low-rank features: two-layer networks",
    source="M. Andriushchenko, D. Bahri, H. Mobahi, N. Flammarion, arXiv 2305.16292, 2023, §4",
    shows="rank, active units, losses and weight norm of teacher-student networks against ρ, over "
    "seeds; Proposition 1",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "about 2 minutes on two CPU cores; the published setting over 30 seeds",
        "paper": "the same over 100 seeds with more points, about 10 minutes",
    },
    settings={"published": "step sizes and initial scales of the released runs"},
    plan=plan,
    data=DATA,
    exact="ranks and active units by the published conventions",
)

__all__ = [
    "ACTIVATIONS",
    "PENALTIES",
    "STUDY",
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
