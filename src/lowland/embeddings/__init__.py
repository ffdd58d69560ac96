"""Embeddings of anyone's: fewer dimensions and bits at a recall that is asked for."""

from lowland.embeddings.codecs import CODECS, Codec
from lowland.embeddings.compressed import Compressed
from lowland.embeddings.compressing import PREFERENCES, QUERIES, compress
from lowland.embeddings.files import open_vectors
from lowland.embeddings.folder import RECORD, check_folder, load, read_record
from lowland.embeddings.metric import METRICS
from lowland.embeddings.record import Compression, Side
from lowland.embeddings.target import Target
from lowland.embeddings.truth import Recall

__all__ = [
    "CODECS",
    "METRICS",
    "PREFERENCES",
    "QUERIES",
    "RECORD",
    "Codec",
    "Compressed",
    "Compression",
    "Recall",
    "Side",
    "Target",
    "check_folder",
    "compress",
    "load",
    "open_vectors",
    "read_record",
]
