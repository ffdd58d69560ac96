"""Feature rank: how many principal components hold a given share of the variance."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lowland.core.errors import InputError
from lowland.core.records import Measurement
from lowland.measure.features.source import open_features
from lowland.measure.features.spectrum import spectrum

TIE = 1e-6
"""Two shares of the variance this close, relative to t and to 1 - t, count as equal."""

_CENTERED = {
    "unit": "each feature minus its mean over examples",
    "example": "each example minus its mean over features",
    "none": "features not centred",
}


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
    """

    center: str
    dimension: int
    ranks: dict[float, int] = field(hash=False)
    spectrum: npt.NDArray[np.float64] = field(repr=False, compare=False)
    noise: float
    unit: float
    mean_energy: float

    def at(self, variance: float) -> int:
        """The rank at any share of the variance in (0, 1], from the spectrum."""
        return threshold_rank(self.spectrum, check_share(variance), noise=self.noise)


def feature_rank(
    features: Any,
    variance: float | Sequence[float] = 0.99,
    center: str = "unit",
) -> FeatureRank:
    """The smallest number of principal components that hold a share `variance` of the variance.

    With σ₁ ≥ σ₂ ≥ … the singular values of the n×d matrix of centred features, the rank at t is
    the smallest k with σ₁² + … + σ_k² ≥ t·Σσ_i². Shares equal up to rounding (`TIE`) count as
    equal, so n equal singular values have rank exactly t·n where that is whole. At t = 1 it is the
    number of energies above rounding noise, and no rank is larger than that. Features that are
    zero, or (if centred) constant up to rounding, have rank 0. The arithmetic is float64 whatever
    the type of the features; see `spectrum` for method, cost and memory.

    Args:
        features: (n, …), a tensor of any real type on any device, a NumPy array or nested lists,
            flattened per example; or a function of no arguments that returns a fresh iterator of
            such chunks, which need never lie in memory together.
        variance: the share t in (0, 1], or several; `value` is for the first.
        center: "unit" subtracts each feature's mean over examples (principal component analysis);
            "example" subtracts each example's mean over its features, the convention of the
            released experiments of arXiv 2305.16292, which leaves the mean example in the
            spectrum; "none" subtracts nothing.

    Raises:
        InputError: features empty, not finite or not numbers; `variance` outside (0, 1];
            `center` unknown; a stream that gives other rows in a second pass.

    >>> feature_rank([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]], variance=0.9).value
    1
    """
    shares = [check_share(share) for share in _as_list(variance)]
    start = time.perf_counter()
    found = spectrum(open_features(features), center)
    found.energies.setflags(write=False)
    ranks = {t: threshold_rank(found.energies, t, noise=found.noise) for t in shares}
    return FeatureRank(
        name="feature_rank",
        value=ranks[shares[0]],
        definition=(
            "smallest k whose k largest squared singular values hold a share of at least "
            f"{shares[0]:g} of their sum; {_CENTERED[center]}"
        ),
        n=found.n,
        dtype="float64",
        seconds=time.perf_counter() - start,
        center=center,
        dimension=found.dimension,
        ranks=ranks,
        spectrum=found.energies,
        noise=found.noise,
        unit=found.unit,
        mean_energy=found.mean_energy,
    )


def threshold_rank(energies: npt.NDArray[np.float64], variance: float, *, noise: float) -> int:
    """Smallest k with Σ_{i≤k} e_i ≥ t·Σe, for energies in descending order.

    Decided on what the remaining energies hold, Σ_{i>k} e_i ≤ (1 - t)·Σe, which loses no digits
    where t is near 1, with a relative tolerance of `TIE`; never more than the energies above
    `noise`. Zero energies have rank 0.

    >>> threshold_rank(np.ones(10), 0.5, noise=0.0)
    5
    """
    above = int(np.count_nonzero(energies > noise))
    if above == 0 or variance == 1.0:
        return above
    shares = energies / energies.sum()
    rest = np.append(np.cumsum(shares[::-1])[::-1], 0.0)
    allowed = (1.0 - variance) + TIE * min(variance, 1.0 - variance)
    k = int(np.argmax(rest <= allowed))
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


def _as_list(variance: Any) -> list[Any]:
    if isinstance(variance, str) or np.ndim(variance) == 0:
        return [variance]
    if len(variance) == 0:
        raise InputError("variance: no shares; give at least one, for example 0.99")
    return list(variance)
