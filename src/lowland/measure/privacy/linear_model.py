"""Membership in closed form: a Gaussian linear model fitted by least squares of minimum norm."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import NormalDist

from torch import Tensor

from lowland.core.errors import InputError
from lowland.core.records import Measurement


@dataclass(frozen=True, kw_only=True)
class LinearMembership(Measurement):
    """The advantage of the best attack on a prediction of the linear model; `n` is its data set's.

    Attributes:
        member_variance: σ₁², of the prediction at x₀ if x₀ is in the training set.
        non_member_variance: σ₀², if it is not.
        features: p, features fitted.
        dimension: D, features in all.
        noise: σ of the labels.
    """

    member_variance: float
    non_member_variance: float
    features: int
    dimension: int
    noise: float


def linear_membership(x0: Tensor, *, n: int, features: int, noise: float = 1.0) -> LinearMembership:
    """How well the prediction at x₀ tells whether a linear model was trained on x₀.

    Data y = xᵀβ + σN with x ~ N(0, I_D) and β ~ N(0, I_D/D); the first p features are fitted to n
    examples by least squares of minimum norm. With p > n + 1 the model interpolates, and over data
    sets and β its prediction at x₀ has mean 0 and variance

        member:     σ₁² = σ² + ‖x₀‖²/D
        non-member: σ₀² = (n/p)·(1/D + (1 + σ² - p/D)/(p - n - 1))·‖x₀‖², of the first p of x₀.

    Both are exact. The value is `gaussian_advantage` of the two: exact if the prediction for
    non-members is normal too, which it is up to the spread of its variance over training inputs.

    Args:
        x0: (D,) the example asked about.
        n: number of training examples.
        features: p, with n + 1 < p <= D.
        noise: σ, at least 0.

    Cost: O(D).

    Source: Tan et al. 2022 (arXiv 2202.01243).

    Raises:
        InputError: p outside n + 2..D, where no formula for members is known; x₀ that is not a
            vector of finite numbers.
    """
    start = time.perf_counter()
    if x0.ndim != 1 or not x0.double().isfinite().all():
        raise InputError(f"x0: got shape {tuple(x0.shape)}; give one vector of finite numbers")
    dimension = len(x0)
    if n < 1 or not n + 1 < features <= dimension:
        raise InputError(
            f"features: the variances hold for n + 1 < p <= D only; got n={n}, p={features}, "
            f"D={dimension}"
        )
    if not 0 <= noise < math.inf:
        raise InputError(f"noise: got {noise}; give a standard deviation, at least 0")
    squares = x0.double().square()
    whole, part = float(squares.sum()), float(squares[:features].sum())
    unexplained = 1 + noise**2 - features / dimension
    member = noise**2 + whole / dimension
    other = n / features * (1 / dimension + unexplained / (features - n - 1)) * part
    return LinearMembership(
        name="linear_membership_advantage",
        value=gaussian_advantage(member, other),
        definition=(
            "largest TPR - FPR of an attack on the prediction at x₀ of a Gaussian linear model "
            "(least squares of minimum norm, p > n + 1), both variances in closed form"
        ),
        n=n,
        dtype="float64",
        seconds=time.perf_counter() - start,
        member_variance=member,
        non_member_variance=other,
        features=features,
        dimension=dimension,
        noise=noise,
    )


def gaussian_advantage(first: float, second: float) -> float:
    """The largest TPR - FPR of telling N(0, first) from N(0, second) by one draw.

    With variances s < b the densities cross at ±α, α² = s·b·ln(b/s)/(b - s), and it is
    2·(Φ(α/√s) - Φ(α/√b)); 0 for equal variances, 1 if only one is 0.

    Raises:
        InputError: variances that are negative or not finite.

    >>> round(gaussian_advantage(1.0, 4.0), 3), gaussian_advantage(2.0, 2.0)
    (0.323, 0.0)
    """
    small, big = sorted((float(first), float(second)))
    if not 0 <= small <= big < math.inf:
        raise InputError(f"variances: got {first} and {second}; give finite numbers, at least 0")
    if small == big:
        return 0.0
    if small == 0:
        return 1.0
    # α²/s = ratio·ln(ratio)/(ratio - 1), in terms that stay exact as the variances meet
    excess = (big - small) / small
    near = (1 + excess) * math.log1p(excess) / excess
    normal = NormalDist()
    far = near / (1 + excess)
    return 2 * (normal.cdf(math.sqrt(near)) - normal.cdf(math.sqrt(far)))
