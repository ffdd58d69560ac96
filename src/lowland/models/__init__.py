"""Networks for small images, with blocks that can be found by name."""

from lowland.models.create import MODELS, Architecture, block_names, create

__all__ = ["MODELS", "Architecture", "block_names", "create"]
