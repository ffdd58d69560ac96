"""The study `methods`: every sharpness-aware method on one data set, at equal epochs and compute.

An arm is a method with its options (`arms`); all arms are tuned over the same grid of ρ, each in
its own scale, and judged at the ρ that validation data choose. Every arm runs for as many epochs
as SAM, and, where its steps have more or fewer passes than SAM's two, for as many passes too.

Network, learning rate, epochs and scales of the default size were chosen on seeds from 1000 on.
The study's own seeds, 0, 1, 2, ..., were first run with everything fixed.
"""

from __future__ import annotations

from lowland.studies.methods.arms import ALL
from lowland.studies.methods.plan import plan
from lowland.studies.study import Study

STUDY = Study(
    name="methods",
    title="Sharpness-aware methods side by side, at equal epochs and at equal compute",
    source="the abstract of each method's paper; `lowland methods` lists them",
    shows=(
        "test error, feature rank, active units, sharpness, time and memory of every method, and "
        "which of their claims hold"
    ),
    sizes={
        "smoke": "half a minute; shows that everything works, nothing else",
        "default": "about 20 minutes on two CPU cores; digits",
        "paper": "ResNet-18, 200 epochs, weeks on one GPU for all; give --data and --method",
    },
    settings={"standard": "momentum 0.9, weight decay 5e-4, cosine"},
    plan=plan,
    method=ALL,
)
