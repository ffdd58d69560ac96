"""The linear stability of USAM with one example per step, from moments of the Hessians.

At a minimum that fits every example the step is w ← (I − ηH_ξ − ηρH_ξ²)w, and with M_k = E H_ξ^k

    E(I − ηH_ξ − ηρH_ξ²)² = I − 2ηH + η(η − 2ρ)M_2 + 2η²ρM_3 + η²ρ²M_4.

That its largest eigenvalue is at most 1 is enough for E‖w‖² never to grow; in one dimension it is
necessary too. What is necessary in general is that the linear map S → E A_ξ S A_ξ of the second
moment S = E wwᵀ has a spectral radius of at most 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Moments = Mapping[int, Tensor]
"""M_1 = H, M_2, M_3, M_4."""

HALVINGS = 60


def moments_of(hessians: Tensor) -> dict[int, Tensor]:
    """M_1 to M_4 of Hessians (n, d, d), each as likely."""
    return {k: torch.linalg.matrix_power(hessians, k).mean(0) for k in (1, 2, 3, 4)}


def expected(moments: Moments, *, lr: float, rho: float) -> Tensor:
    """E(I − ηH_ξ − ηρH_ξ²)², written out in the moments."""
    eye = torch.eye(len(moments[1]), dtype=moments[1].dtype)
    return (
        eye
        - 2 * lr * moments[1]
        + lr * (lr - 2 * rho) * moments[2]
        + 2 * lr**2 * rho * moments[3]
        + (lr * rho) ** 2 * moments[4]
    )


def published(moments: Moments, *, lr: float, rho: float) -> Tensor:
    """(I − ηH − ηρH²)² + η(η − 2ρ)(M_2 − H²) + 2η²ρ(M_3 − H³) + η²ρ²(M_4 − H⁴)."""
    h = moments[1]
    power = {k: torch.linalg.matrix_power(h, k) for k in (2, 3, 4)}
    inner = torch.eye(len(h), dtype=h.dtype) - lr * h - lr * rho * power[2]
    found: Tensor = (
        inner @ inner
        + lr * (lr - 2 * rho) * (moments[2] - power[2])
        + 2 * lr**2 * rho * (moments[3] - power[3])
        + (lr * rho) ** 2 * (moments[4] - power[4])
    )
    return found


def excess(moments: Moments, *, lr: float, rho: float) -> float:
    """The largest eigenvalue of `expected`, minus 1."""
    return float(torch.linalg.eigvalsh(expected(moments, lr=lr, rho=rho))[-1]) - 1


def second_moment_growth(hessians: Tensor, *, lr: float, rho: float) -> float:
    """The spectral radius of S → E A_ξ S A_ξ: what E wwᵀ grows by in a step, in the long run."""
    eye = torch.eye(hessians.shape[-1], dtype=hessians.dtype)
    steps = eye - lr * hessians - lr * rho * hessians @ hessians
    lifted = torch.einsum("nij,nkl->ikjl", steps, steps) / len(steps)
    size = len(eye) ** 2
    return float(torch.linalg.eigvals(lifted.reshape(size, size)).abs().max())


def crossing(value: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that is at most 0 at `low` first exceeds 0, by halving; `high` if nowhere.

    It has to stay above 0 from there on.
    """
    if value(high) <= 0:
        return high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) <= 0 else (low, middle)
    return low


def bounds(moments: Moments, *, lr: float, rho: float) -> dict[str, float]:
    """Each published quantity over its own bound: at most 1 where the bound holds.

    a(1 + ρa) ≤ 2/η, and for η > 2ρ λ_max(M_2 − H²) ≤ 1/(η(η − 2ρ)), λ_max(M_3 − H³) ≤ 1/(2η²ρ),
    λ_max(M_4 − H⁴) ≤ 1/(η²ρ²). Those that say nothing are missing.

    In one dimension with h ≥ 0 stability implies the first whatever η and ρ are, and the three on
    moments where η > 2ρ: no term of the condition is negative then, so each is at most 1 by itself.
    Where η < 2ρ the term of M_2 is negative and can pay for the others: with h = √19 in 12 cases of
    19 and 0 in 7, η = 10⁻⁴ and ρ = 1000, USAM is stable and M_4 − H⁴ is 1.7 times its bound.
    """
    h = moments[1]
    a = float(torch.linalg.eigvalsh(h)[-1])
    tops = {
        k: float(torch.linalg.eigvalsh(moments[k] - torch.linalg.matrix_power(h, k))[-1])
        for k in (2, 3, 4)
    }
    found = {"curvature": lr * a * (1 + rho * a) / 2}
    if lr > 2 * rho:
        found["moment/2"] = tops[2] * lr * (lr - 2 * rho)
    if rho > 0:
        found["moment/3"] = tops[3] * 2 * lr**2 * rho
        found["moment/4"] = tops[4] * (lr * rho) ** 2
    return found


def within(moments: Moments, basis: Tensor) -> dict[int, Tensor]:
    """The moments on a subspace that every Hessian maps into itself; basis (d, r) orthonormal."""
    return {k: basis.T @ moment @ basis for k, moment in moments.items()}


def critical_rho(moments: Moments, *, lr: float, most: float = 100.0) -> float:
    """The ρ from which the condition is violated, up to `most`; NaN if it is at 0 already."""
    if excess(moments, lr=lr, rho=0.0) > 0:
        return math.nan
    return crossing(lambda rho: excess(moments, lr=lr, rho=rho), 0.0, most)
