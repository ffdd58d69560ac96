"""Data sets in memory, and reproducible batches of them."""

from lowland.data.augment import POLICIES, augment
from lowland.data.batches import batch_count, batches, numbered_batches
from lowland.data.clients import dirichlet_clients
from lowland.data.examples import Examples, of_data
from lowland.data.images import ImageData, Split
from lowland.data.load import DATASETS, load
from lowland.data.opening import open_examples
from lowland.data.preprocess import Preprocessing

__all__ = [
    "DATASETS",
    "POLICIES",
    "Examples",
    "ImageData",
    "Preprocessing",
    "Split",
    "augment",
    "batch_count",
    "batches",
    "dirichlet_clients",
    "load",
    "numbered_batches",
    "of_data",
    "open_examples",
]
