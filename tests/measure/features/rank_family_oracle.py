"""Slow references for the ranks of a matrix, written from their formulas with NumPy's SVD."""

from __future__ import annotations

import math

import numpy as np
import rank_oracle


def singular_values(features, center: str) -> np.ndarray:
    return np.linalg.svd(rank_oracle.centred(features, center), compute_uv=False)


def exp_entropy(p) -> float:
    return math.exp(-math.fsum(q * math.log(q) for q in p if q > 0))


def effective_rank(features, center: str) -> float:
    s = singular_values(features, center)
    return exp_entropy(s / s.sum())


def rankme(features, center: str, epsilon: float) -> float:
    s = singular_values(features, center)
    return exp_entropy(s / s.sum() + epsilon)


def entropy_rank(features, center: str) -> float:
    s = singular_values(features, center)
    return exp_entropy(s**2 / (s**2).sum())


def stable_rank(features, center: str) -> float:
    s = singular_values(features, center)
    return (s**2).sum() / s[0] ** 2


def participation_ratio(features, center: str) -> float:
    s = singular_values(features, center)
    return (s**2).sum() ** 2 / (s**4).sum()


def published_rank(features, variance: float, center: str) -> int:
    """Literally: how many cumulated sums are at most the share, and one; all in float32."""
    x = np.asarray(features, dtype=np.float32)
    x = x.reshape(len(x), -1)
    if center == "example":
        x = x - x.mean(axis=1, keepdims=True)
    squares = np.linalg.svd(x, compute_uv=False) ** 2
    assert squares.dtype == np.float32
    held, count = np.float32(0), 0
    for square in squares:
        held = np.float32(held + square)
        count += bool(held <= np.float32(variance) * squares.sum())
    return count + 1
