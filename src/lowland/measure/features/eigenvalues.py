"""Eigenvalues of a sum of A·Aᵀ, by one of two solvers, with a bound on their error."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lowland.measure.features.gram import Half, Whole
from lowland.measure.features.reduction import reduce_to_band

EPS = float(np.finfo(np.float64).eps)

DRIFT = 16
"""How many times size·ε the reflections may be from orthogonal; 3 is usual."""

Solver = Literal["direct", "two-stage"]


@dataclass(frozen=True)
class Eigenvalues:
    """All eigenvalues of a matrix G.

    Attributes:
        values: descending, none negative.
        solver: "direct" (LAPACK, or the device's library, on the whole matrix) or "two-stage"
            (to a band by `reduce_to_band`, then LAPACK on the band).
        error: bound on |Σ_{i≤k} (values_i - λ_i(G))| for every k.
    """

    values: npt.NDArray[np.float64]
    solver: Solver
    error: float


def banded_solver() -> Any:
    """SciPy's solver for band matrices; None where SciPy is not installed."""
    try:
        return importlib.import_module("scipy.linalg").eig_banded
    except ImportError:
        return None


def eigenvalues(gram: Whole | Half) -> Eigenvalues | None:
    """All eigenvalues; `gram` may be used up. None if the two-stage result is not certain.

    A solver gives the eigenvalues of some G + E. For LAPACK's, ‖E‖_F ≤ size·ε·‖G‖_F with ε = 2⁻⁵²
    is taken from its documentation. For the reduction to a band it is measured, and None comes
    back if the measurement says anything else.

    Sums of the k largest then err by at most √size·‖E‖_F (Ky Fan 1949, Cauchy-Schwarz). That the
    reflections are not quite orthogonal changes each eigenvalue by at most its `drift`-th part
    (Ostrowski 1959).
    """
    if isinstance(gram, Half):
        return _two_stage(gram)
    if gram.matrix.device.type == "cpu":  # by NumPy, faster than torch at sizes below halves
        ascending = np.linalg.eigvalsh(gram.matrix.numpy())
    else:
        ascending = np.asarray(torch.linalg.eigvalsh(gram.matrix).cpu())
    return _result(ascending, "direct")


def _two_stage(gram: Half) -> Eigenvalues | None:
    solve = banded_solver()
    band = reduce_to_band(gram)
    diagonals = band.diagonals
    norm = math.sqrt(2 * float((diagonals**2).sum()) - float((diagonals[0] ** 2).sum()))
    limit = max(gram.size, 100) * EPS  # the measurement rounds too
    if not (band.residual <= limit * norm and band.drift <= DRIFT * limit):  # NaN fails too
        return None
    ascending = solve(diagonals, lower=True, eigvals_only=True, check_finite=False)
    return _result(ascending, "two-stage", band.residual, band.drift)


def _result(
    ascending: npt.NDArray[np.float64], solver: Solver, residual: float = 0.0, drift: float = 0.0
) -> Eigenvalues:
    values = np.maximum(ascending[::-1], 0.0)
    size = len(values)
    backward = residual + size * EPS * float(np.linalg.norm(values))
    error = math.sqrt(size) * backward + 2 * drift * float(values.sum())
    return Eigenvalues(values, solver, error)
