"""Energies of a feature matrix: its squared singular values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lowland.core.errors import unknown
from lowland.measure.features.products import Products, RowSums, column_products
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
    """

    energies: npt.NDArray[np.float64]
    n: int
    dimension: int
    mean_energy: float
    noise: float
    unit: float


def spectrum(features: InMemory | Streamed, center: str) -> Spectrum:
    """Squared singular values of `features`, centred as `center` says.

    They are the eigenvalues of the smaller of the two products XᵀX (d×d) and XXᵀ (n×n), summed
    piece by piece in float64. Centring comes before multiplying, so that it is no difference of
    large sums.

    Cost: n·d·min(n, d) multiply-adds and an eigenvalue problem of size min(n, d). Memory beside
    the input: O(min(n, d)² + n) and a constant. A stream is read once if d ≤ `NARROW`, twice if
    d ≤ n, and otherwise at most 1 + ⌈d/n⌉ times.

    Raises:
        InputError: unknown `center`, or features that cannot be read (see `features`).
    """
    if center not in CENTERS:
        raise unknown("center", center, CENTERS)
    return _energies(_products(features, center), centred=center != "none")


def _products(features: InMemory | Streamed, center: str) -> Products:
    narrow = None
    if isinstance(features, InMemory):
        narrow = features.matrix.shape[1] <= features.matrix.shape[0]
    first = RowSums(features, center, with_product=narrow)
    if first.product is not None:
        return first.result()
    if first.dimension <= first.n:
        return RowSums(features, center, with_product=True).result()
    return column_products(features, first)


def _energies(products: Products, *, centred: bool) -> Spectrum:
    """Eigenvalues, largest first, and which of them are noise.

    Where centring leaves no more than rounding noise of the energy (its `resolution`²), there is
    nothing but noise, and all energies are set to exactly zero.
    """
    count = min(products.n, products.dimension)
    energies = np.maximum(_eigenvalues(products.matrix)[::-1][:count], 0.0)
    total = float(energies.sum())
    if centred and total <= products.resolution**2 * products.energy:
        energies, total = np.zeros(count), 0.0
    largest_side = max(products.n, products.dimension)
    solver = largest_side * np.finfo(np.float64).eps * float(energies[0])
    noise = max(solver, products.resolution**2 * total)
    return Spectrum(
        energies=energies,
        n=products.n,
        dimension=products.dimension,
        mean_energy=_ratio(products.mean_square * products.n, products.energy),
        noise=noise,
        unit=products.unit,
    )


def _ratio(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else float("nan")


def _eigenvalues(matrix: Tensor) -> npt.NDArray[np.float64]:
    """Ascending eigenvalues; on the CPU by NumPy, about twice as fast as torch there."""
    if matrix.device.type == "cpu":
        return np.linalg.eigvalsh(matrix.numpy())
    return np.asarray(torch.linalg.eigvalsh(matrix).cpu())
