"""The search for speed: inverted lists and graphs over codes, each set to just reach the target."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowland.embeddings.choosing import Tell, Trial
from lowland.embeddings.codecs import Fitted
from lowland.embeddings.indexes import fill
from lowland.embeddings.package import faiss
from lowland.embeddings.space import Space
from lowland.embeddings.truth import Queries, Recall
from lowland.embeddings.vectors import Floats, Vectors

FEWEST = 4096
"""Vectors from which lists and graphs are tried: fewer are compared with all of them at once."""

PER_LIST = 39
"""Training vectors for each list that faiss asks for."""

LINKS = 24
"""Neighbours of a vector in a graph; twice as many on its lowest level."""

GREATEST = 4096
"""Effort of a search in a graph that is given up at."""

REPEATS = 3

TIMED = 512
"""Queries that candidates are timed with."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """An index over coordinates, at the setting with which it reaches the target.

    Attributes:
        name: ``"flat"``, ``"ivf"`` or ``"hnsw"``.
        setting: in words; empty for a flat one.
        fitted: the codec.
        index: of faiss, filled.
        bytes: for each vector, with its share of everything.
        recall: on validation queries.
        reaches: whether that reaches the target.
        speed: queries a second, on validation queries all at once.
    """

    name: str
    setting: str
    fitted: Fitted
    index: Any
    bytes: float
    recall: Recall
    reaches: bool
    speed: float


def speed_of(index: Any, queries: Floats, k: int, repeats: int = REPEATS) -> float:
    """Queries a second, all of them at once: the best of a few times."""
    index.search(queries[:8], k)
    best = math.inf
    for _ in range(repeats):
        begun = time.perf_counter()
        index.search(queries, k)
        best = min(best, time.perf_counter() - begun)
    return len(queries) / best


class Speeds:
    """Indexes over one codec, timed and scored on the validation queries."""

    def __init__(
        self, vectors: Vectors, space: Space, queries: Queries, recall: float, rerank: int
    ) -> None:
        self._vectors, self._space, self._queries = vectors, space, queries
        self._recall, self._among = recall, queries.k * rerank

    def flat(self, trial: Trial) -> Built:
        """A flat index, which finds what the trial found."""
        index = faiss().clone_index(trial.fitted.index)
        fill(index, self._vectors, self._space, trial.fitted)
        return self._built("flat", "", index, trial, trial.bytes, trial.recall)

    def candidates(
        self, trial: Trial, sample: Floats, at_most: float, tell: Tell
    ) -> Iterator[Built]:
        """A flat index, inverted lists and a graph over this codec, as far as they fit.

        Flat ones of float32 alone where there is a choice: others are decoded as they are read,
        which is slower.
        """
        if trial.codec.kind == "flat" or self._space.n < FEWEST or trial.codec.trained:
            tell(f"building flat of {trial.codec.name} × {trial.k}")
            yield self.flat(trial)
        if self._space.n < FEWEST or trial.codec.trained:
            return
        lists = self._list_count(len(sample))
        # a level and an offset beside a vector's links, of which upper levels have a few more
        links = 4 * 2 * LINKS + 4 * LINKS / (LINKS - 1) + 12
        for name, more, make in (
            # identifiers; and the lists' centres
            ("ivf", 8 + 4 * trial.k * lists / self._space.n, self._lists),
            ("hnsw", links, self._graph),
        ):
            if trial.bytes + more > at_most:
                continue
            tell(f"building {name} of {trial.codec.name} × {trial.k}")
            index = make(trial.fitted, trial.fitted.coordinates(sample))
            fill(index, self._vectors, self._space, trial.fitted)
            yield self._set(name, index, trial, trial.bytes + more)

    def _list_count(self, sample: int) -> int:
        return max(1, min(int(4 * math.sqrt(self._space.n)), sample // PER_LIST))

    def _lists(self, fitted: Fitted, sample: Floats) -> Any:
        library = faiss()
        kind = self._space.metric.kind(library)
        lists = self._list_count(len(sample))
        coarse = library.IndexFlat(fitted.k, kind)
        if fitted.codec.kind == "flat":
            index = library.IndexIVFFlat(coarse, fitted.k, lists, kind)
        else:
            quantizer = getattr(library.ScalarQuantizer, fitted.codec.kind)
            index = library.IndexIVFScalarQuantizer(coarse, fitted.k, lists, quantizer, kind, False)
            fitted.codec.set_range(index.sq)
        coarse.this.disown()
        index.own_fields = True
        index.cp.niter = 10
        index.train(sample)
        return index

    def _graph(self, fitted: Fitted, sample: Floats) -> Any:
        library = faiss()
        kind = self._space.metric.kind(library)
        if fitted.codec.kind == "flat":
            return library.IndexHNSWFlat(fitted.k, LINKS, kind)
        quantizer = getattr(library.ScalarQuantizer, fitted.codec.kind)
        index = library.IndexHNSWSQ(fitted.k, quantizer, LINKS, kind)
        fitted.codec.set_range(library.downcast_index(index.storage).sq)
        index.train(sample)
        return index

    def _set(self, name: str, index: Any, trial: Trial, size: float) -> Built:
        """The lowest effort that reaches the target: doubled until it does, then halved between."""
        most = index.nlist if name == "ivf" else GREATEST
        low, high = 0, 1 if name == "ivf" else self._queries.k
        found = self._recalls(name, index, trial, high)
        while not found.reaches(self._recall) and high < most:
            low, high = high, min(2 * high, most)
            found = self._recalls(name, index, trial, high)
        while found.reaches(self._recall) and high - low > max(1, low // 8):
            middle = (low + high) // 2
            tried = self._recalls(name, index, trial, middle)
            if tried.reaches(self._recall):
                high, found = middle, tried
            else:
                low = middle
        found = self._recalls(name, index, trial, high)
        words = (
            f"{most} lists, {high} probed" if name == "ivf" else f"{LINKS} links, {high} visited"
        )
        return self._built(name, words, index, trial, size, found)

    def _built(
        self, name: str, setting: str, index: Any, trial: Trial, size: float, recall: Recall
    ) -> Built:
        count = min(self._among + self._queries.extra, self._space.n)
        return Built(
            name=name,
            setting=setting,
            fitted=trial.fitted,
            index=index,
            bytes=size,
            recall=recall,
            reaches=recall.reaches(self._recall),
            speed=speed_of(index, self._asked(trial)[:TIMED], count, repeats=1),
        )

    def _recalls(self, name: str, index: Any, trial: Trial, effort: int) -> Recall:
        if name == "ivf":
            index.nprobe = effort
        else:
            index.hnsw.efSearch = effort
        count = min(self._among + self._queries.extra, self._space.n)
        _, ids = index.search(self._asked(trial), count)
        return Recall.of(self._queries.recalls(ids, self._among))

    def _asked(self, trial: Trial) -> Floats:
        axes = trial.fitted.axes(self._space).T
        return np.ascontiguousarray(self._queries.prepared @ axes)
