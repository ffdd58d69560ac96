"""The study `overparam`: when does SAM help, as a function of model size? (arXiv 2311.17539)

Fully connected networks of many widths on the digits, with and without wrong labels, weight decay,
early stopping and masks: does the gain over SGD grow with the number of parameters, and the best ρ;
does label noise or sparsity enlarge it, and does it need regularisation; and are the reasons that
the paper gives there, a larger space of solutions and a stronger bias within it. All networks of a
size are trained as one stack over seeds and ρ.

Widths, ρ, learning rate, epochs, the weight decay that regularises and the train loss at which
solutions are compared were chosen on seeds from 1000 on; the study's own seeds, 0, 1, 2, ..., were
first run with everything fixed.
"""

from __future__ import annotations

from lowland.studies.overparam.curvature import largest_eigenvalues
from lowland.studies.overparam.masks import random_masks, snip_masks
from lowland.studies.overparam.plan import plan
from lowland.studies.study import Study

STUDY = Study(
    name="overparam",
    title="Critical influence of overparameterization on sharpness-aware minimization",
    source="S. Shin, D. Lee, M. Andriushchenko, N. Lee, arXiv 2311.17539, UAI 2025",
    shows="gain over SGD and best ρ against the number of parameters, with label noise, masks and "
    "regularisation; spread of λ_max, distance of end points",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "about 5 minutes on two CPU cores; digits",
        "paper": "[300, 100] x factor on MNIST or data like it, one GPU; give --data",
    },
    settings={"published": "momentum 0.9, learning rate 0.1, batch 128, weight decay 1e-4"},
    plan=plan,
)

__all__ = ["STUDY", "largest_eigenvalues", "random_masks", "snip_masks"]
