"""How far a fit is from its optimum at most: the duality gap, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.measure.probes.lasso_model import l1, weights_of
from lowland.measure.probes.objective import (
    Evaluation,
    Problems,
    evaluate,
    log_probabilities,
    piece_rows,
)
from lowland.measure.probes.pairs import dots

BALANCE = 1e-12
"""Residual of the intercepts' equations, relative to the weight of a class, that is left alone."""


@dataclass(frozen=True)
class Certificate:
    """Points and what holds for them.

    Attributes:
        x: (B, c, d + 1) float64, with the intercepts that are best for these coefficients.
        loss: (B,) Σ w_i·ℓ_i.
        objective: (B,) F = C·Σ w_i·ℓ_i + R(W).
        gap: (B,) F - D ≥ F - min F for a dual feasible point's value D.
    """

    x: Tensor
    loss: Tensor
    objective: Tensor
    gap: Tensor


def certify(problems: Problems, x: Tensor) -> Certificate:
    """The duality gap at x, after its intercepts are solved for by Newton's method.

    The dual of min C·Σ w·ℓ + R is: max over probabilities p_i of C·Σ w_i·H(p_i) - R*(G), with
    G = C·Σ w_i·(p_i - y_i)·x_iᵀ and Σ w_i·(p_i - y_i) = 0 (the intercepts' equations), R* = ½‖G‖²
    for L2 and 0 where ‖G‖∞ ≤ 1 for L1. The point is that of the fit, p = softmax, moved onto the
    constraints: for L1 scaled towards the labels by 1/‖G‖∞; what Newton's method has left in the
    equations is taken away by mixing in a share τ of fixed probabilities. Entropies are concave,
    so that the mixture's value is bounded from below without another read.

    Cost: two reads of the features in float64, rarely more.
    """
    x = x.double()
    for _ in range(4):
        x = x.clone()
        x[..., -1] += _newton_step(problems, x)
        found = evaluate(problems, x, dual=True)
        share = _share(problems, found)
        if bool((share <= BALANCE).all()):
            break
    weights = weights_of(x)
    penalty = 0.5 * dots(weights, weights) if problems.penalty == "l2" else l1(x)
    objective = problems.C * found.loss + penalty
    bound = _ridge_dual if problems.penalty == "l2" else _lasso_dual
    gap = (objective - bound(problems, found, share)).clamp_min(0.0)
    gap = torch.where(torch.isfinite(objective), gap, torch.inf)
    return Certificate(x, found.loss, objective, gap)


def _newton_step(problems: Problems, x: Tensor) -> Tensor:
    """The step of the intercepts (B, c) towards Σ w·(p - y) = 0."""
    tasks, columns = problems.tasks, problems.columns
    count = x.new_zeros(len(x), columns)
    products = x.new_zeros(len(x), columns, columns)
    size = piece_rows(problems)
    for start in range(0, problems.design.n, size):
        rows = problems.design.rows(start, start + size, x.dtype)
        p = log_probabilities(problems, x, rows).exp()[:, -columns:]
        weighted = p
        if tasks.weights is not None:
            weighted = p * tasks.weights[:, start : start + size][problems.task][:, None]
        count += weighted.sum(2)
        products += weighted @ p.mT
    residual = count - tasks.class_weights()[problems.task][:, -columns:]
    curvature = torch.diag_embed(count) - products
    if columns > 1:  # the same number added to all intercepts changes nothing
        curvature += count.sum(1)[:, None, None] / columns**2
    ridge = 1e-14 * count.sum(1)[:, None, None]
    curvature += ridge * torch.eye(columns, dtype=x.dtype, device=x.device)
    step: Tensor = torch.linalg.solve(curvature, residual[..., None])[..., 0]
    return -step.clamp(-1.0, 1.0)


def _share(problems: Problems, found: Evaluation) -> Tensor:
    """The least τ (B,) such that (1 - τ)·p + τ·q solves the intercepts' equations for some q."""
    residual = found.gradient[..., -1] / problems.C[:, None]
    if problems.columns == 1:
        residual = torch.cat([-residual, residual], 1)
    mass = problems.tasks.class_weights()[problems.task]
    ratio = (residual / mass).amax(1).clamp_min(0.0)
    return ratio / (1 + ratio)


def _reach(problems: Problems) -> Tensor:
    """(B,) what C·Σ w·(q - y)·xᵀ can be at most: its norm, and so its largest entry."""
    mass = problems.tasks.class_weights()[problems.task].sum(1)
    return problems.C * mass * problems.design.reach * 2**0.5


def _ridge_dual(problems: Problems, found: Evaluation, share: Tensor) -> Tensor:
    """C·(1 - τ)·Σ w·H(p) - ½‖G‖² at most lowered by what τ can add to ‖G‖."""
    assert found.entropy is not None
    g = weights_of(found.gradient)
    norm = (1 - share) * dots(g, g).sqrt() + share * _reach(problems)
    bound: Tensor = problems.C * (1 - share) * found.entropy - 0.5 * norm.square()
    return bound


def _lasso_dual(problems: Problems, found: Evaluation, share: Tensor) -> Tensor:
    """C·(1 - τ)·Σ w·H(s·p + (1 - s)·y), s = min(1, 1/‖G‖∞), the entropies exact.

    H(s·p + (1 - s)·y) = s·(H(p) + p_y·log p_y) - s·(1 - p_y)·log s - a·log a, a = 1 - s·(1 - p_y).
    """
    assert found.entropy is not None
    assert found.own is not None
    g = weights_of(found.gradient).abs().flatten(1).amax(1)
    top = (1 - share) * g + share * _reach(problems)
    s = (1 / top.clamp_min(1e-300)).clamp_max(1.0)[:, None]
    own = found.own
    other = 1 - own
    a = 1 - s * other
    each = s * torch.special.xlogy(own, own) - other * torch.special.xlogy(s, s)
    each = each - torch.special.xlogy(a, a)
    weights = problems.tasks.weights
    if weights is not None:
        each = each * weights[problems.task]
    bound: Tensor = problems.C * (1 - share) * (s[:, 0] * found.entropy + each.sum(1))
    return bound
