"""The study `low-rank`: does sharpness-aware minimization lower the rank of features?

Two grids of ρ × seed. The *main* runs train on all classes; rank and test error are theirs. The
*transfer* runs train on the first half of the classes, and nearest neighbours are looked for
among the other half, with the same protocol otherwise. The published experiments use a second
data set for that.

The block that is judged is the last superblock but one: the paper leaves the last one out, since
neural collapse takes its rank down to the number of classes, and reports the third of four.

ρ, learning rate and epochs of the default size were chosen on seeds from 1000 on, the grid so that
it spans what the paper's spans (ρ that help and ρ that underfit), learning rate and epochs so that
plain training nearly fits the training images in the time. The study's own seeds, 0, 1, 2, ...,
were first run with everything fixed.
"""

from __future__ import annotations

from lowland.studies.low_rank.plan import plan
from lowland.studies.study import Study

STUDY = Study(
    name="low-rank",
    title="Sharpness-aware minimization leads to low-rank features",
    source="M. Andriushchenko, D. Bahri, H. Mobahi, N. Flammarion, arXiv 2305.16292, 2023",
    shows="the rank of features against ρ, during training and at its end, with its controls",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "about 6 minutes on two CPU cores; digits",
        "paper": "the published protocol, days on one GPU; give --data",
    },
    settings={
        "minimal": "no momentum, no weight decay, constant learning rate",
        "state-of-the-art": "momentum 0.9, weight decay 5e-4, learning rate in steps",
    },
    plan=plan,
)
