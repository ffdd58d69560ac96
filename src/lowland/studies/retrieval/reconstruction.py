"""Components × bits at equal error of reconstruction: what a model that predicts features needs."""

from __future__ import annotations

import numpy as np

from lowland.studies.retrieval.coordinates import Coordinates, Doubles

BITS = range(1, 11)
"""Up to 1,024 levels for each component, as in DALL-E 2."""


def lost_by_bits(where: Coordinates, bits: int) -> Doubles:
    """(r,) mean square that each component of the queries loses to 2^bits levels.

    The levels divide the range of the database into equal cells; a value becomes the middle of its
    cell, and one outside the range the nearest middle.
    """
    low, high = where.database.min(0), where.database.max(0)
    cell = (high - low) / 2**bits
    place = np.floor((where.queries - low) / np.where(cell > 0, cell, 1.0))
    place = np.clip(place, 0, 2**bits - 1)
    lost: Doubles = ((low + (place + 0.5) * cell - where.queries) ** 2).mean(0)
    return lost


def relative_errors(where: Coordinates, lost: Doubles) -> Doubles:
    """(r,) relative squared error with the first 1, 2, ... r components, which lose so much."""
    squares = (where.queries**2).mean(0)
    total = squares.sum() + where.outside
    rest = squares.sum() - np.cumsum(squares) + where.outside
    found: Doubles = (np.cumsum(lost) + np.maximum(rest, 0.0)) / total
    return found


def components_for(where: Coordinates, error: float) -> int | None:
    """The fewest components, unquantized, with at most this error on the queries."""
    return _first_below(relative_errors(where, np.zeros(where.rank)), error)


def best_for(where: Coordinates, error: float) -> tuple[int, int] | None:
    """(components, bits) with the smallest product among those with at most this error."""
    found = []
    for bits in BITS:
        k = _first_below(relative_errors(where, lost_by_bits(where, bits)), error)
        if k is not None:
            found.append((k, bits))
    return min(found, key=lambda pair: pair[0] * pair[1], default=None)


def _first_below(errors: Doubles, error: float) -> int | None:
    below = np.flatnonzero(errors <= error)
    return int(below[0]) + 1 if len(below) else None
