"""The study `balance/mechanism`: how does SAM balance features? Four arms of last-layer SAM.

SAM on the last layer differs from plain SGD in two things that the backbone sees: how much each
example counts (importance weighting), and the head that its gradient comes through (learning-rate
scaling). `arms` has the exact arithmetic, for use elsewhere too; the study trains every
combination in a toy and on dominoes of digits.
"""

from __future__ import annotations

from lowland.studies.balance.plan import DATA
from lowland.studies.mechanism.arms import (
    ARMS,
    Arm,
    Directions,
    Head,
    directions,
    importance,
    phantom,
    residuals,
)
from lowland.studies.mechanism.plan import plan
from lowland.studies.mechanism.training import ArmsPlan, train_arms
from lowland.studies.mechanism.uniformity import gini, lorenz
from lowland.studies.study import Study

STUDY = Study(
    name="balance/mechanism",
    title="How SAM balances features: importance weighting and learning-rate scaling",
    source="J. M. Springer, V. Nagarajan, A. Raghunathan, arXiv 2405.20439, 2024",
    shows="probing errors of four arms between plain SGD and last-layer SAM, uniformity of "
    "importance and shares of the head",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "about 2 minutes on two CPU cores; a toy and dominoes of digits",
        "paper": "wider and longer, 30 seeds, about half an hour",
    },
    settings={"minimal": "SGD at a constant learning rate, no momentum, no weight decay"},
    plan=plan,
    data=DATA,
)

__all__ = [
    "ARMS",
    "STUDY",
    "Arm",
    "ArmsPlan",
    "Directions",
    "Head",
    "directions",
    "gini",
    "importance",
    "lorenz",
    "phantom",
    "residuals",
    "train_arms",
]
