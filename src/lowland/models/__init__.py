"""Networks for images, with blocks that can be found by name."""

from lowland.models.create import MODELS, Architecture, block_names, create
from lowland.models.jax_layout import from_arrays
from lowland.models.mixer import Mixer
from lowland.models.vit import ViT

__all__ = ["MODELS", "Architecture", "Mixer", "ViT", "block_names", "create", "from_arrays"]
