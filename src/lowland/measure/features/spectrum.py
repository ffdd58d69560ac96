"""Energies of a feature matrix: its squared singular values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from lowland.core.errors import unknown
from lowland.measure.features.eigenvalues import EPS, Eigenvalues, banded_solver, eigenvalues
from lowland.measure.features.matrices import resolution
from lowland.measure.features.products import Products, RowSums, column_products, wide_products
from lowland.measure.features.source import InMemory, Streamed

Center = Literal["unit", "example", "none"]
CENTERS: tuple[Center, ...] = get_args(Center)


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Squared singular values of centred features.

    Attributes:
        energies: min(n, d) of them, float64, descending, none negative.
        n: number of examples.
        dimension: number of features d.
        mean_energy: ‖mean φ‖² / E‖φ‖² of the features as given, in [0, 1]; NaN if all are zero.
        noise: energies up to here are rounding noise.
        unit: energies are in units of its square; 1, except for features whose squares would
            leave float64 (magnitudes outside 1e-100 to 1e100).
        dtype: type of the features.
        solver: "direct" or "two-stage": see `eigenvalues`.
        error: every sum of the k largest energies, as a share of all, is known to this.
    """

    energies: npt.NDArray[np.float64]
    n: int
    dimension: int
    mean_energy: float
    noise: float
    unit: float
    dtype: torch.dtype
    solver: str
    error: float


def spectrum(features: InMemory | Streamed, center: str) -> Spectrum:
    """Squared singular values of `features`, centred as `center` says.

    They are the eigenvalues of the smaller of the two products XᵀX (d×d) and XXᵀ (n×n), summed
    piece by piece in float64. Centring comes before multiplying, so that it is no difference of
    large sums.

    With m = min(n, d) ≥ `HALVED_FROM` on the CPU, half of the product is kept, and its eigenvalues
    are found in two stages where it lies, by way of a band matrix. How exact that was is measured;
    should it not be as exact as LAPACK, or SciPy not be installed, the whole product is formed and
    given to LAPACK. `solver` says which.

    Cost: n·d·m/2 multiply-adds, and (2/3)·m³ for the eigenvalues. Memory beside the input: 4.5·m²
    bytes in two stages, 16·m² directly, 4 MB per 1,000 of the larger side, and a constant. A
    stream is read once if d ≤ `NARROW`, twice if d ≤ n, and otherwise at most 1 + ⌈d/n⌉ times, n
    columns at a time.

    Raises:
        InputError: unknown `center`, or features that cannot be read (see `features`).
    """
    if center not in CENTERS:
        raise unknown("center", center, CENTERS)
    halved = None if banded_solver() is not None else False
    products = _products(features, center, halved=halved)
    found = eigenvalues(products.gram)
    if found is None:
        products = _products(features, center, halved=False)
        found = eigenvalues(products.gram)
        assert found is not None  # the direct solver has no way to fail
    return _energies(products, found, centred=center != "none")


def _products(features: InMemory | Streamed, center: str, *, halved: bool | None) -> Products:
    narrow = None
    if isinstance(features, InMemory):
        narrow = features.matrix.shape[1] <= features.matrix.shape[0]
        if not narrow:
            return wide_products(features, center, halved=halved)
    first = RowSums(features, center, with_product=narrow, halved=halved)
    if first.gram is not None:
        return first.result()
    if first.dimension <= first.n:
        return RowSums(features, center, with_product=True, halved=halved).result()
    return column_products(features, first, halved=halved)


def _energies(products: Products, found: Eigenvalues, *, centred: bool) -> Spectrum:
    """Eigenvalues, largest first, and which of them are noise.

    Where centring leaves no more than rounding noise of the energy (`resolution`² of it), there is
    nothing but noise, and all energies are set to exactly zero.

    The product itself is a sum of `terms` rounded products of features that were rounded when
    they were centred, which changes sums of energies by at most √count·ε·(terms·total +
    2·√(total·energy)).
    """
    n, d = products.n, products.dimension
    count, terms = min(n, d), max(n, d)
    fine = resolution(products.dtype) ** 2
    energies = found.values[:count].copy()
    total = float(energies.sum())
    if centred and total <= fine * products.energy:
        energies, total = np.zeros(count), 0.0
    noise = max(terms * EPS * float(energies[0]), fine * total)
    error = 0.0
    if total > 0:
        rounding = terms + 2 * (products.energy / total) ** 0.5
        error = found.error / total + count**0.5 * EPS * rounding
    return Spectrum(
        energies=energies,
        n=n,
        dimension=d,
        mean_energy=_ratio(products.mean_square * n, products.energy),
        noise=noise,
        unit=products.unit,
        dtype=products.dtype,
        solver=found.solver,
        error=error,
    )


def _ratio(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else float("nan")
