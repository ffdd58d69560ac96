"""The study `low-rank/checkpoints`: ranks of public ViTs and Mixers, beside the paper's Table 1.

The user has the checkpoints, ``.npz`` files of the ``vision_transformer`` repository or anything
else that `lowland inspect` opens, and images of ImageNet:

    lowland study low-rank/checkpoints --size paper --data imagefolder:ILSVRC/train \\
        --set checkpoints=FOLDER

FOLDER has ``standard/ViT-B_16.npz``, ``sam/ViT-B_16.npz`` and so on; the names of the buckets,
``imagenet21k+imagenet2012`` and ``imagenet1k``, will do for ``standard``. Single ones are given by
``--set sam.ViT-B_16=timm:vit_base_patch16_224.sam_in1k``. Further settings are ``examples``,
``batch_size``, ``threads`` and ``device`` (`sources.KEYS`). What is missing is *no data here*:
given nothing, the study prints what was published.
"""

from __future__ import annotations

from lowland.studies.checkpoints.plan import NO_DATA, plan
from lowland.studies.study import Study

STUDY = Study(
    name="low-rank/checkpoints",
    title="Feature ranks of public ViTs and MLP-Mixers, with and without SAM",
    source=(
        "M. Andriushchenko, D. Bahri, H. Mobahi, N. Flammarion, arXiv 2305.16292, 2023: "
        "§3.2, Table 1"
    ),
    shows="the published Table 1 beside ranks of the checkpoints and images that you have",
    sizes={
        "smoke": "64 images",
        "default": "1,280 images; seconds without checkpoints",
        "paper": "12,800 images as published; give --data and checkpoints, an hour on one GPU",
    },
    settings={"public": "networks as their authors trained them"},
    plan=plan,
    data=NO_DATA,
)
