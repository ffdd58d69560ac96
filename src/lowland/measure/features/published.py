"""The feature rank as the released experiments of arXiv 2305.16292 compute it, to the last digit.

A convention of its own, with its own edge cases: kept apart from the rank that is right.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lowland.measure.features.products import RowSums
from lowland.measure.features.source import InMemory, Streamed
from lowland.measure.features.spectrum import Spectrum


def published_spectrum(features: InMemory | Streamed, center: str) -> Spectrum:
    """Squared singular values in float32, from `torch.linalg.svdvals` of the centred matrix.

    Cost: a singular value decomposition, and all features in memory in float32, twice.
    """
    sums = RowSums(features, "none", with_product=False)
    x = torch.cat([_single(rows) for rows in features.rows()])
    if center != "none":
        x = x - x.mean(1 if center == "example" else 0, keepdim=True)
    values = torch.linalg.svdvals(x).cpu().numpy()
    whole = sums.energy / sums.n
    return Spectrum(
        energies=(values**2).astype(np.float64),
        n=sums.n,
        dimension=sums.dimension,
        mean_energy=min(1.0, sums.mean_square / whole) if whole > 0 else float("nan"),
        noise=0.0,
        unit=1.0,
        dtype=sums.dtype,
        solver="svdvals",
        error=float("nan"),
    )


def _single(rows: Tensor) -> Tensor:
    return rows.to(torch.float32)


def published_rank(energies: npt.NDArray[np.float64], variance: float) -> int:
    """#{k: Σ_{i≤k} e_i ≤ t·Σe} + 1, summed in float32.

    One more than the smallest k that holds the share where k holds exactly the share, so that
    t = 1, and features that are zero, have a rank above min(n, d).

    >>> published_rank(np.array([2.0, 1.0, 1.0]), 0.5), published_rank(np.zeros(3), 0.99)
    (2, 4)
    """
    squares = energies.astype(np.float32)
    held = np.cumsum(squares, dtype=np.float32)
    return int(np.count_nonzero(held <= np.float32(variance) * squares.sum())) + 1
