"""The true neighbours of queries, found in one pass over all vectors, and recall against them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lowland.embeddings.package import faiss
from lowland.embeddings.space import Space
from lowland.embeddings.vectors import Floats, Numbers, Vectors
from lowland.measure.proportions import Interval, wilson

SPARE = 64
"""True neighbours that are kept beyond the k-th, for those that are as near as it."""


class Nearest:
    """The k best of every query, from scores that come piece by piece."""

    def __init__(self, queries: Floats, k: int, space: Space) -> None:
        self._queries, self._k, self._faiss = queries, k, faiss()
        self._kind = space.metric.kind(self._faiss)
        self._heap = self._faiss.ResultHeap(len(queries), k, keep_max=space.metric.largest_first)

    def add(self, start: int, rows: Floats) -> None:
        """Look at the rows from place `start` on."""
        k = min(self._k, len(rows))
        scores, ids = self._faiss.knn(self._queries, rows, k, self._kind)
        self._heap.add_result(scores, np.where(ids < 0, ids, ids + start))

    def result(self) -> tuple[Floats, Numbers]:
        """Scores (q, k) and places (q, k), nearest first."""
        self._heap.finalize()
        return self._heap.D, self._heap.I


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Queries with their true neighbours.

    Attributes:
        raw: (q, d) as they were given.
        prepared: (q, d) as the metric compares them.
        own: (q,) place of each among the vectors, -1 for one that is not among them: a vector is
            not its own neighbour.
        right: (q, k + `SPARE`) places of the nearest, in order, -1 past the last that is as near
            as the k-th.
        nearer: (q,) how many of them are nearer than the k-th by more than rounding.
        k: number of neighbours.
    """

    raw: Floats
    prepared: Floats
    own: Numbers
    right: Numbers
    nearer: Numbers
    k: int

    def __len__(self) -> int:
        return len(self.raw)

    def part(self, rows: Any) -> Queries:
        """Some of them."""
        return Queries(
            raw=self.raw[rows],
            prepared=self.prepared[rows],
            own=self.own[rows],
            right=self.right[rows],
            nearer=self.nearer[rows],
            k=self.k,
        )

    @property
    def extra(self) -> int:
        """1 if a query can find itself, so that one more must be asked for."""
        return int((self.own >= 0).any())

    def recalls(self, found: Numbers, among: int | None = None) -> npt.NDArray[np.float64]:
        """(q,) share of the k nearest that were found.

        Those nearer than the k-th must be found themselves; for the places that are left, any of
        those as near as the k-th is right. With `among` above k, so is one anywhere among so many:
        exact scores then bring it to the front.
        """
        kept = without_own(found, self.own, among or self.k)
        order = np.arange(self.right.shape[1])
        nearer = np.where(order < self.nearer[:, None], self.right, -1)
        as_near = np.where(order < self.nearer[:, None], -1, self.right)
        hits = _hits(kept, nearer) + np.minimum(_hits(kept, as_near), self.k - self.nearer)
        shares: npt.NDArray[np.float64] = hits / self.k
        return shares


def _hits(found: Numbers, right: Numbers) -> Numbers:
    """(q,) how many places of each row of `found` are in the same row of `right`; -1 is none."""
    # one number for each pair of a row and a place, so that one look-up serves all rows
    width = max(int(found.max(initial=0)), int(right.max(initial=0))) + 1
    rows = np.arange(len(found), dtype=np.int64)[:, None] * width
    inside = np.isin(rows + found, (rows + right)[right >= 0]) & (found >= 0)
    hits: Numbers = inside.sum(1)
    return hits


def without_own(found: Numbers, own: Numbers, k: int) -> Numbers:
    """The first k of each row of places, a query's own place left out."""
    away = found == own[:, None]
    order = np.argsort(away, axis=1, kind="stable")  # what is kept first, in its order
    kept: Numbers = np.take_along_axis(np.where(away, -1, found), order, 1)[:, :k]
    return kept


def find_truth(vectors: Vectors, space: Space, raw: Floats, own: Numbers, k: int) -> Queries:
    """The true k nearest of each query, and those that are as near as the k-th.

    Queries with more than `SPARE` of these are left out: for them every answer would be right.
    Cost: q·n·d multiply-adds, and one pass over the vectors.
    """
    prepared = space.prepare(raw.copy(), 0, "queries")
    asked = min(k + SPARE + 1, vectors.n)
    nearest = Nearest(prepared, asked, space)
    for start, rows in space.pieces(vectors):
        nearest.add(start, rows)
    scores, ids = nearest.result()
    sign = -1.0 if space.metric.largest_first else 1.0
    costs = np.where((ids < 0) | (ids == own[:, None]), np.inf, sign * scores)
    order = np.argsort(costs, axis=1, kind="stable")
    costs, ids = np.take_along_axis(costs, order, 1), np.take_along_axis(ids, order, 1)
    rounding = space.metric.tolerance(prepared, space.mean_square)
    right = np.where(costs <= (costs[:, k - 1] + rounding)[:, None], ids, -1)
    nearer = (costs < (costs[:, k - 1] - rounding)[:, None]).sum(1)
    settled = (right[:, min(k + SPARE, asked) - 1] < 0) | (asked == vectors.n)
    found = Queries(raw=raw, prepared=prepared, own=own, right=right, nearer=nearer, k=k)
    return found.part(settled)


@dataclass(frozen=True)
class Recall:
    """Mean recall over queries.

    Attributes:
        value: the mean.
        error: its standard error over queries, whose k neighbours are not independent.
        low, high: Wilson's 95% interval at the number of independent neighbours that would have
            that error, at least the number of queries.
        queries: how many.
    """

    value: float
    error: float
    low: float
    high: float
    queries: int

    @classmethod
    def of(cls, shares: npt.NDArray[np.float64]) -> Recall:
        """From one share per query."""
        n, value = len(shares), float(shares.mean())
        error = float(shares.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
        independent = value * (1 - value) / error**2 if error > 0 else 0.0
        low, high = _within(wilson(value, max(n, independent)))
        return cls(value, error, low, high, n)

    def reaches(self, target: float) -> bool:
        """Whether the mean is above by its standard error, so that other queries likely are."""
        return self.value - self.error >= target


def _within(interval: Interval) -> Interval:
    return max(0.0, interval[0]), min(1.0, interval[1])


def exact_speed(vectors: Vectors, space: Space, queries: Queries) -> float:
    """Queries a second of exact search: all of them at once, reading not counted."""
    nearest = Nearest(queries.prepared, min(queries.k + queries.extra, vectors.n), space)
    seconds = 0.0
    for start, rows in space.pieces(vectors):
        begun = time.perf_counter()
        nearest.add(start, rows)
        seconds += time.perf_counter() - begun
    return len(queries) / seconds
