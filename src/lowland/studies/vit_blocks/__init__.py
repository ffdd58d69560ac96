"""The study `low-rank/vit-blocks`: where in the blocks of a ViT and a Mixer does the rank fall?

A grid of ρ × seed for each of two networks that the study trains itself, so that §3.2 (ranks after
the last, 3/4 and 1/2 of the blocks) and §5 (what attention and MLP do to the residual stream) have
a verdict without public checkpoints. What is measured inside the blocks is read off every network
at its end and at its initialisation (`readings`).

A coordinate of the residual stream is *sparse* if its largest |value| over the images is below 5%
of that of the largest coordinate. The paper gives no definition of the coordinate-aligned sparsity
that it does not see; this one is its rule for inactive ReLUs, for values of either sign.

ρ, learning rate and epochs of the default size were chosen on seeds from 1000 on, so that plain
training nearly fits the training images in the time, and then fixed; the study's own seeds, 0, 1,
2, ..., ran after that.
"""

from __future__ import annotations

from lowland.studies.study import Study
from lowland.studies.vit_blocks.plan import plan

STUDY = Study(
    name="low-rank/vit-blocks",
    title="Where in the blocks of transformers the rank of features falls",
    source=(
        "M. Andriushchenko, D. Bahri, H. Mobahi, N. Flammarion, arXiv 2305.16292, 2023: "
        "§3.2, §5, App. E"
    ),
    shows="ranks of the residual stream and its branches across attention and MLP, against ρ",
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "4 to 5 minutes on two CPU cores; digits, networks of four blocks",
        "paper": "networks of twelve blocks, 100 epochs, hours on one GPU; give --data",
    },
    settings={"adam": "Adam without weight decay, learning rate along a cosine"},
    plan=plan,
)
