"""Student's t distribution for whole degrees of freedom, without special functions."""

from __future__ import annotations

import functools
import math

from lowland.core.errors import InputError


def central_probability(angle: float, degrees: int) -> float:
    """P(|T| <= tan(angle) * sqrt(degrees)) for Student's T with an integer number of degrees.

    For integer degrees the distribution function is a finite sum of powers of cos(angle)
    (Abramowitz and Stegun, 26.7.3 and 26.7.4), so no special function is needed.
    Cost: degrees / 2 multiplications.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    if odd:
        return (angle + sine * total) * 2 / math.pi
    return sine * total


@functools.lru_cache(maxsize=256)
def student_t(confidence: float, degrees: int) -> float:
    """The t with P(|T| <= t) = confidence for Student's T with `degrees` degrees of freedom.

    >>> round(student_t(0.95, 4), 3)
    2.776

    Raises:
        InputError: confidence is not strictly between 0 and 1, or degrees is below 1.
    """
    if not 0 < confidence < 1 or degrees < 1:
        raise InputError(f"no Student-t quantile at confidence {confidence}, degrees {degrees}")
    low, high = 0.0, math.pi / 2
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return math.tan(middle) * math.sqrt(degrees)
        if central_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
