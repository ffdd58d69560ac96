"""Which vectors are near: three metrics, and what each does to vectors before anything else.

| metric        | prepared vector | compared by      | components of            |
|---------------|-----------------|------------------|--------------------------|
| cosine        | x / ‖x‖         | inner product    | E xxᵀ (not centred)      |
| inner-product | x               | inner product    | E xxᵀ (not centred)      |
| l2            | x - mean        | squared distance | E (x - mean)(x - mean)ᵀ  |

The best inner products from k numbers per vector are those of the k first eigenvectors of E xxᵀ
(Eckart and Young, for the matrix of all inner products). A query's product with the mean is part
of them, so subtracting the mean would be wrong. Distances do not know where the origin is, so there
the mean is subtracted, which is PCA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lowland.core.errors import InputError, unknown
from lowland.embeddings.vectors import Floats, Numbers

METRICS = ("cosine", "inner-product", "l2")
EPS = float(np.finfo(np.float32).eps)
ROUNDING = 8
"""Scores closer than this many units in the last place of their terms are ties."""

SMALLEST, LARGEST = 1e-15, 1e15
"""Sizes of vectors whose squares and products single precision can tell apart."""


@dataclass(frozen=True)
class Metric:
    """One of `METRICS`."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise unknown("metric", self.name, METRICS)

    @property
    def centred(self) -> bool:
        """Whether the mean is subtracted."""
        return self.name == "l2"

    @property
    def largest_first(self) -> bool:
        """Whether near is a large score (inner products) or a small one (squared distances)."""
        return self.name != "l2"

    def kind(self, faiss: Any) -> Any:
        """faiss's name of it."""
        return faiss.METRIC_INNER_PRODUCT if self.largest_first else faiss.METRIC_L2

    def normalised(self, rows: Floats, places: int | Numbers, name: str) -> Floats:
        """Rows of unit length for cosine, which are overwritten; else as they are.

        Args:
            rows: fresh.
            places: of the rows, or of the first of consecutive ones, for the message.
            name: of the vectors, for the message.

        Raises:
            InputError: a row of zeros, which has no direction.
        """
        if self.name != "cosine":
            return rows
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        if not lengths.all():
            row = int(np.flatnonzero(lengths == 0)[0])
            row = row + places if isinstance(places, int) else int(places[row])
            raise InputError(
                f"{name}: row {row} is all zeros, which has no direction: remove it, or choose "
                "--metric l2"
            )
        if lengths.min() < SMALLEST or lengths.max() > LARGEST:
            rows[:] = rows / lengths[:, None]  # float32 may not hold these lengths
        else:
            rows /= lengths[:, None].astype(np.float32)
        return rows

    def tolerance(self, queries: Floats, mean_square: float) -> Floats:
        """(q,) differences of scores that are rounding, for prepared queries.

        Args:
            queries: prepared.
            mean_square: mean of ‖x‖² over prepared vectors.
        """
        squares = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)
        size = np.sqrt(squares * mean_square) if self.largest_first else squares + mean_square
        found: Floats = (ROUNDING * EPS * size).astype(np.float32)
        return found
