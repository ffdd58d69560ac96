"""Data sets in memory, and reproducible batches of them."""

from lowland.data.augment import POLICIES, augment
from lowland.data.batches import batch_count, batches, numbered_batches
from lowland.data.clients import dirichlet_clients
from lowland.data.decorrelated import decorrelated
from lowland.data.examples import Examples, of_data
from lowland.data.images import ImageData, Split
from lowland.data.load import DATASETS, load, places, short_name
from lowland.data.load_pairs import PAIRS, load_pairs
from lowland.data.opening import open_examples
from lowland.data.pairs import Pairs, PairSplit, assemble_pairs
from lowland.data.preprocess import Preprocessing

__all__ = [
    "DATASETS",
    "PAIRS",
    "POLICIES",
    "Examples",
    "ImageData",
    "PairSplit",
    "Pairs",
    "Preprocessing",
    "Split",
    "assemble_pairs",
    "augment",
    "batch_count",
    "batches",
    "decorrelated",
    "dirichlet_clients",
    "load",
    "load_pairs",
    "numbered_batches",
    "of_data",
    "open_examples",
    "places",
    "short_name",
]
