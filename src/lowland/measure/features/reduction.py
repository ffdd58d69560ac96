"""A symmetric matrix to one with few diagonals, in place, and how exact that was.

Householder reflections of `BAND` columns at a time (Bischof and Van Loan 1987; Schreiber and Van
Loan 1989) turn G into a band B = QᵀGQ with nearly all work in matrix products. LAPACK's direct
way to three diagonals does half of its work in products with vectors, which wait for memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lowland.measure.features.gram import Half

BAND = 64
"""Diagonals below the main one that are left."""

PROBES = 16
CONFIDENT = 6.0
"""‖E‖_F exceeds this times the root mean square of ‖Ez‖ over `PROBES` normal vectors z with
probability below 1e-9, whatever E is. With w_i the shares of the squared singular values of E,
the mean square over ‖E‖_F² is Σ w_i·χ²_i/m, and Chernoff's bound on its lower tail is largest
for one w_i = 1: P(mean ≤ x) ≤ (x·e^(1-x))^(m/2), 8.5e-10 at m = 16 and x = 1/36."""


@dataclass(frozen=True)
class Band:
    """What G was reduced to.

    Attributes:
        diagonals: (`BAND` + 1, size), float64; entry [i, j] is B[j + i, j].
        residual: ‖G - QBQᵀ‖_F is at most this, with probability 1 - 1e-9: measured on vectors
            that were carried along.
        drift: ‖QᵀQ - I‖ is at most this: measured at every reflection.
    """

    diagonals: npt.NDArray[np.float64]
    residual: float
    drift: float


def reduce_to_band(gram: Half) -> Band:
    """Reduce `gram`, whose memory is used up.

    Cost: (4/3)·size³ multiply-adds, and memory for 4·`BAND` columns.
    """
    n = gram.size
    probes = torch.randn(n, PROBES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = gram.times(probes)
    band = torch.zeros(BAND + 1, n, dtype=torch.float64)
    drift = 0.0
    for start in range(0, n, BAND):
        end = min(start + BAND, n)
        panel = gram.enumerate(start)[0][1][:, : end - start]
        _store(band, panel[: end - start].tril(), start, 0)
        if end == n:
            break
        v, t, r, off = _reflections(panel[end - start :])
        _store(band, r, start, end - start)
        drift += off
        _apply_both_sides(gram, end, v, t)
        for carried in (probes, images):
            carried[end:] -= v @ (t.T @ (v.T @ carried[end:]))
    missed = torch.linalg.vector_norm(times_band(band, probes) - images)
    residual = CONFIDENT * float(missed) / math.sqrt(PROBES)
    return Band(band.numpy(), residual, drift)


def _store(band: Tensor, part: Tensor, start: int, below: int) -> None:
    """Write `part`, whose first entry is [start + below, start], diagonal by diagonal."""
    rows, columns = part.shape
    for offset in range(1 - columns, rows):
        if 0 <= below + offset < len(band):
            entries = torch.diagonal(part, -offset)
            first = start + max(-offset, 0)
            band[below + offset, first : first + len(entries)] = entries


def _reflections(panel: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """V, T and R with (I - V·T·Vᵀ)ᵀ·panel = R over zeros, and how far from orthogonal that is."""
    packed, tau = torch.geqrf(panel)
    count = len(tau)
    v = packed[:, :count].tril(-1)
    v.diagonal().fill_(1.0)
    inner = v.T @ v
    identity = torch.eye(count, dtype=v.dtype)
    t = torch.linalg.solve_triangular(
        identity + tau[:, None] * inner.triu(1), torch.diag(tau), upper=True
    )
    off = t.T @ inner @ t - t - t.T  # (I - VTVᵀ)ᵀ(I - VTVᵀ) - I = V·off·Vᵀ
    square = float((inner @ off * (off @ inner)).sum())  # of its norm
    return v, t, packed[:count].triu(), math.sqrt(max(square, 0.0))


def _apply_both_sides(gram: Half, first: int, v: Tensor, t: Tensor) -> None:
    """G ← HᵀGH for the part that begins at `first`, H = I - V·T·Vᵀ: two ranks of BAND off."""
    y = gram.times(v, first) @ t
    w = y - 0.5 * (v @ (t.T @ (v.T @ y)))
    left, right = torch.cat([v, w], 1), torch.cat([w, v], 1)
    for start, block in gram.enumerate(first):
        low = start - first
        block.addmm_(left[low:], right[low : low + block.shape[1]].T, alpha=-1.0)


def times_band(band: Tensor, v: Tensor) -> Tensor:
    """The product of the symmetric band matrix with v (size, any)."""
    out = band[0][:, None] * v
    n = len(v)
    for offset in range(1, min(len(band), n)):
        entries = band[offset, : n - offset, None]
        out[offset:] += entries * v[: n - offset]
        out[: n - offset] += entries * v[offset:]
    return out
