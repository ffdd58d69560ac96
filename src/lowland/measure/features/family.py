"""The other ranks of a feature matrix: effective, stable, numerical ... from one spectrum."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.features.eigenvalues import EPS
from lowland.measure.features.rank import (
    CENTERED,
    FeatureRank,
    as_shares,
    check_share,
    rank_record,
)
from lowland.measure.features.source import open_features
from lowland.measure.features.spectrum import Spectrum, spectrum

EPS_SINGLE = float(np.finfo(np.float32).eps)

Correction = Literal["none", "examples", "examples and features"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)


@dataclass(frozen=True, kw_only=True)
class SpectralRank(Measurement):
    """One rank-like number of a spectrum.

    Attributes:
        center: the centring: "unit", "example" or "none".
        dimension: number of features d.
        mean_energy: f = ‖mean φ‖² / E‖φ‖² of the features as given, which explains the centring.
        options: the convention, option by option.
        entropy: Σ -p ln p, for those that are the exponential of an entropy.
    """

    center: str
    dimension: int
    mean_energy: float
    options: dict[str, Any] = field(hash=False)
    entropy: float | None = None


@dataclass(frozen=True, kw_only=True)
class FeatureSpectrum(Measurement):
    """The spectrum of centred features, and every rank that can be read from it.

    With σ₁ ≥ σ₂ ≥ … the singular values of the n×d matrix and λ = σ². Energies up to `noise` are
    rounding and count as zero; a spectrum of zeros has rank 0 by every definition. `value` is the
    number of energies above noise.

    Attributes:
        center: the centring: "unit", "example" or "none".
        dimension: number of features d.
        mean_energy: f = ‖mean φ‖² / E‖φ‖² of the features as given; NaN if all are zero.
        feature_dtype: type of the features.
        energies: λ, descending, min(n, d) of them, in units of `unit`².
        noise, unit, solver, error: as in `FeatureRank`.
    """

    center: str
    dimension: int
    mean_energy: float
    feature_dtype: str
    energies: npt.NDArray[np.float64] = field(repr=False, compare=False)
    noise: float
    unit: float
    solver: str
    error: float

    @property
    def above(self) -> npt.NDArray[np.float64]:
        """The energies above noise."""
        return self.energies[: int(self.value)]

    def rank(self, variance: float | Sequence[float] = 0.99) -> FeatureRank:
        """The smallest k that hold a share of the variance: `feature_rank`."""
        start = time.perf_counter()
        shares = [check_share(share) for share in as_shares(variance)]
        found = Spectrum(
            energies=self.energies,
            n=self.n,
            dimension=self.dimension,
            mean_energy=self.mean_energy,
            noise=self.noise,
            unit=self.unit,
            dtype=getattr(torch, self.feature_dtype),
            solver=self.solver,
            error=self.error,
        )
        return rank_record(found, shares, self.center, "smallest", start)

    def effective_rank(self) -> SpectralRank:
        """exp(-Σ p ln p) with p = σ/Σσ (Roy and Vetterli 2007)."""
        p = _shares(np.sqrt(self.above))
        return self._entropic("effective_rank", "p = σ/Σσ", p, {})

    def rankme(self, epsilon: float = 1e-7) -> SpectralRank:
        """exp(-Σ p ln p) with p = σ/Σσ + ε over all min(n, d) singular values.

        Garrido et al., arXiv 2210.02885, take ε = 1e-7, the rounding unit of float32; TF-GNN takes
        1e-12. The p do not sum to 1, as published, so that the value can exceed min(n, d).

        Raises:
            InputError: `epsilon` negative or not finite.
        """
        if not 0 <= epsilon < math.inf:
            raise InputError(f"epsilon: {epsilon!r} is not a number from 0 on; 1e-7 is usual")
        p = _shares(np.sqrt(self.above))
        if len(p):
            p = np.append(p, np.zeros(len(self.energies) - len(p))) + epsilon
        return self._entropic("rankme", f"p = σ/Σσ + {epsilon:g}", p[p > 0], {"epsilon": epsilon})

    def entropy_rank(self) -> SpectralRank:
        """exp(-Σ p ln p) with p = λ/Σλ: the exponential of the matrix (von Neumann) entropy."""
        return self._entropic("entropy_rank", "p = λ/Σλ", _shares(self.above), {})

    def stable_rank(self) -> SpectralRank:
        """Σσ²/σ₁² (Rudelson and Vershynin 2007)."""
        found = self.above
        value = float((found / found[0]).sum()) if len(found) else 0.0
        return self._record("stable_rank", value, "Σσ²/σ₁²", {})

    def participation_ratio(self, correction: str = "none") -> SpectralRank:
        """(Σλ)²/Σλ², biased low from few examples and features: 1/γ̂ ≈ 1/n + 1/d + 1/γ.

        Args:
            correction: "none" is γ̂ itself. "examples" takes 1/n off 1/γ̂: the features are all
                there are, and examples a sample. "examples and features" takes 1/d off too: the
                features are a sample of many more, as recorded neurons are. Where nothing is left,
                the sample cannot tell γ from infinity, and infinite it is.

        Raises:
            InputError: unknown `correction`.
        """
        if correction not in CORRECTIONS:
            raise unknown("correction", correction, CORRECTIONS)
        p = _shares(self.above)
        inverse = float(p @ p) if len(p) else math.inf
        inverse -= 0.0 if correction == "none" else 1 / self.n
        inverse -= 1 / self.dimension if correction == "examples and features" else 0.0
        value = 1 / inverse if inverse > EPS else math.inf
        words = (
            "(Σλ)²/Σλ²"
            + {
                "none": "",
                "examples": ", less the bias of n examples: 1/γ = 1/γ̂ - 1/n",
                "examples and features": ", less the bias of n examples and d features sampled: "
                "1/γ = 1/γ̂ - 1/n - 1/d",
            }[correction]
        )
        return self._record("participation_ratio", value, words, {"correction": correction})

    def numerical_rank(self, tolerance: float | str = "numpy") -> SpectralRank:
        """#{σ > τσ₁}.

        Args:
            tolerance: τ in (0, 1), or "numpy": max(n, d)·ε as `numpy.linalg.matrix_rank` has it,
                ε of the features' type (of float32 for narrower ones, of float64 for integers).

        Raises:
            InputError: a tolerance outside (0, 1), or below √(max(n, d)·2⁻⁵²), what is left of σ
                in squares: `numerical_rank(features)` then decomposes the features themselves.
        """
        tau = self.tolerance(tolerance)
        if tau < self.finest:
            raise InputError(
                f"tolerance: {tau:.3g} is below {self.finest:.3g}, what squared singular values "
                "resolve; give a larger one, or call numerical_rank with features in memory"
            )
        return self.count_above(np.sqrt(self.energies), tau, tolerance)

    def all(self, variance: float | Sequence[float] = 0.99) -> dict[str, Measurement]:
        """Every rank by name, with the options that each has by default, all at this centring.

        The numerical rank is at the finest tolerance that squares resolve, where that is coarser
        than NumPy's.
        """
        tau = max(self.tolerance("numpy"), self.finest)
        found: list[Measurement] = [
            self.rank(variance),
            self.effective_rank(),
            self.rankme(),
            self.entropy_rank(),
            self.stable_rank(),
            self.participation_ratio(),
            self.numerical_rank(tau),
        ]
        return {record.name: record for record in found}

    @property
    def finest(self) -> float:
        """The smallest σ/σ₁ that can be told from zero in squares: √(max(n, d)·2⁻⁵²)."""
        return math.sqrt(max(self.n, self.dimension) * EPS)

    def tolerance(self, tolerance: float | str) -> float:
        """τ itself, from what was given for it."""
        if tolerance == "numpy":
            kind = getattr(torch, self.feature_dtype)
            single = kind.is_floating_point and kind != torch.float64
            return max(self.n, self.dimension) * (EPS_SINGLE if single else EPS)
        if isinstance(tolerance, str) or not 0 < tolerance < 1:
            raise InputError(f"tolerance: {tolerance!r} is neither 'numpy' nor between 0 and 1")
        return float(tolerance)

    def count_above(
        self,
        values: npt.NDArray[np.float64],
        tau: float,
        given: float | str,
        start: float | None = None,
    ) -> SpectralRank:
        """The numerical rank from singular values, however they were found."""
        count = int(np.count_nonzero(values > tau * values[0])) if self.energies.any() else 0
        words = f"number of σ above {tau:g}·σ₁"
        options = {"tolerance": given, "tau": tau}
        record = self._record("numerical_rank", count, words, options)
        seconds = record.seconds if start is None else time.perf_counter() - start
        return dataclasses.replace(record, seconds=seconds)

    def _entropic(
        self, name: str, words: str, p: npt.NDArray[np.float64], options: dict[str, Any]
    ) -> SpectralRank:
        entropy = float(-(p * np.log(p)).sum())
        value = math.exp(entropy) if len(p) else 0.0
        return self._record(name, value, f"exp(-Σ p ln p), {words}", options, entropy)

    def _record(
        self,
        name: str,
        value: float,
        words: str,
        options: dict[str, Any],
        entropy: float | None = None,
    ) -> SpectralRank:
        return SpectralRank(
            name=name,
            value=value,
            definition=f"{words}; σ² = λ; {CENTERED[self.center]}",
            n=self.n,
            dtype="float64",
            seconds=self.seconds,
            center=self.center,
            dimension=self.dimension,
            mean_energy=self.mean_energy,
            options={"center": self.center, **options},
            entropy=entropy,
        )


def _shares(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values / values.sum() if len(values) else values


def feature_spectrum(features: Any, center: str = "none") -> FeatureSpectrum:
    """The spectrum of `features`, from which all ranks follow without another pass.

    Args:
        features: as for `feature_rank`.
        center: "none" as the effective, stable and numerical rank and RankMe are defined; "unit"
            as the participation ratio and the threshold rank are; "example".

    Cost: that of `feature_rank`.

    Raises:
        InputError: as `feature_rank`.

    >>> found = feature_spectrum([[3.0, 0.0], [0.0, 4.0]])
    >>> round(found.stable_rank().value, 4), found.rank(0.5).value
    (1.5625, 1)
    """
    start = time.perf_counter()
    found = spectrum(open_features(features), center)
    found.energies.setflags(write=False)
    return FeatureSpectrum(
        name="feature_spectrum",
        value=int(np.count_nonzero(found.energies > found.noise)),
        definition=f"number of squared singular values above rounding noise; {CENTERED[center]}",
        n=found.n,
        dtype="float64",
        seconds=time.perf_counter() - start,
        center=center,
        dimension=found.dimension,
        mean_energy=found.mean_energy,
        feature_dtype=str(found.dtype).removeprefix("torch."),
        energies=found.energies,
        noise=found.noise,
        unit=found.unit,
        solver=found.solver,
        error=found.error,
    )
