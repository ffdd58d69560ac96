"""Feature rank: how many principal components hold a given share of the variance."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.features.published import published_rank, published_spectrum
from lowland.measure.features.source import open_features
from lowland.measure.features.spectrum import CENTERS, Spectrum, spectrum

TIE = 1e-6
"""Two shares of the variance this close, relative to t and to 1 - t, count as equal."""

CENTERED = {
    "unit": "each feature minus its mean over examples",
    "example": "each example minus its mean over features",
    "none": "features not centred",
}

Rule = Literal["smallest", "published"]
RULES: tuple[Rule, ...] = get_args(Rule)

RANK_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "principal-components": {"variance": 0.99, "center": "unit", "rule": "smallest"},
        "low-rank-paper": {"variance": 0.99, "center": "example", "rule": "published"},
        "low-rank-paper-two-layer": {"variance": 0.9999, "center": "none", "rule": "published"},
        "low-rank-paper-contrastive": {
            "variance": (0.99, 0.95, 0.90, 0.85),
            "center": "example",
            "rule": "published",
        },
    }
)
"""Options of `feature_rank` by name: the right ones, and those of the released experiments of
arXiv 2305.16292 (image networks and ViTs; two-layer networks; image-text)."""


@dataclass(frozen=True, kw_only=True)
class FeatureRank(Measurement):
    """The rank at one or more shares of the variance, and the spectrum behind it.

    Attributes:
        center: the centring: "unit", "example" or "none".
        dimension: number of features d.
        ranks: share of the variance -> rank; `value` is the rank at the first share asked for.
        spectrum: squared singular values, float64, descending, min(n, d) of them.
        unit: `spectrum` and `noise` are in units of its square; 1, except for features whose
            squares would leave float64.
        noise: energies up to here count as rounding noise.
        mean_energy: f = ‖mean φ‖² / E‖φ‖² of the features as given (NaN if all are zero). It
            explains how centring matters: the uncentred rank at t is about 1 + the centred rank
            at 1 - (1 - t)/(1 - f).
        rule: "smallest" or "published".
        solver: how the spectrum was found: "direct", "two-stage" (see `spectrum`) or "svdvals".
        error: bound on the error of every share that some number of components holds; NaN for
            the published rule, which is defined by what it computes.
    """

    center: str
    dimension: int
    ranks: dict[float, int] = field(hash=False)
    spectrum: npt.NDArray[np.float64] = field(repr=False, compare=False)
    noise: float
    unit: float
    mean_energy: float
    rule: str = "smallest"
    solver: str = "direct"
    error: float = math.nan

    def at(self, variance: float) -> int:
        """The rank at any share of the variance in (0, 1], from the spectrum."""
        return rank_by(self.rule, self.spectrum, check_share(variance), self.noise)

    def certain(self, variance: float) -> bool:
        """Whether exact arithmetic is sure to give the same rank: no other one is within `error`.

        Never for a share so near 1 that the rest is of the size of `error`, and not for the
        published rule.
        """
        share = check_share(variance)
        if self.rule != "smallest":
            return False
        if not self.spectrum.any():
            return True
        if share == 1.0:
            return False
        low, high = (
            threshold_rank(self.spectrum, share, noise=self.noise, slack=slack)
            for slack in (self.error, -self.error)
        )
        return low == high


def feature_rank(
    features: Any,
    variance: float | Sequence[float] = 0.99,
    center: str = "unit",
    *,
    rule: str = "smallest",
) -> FeatureRank:
    """The smallest number of principal components that hold a share `variance` of the variance.

    With σ₁ ≥ σ₂ ≥ … the singular values of the n×d matrix of centred features, the rank at t is
    the smallest k with σ₁² + … + σ_k² ≥ t·Σσ_i². Shares equal up to rounding (`TIE`) count as
    equal, so n equal singular values have rank exactly t·n where that is whole. At t = 1 it is the
    number of energies above rounding noise, and no rank is larger than that. Features that are
    zero, or (if centred) constant up to rounding, have rank 0. The arithmetic is float64 whatever
    the type of the features; see `spectrum` for method, cost and memory. For features beyond
    memory on both sides, see `rank_bounds`.

    Args:
        features: (n, …), a tensor of any real type on any device, a NumPy array or nested lists,
            flattened per example; or a function of no arguments that returns a fresh iterator of
            such chunks, which need never lie in memory together.
        variance: the share t in (0, 1], or several; `value` is for the first.
        center: "unit" subtracts each feature's mean over examples (principal component analysis);
            "example" subtracts each example's mean over its features, the convention of the
            released experiments of arXiv 2305.16292, which leaves the mean example in the
            spectrum; "none" subtracts nothing.
        rule: "smallest" is the definition above. "published" is what the released experiments of
            arXiv 2305.16292 compute, in float32 by a singular value decomposition:
            #{k: σ₁² + … + σ_k² ≤ t·Σσ_i²} + 1, which is one more where k components hold exactly
            the share, and min(n, d) + 1 for t = 1 and for features that are zero. All options of
            those experiments are in `RANK_PRESETS["low-rank-paper"]`.

    Raises:
        InputError: features empty, not finite or not numbers; `variance` outside (0, 1];
            `center` or `rule` unknown; a stream that gives other rows in a second pass.

    >>> feature_rank([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]], variance=0.9).value
    1
    """
    shares = [check_share(share) for share in as_shares(variance)]
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    if center not in CENTERS:
        raise unknown("center", center, CENTERS)
    start = time.perf_counter()
    opened = open_features(features)
    found = (spectrum if rule == "smallest" else published_spectrum)(opened, center)
    return rank_record(found, shares, center, rule, start)


def rank_record(
    found: Spectrum, shares: Sequence[float], center: str, rule: str, start: float
) -> FeatureRank:
    """The record of ranks read from a spectrum."""
    found.energies.setflags(write=False)
    ranks = {t: rank_by(rule, found.energies, t, found.noise) for t in shares}
    return FeatureRank(
        name="feature_rank",
        value=ranks[shares[0]],
        definition=f"{_RULE_WORDS[rule].format(share=shares[0])}; {CENTERED[center]}",
        n=found.n,
        dtype="float64" if rule == "smallest" else "float32",
        seconds=time.perf_counter() - start,
        center=center,
        dimension=found.dimension,
        ranks=ranks,
        spectrum=found.energies,
        noise=found.noise,
        unit=found.unit,
        mean_energy=found.mean_energy,
        rule=rule,
        solver=found.solver,
        error=found.error,
    )


_RULE_WORDS = {
    "smallest": (
        "smallest k whose k largest squared singular values hold a share of at least "
        "{share:g} of their sum"
    ),
    "published": (
        "1 + the number of k whose k largest squared singular values hold a share of at most "
        "{share:g} of their sum"
    ),
}


def rank_by(rule: str, energies: npt.NDArray[np.float64], variance: float, noise: float) -> int:
    """The rank at a share by one of the two rules."""
    if rule == "published":
        return published_rank(energies, variance)
    return threshold_rank(energies, variance, noise=noise)


def allowed_rest(variance: float) -> float:
    """The share that the components left out may hold: 1 - t, with a relative tolerance `TIE`."""
    return (1.0 - variance) + TIE * min(variance, 1.0 - variance)


def threshold_rank(
    energies: npt.NDArray[np.float64], variance: float, *, noise: float, slack: float = 0.0
) -> int:
    """Smallest k with Σ_{i≤k} e_i ≥ t·Σe, for energies in descending order.

    Decided on what the remaining energies hold, Σ_{i>k} e_i ≤ (1 - t)·Σe, which loses no digits
    where t is near 1, with a relative tolerance of `TIE`; never more than the energies above
    `noise`. Zero energies have rank 0. `slack` is allowed to the rest besides.

    >>> threshold_rank(np.ones(10), 0.5, noise=0.0)
    5
    """
    above = int(np.count_nonzero(energies > noise))
    if above == 0 or variance == 1.0:
        return above
    shares = energies / energies.sum()
    rest = np.append(np.cumsum(shares[::-1])[::-1], 0.0)
    enough = rest <= allowed_rest(variance) + slack
    k = int(np.argmax(enough)) if enough.any() else len(energies)
    return min(max(k, 1), above)


def check_share(share: Any) -> float:
    """`share` as a float in (0, 1], or an `InputError`."""
    try:
        value = math.nan if isinstance(share, str | bool) else float(share)
    except (TypeError, ValueError):
        value = math.nan
    if not 0.0 < value <= 1.0:
        raise InputError(
            f"variance: {share!r} is not a share in (0, 1]; give for example 0.99 for 99%"
        )
    return value


def as_shares(variance: Any) -> list[Any]:
    """One share or several, as a list."""
    if isinstance(variance, str) or np.ndim(variance) == 0:
        return [variance]
    if len(variance) == 0:
        raise InputError("variance: no shares; give at least one, for example 0.99")
    return list(variance)
