"""How far eigenvalues can lie beyond what Lanczos has seen, with a probability.

Lanczos from a unit vector v gives Ritz values θ_i of A after m steps, and step lengths β_j. Its
polynomial p(λ) = Π(λ - θ_i) has ‖p(A)v‖ = Πβ_j. If u is a unit eigenvector to an eigenvalue λ then
|u·v|·|p(λ)| <= ‖p(A)v‖. For v uniform on the sphere |u·v| exceeds some x with a probability that is
known whatever A is, and then every such λ has |p(λ)| <= Πβ_j/x. Beyond the extreme Ritz values |p|
only grows: there that is a bound.

Source: J. van Dorsselaer, M. Hochstenbach, H. van der Vorst, Computing probabilistic bounds for
extreme eigenvalues of symmetric matrices with the Lanczos method, SIAM J. Matrix Anal. Appl. 22,
2000; written from the formulas above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

PROBABILITY = 0.99
BISECTIONS = 60


def smallest_overlap(size: int, probability: float) -> float:
    """An x with P(|u·v| < x) <= 1 - probability, for a unit u and v uniform on a sphere in R^size.

    The density of u·v is largest at 0 from three dimensions on, c = Γ(d/2)/(√π·Γ((d-1)/2)), so that
    P(|u·v| < x) <= 2·c·x; in two dimensions P(|u·v| < x) <= x.

    >>> round(smallest_overlap(3, 0.99), 6)  # uniform on [-1, 1]
    0.01
    """
    if size == 1:
        return 1.0
    log_c = math.log(0.5)
    if size > 2:
        log_c = math.lgamma(size / 2) - math.lgamma((size - 1) / 2) - 0.5 * math.log(math.pi)
    return (1 - probability) / 2 * math.exp(-log_c)


def upper_bound(values: Tensor, lengths: Sequence[float], overlap: float) -> float:
    """The λ from the largest θ on with Π(λ - θ_i) = Πβ_j/x.

    No eigenvalue is above it, if |u·v| >= x. For a lower bound give -θ and negate.

    Args:
        values: θ_i, (m,), float64.
        lengths: β_1 … β_m.
        overlap: x.
    """
    top = float(values.max())
    if min(lengths) <= 0:
        return top
    goal = sum(map(math.log, lengths)) - math.log(overlap)
    low, high = 0.0, math.exp(goal / len(values))  # every factor is at least λ - θ_max
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if float((top + middle - values).log().sum()) < goal:
            low = middle
        else:
            high = middle
    return top + high


def both_bounds(
    values: Tensor, lengths: Sequence[float], size: int, probability: float = PROBABILITY
) -> tuple[float, float]:
    """An interval that all eigenvalues lie in, with this probability for each of its two ends."""
    overlap = smallest_overlap(size, probability)
    low = -upper_bound(-values, lengths, overlap)
    return low, upper_bound(values, lengths, overlap)
