"""Indexes of faiss that take vectors as they are and do the whole transform themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from lowland.embeddings.codecs import Fitted
from lowland.embeddings.package import faiss
from lowland.embeddings.space import Space
from lowland.embeddings.vectors import Floats, Vectors


def with_transform(space: Space, fitted: Fitted, index: Any) -> Any:
    """`index` behind the normalisation and the linear map that lead to it."""
    library = faiss()
    axes = fitted.axes(space)
    linear = library.LinearTransform(space.dimension, fitted.k, False)
    library.copy_array_to_vector(np.ascontiguousarray(axes).ravel(), linear.A)
    linear.is_trained = True
    whole = library.IndexPreTransform(linear, index)
    if space.metric.centred:
        # before it is multiplied: products with a large mean would leave nothing of the rest
        centring = library.CenteringTransform(space.dimension)
        library.copy_array_to_vector(space.mean.astype(np.float32), centring.mean)
        centring.is_trained = True
        whole.prepend_transform(centring)
    if space.metric.name == "cosine":
        whole.prepend_transform(library.NormalizationTransform(space.dimension, 2.0))
    return whole


def coordinates(vectors: Vectors, space: Space, fitted: Fitted) -> Iterator[Floats]:
    """What is stored of all vectors, piece by piece, before it is encoded."""
    axes = fitted.axes(space).T
    for _, rows in space.pieces(vectors):
        yield np.ascontiguousarray(rows @ axes)


def fill(index: Any, vectors: Vectors, space: Space, fitted: Fitted) -> Any:
    """Add all vectors to an index of their coordinates."""
    codes = getattr(index, "codes", None)
    if codes is not None:  # room for all at once: codes that grow are copied, and held twice
        codes.resize(vectors.n * index.code_size)
        codes.resize(0)
    for rows in coordinates(vectors, space, fitted):
        index.add(rows)
    return index
