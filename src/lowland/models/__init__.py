"""Networks for images and texts, with blocks that can be found by name."""

from lowland.models.create import MODELS, Architecture, block_names, create, scale_weights
from lowland.models.jax_layout import from_arrays
from lowland.models.mixer import Mixer
from lowland.models.text import POOLS, TextEncoder
from lowland.models.two_towers import TwoTowers, info_nce
from lowland.models.vit import ViT
from lowland.models.words import Vocabulary

__all__ = [
    "MODELS",
    "POOLS",
    "Architecture",
    "Mixer",
    "TextEncoder",
    "TwoTowers",
    "ViT",
    "Vocabulary",
    "block_names",
    "create",
    "from_arrays",
    "info_nce",
    "scale_weights",
]
