"""Membership of an example in the training set of a linear model, against its parameters.

y = xᵀβ + σN with x ~ N(0, I_D) and β ~ N(0, I_D/D); ridge regression (or least squares of minimum
norm) on the first p features of n examples; the attack sees the prediction at x₀. Given the inputs
X the prediction is normal with mean 0, and its variance is exact:

    v(X) = kᵀ(K_p + cI)⁻¹ (K_D/D + σ²I) (K_p + cI)⁻¹ k,   K_p = X_p X_pᵀ,  k = X_p x₀,  c = nλ,

so that label noise and β are integrated out and X alone is drawn. A member is the first row of X.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from lowland.measure.privacy import gaussian_advantage, linear_membership

Row = dict[str, float | int]


@dataclass(frozen=True)
class Variances:
    """Of the prediction at x₀ over draws of X: each (draws,)."""

    member: Tensor
    other: Tensor


class TrainingSets:
    """Draws of X, with x₀ as a member and without, and the covariance of their labels.

    Args:
        x0: (D,) the example asked about.
        inputs: (draws, n, D) training inputs.
        noise: σ.
    """

    def __init__(self, x0: Tensor, inputs: Tensor, *, noise: float) -> None:
        with_member = inputs.clone()
        with_member[:, 0] = x0
        self._x0, self._noise = x0, noise
        self._sets = [(x, self._labels(x)) for x in (with_member, inputs)]

    def variances(self, features: int, *, ridge: float = 0.0) -> Variances:
        """v(X) for members and for non-members.

        Args:
            features: p.
            ridge: c = nλ; 0 is least squares of minimum norm.
        """
        found = [self._variance(x, labels, features, ridge) for x, labels in self._sets]
        return Variances(*found)

    def _labels(self, x: Tensor) -> Tensor:
        eye = torch.eye(x.shape[1], dtype=x.dtype)
        return x @ x.mT / x.shape[2] + self._noise**2 * eye

    def _variance(self, x: Tensor, labels: Tensor, features: int, ridge: float) -> Tensor:
        n = x.shape[1]
        used, x0 = x[..., :features], self._x0[:features]
        if features >= n or ridge:
            kernel = used @ used.mT + ridge * torch.eye(n, dtype=x.dtype)
            a = torch.linalg.solve(kernel, (used @ x0)[..., None])
        else:  # least squares with fewer features than examples
            a = used @ torch.linalg.solve(used.mT @ used, x0[:, None].expand(len(x), -1, -1))
        found: Tensor = (a.mT @ labels @ a)[:, 0, 0]
        return found


def advantages(found: Variances, bins: int, draws: Tensor) -> dict[str, float]:
    """How well one prediction tells a member, three ways.

    ``normal``: of two normal distributions with the mean variances. ``fixed``: TPR − FPR of the
    rule that is best for these, on draws: not biased, and at most the best there is. ``binned``:
    Σ over bins of (P₁ − P₀)₊ on the same draws, as published: biased upwards, by about ``bias``,
    what it finds between two halves of the members' own draws.

    Args:
        found: variances.
        bins: of the histogram, of equal width over the central 99% of all draws.
        draws: (2, draws of X, more) standard normal numbers.
    """
    small = float(found.member.mean()), float(found.other.mean())
    member = (draws[0] * found.member.sqrt()[:, None]).flatten()
    other = (draws[1] * found.other.sqrt()[:, None]).flatten()
    edge = _crossing(*small)
    inside = [float((z.abs() <= edge).double().mean()) for z in (member, other)]
    fixed = inside[0] - inside[1] if small[0] < small[1] else inside[1] - inside[0]
    return {
        "normal": gaussian_advantage(*small),
        "fixed": fixed,
        "binned": _binned(member, other, bins),
        "bias": _binned(member[::2], member[1::2], bins),
        "member": small[0],
        "other": small[1],
    }


def _crossing(first: float, second: float) -> float:
    """Where the densities of N(0, first) and N(0, second) cross."""
    small, big = sorted((first, second))
    if small == big:
        return math.sqrt(small) * NormalDist().inv_cdf(0.84)
    return math.sqrt(small * big * math.log(big / small) / (big - small))


def _binned(first: Tensor, second: Tensor, bins: int) -> float:
    both = torch.cat([first, second])
    edge = float(both.abs().quantile(0.99))
    shares = [
        torch.histc(z.clamp(-edge, edge), bins, -edge, edge) / len(z) for z in (first, second)
    ]
    return float((shares[0] - shares[1]).clamp_min(0).sum())


def _drawn(
    seed: int, examples: int, dimension: int, draws: int, noise: float
) -> tuple[Tensor, TrainingSets, Tensor]:
    """x₀, training sets, and what 50 predictions of each are drawn from, of members and others."""
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(dimension, generator=generator, dtype=torch.float64)
    inputs = torch.randn(draws, examples, dimension, generator=generator, dtype=torch.float64)
    more = torch.randn(2, draws, 50, generator=generator, dtype=torch.float64)
    return x0, TrainingSets(x0, inputs, noise=noise), more


def over_features(
    *,
    seed: int,
    rho: float,
    count: int,
    examples: int,
    dimension: int,
    features: Sequence[int],
    draws: int,
    bins: int,
    noise: float = 1.0,
) -> Iterator[Row]:
    """Rows by p: the advantage at a random x₀ of each seed, in closed form and drawn.

    Args:
        seed: the first seed.
        rho: not used.
        count: seeds from the first one on.
        examples: n.
        dimension: D.
        features: p, ascending; the closed form is there for p > n + 1.
        draws: training sets drawn; 50 predictions are drawn of each.
        bins: of the histogram.
        noise: σ.
    """
    for one in range(seed, seed + count):
        x0, sets, more = _drawn(one, examples, dimension, draws, noise)
        for p in features:
            row: Row = {"rho": 0.0, "seed": one, "features": p}
            if p > examples + 1:
                exact = linear_membership(x0, n=examples, features=p, noise=noise)
                row |= {"theory": exact.value, "theory/member": exact.member_variance}
                row["theory/other"] = exact.non_member_variance
            yield row | advantages(sets.variances(p), bins, more)


def over_ridge(
    *,
    seed: int,
    rho: float,
    count: int,
    examples: int,
    dimension: int,
    features: Sequence[int],
    ridges: Sequence[float],
    draws: int,
    bins: int,
    noise: float = 1.0,
) -> Iterator[Row]:
    """Rows by p and nλ: the advantage with p features fitted by ridge regression.

    Args:
        seed: the first seed.
        rho: not used.
        count: seeds from the first one on.
        examples: n.
        dimension: D.
        features: p.
        ridges: nλ.
        draws: training sets drawn; 50 predictions are drawn of each.
        bins: of the histogram.
        noise: σ.
    """
    for one in range(seed, seed + count):
        _, sets, more = _drawn(one, examples, dimension, draws, noise)
        for p in features:
            for ridge in ridges:
                found = sets.variances(p, ridge=ridge)
                row: Row = {"rho": 0.0, "seed": one, "features": p, "ridge": ridge}
                yield row | advantages(found, bins, more)
