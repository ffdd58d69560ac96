"""What is read off a loss over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowland.studies.effects import mean

LEAST = 1e-300
"""In place of a loss that is 0."""


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of a straight line by least squares; NaN where all x are one.

    >>> slope([0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
    2.0
    """
    a, b = mean(x), mean(y)
    spread = math.fsum((v - a) ** 2 for v in x)
    if not spread:
        return math.nan
    return math.fsum((v - a) * (w - b) for v, w in zip(x, y, strict=True)) / spread


def late_fall(steps: Sequence[float], losses: Sequence[float]) -> float:
    """Mean log10 of a loss over the second quarter of the steps, minus that over the last."""
    end = steps[-1]

    def level(low: float, high: float) -> float:
        return mean(
            [
                math.log10(max(loss, LEAST))
                for step, loss in zip(steps, losses, strict=True)
                if low * end < step <= high * end
            ]
        )

    return level(0.25, 0.5) - level(0.75, 1.0)
