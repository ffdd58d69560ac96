"""Queries: given, or drawn from the vectors themselves."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from lowland.core.errors import InputError
from lowland.core.seeds import derived_seed
from lowland.embeddings.space import Space
from lowland.embeddings.target import Target
from lowland.embeddings.truth import SPARE, Queries, find_truth
from lowland.embeddings.vectors import Floats, Numbers, Vectors, open_vectors

FEWEST = 4
"""Queries: two to choose on and two to report."""


class Asked(Protocol):
    """What of the options is about queries."""

    @property
    def target(self) -> Target:
        """What is asked for."""

    @property
    def query_count(self) -> int:
        """How many."""

    @property
    def seed(self) -> int:
        """Of the draw."""


def choose_queries(
    vectors: Vectors, space: Space, given: Any, asked: Asked, column: str | None
) -> tuple[Queries, dict[str, Any]]:
    """Queries with their true neighbours, and a few words about them for the record.

    Raises:
        InputError: queries of another size, too few, or not finite; or nearly all of them have
            their k-th neighbour at the same distance as many others.
    """
    draws = np.random.default_rng(derived_seed(asked.seed, "queries"))
    if given is None:
        count = min(asked.query_count, vectors.n)
        own = np.sort(draws.choice(vectors.n, count, replace=False)).astype(np.int64)
        raw, source = vectors.take(own), "drawn from the vectors, each not its own neighbour"
    else:
        raw, source = _given(vectors, given, asked.query_count, draws, column)
        own = np.full(len(raw), -1, np.int64)
    queries = find_truth(vectors, space, raw, own, asked.target.k)
    lost = len(raw) - len(queries)
    if len(queries) < FEWEST:
        raise InputError(
            f"{vectors.name}: {lost} of {len(raw)} queries have more than {SPARE} vectors at the "
            f"distance of their neighbour {asked.target.k}: remove copies of the same vector"
        )
    return queries, {"count": len(queries), "source": source, "left_out": lost, "seed": asked.seed}


def _given(
    vectors: Vectors, given: Any, count: int, draws: np.random.Generator, column: str | None
) -> tuple[Floats, str]:
    # a file of one array has no column; others are read as the vectors are
    named = column if not str(given).lower().endswith(".npy") else None
    opened = open_vectors(given, what="queries", column=named)
    if opened.dimension != vectors.dimension:
        raise InputError(
            f"{opened.name}: queries of {opened.dimension} dimensions, vectors of "
            f"{vectors.dimension}: take both from the same network"
        )
    if opened.n < FEWEST:
        raise InputError(f"{opened.name}: {opened.n} queries: give at least {FEWEST}")
    places: Numbers = np.sort(draws.choice(opened.n, min(count, opened.n), replace=False))
    source = opened.name if count >= opened.n else f"{count} of {opened.n} of {opened.name}"
    return opened.take(places.astype(np.int64)), source
