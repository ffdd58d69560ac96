"""Data sets in memory, and reproducible batches of them."""

from lowland.data.augment import POLICIES, augment
from lowland.data.batches import batch_count, batches, numbered_batches
from lowland.data.clients import dirichlet_clients
from lowland.data.images import ImageData, Split
from lowland.data.load import DATASETS, load

__all__ = [
    "DATASETS",
    "POLICIES",
    "ImageData",
    "Split",
    "augment",
    "batch_count",
    "batches",
    "dirichlet_clients",
    "load",
    "numbered_batches",
]
