"""Means over batches of unequal sizes, every example counted once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def batch_number(losses: Tensor) -> float:
    """The mean of a batch's losses, taken in float64."""
    return float(losses.detach().cpu().double().mean())


def mean_of(values: Sequence[float], sizes: Sequence[int]) -> float:
    """Σ m_b·v_b / Σ m_b over batches b of m_b examples.

    >>> mean_of([1.0, 4.0], [2, 1])
    2.0
    """
    return sum(v * m for v, m in zip(values, sizes, strict=True)) / sum(sizes)


def standard_error_of(values: Sequence[float], sizes: Sequence[int]) -> float | None:
    """Standard error of `mean_of`, from the spread between batches; None for a single batch.

    >>> round(standard_error_of([1.0, 3.0], [5, 5]), 12)
    1.0
    """
    count = len(values)
    if count < 2:
        return None
    mean, n = mean_of(values, sizes), sum(sizes)
    squares = sum((m / n * (v - mean)) ** 2 for v, m in zip(values, sizes, strict=True))
    return math.sqrt(squares * count / (count - 1))
