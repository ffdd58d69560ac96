"""Ranks of features too large for an exact spectrum: bounds that are always true."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.records import Measurement
from lowland.measure.features.eigenvalues import EPS
from lowland.measure.features.matrices import resolution
from lowland.measure.features.rank import CENTERED, allowed_rest, as_shares, check_share
from lowland.measure.features.sketch import FrequentDirections, Projection, project
from lowland.measure.features.source import open_features
from lowland.measure.features.spectrum import CENTERS

HIGHEST = 1 - 1e-6
"""Shares above this are decided by rounding noise, which a sketch cannot see."""

TRADES = 10.0 ** np.arange(-6, 2)
"""Values of α tried, relative to the bound on what lies outside: see `_above`."""

Sums = npt.NDArray[np.float64]
"""Sums of the k largest energies, k = 1, 2, …"""


@dataclass(frozen=True, kw_only=True)
class RankBounds(Measurement):
    """A feature rank between two bounds, both always true.

    `converged` is True where they are equal at all shares asked for. `value` is the best guess at
    the first share.

    Attributes:
        low, high: the bounds at the first share.
        bounds: share of the variance -> (low, high).
        center: the centring.
        dimension: number of features d.
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
    passes: int = 2,
) -> RankBounds:
    """Bounds on `feature_rank` in memory that grows with neither n² nor d².

    The first pass keeps a sketch of `size` rows (Frequent Directions, Liberty 2013) that is sure
    to miss no direction by more than a known energy δ. Each further pass measures exactly the
    energies H on a subspace Q (first that of the sketch, then AᵀAQ), how it is coupled to the rest
    (R), and what energy τ the rest holds. No step is random. With S_k the sum of the k largest
    energies:

        S_k ≥ S_k(H) (Ky Fan), and for k > q a share (k - q)/(m - q) of τ, m = min(n, d),
        S_k ≤ S_k of H + RᵀR/α and of the worst rest: ⌊τ/c⌋ energies c + α, c = δ + ‖B(I - QQᵀ)‖²,
              for every α > 0,

    and rank is where S_k reaches t of the total. Bounds are equal where energies at the rank are
    well above δ ≤ (energy beyond k)/(size/2 - k), so `size` of four times the rank is mostly
    enough; features with n or rank ≤ `size` are exact.

    Args:
        features: as for `feature_rank`; a stream must repeat itself if `passes` > 1.
        variance: the share t in (0, 0.999999], or several.
        center: as for `feature_rank`.
        size: rows of the sketch, at least 2.
        passes: 1 (the sketch alone), 2, or more for a better subspace.

    Cost: about 4·n·size·d multiply-adds a pass. Memory: 24·size·d bytes.

    Raises:
        InputError: as `feature_rank`; a share above 0.999999; `size` below 2; `passes` below 1.

    >>> found = rank_bounds(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 0.9, "none")
    >>> found.low, found.high, found.converged
    (2, 2, True)
    """
    start = time.perf_counter()
    shares = [check_share(share) for share in as_shares(variance)]
    _check(shares, center, size, passes)
    opened = open_features(features)
    sketch = FrequentDirections(size=size, center=center).read(opened)
    evidence = _Evidence(sketch)
    directions = sketch.rows.T
    for _ in range(passes - 1 if evidence.total > 0 else 0):
        basis = torch.linalg.qr(directions)[0]
        measured = project(opened, sketch, basis)
        evidence.add(measured, basis)
        directions = measured.image
    found = {t: evidence.rank(t) for t in shares}
    low, high, guess = found[shares[0]]
    energy = float(sketch.energy)
    return RankBounds(
        name="rank_bounds",
        value=guess,
        definition=(
            "bounds on the smallest k whose k largest squared singular values hold a share of at "
            f"least {shares[0]:g} of their sum; {CENTERED[center]}"
        ),
        n=sketch.n,
        dtype="float64",
        seconds=time.perf_counter() - start,
        converged=all(a == b for a, b, _ in found.values()),
        low=low,
        high=high,
        bounds={t: (a, b) for t, (a, b, _) in found.items()},
        center=center,
        dimension=sketch.dimension,
        size=size,
        passes=passes,
        outside=evidence.outside,
        missed=evidence.missed,
        mean_energy=min(1.0, float(sketch.mean @ sketch.mean) * sketch.n / energy)
        if energy > 0
        else float("nan"),
    )


def _check(shares: Sequence[float], center: str, size: int, passes: int) -> None:
    if center not in CENTERS:
        raise unknown("center", center, CENTERS)
    if max(shares) > HIGHEST:
        raise InputError(
            f"variance: {max(shares)!r} is decided by rounding noise; give at most {HIGHEST}, or "
            "take feature_rank"
        )
    if size < 2 or passes < 1:
        raise InputError(f"size={size}, passes={passes}: give at least 2 rows and 1 pass")


class _Evidence:
    """The best bounds so far on the sums of the k largest energies, k = 1 … m."""

    def __init__(self, sketch: FrequentDirections) -> None:
        self._sketch = sketch
        self.total = float(sketch.total)
        self.most = min(sketch.n, sketch.dimension)
        self._delta = float(sketch.missed)
        # sums of n or d rounded products, and a rotation at each time that rows were made fewer
        steps = sketch.n + sketch.dimension + sketch.size * (sketch.shrunk + 1)
        self._rounding = (
            4 * steps * EPS * self.total + 4 * EPS * (self.total * float(sketch.energy)) ** 0.5
        )
        own = self._energies(sketch.rows @ sketch.rows.T)
        held = float(own.sum())
        self.lower = self._whole(own)
        count = np.arange(1, self.most + 1)
        extra = np.minimum(self._delta * count, max(self.total - held, 0.0))
        self.upper = np.minimum(self.lower + extra, self.total) + self._rounding
        self.lower = self._with_rest(self.lower, len(own), held) - self._rounding
        self.outside = self._share(self.total - held)
        self.missed = self._share(self._delta)
        self._guess = own

    def add(self, found: Projection, basis: Tensor) -> None:
        """What a pass has measured on a subspace."""
        own = self._energies(found.inside)
        held = float(own.sum())
        rest = max(self.total - held, 0.0) + self._rounding
        left = self._sketch.rows - (self._sketch.rows @ basis) @ basis.T
        most = self._delta + float(self._energies(left @ left.T)[:1].sum()) + self._rounding
        lower = self._with_rest(self._whole(own), len(own), held) - self._rounding
        self.lower = np.maximum(self.lower, lower)
        for trade in TRADES * most:
            upper = self._above(found, float(trade), most, rest)
            self.upper = np.minimum(self.upper, upper + self._rounding)
        self.outside, self.missed = self._share(rest), self._share(most)
        self._guess = own

    def rank(self, variance: float) -> tuple[int, int, int]:
        """Lower bound, upper bound and best guess of the rank at a share."""
        fine = resolution(self._sketch.dtype) ** 2
        nothing = self._sketch.center != "none" and self.total <= fine * self._sketch.energy
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
        inner = self._energies(found.inside + found.coupling / trade)
        free = min(self.most, self._sketch.dimension - len(inner))
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

    def _energies(self, matrix: Tensor) -> Sums:
        energies: Sums = torch.linalg.eigvalsh(matrix).clamp_min_(0.0).flip(0).cpu().numpy()
        return energies

    def _share(self, energy: float) -> float:
        return energy / self.total if self.total > 0 else 0.0


def _first(sums: Sums, target: float, most: int) -> int:
    """The smallest k whose sum reaches the target."""
    reached = sums >= target
    return int(np.argmax(reached)) + 1 if reached.any() else most
