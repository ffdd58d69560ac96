"""What `compress` found, as a record, and as it lies in a folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from lowland.embeddings.choosing import Trial
from lowland.embeddings.compressed import Compressed
from lowland.embeddings.truth import Recall

FORMAT = "lowland-compression-1"


@dataclass(frozen=True, kw_only=True)
class Side:
    """Vectors as they are searched: before, exactly and in float32, and after.

    Attributes:
        dimensions: numbers per vector.
        bytes: per vector, with its share of everything that an index holds.
        queries_per_second: all queries of the test half at once; None where it was not measured.
        index_bytes: of the file of faiss; None before.
    """

    dimensions: int
    bytes: float
    queries_per_second: float | None
    index_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Embeddings, compressed as far as the target allows.

    Attributes:
        features: what was compressed: name, paths, column, n, dimension, type in the file, and a
            fingerprint where single rows can be read.
        metric: ``"cosine"``, ``"inner-product"`` or ``"l2"``.
        target, k, wanted: ``"recall@10=0.99"``, 10, 0.99; or ``"recall@10"``, 10, None.
        prefer: ``"bytes"`` or ``"speed"``.
        at_most: bytes per vector that were allowed; None: any.
        quantizer: how coordinates are stored, a name of `CODECS`.
        dimensions: components that are kept.
        index: ``"flat"``, ``"ivf"`` or ``"hnsw"``, and its `setting` in words.
        rerank: the first k·rerank of the index are put in order by the vectors themselves; 1: not.
        variance: share of the mean square of (prepared) vectors in those components.
        recall: on the test half of the queries, with the index as it was written.
        validation: the same on the other half, which it was chosen on.
        before, after: bytes and speed.
        queries: how many, where they are from, how many had too many ties, and how many of given
            ones are copies of vectors.
        trials: all that was tried: quantizer, dimensions, bytes, recall, reaches.
        threads: of faiss, in both speeds.
        seed: of the sampled queries, the training sample, rotations and k-means.
        seconds: all of it took.
        provenance: versions, hardware, time.
        result: what can be searched at once; not in `to_dict`.
    """

    features: dict[str, Any]
    metric: str
    target: str
    k: int
    wanted: float | None
    prefer: str
    at_most: float | None
    quantizer: str
    dimensions: int
    index: str
    setting: str
    rerank: int
    variance: float
    recall: Recall
    validation: Recall
    before: Side
    after: Side
    queries: dict[str, Any]
    trials: list[dict[str, Any]]
    threads: int
    seed: int
    seconds: float
    provenance: dict[str, Any]
    result: Compressed = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values, ready for JSON."""
        values: dict[str, Any] = {"format": FORMAT}
        for one in dataclasses.fields(self):
            if one.name != "result":
                value = getattr(self, one.name)
                plain = dataclasses.is_dataclass(value) and not isinstance(value, type)
                values[one.name] = dataclasses.asdict(value) if plain else value
        return values


def trial_row(trial: Trial) -> dict[str, Any]:
    """A trial as plain values."""
    return {
        "quantizer": trial.codec.name,
        "dimensions": trial.k,
        "bytes": trial.bytes,
        "recall": trial.recall.value,
        "reaches": trial.reaches,
    }
