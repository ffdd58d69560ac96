"""The study `balance`: does sharpness-aware minimization balance what features are learned?

The paper says that plain training falls for the simple one of several features, that SAM leaves
room for the others by holding back what is learned well, and that this has nothing to do with
flat minima. Here each is a claim of its own, on dominoes of digits whose two halves both tell the
label (redundant) or of which the simple one sometimes misleads (spurious), in small networks, and
by recipes on any annotated data.

Data, networks, learning rate, ρ and the probe's C were chosen on seeds from 1000 on; the study's
own seeds, 0, 1, 2, ..., were first run with everything fixed.
"""

from __future__ import annotations

from lowland.studies.balance.plan import DATA, plan
from lowland.studies.study import Study

STUDY = Study(
    name="balance",
    title="What features get learned: balanced learning by sharpness-aware minimization",
    source="J. M. Springer, V. Nagarajan, A. Raghunathan, arXiv 2405.20439, 2024",
    shows="probing errors of a hard and a simple feature, shares of the gradient, worst groups "
    "and sharpness against ρ, in redundant and spurious settings",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "about 4 minutes on two CPU cores; dominoes of digits",
        "paper": "wider networks and 30 seeds, or ResNet-18 on other annotated --data on one GPU",
    },
    settings={"minimal": "SGD at a constant learning rate, no momentum, no weight decay"},
    plan=plan,
    data=DATA,
)
