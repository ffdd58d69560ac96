"""Compressed vectors, ready to be searched: in memory, or loaded from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowland.core.errors import InputError
from lowland.embeddings.files import open_vectors
from lowland.embeddings.metric import Metric
from lowland.embeddings.package import faiss
from lowland.embeddings.vectors import PIECE, Floats, Numbers, Vectors


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A transform, and an index of faiss that applies it itself.

    Attributes:
        metric: what near means.
        mean: (d,) what is subtracted first; zeros except for l2.
        components: (k, d): rows of the linear map, with rotation, order and scale of the quantizer.
        scale: factor in `components`; distances come out multiplied by its square.
        index: of faiss; takes vectors (n, d) as they are.
        n: number of vectors in it.
        rerank: the first k·rerank are put in order by the vectors themselves; 1: not.
        features: the vectors, where `rerank` needs them.
    """

    metric: Metric
    mean: Floats
    components: Floats
    scale: float
    index: Any
    n: int
    rerank: int = 1
    features: Vectors | None = None

    def transform(self, vectors: Any) -> Floats:
        """Coordinates (b, k) of vectors (b, d): what the quantizer stores.

        `mean` and `components` in float32: ((x or x/‖x‖) - mean) · componentsᵀ.

        Raises:
            InputError: vectors of another size, not finite or (cosine) all zeros.
        """
        rows = self._checked(vectors, "vectors")
        rows = self.metric.normalised(rows, 0, "vectors")
        away: Floats = rows - self.mean
        found: Floats = away @ self.components.T
        return found

    def search(self, queries: Any, k: int = 10) -> tuple[Floats, Numbers]:
        """The k nearest of each query: scores (q, k) and places (q, k), nearest first.

        Scores are inner products of (for cosine: normalised) vectors, or for l2 squared distances,
        as far as the compressed vectors tell; exact ones with `rerank`. A place is -1 where an
        index with lists or links found fewer than k.

        Raises:
            InputError: queries of another size, not finite or (cosine) all zeros, or k outside 1
                to n.
        """
        rows = self._checked(queries, "queries")
        if not 1 <= k <= self.n:
            raise InputError(f"k: {k} neighbours of {self.n} vectors; give 1 to {self.n}")
        return self.search_among(rows, k, k * self.rerank)

    def search_among(self, queries: Floats, k: int, among: int) -> tuple[Floats, Numbers]:
        """`search` with the number that are put in order; `queries` (q, d) finite, in C order."""
        # faiss's normalisation lets queries of zeros pass, and sums in float32
        rows = self.metric.normalised(queries.copy(), 0, "queries")
        scores, ids = self.index.search(rows, min(max(k, among), self.n))
        scores /= np.float32(self.scale**2)
        if self.rerank == 1:
            return scores[:, :k], ids[:, :k]
        if self.features is None:
            raise InputError(
                "these vectors are put in order by the vectors themselves: load them with "
                "features=FILE"
            )
        # as many queries at a time as have a few pieces of vectors to be put in order
        step = max(1, 4 * PIECE // (ids.shape[1] * rows.shape[1]))
        parts = [
            self._reranked(self.features, rows[i : i + step], ids[i : i + step], k)
            for i in range(0, len(rows), step)
        ]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def _checked(self, vectors: Any, what: str) -> Floats:
        opened = open_vectors(vectors, what=what)
        d = self.components.shape[1]
        if opened.dimension != d:
            raise InputError(
                f"{opened.name}: {opened.dimension} dimensions, the compressed vectors have {d}: "
                "take both from the same network"
            )
        return np.concatenate([rows for _, rows in opened.pieces()])

    def _reranked(
        self, features: Vectors, queries: Floats, ids: Numbers, k: int
    ) -> tuple[Floats, Numbers]:
        places, inverse = np.unique(np.where(ids < 0, 0, ids), return_inverse=True)
        vectors = self.metric.normalised(features.take(places), places, features.name)
        rows = inverse.reshape(ids.shape)
        exact = np.stack([self._scores(q, vectors[r]) for q, r in zip(queries, rows, strict=True)])
        far = -np.inf if self.metric.largest_first else np.inf
        exact[ids < 0] = far
        sign = -1 if self.metric.largest_first else 1
        order = np.argsort(sign * exact, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(exact, order, 1), np.take_along_axis(ids, order, 1)

    def _scores(self, query: Floats, vectors: Floats) -> npt.NDArray[np.float32]:
        if self.metric.largest_first:
            found: Floats = vectors @ query
            return found
        away = vectors - query
        squared: Floats = np.einsum("ij,ij->i", away, away)
        return squared


def from_parts(
    record: Mapping[str, Any],
    tensors: Mapping[str, Floats],
    index: Any,
    features: Vectors | None,
) -> Compressed:
    """From what a folder holds."""
    return Compressed(
        metric=Metric(record["metric"]),
        mean=tensors["mean"],
        components=tensors["components"],
        scale=float(tensors["scale"][0]),
        index=index,
        n=record["features"]["n"],
        rerank=record["rerank"],
        features=features,
    )


def read_index(path: Path) -> Any:
    """An index of faiss.

    Raises:
        InputError: not a whole one.
    """
    try:
        return faiss().read_index(str(path))
    except RuntimeError:
        raise InputError(f"{path} is no whole index of faiss: compress again") from None
