"""The space that vectors are compressed in: prepared for the metric, turned to their components.

The components are of a matrix that is summed in float64 in one pass, joined from pieces (as
`lowland.measure`'s ranks are). Singular values come out right down to 1e-8 of the first, below
what float32 vectors resolve. faiss's own PCAMatrix sums in float32, from vectors that are all in
memory: with a mean 1,000 times the spread its first components are those of rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lowland.core.errors import InputError
from lowland.embeddings.metric import LARGEST, SMALLEST, Metric
from lowland.embeddings.vectors import PIECE, Floats, Numbers, Vectors
from lowland.measure.features.gram import Whole
from lowland.measure.features.products import RowSums

WIDEST = 8192
"""Dimensions: the matrix takes 8 times their square in bytes, twice."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """Components of vectors under a metric.

    Attributes:
        metric: the metric.
        n, dimension: of the vectors.
        mean: (d,) what is subtracted, float64; zeros where nothing is.
        axes: (r, d) components with orthonormal rows, by falling variance, float64; of each row the
            largest entry is positive.
        variances: (r,) mean squares of the coordinates.
        mean_square: mean of ‖x‖² over prepared vectors.
    """

    metric: Metric
    n: int
    dimension: int
    mean: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]
    variances: npt.NDArray[np.float64]
    mean_square: float

    @property
    def most(self) -> int:
        """Number of components that are there."""
        return len(self.axes)

    def share(self, k: int) -> float:
        """Share of the mean square that the first k components hold."""
        return float(self.variances[:k].sum() / self.variances.sum())

    def prepare(self, rows: Floats, places: int | Numbers, name: str) -> Floats:
        """Rows as the metric compares them; overwrites `rows`. `places`: see `normalised`."""
        rows = self.metric.normalised(rows, places, name)
        if self.metric.centred:
            rows -= self.mean.astype(np.float32)
        return rows

    def pieces(self, vectors: Vectors) -> Iterator[tuple[int, Floats]]:
        """All prepared rows, with the place of the first."""
        for start, rows in vectors.pieces():
            yield start, self.prepare(rows, start, vectors.name)

    def take(self, vectors: Vectors, ids: Numbers) -> Floats:
        """Some prepared rows."""
        return self.prepare(vectors.take(ids), ids, vectors.name)

    def coordinates(self, rows: Floats) -> Floats:
        """(b, r) components of prepared rows, in the memory of `rows`."""
        axes = self.axes.T.astype(np.float32)
        step = max(1, PIECE // self.dimension)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            some[:, : self.most] = some @ axes
        return rows[:, : self.most]


def find_space(vectors: Vectors, metric: Metric) -> Space:
    """One pass over the vectors, then an eigendecomposition.

    Cost: n·d² multiply-adds in float64 and 10·d³; memory for 2·d² float64.

    Raises:
        InputError: NaN, a row of zeros under cosine, more than `WIDEST` dimensions, vectors that
            are all the same, or of a size whose squares leave single precision.
    """
    d = vectors.dimension
    if d > WIDEST:
        raise InputError(
            f"{vectors.name}: {d} dimensions; up to {WIDEST} can be compressed: pool them, or take "
            "features after a projection"
        )
    center = "unit" if metric.centred else "none"
    sums = RowSums(_Rows(vectors, metric), center, with_product=True, halved=False)
    assert isinstance(sums.gram, Whole)
    matrix = sums.gram.matrix.numpy()
    matrix /= sums.n
    values, columns = np.linalg.eigh(matrix)
    values = np.maximum(values[::-1], 0.0)
    there = int((values > max(sums.n, d) * np.finfo(np.float64).eps * values[0]).sum())
    if there == 0:
        raise InputError(f"{vectors.name}: all vectors are the same: nothing to search")
    axes = np.ascontiguousarray(columns[:, ::-1].T[:there])
    axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1))
    unit2 = sums.unit**2
    size = float(np.sqrt(values.sum() * unit2))
    if not SMALLEST <= size <= LARGEST:
        raise InputError(
            f"{vectors.name}: vectors of size {size:.0e}, whose squares leave single precision: "
            f"multiply all by {1 / size:.0e}"
        )
    return Space(
        metric=metric,
        n=sums.n,
        dimension=d,
        mean=sums.mean.numpy() * (sums.unit if metric.centred else 0.0),
        axes=axes,
        variances=values[:there] * unit2,
        mean_square=float(values.sum()) * unit2,
    )


class _Rows:
    """Prepared vectors as the sums of `lowland.measure` read them."""

    def __init__(self, vectors: Vectors, metric: Metric) -> None:
        self._vectors, self._metric = vectors, metric

    def rows(self) -> Iterator[Tensor]:
        for start, rows in self._vectors.pieces():
            yield torch.from_numpy(self._metric.normalised(rows, start, self._vectors.name))
