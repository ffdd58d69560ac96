"""The study `low-rank/causes`: what else lowers the rank of features, and is that why SAM helps?

Section 2.1 of the paper lists what others found to lower ranks: gradient descent itself, weight
decay and small initialisation (of weight matrices), large steps (sparse features), label noise
(which minimises sharpness as SAM does). Section 7 calls the low rank of SAM a side effect, adapted
to the data. Here each of these is one arm beside SAM, with the same seeds, compared at the same
train loss and at the same number of updates. All effects are of training alone: one data split.

Networks, levels of each cause, ρ and epochs of the default size were chosen on seeds from 1000 on;
the study's own seeds, 0, 1, 2, ..., were first run with everything fixed.
"""

from __future__ import annotations

from lowland.studies.causes.plan import plan
from lowland.studies.study import Study

STUDY = Study(
    name="low-rank/causes",
    title="What else lowers the rank of features, beside sharpness-aware minimization",
    source="M. Andriushchenko, D. Bahri, H. Mobahi, N. Flammarion, arXiv 2305.16292, 2023",
    shows="ranks of features and weights by cause, at matched train loss, and errors beside them",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "3 to 4 minutes on two CPU cores; digits",
        "paper": "PreAct ResNet-18 on 32-pixel images, half a day on one GPU; give --data",
    },
    settings={"minimal": "no momentum, no augmentation, constant learning rate"},
    plan=plan,
)
