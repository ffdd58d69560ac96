"""A slow reference for the feature rank, written from its definition with NumPy's SVD."""

from __future__ import annotations

import numpy as np


def centred(features, center: str) -> np.ndarray:
    x = np.asarray(features, dtype=np.float64)
    x = x.reshape(len(x), -1)
    if center == "unit":
        return x - x.mean(axis=0, keepdims=True)
    if center == "example":
        return x - x.mean(axis=1, keepdims=True)
    return x


def energies(features, center: str) -> np.ndarray:
    return np.linalg.svd(centred(features, center), compute_uv=False) ** 2


def shares(features, center: str) -> np.ndarray:
    """Cumulated shares of the variance; entry k - 1 is what k components hold."""
    found = energies(features, center)
    return np.cumsum(found) / found.sum()


def rank(features, variance: float, center: str, tie: float = 0.0) -> int:
    held = shares(features, center)
    return next((k for k, share in enumerate(held, start=1) if share >= variance - tie), len(held))


def possible_ranks(features, variance: float, center: str) -> set[int]:
    """The ranks on both sides of a tie at 1e-6 of the share; almost always just one."""
    tie = 2e-6 * min(variance, 1 - variance)
    return {rank(features, variance, center, tie), rank(features, variance, center, -tie)}
