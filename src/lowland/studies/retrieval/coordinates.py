"""Features as coordinates along their principal components, in float64 on their own device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lowland.embeddings.metric import Metric
from lowland.embeddings.space import Space

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """A database and queries, along the components of the database.

    Attributes:
        metric: ``"cosine"`` (rows of unit length, components of second moments) or ``"l2"``
            (centred, PCA).
        database: (n, r), by falling variance.
        queries: (q, r). What of a query lies outside the components does not change which of the
            database are near.
        outside: mean square of that part of the queries.
        width: number of features.
    """

    metric: str
    database: Doubles
    queries: Doubles
    outside: float
    width: int

    @property
    def rank(self) -> int:
        """Number of components."""
        return int(self.database.shape[1])

    def share(self, variance: float) -> int:
        """Components that hold this share of the database's mean square."""
        held = np.cumsum((self.database**2).sum(0))
        return int(np.searchsorted(held, variance * held[-1])) + 1

    def space(self) -> Space:
        """The same for the quantizers of `lowland.embeddings`."""
        variances = (self.database**2).mean(0)
        return Space(
            metric=Metric("inner-product" if self.metric == "cosine" else "l2"),
            n=len(self.database),
            dimension=self.rank,
            mean=np.zeros(self.rank),
            axes=np.eye(self.rank),
            variances=variances,
            mean_square=float(variances.sum()),
        )


def coordinates(database: Tensor, queries: Tensor, metric: str) -> Coordinates:
    """Components of `database` (n, d) from the smaller of its two product matrices.

    Cost: n·d·min(n, d) multiply-adds and an eigendecomposition of that size, in float64.
    """
    x, q = database.double(), queries.double()
    if metric == "cosine":
        x, q = (torch.nn.functional.normalize(rows, dim=1) for rows in (x, q))
    else:
        mean = x.mean(0)
        x, q = x - mean, q - mean
    n, d = x.shape
    values, vectors = torch.linalg.eigh(x.T @ x if d <= n else x @ x.T)
    values, vectors = values.flip(0), vectors.flip(1)
    there = values > max(n, d) * torch.finfo(torch.float64).eps * values[0]
    values, vectors = values[there], vectors[:, there]
    axes = vectors if d <= n else x.T @ vectors / values.sqrt()
    inside = q @ axes
    outside = (q**2).sum() - (inside**2).sum()
    return Coordinates(
        metric=metric,
        database=np.ascontiguousarray((x @ axes).cpu().numpy()),
        queries=np.ascontiguousarray(inside.cpu().numpy()),
        outside=max(float(outside), 0.0) / len(q),
        width=d,
    )
