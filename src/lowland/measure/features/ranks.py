"""One function for every rank of a feature matrix, at the centring that it is defined for.

Several at a time cost one spectrum: `feature_spectrum`.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

from lowland.core.records import Measurement
from lowland.measure.features.family import FeatureSpectrum, SpectralRank, feature_spectrum
from lowland.measure.features.matrices import double
from lowland.measure.features.products import RowSums
from lowland.measure.features.source import InMemory, open_features


def effective_rank(features: Any, center: str = "none") -> SpectralRank:
    """exp(-Σ p ln p) with p = σ/Σσ over the singular values (Roy and Vetterli 2007).

    Args:
        features: as for `feature_rank`.
        center: as for `feature_rank`; defined on the matrix as it is.

    Cost, Raises: as `feature_rank`.

    >>> round(effective_rank([[2.0, 0.0], [0.0, 2.0]]).value, 6)
    2.0
    """
    return feature_spectrum(features, center).effective_rank()


def rankme(features: Any, center: str = "none", *, epsilon: float = 1e-7) -> SpectralRank:
    """exp(-Σ p ln p) with p = σ/Σσ + ε over min(n, d) singular values (arXiv 2210.02885).

    The published value is of 25,600 examples; it grows with n. Others take ε = 1e-12 (TF-GNN), or
    λ = σ² for σ under the same name (`entropy_rank`).

    Args:
        features: as for `feature_rank`.
        center: as for `feature_rank`; defined on the matrix as it is.
        epsilon: 1e-7 as published, the rounding unit of float32.

    Cost, Raises: as `feature_rank`; `epsilon` negative.

    >>> round(rankme([[2.0, 0.0], [0.0, 2.0]], epsilon=0).value, 6)
    2.0
    """
    return feature_spectrum(features, center).rankme(epsilon)


def entropy_rank(features: Any, center: str = "none") -> SpectralRank:
    """exp(-Σ p ln p) with p = λ/Σλ, λ = σ²: the exponential of the matrix entropy.

    Args:
        features: as for `feature_rank`.
        center: as for `feature_rank`; "unit" takes the eigenvalues of the covariance.

    Cost, Raises: as `feature_rank`. The entropy itself, which some call by this name, is in
    the record.

    >>> round(entropy_rank([[2.0, 0.0], [0.0, 2.0]]).value, 6)
    2.0
    """
    return feature_spectrum(features, center).entropy_rank()


def stable_rank(features: Any, center: str = "none") -> SpectralRank:
    """Σσ²/σ₁² (Rudelson and Vershynin 2007), never above the rank, and steady under noise.

    Args:
        features: as for `feature_rank`.
        center: as for `feature_rank`; defined on the matrix as it is.

    Cost, Raises: as `feature_rank`.

    >>> stable_rank([[2.0, 0.0], [0.0, 1.0]]).value
    1.25
    """
    return feature_spectrum(features, center).stable_rank()


def participation_ratio(
    features: Any, center: str = "unit", *, correction: str = "none"
) -> SpectralRank:
    """(Σλ)²/Σλ² over the eigenvalues λ of the covariance, with the bias of few examples if asked.

    Args:
        features: as for `feature_rank`.
        center: as for `feature_rank`; defined on centred features.
        correction: "none", "examples" or "examples and features": see
            `FeatureSpectrum.participation_ratio`.

    Cost, Raises: as `feature_rank`; unknown `correction`.

    >>> participation_ratio([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]).value
    2.0
    """
    return feature_spectrum(features, center).participation_ratio(correction)


def numerical_rank(
    features: Any, center: str = "none", *, tolerance: float | str = "numpy"
) -> SpectralRank:
    """#{σ > τσ₁}, NumPy's convention by default.

    Tolerances that squares do not resolve (those of float64) take a singular value decomposition
    of the features, which must then lie in memory.

    Args:
        features: as for `feature_rank`.
        center: as for `feature_rank`; defined on the matrix as it is.
        tolerance: τ, or "numpy": see `FeatureSpectrum.numerical_rank`.

    Cost: as `feature_rank`; the decomposition is several times slower and needs two copies of the
    features in float64.

    Raises:
        InputError: as `feature_rank`; a tolerance outside (0, 1); a stream at a tolerance that
            squares do not resolve.

    >>> numerical_rank([[1.0, 0.0], [0.0, 1e-9]]).value
    2
    """
    start = time.perf_counter()
    opened = open_features(features)
    found = feature_spectrum(features, center)
    tau = found.tolerance(tolerance)
    if tau >= found.finest or not isinstance(opened, InMemory):
        return found.numerical_rank(tolerance)
    return found.count_above(_values(opened, center, found), tau, tolerance, start)


def _values(features: InMemory, center: str, found: FeatureSpectrum) -> Any:
    x = double(features.matrix).div_(found.unit)
    if center != "none":
        x -= x.mean(1 if center == "example" else 0, keepdim=True)
    return np.asarray(torch.linalg.svdvals(x).cpu())


def mean_energy(features: Any) -> Measurement:
    """f = ‖mean φ‖² / E‖φ‖²: the share of the energy that centring per unit takes away.

    The uncentred rank at t is about 1 + the centred rank at 1 - (1 - t)/(1 - f). NaN, as in
    `FeatureRank`, where all features are zero.

    Args:
        features: as for `feature_rank`.

    Cost: one pass.

    Raises:
        InputError: as `feature_rank`.

    >>> round(mean_energy([[1.0, 0.0], [0.0, 1.0]]).value, 12)
    0.5
    """
    start = time.perf_counter()
    sums = RowSums(open_features(features), "none", with_product=False)
    whole = sums.energy / sums.n
    return Measurement(
        name="mean_energy",
        value=min(1.0, sums.mean_square / whole) if whole > 0 else math.nan,
        definition="squared norm of the mean feature vector over the mean of squared norms",
        n=sums.n,
        dtype="float64",
        seconds=time.perf_counter() - start,
    )
