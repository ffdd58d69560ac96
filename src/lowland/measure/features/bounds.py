"""Ranks without a spectrum: bounds from a sketch, for features too large for more or in a hurry."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.features.eigenvalues import EPS
from lowland.measure.features.matrices import resolution
from lowland.measure.features.rank import CENTERED, allowed_rest, as_shares, check_share
from lowland.measure.features.sketch import (
    POWERS,
    FrequentDirections,
    Moments,
    Projection,
    largest_outside,
    orthonormal,
    project,
    random_directions,
)
from lowland.measure.features.source import Features, open_features
from lowland.measure.features.spectrum import CENTERS

Sketch = Literal["deterministic", "random"]
SKETCHES: tuple[Sketch, ...] = get_args(Sketch)

HIGHEST = 1 - 1e-6
"""Shares above this are decided by rounding noise, which a sketch cannot see."""

TRADES = 10.0 ** np.arange(-6, 2)
"""Values of α tried, relative to the bound on what lies outside: see `_above`."""

Sums = npt.NDArray[np.float64]
"""Sums of the k largest energies, k = 1, 2, …"""


@dataclass(frozen=True, kw_only=True)
class RankBounds(Measurement):
    """A feature rank between two bounds that are both true.

    `converged` is True where they are equal at all shares asked for: the rank is then exactly that.
    `value` is the best guess at the first share.

    Attributes:
        low, high: the bounds at the first share.
        bounds: share of the variance -> (low, high).
        center: the centring.
        dimension: number of features d.
        sketch: "deterministic", whose bounds are always true, or "random", but for 1e-9.
        size: rows of the sketch.
        passes: times the features were read.
        outside: share of the variance outside the subspace that was measured exactly.
        missed: bound on any energy outside it, as a share of the variance.
        mean_energy: f = ‖mean φ‖² / E‖φ‖²; NaN if all features are zero.
    """

    low: int
    high: int
    bounds: dict[float, tuple[int, int]] = field(hash=False)
    center: str
    dimension: int
    sketch: str
    size: int
    passes: int
    outside: float
    missed: float
    mean_energy: float


def rank_bounds(
    features: Any,
    variance: float | Sequence[float] = 0.99,
    center: str = "unit",
    *,
    size: int = 512,
    passes: int | None = None,
    sketch: str = "deterministic",
    seed: int = 0,
) -> RankBounds:
    """Bounds on `feature_rank` in memory that grows with neither n² nor d².

    A first pass finds directions of much energy, and how much the rest holds at most in any
    direction. Then one pass measures exactly the energies H on their subspace Q, how it is coupled
    to the rest (R), and what energy τ the rest holds. With S_k the sum of the k largest energies,
    m = min(n, d) and q directions:

        S_k ≥ S_k(H) (Ky Fan), and for k > q above the line to S_m, the total,
        S_k ≤ S_k of H + RᵀR/α and of the worst rest: ⌊τ/c⌋ energies c + α, the others α, for every
              α > 0, where c is the most that any direction of the rest can hold,

    and rank is where S_k reaches t of the total. The bounds meet where energies at the rank are
    well above c. Features of which n or the rank is at most half of `size` are exact.

    "deterministic": Frequent Directions (Liberty 2013), c = δ + ‖B(I - QQᵀ)‖² with δ ≤ (energy
    beyond k)/(size/2 - k): `size` of four times the rank is mostly enough. Nothing is random.

    "random": Q from normal vectors and one power of AᵀA, c from others and `POWERS` more: true but
    for a probability of 1e-9. Faster, and sharper: `size` of twice the rank is mostly enough.
    For ranks up to n/20 it is several times faster than `feature_rank`.

    Args:
        features: as for `feature_rank`; a stream must repeat itself if it is read twice.
        variance: the share t in (0, 0.999999], or several.
        center: as for `feature_rank`.
        size: rows of the sketch, at least 2.
        passes: of the deterministic sketch: 1 (the sketch alone), 2 (the default), or more for a
            better subspace. The random one takes 8.
        sketch: "deterministic" or "random".
        seed: of the random one.

    Cost: in multiply-adds, deterministic about 4·n·size·d a pass; random 3·n·size·d in float32, 2
    in float64. Memory: 24·size·d bytes.

    Raises:
        InputError: as `feature_rank`; a share above 0.999999; `size` below 2; `passes` below 1, or
            given for the random sketch; an unknown `sketch`.

    >>> found = rank_bounds(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 0.9, "none")
    >>> found.low, found.high, found.converged
    (2, 2, True)
    """
    start = time.perf_counter()
    shares = [check_share(share) for share in as_shares(variance)]
    _check(shares, center, size, passes, sketch)
    opened = open_features(features)
    if sketch == "random":
        evidence = _by_random(opened, center, size, seed)
        read = 4 + POWERS
    else:
        read = 2 if passes is None else passes
        evidence = _by_frequent_directions(opened, center, size, read)
    found = {t: evidence.rank(t) for t in shares}
    low, high, guess = found[shares[0]]
    moments = evidence.moments
    return RankBounds(
        name="rank_bounds",
        value=guess,
        definition=(
            "bounds on the smallest k whose k largest squared singular values hold a share of at "
            f"least {shares[0]:g} of their sum; {CENTERED[center]}"
        ),
        n=moments.n,
        dtype="float64",
        seconds=time.perf_counter() - start,
        converged=all(a == b for a, b, _ in found.values()),
        seed=seed if sketch == "random" else None,
        low=low,
        high=high,
        bounds={t: (a, b) for t, (a, b, _) in found.items()},
        center=center,
        dimension=moments.dimension,
        sketch=sketch,
        size=size,
        passes=read,
        outside=evidence.outside,
        missed=evidence.missed,
        mean_energy=_mean_energy(moments),
    )


def _check(
    shares: Sequence[float], center: str, size: int, passes: int | None, sketch: str
) -> None:
    if center not in CENTERS:
        raise unknown("center", center, CENTERS)
    if sketch not in SKETCHES:
        raise unknown("sketch", sketch, SKETCHES)
    if max(shares) > HIGHEST:
        raise InputError(
            f"variance: {max(shares)!r} is decided by rounding noise; give at most {HIGHEST}, or "
            "take feature_rank"
        )
    if size < 2 or (passes is not None and passes < 1):
        raise InputError(f"size={size}, passes={passes}: give at least 2 rows and 1 pass")
    if sketch == "random" and passes is not None:
        raise InputError("passes: the random sketch takes its own number of them; leave it out")


def _mean_energy(moments: Moments) -> float:
    energy = float(moments.energy)
    if energy == 0:
        return float("nan")
    return min(1.0, float(moments.mean @ moments.mean) * moments.n / energy)


def _by_frequent_directions(features: Features, center: str, size: int, passes: int) -> _Evidence:
    sketch = FrequentDirections(size=size, center=center).read(features)
    evidence = _Evidence(sketch, sketch.size * (sketch.shrunk + 1))
    evidence.start(energies_of(sketch.rows @ sketch.rows.T), float(sketch.missed))
    directions = sketch.rows.T
    for _ in range(passes - 1 if evidence.total > 0 else 0):
        basis = orthonormal(directions)
        measured = project(features, sketch, basis)
        evidence.add(measured, sketch.outside(basis))
        directions = measured.image
    return evidence


def _by_random(features: Features, center: str, size: int, seed: int) -> _Evidence:
    moments = Moments(center=center).read(features)
    evidence = _Evidence(moments, size)
    if evidence.total > 0:
        size = min(size, moments.dimension)
        basis = orthonormal(random_directions(features, moments, size, seed))
        most = largest_outside(features, moments, basis, seed + 1)
        evidence.add(project(features, moments, basis), most)
    return evidence


class _Evidence:
    """The best bounds so far on the sums of the k largest energies, k = 1 … m."""

    def __init__(self, moments: Moments, steps: int) -> None:
        """`steps`: rotations of rows, each of which rounds."""
        self.moments = moments
        self.total = float(moments.total)
        self.most = min(moments.n, moments.dimension)
        # sums of n or d rounded products, and centring
        scale = (self.total * float(moments.energy)) ** 0.5
        steps += moments.n + moments.dimension
        self._rounding = 4 * EPS * (steps * self.total + scale)
        self.lower = self._with_rest(np.zeros(self.most), 0, 0.0)
        self.upper = np.full(self.most, self.total)
        self.outside = self.missed = 1.0
        self._guess = np.zeros(1)

    def start(self, own: Sums, missed: float) -> None:
        """What a sketch B says: λ_i(BᵀB) ≤ λ_i ≤ λ_i(BᵀB) + missed."""
        held = float(own.sum())
        whole = self._whole(own)
        count = np.arange(1, self.most + 1)
        extra = np.minimum(missed * count, max(self.total - held, 0.0))
        self.upper = np.minimum(whole + extra, self.total) + self._rounding
        self.lower = self._with_rest(whole, len(own), held) - self._rounding
        self.outside, self.missed = self._share(self.total - held), self._share(missed)
        self._guess = own

    def add(self, found: Projection, most: float) -> None:
        """What a pass has measured on a subspace outside of which no direction holds `most`."""
        own = energies_of(found.inside)
        held = float(own.sum())
        rest = max(self.total - held, 0.0) + self._rounding
        most += self._rounding
        lower = self._with_rest(self._whole(own), len(own), held) - self._rounding
        self.lower = np.maximum(self.lower, lower)
        for trade in TRADES * most:
            upper = self._above(found, float(trade), most, rest)
            self.upper = np.minimum(self.upper, upper + self._rounding)
        self.outside, self.missed = self._share(rest), self._share(most)
        self._guess = own

    def rank(self, variance: float) -> tuple[int, int, int]:
        """Lower bound, upper bound and best guess of the rank at a share."""
        fine = resolution(self.moments.dtype) ** 2
        nothing = self.moments.center != "none" and self.total <= fine * float(self.moments.energy)
        if self.total == 0 or nothing:
            return 0, 0, 0
        target = self.total * (1.0 - allowed_rest(variance))
        low = _first(self.upper, target, self.most)
        high = _first(self.lower, target, self.most)
        return low, high, min(max(self._estimate(target), low), high)

    def _estimate(self, target: float) -> int:
        """Where the energies measured reach the target, or would at the last one's rate."""
        sums = np.cumsum(self._guess)
        if sums[-1] >= target:
            return _first(sums, target, self.most)
        rate = max(float(self._guess[-1]), self.total / (4 * self.most))
        return len(sums) + int(np.ceil((target - sums[-1]) / rate))

    def _above(self, found: Projection, trade: float, most: float, rest: float) -> Sums:
        """Sums that are never too small, for one α = `trade`.

        [[H, Rᵀ], [R, C]] ≼ diag(H + RᵀR/α, C + αI) for every α > 0; C holds `rest` and nothing
        above `most`, so that its sums are at most those of energies `most` till `rest` is used up.
        C has d - q rows, of which no more than m matter here.
        """
        inner = energies_of(found.inside + found.coupling / trade)
        free = min(self.most, self.moments.dimension - len(inner))
        outer = np.full(free, trade)
        full = min(int(rest / most), free)
        outer[:full] += most
        if full < free:
            outer[full] += rest - full * most
        merged = np.sort(np.concatenate([inner, outer]))[::-1][: self.most]
        sums: Sums = np.minimum(np.cumsum(merged), self.total)
        return sums

    def _with_rest(self, sums: Sums, count: int, held: float) -> Sums:
        """Beyond the `count` energies measured, sums are concave: above the line to the total."""
        count = min(count, self.most)
        free = self.most - count
        if free:
            rest = max(self.total - held - 2 * self._rounding, 0.0)
            sums = sums.copy()
            sums[count:] += rest * np.arange(1, free + 1) / free
        return sums

    def _whole(self, energies: Sums) -> Sums:
        """Sums up to k = m of fewer energies, or of more that are zero."""
        padded = np.zeros(self.most)
        padded[: min(len(energies), self.most)] = energies[: self.most]
        return np.cumsum(padded)

    def _share(self, energy: float) -> float:
        return energy / self.total if self.total > 0 else 0.0


def energies_of(matrix: Tensor) -> Sums:
    """Eigenvalues of a small matrix, largest first, none negative."""
    energies: Sums = torch.linalg.eigvalsh(matrix).clamp_min_(0.0).flip(0).cpu().numpy()
    return energies


def _first(sums: Sums, target: float, most: int) -> int:
    """The smallest k whose sum reaches the target."""
    reached = sums >= target
    return int(np.argmax(reached)) + 1 if reached.any() else most
