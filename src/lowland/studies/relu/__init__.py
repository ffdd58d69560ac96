"""The study `low-rank/relu`: does the rank of a post-activation ResNet fall since ReLUs die?

A grid of ρ × seed of ResNet-18, whose residual stream is taken after ReLUs. A ReLU is *active* at
a block if on at least one training image it exceeds 5% of the largest value of that block. Ranks
at all blocks are in every evaluation of a run; active units on all training images, their variants,
and the ranks of random subsets of units, are read off every network at the end (`readings`).

ρ, learning rate and epochs of the default size were chosen on seeds from 1000 on, so that plain
training nearly fits the training images in the time and the largest ρ underfits, as in the paper,
and then fixed; the study's own seeds, 0, 1, 2, ..., ran after that.
"""

from __future__ import annotations

from lowland.studies.relu.plan import plan
from lowland.studies.study import Study

STUDY = Study(
    name="low-rank/relu",
    title="Active ReLUs and feature rank of a post-activation ResNet",
    source=(
        "M. Andriushchenko, D. Bahri, H. Mobahi, N. Flammarion, arXiv 2305.16292, 2023: §5, Fig. 6"
    ),
    shows="active ReLUs and feature rank at every block against ρ",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "4 minutes on two CPU cores; digits, width 8",
        "paper": "the published protocol, width 64 and 200 epochs, a day on one GPU; give --data",
    },
    settings={"minimal": "no momentum, no weight decay, constant learning rate"},
    plan=plan,
)
