"""The study `low-rank/contrastive`: does SAM lower the rank in image-text training?

Two grids of ρ × seed: both encoders trained, and the text encoder left as it is with a linear layer
behind it. The default size trains an image tower and a text tower on scikit-learn's digits with
captions made from what is measured in their pixels (`lowland.data.digit_captions`). Its text
encoder is pretrained by guessing masked words, once for all runs, as everybody fine-tunes the same
BERT; its pool is the mean over tokens, since that pretraining says nothing to the first token.

ρ, learning rate and epochs of the default size were chosen on seeds from 1000 on: ρ from the
smallest that changes the train loss to one that underfits, learning rate and epochs so that plain
training fits as far as the time allows, which is not entirely (a quarter of its own pairs are not
found). The image tower is a network of two hidden layers: a ViT from scratch fits less in the same
time. The study's own seeds, 0, 1, 2, ..., were first run with everything fixed.
"""

from __future__ import annotations

from lowland.studies.contrastive.plan import plan
from lowland.studies.contrastive.recipes import SETTINGS
from lowland.studies.study import Study

STUDY = Study(
    name="low-rank/contrastive",
    title="Low-rank features in contrastive image-text training",
    source="M. Andriushchenko, D. Bahri, H. Mobahi, N. Flammarion, arXiv 2305.16292, 2023",
    shows=(
        "retrieval error both ways and ranks of image and text features against ρ, with the text "
        "encoder fine-tuned or frozen (§3.3, Figs. 4, 11, 15)"
    ),
    sizes={
        "smoke": "seconds; shows that everything works, nothing else",
        "default": "4 to 5 minutes on two CPU cores; digits with captions",
        "paper": "the published protocol, days on one GPU; give --data coco:FOLDER",
    },
    settings=SETTINGS,
    plan=plan,
    data="digits-captions",
)
