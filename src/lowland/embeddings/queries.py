"""Queries: given, or drawn from the vectors themselves."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from lowland.core.errors import InputError
from lowland.core.seeds import derived_seed
from lowland.embeddings.files import open_vectors
from lowland.embeddings.space import Space
from lowland.embeddings.target import Target
from lowland.embeddings.truth import SPARE, Queries, find_truth
from lowland.embeddings.vectors import Floats, Numbers, Vectors

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
        raw, source = _given(vectors, space, given, asked.query_count, draws, column)
        own = np.full(len(raw), -1, np.int64)
    queries = find_truth(vectors, space, raw, own, asked.target.k)
    lost = len(raw) - len(queries)
    if len(queries) < FEWEST:
        raise InputError(
            f"{vectors.name}: {lost} of {len(raw)} queries have more than {SPARE} vectors at the "
            f"distance of their neighbour {asked.target.k}: remove copies of the same vector"
        )
    about = {"count": len(queries), "source": source, "left_out": lost, "seed": asked.seed}
    return queries, {**about, "copies": 0 if given is None else _copies(vectors, queries)}


def _given(
    vectors: Vectors,
    space: Space,
    given: Any,
    count: int,
    draws: np.random.Generator,
    column: str | None,
) -> tuple[Floats, str]:
    try:
        opened = open_vectors(given, what="queries", column=column)
    except InputError as error:
        raise InputError(str(error).replace("--column", "--queries-column")) from None
    if opened.dimension != vectors.dimension:
        raise InputError(
            f"{opened.name}: queries of {opened.dimension} dimensions, vectors of "
            f"{vectors.dimension}: take both from the same network"
        )
    if opened.n < FEWEST:
        raise InputError(f"{opened.name}: {opened.n} queries: give at least {FEWEST}")
    chosen = np.sort(draws.choice(opened.n, min(count, opened.n), replace=False))
    places: Numbers = chosen.astype(np.int64)
    raw = opened.take(places)
    space.prepare(raw.copy(), places, opened.name)  # says which row has no direction
    source = opened.name if count >= opened.n else f"{count} of {opened.n} of {opened.name}"
    return raw, source


def _copies(vectors: Vectors, queries: Queries) -> int:
    """Queries whose nearest vector is a copy of them: each finds itself.

    Not so for inner products, by which others may be nearer to a vector than itself.
    """
    nearest, inverse = np.unique(queries.right[:, 0], return_inverse=True)
    return int((vectors.take(nearest)[inverse] == queries.raw).all(1).sum())
