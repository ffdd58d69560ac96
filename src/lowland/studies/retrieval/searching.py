"""How few components, bits or operations find the true neighbours: exact and approximate search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lowland.embeddings.choosing import grid_of
from lowland.embeddings.codecs import CODECS, Codec, choose_codecs
from lowland.embeddings.package import faiss
from lowland.embeddings.truth import Nearest
from lowland.studies.retrieval.columns import NEIGHBORS
from lowland.studies.retrieval.coordinates import Coordinates

Found = npt.NDArray[np.int64]


MOST = 2048
"""Components that are tried: rotations of all of 10,240 would take longer than the training."""


class Searches:
    """Recall of searches among coordinates, against exact search among all of them."""

    def __init__(
        self,
        where: Coordinates,
        *,
        neighbors: int = NEIGHBORS,
        seed: int = 0,
        most: int = MOST,
    ) -> None:
        self._x = where.database.astype(np.float32)
        self._q = where.queries.astype(np.float32)
        self._space, self._neighbors, self._seed = where.space(), neighbors, seed
        self._truth = self._nearest(self._x, self._q)
        self.grid = grid_of(min(where.rank, most))
        self._x, self._q = self._first(self.grid[-1])
        self._known: dict[tuple[str, int], float] = {}

    def recall(self, found: Found) -> float:
        """Mean share of the true neighbours that were found."""
        hits = (found[:, :, None] == self._truth[:, None, :]).any(2)
        return float(hits.mean())

    def exact(self, k: int) -> float:
        """Recall of exact search among the first k coordinates."""
        return self.recall(self._nearest(*self._first(k)))

    def coded(self, codec: Codec, k: int) -> float:
        """Recall among the first k coordinates as the codec stores them; queries are not coded."""
        if (codec.name, k) not in self._known:
            fitted = codec.fit(self._space, k, self._x, self._seed)
            stored = fitted.stored(fitted.coordinates(self._x))
            found = self._nearest(stored, fitted.coordinates(self._q))
            self._known[codec.name, k] = self.recall(found)
        return self._known[codec.name, k]

    def codecs(self) -> list[Codec]:
        """Those that so many vectors suffice to train."""
        return [c for c in choose_codecs("", len(self._x)) if c.name in CODECS]

    def crossing(
        self, recall: Callable[[int], float], target: float, step: int = 1
    ) -> float | None:
        """The number of components at which the recall reaches the target; None if it does not.

        By halving over the grid, since recall rises with them; between two of the grid it is
        interpolated linearly in log k.
        """
        grid = [k for k in self.grid if k % step == 0]
        if not grid or (top := recall(grid[-1])) < target:
            return None
        known = {grid[-1]: top}
        low, high = -1, len(grid) - 1
        while high - low > 1:
            middle = (low + high) // 2
            known[grid[middle]] = recall(grid[middle])
            if known[grid[middle]] >= target:
                high = middle
            else:
                low = middle
        if low < 0:
            return float(grid[0])
        return between(grid[low], known[grid[low]], grid[high], known[grid[high]], target)

    def operations(self, k: int, target: float) -> float | None:
        """Multiply-adds of a query that is given in k coordinates: lists, probed to the target.

        √n lists; every probed vector and every list's centre is compared in k coordinates. None if
        no number of lists suffices.
        """
        library = faiss()
        x, q = self._first(k)
        kind = self._space.metric.kind(library)
        lists = max(1, min(round(math.sqrt(len(x))), len(x) // 39))
        coarse = library.IndexFlat(k, kind)
        index = library.IndexIVFFlat(coarse, k, lists, kind)
        index.cp.seed = 1 + self._seed
        index.train(x)
        index.add(x)
        sizes = np.array([index.invlists.list_size(i) for i in range(lists)])
        _, order = coarse.search(q, lists)
        for probes in range(1, lists + 1):
            index.nprobe = probes
            if self.recall(index.search(q, self._neighbors)[1]) >= target:
                return float(k * (lists + sizes[order[:, :probes]].sum(1).mean()))
        return None

    def _first(self, k: int) -> tuple[Any, Any]:
        return np.ascontiguousarray(self._x[:, :k]), np.ascontiguousarray(self._q[:, :k])

    def _nearest(self, x: Any, q: Any) -> Found:
        nearest = Nearest(q, self._neighbors, self._space)
        nearest.add(0, x)
        return nearest.result()[1]


def between(k0: int, y0: float, k1: int, y1: float, target: float) -> float:
    """Where a line in log k from (k0, y0) to (k1, y1) reaches the target.

    >>> between(4, 0.5, 16, 1.0, 0.75)
    8.0
    """
    share = (target - y0) / (y1 - y0)
    return float(k0 * (k1 / k0) ** share)


def first(values: Sequence[float | None]) -> float | None:
    """The smallest that is there."""
    return min((value for value in values if value is not None), default=None)
