"""The step of a proximal quasi-Newton search: a quadratic with an L1 term, minimised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.measure.probes.pairs import Pairs, dots
from lowland.measure.probes.spectral import Spectral

SPLITTING_STEPS = 10
"""Steps of the splitting that finds which coefficients are zero, warm-started from step to step."""

FACE_ROUNDS = 1
"""Rounds that then solve for the others."""

FACE_STEPS = 10
"""Conjugate-gradient steps in each."""


def weights_of(x: Tensor) -> Tensor:
    """x without the intercepts, which carry no L1 term."""
    return x[..., :-1]


def l1(x: Tensor) -> Tensor:
    """(B,) Σ|W|."""
    total: Tensor = weights_of(x).abs().flatten(1).sum(1)
    return total


def lasso_gap(x: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
    """(B,) about (F - D)/F, to first order in how far the largest |∂loss/∂W| exceeds 1.

    Where it exceeds 1 by far: the share of the objective that scaling by 1/‖∂loss/∂W‖∞ loses.
    """
    size, slope = l1(x), weights_of(gradient)
    value = loss + size
    excess = (slope.abs().flatten(1).amax(1) - 1).clamp_min(0)
    inside = (size + dots(weights_of(x), slope)).clamp_min(0)
    gap = (inside + excess * size) / value
    return torch.where(excess < 0.05, gap, gap.maximum(excess / (1 + excess)))


def soft(x: Tensor, threshold: Tensor) -> Tensor:
    """sign(x)·max(|x| - threshold, 0) of the weights; the intercepts as they are."""
    w = weights_of(x)
    return torch.cat([w - w.clamp(-threshold, threshold), x[..., -1:]], -1)


def _norm(a: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(a.flatten(1), dim=1)
    return norm


def _wide(a: Tensor) -> Tensor:
    return a[:, None, None]


class Model:
    """The L-BFGS approximation of the Hessian in compact form: B = σM - U·A⁻¹·Uᵀ.

    M is diagonal in spectral coordinates, U holds σM·s and y of the pairs, A is small.
    """

    def __init__(self, basis: Spectral, metric: Tensor, diagonal: Tensor, pairs: Pairs) -> None:
        sigma = 1.0 / pairs.scale
        self.basis = basis
        self.base = metric * _wide(sigma)
        self.diagonal = diagonal * _wide(sigma)
        self.long, self.small = _compact(pairs, self.base)
        self._inverse = _invert(self.small)

    def product(self, v: Tensor) -> Tensor:
        """B·v."""
        t = self.basis.to(v)
        out = self.base * t
        if self.long.shape[1]:
            flat = self.long.flatten(2)
            part = self._inverse @ (flat @ t.flatten(1)[..., None])
            out = out - (flat.mT @ part).view_as(t)
        return self.basis.back(out)

    def shifted_inverse(self, rho: Tensor) -> Callable[[Tensor], Tensor]:
        """v -> (B + ρ)⁻¹·v in spectral coordinates; ρ (B,) is added to the weights alone."""
        shift = _wide(rho).expand_as(self.base).clone()
        shift[..., -1] = 0
        first = 1.0 / (self.base + shift)
        if not self.long.shape[1]:
            return lambda v: v * first
        flat = self.long.flatten(2)
        scaled = (self.long * first[:, None]).flatten(2)
        inner = self.small - flat @ scaled.mT
        inverse = _invert(inner)

        def apply(v: Tensor) -> Tensor:
            head = v * first
            part = inverse @ (flat @ head.flatten(1)[..., None])
            return head + (scaled.mT @ part).view_as(v)

        return apply


def _compact(pairs: Pairs, base: Tensor) -> tuple[Tensor, Tensor]:
    """U (B, 2m, c, D) and A (B, 2m, 2m); rows of pairs that do not count are zero."""
    count = len(base)
    if not pairs.steps:
        return base.new_zeros(count, 0, 1, base.shape[-1]), base.new_zeros(count, 0, 0)
    s, y = torch.stack(pairs.steps, 1), torch.stack(pairs.changes, 1)
    bs = s * base[:, None]
    sbs = s.flatten(2) @ bs.flatten(2).mT
    sy = s.flatten(2) @ y.flatten(2).mT
    lower = sy.tril(-1)
    ends = torch.diag_embed(sy.diagonal(dim1=1, dim2=2))
    top = torch.cat([sbs, lower], 2)
    bottom = torch.cat([lower.mT, -ends], 2)
    return torch.cat([bs, y], 1), torch.cat([top, bottom], 1)


def _invert(small: Tensor) -> Tensor:
    """The inverse on the range, scaled first: entries differ by the squares of lengths of steps."""
    if not small.shape[1]:
        return small
    unit = small.diagonal(dim1=1, dim2=2).abs().sqrt()
    unit = torch.where(unit > 0, 1.0 / torch.where(unit > 0, unit, 1.0), 0.0)
    scaled = unit[:, :, None] * small * unit[:, None]
    found = torch.linalg.pinv(scaled, hermitian=True, rtol=1e-12)
    inverse: Tensor = unit[:, :, None] * found * unit[:, None]
    return inverse


@dataclass
class Splitting:
    """What the splitting carries from one model to the next: scaled duals, and its penalty ρ."""

    duals: Tensor
    rho: Tensor

    def select(self, keep: Tensor) -> None:
        """Keep these searches alone."""
        self.duals, self.rho = self.duals[keep], self.rho[keep]


def minimise(model: Model, x: Tensor, g: Tensor, state: Splitting) -> Tensor:
    """Nearly argmin over z of gᵀ(z - x) + ½(z - x)ᵀB(z - x) + Σ|W_z|, with exact zeros.

    First by alternating directions (exact in the ill-conditioned directions of B, slow to settle
    signs), then by Newton steps on the coefficients that are not zero (exact once signs are right).
    """
    z = _split(model, x, g, state)
    for _ in range(FACE_ROUNDS):
        z = _face_step(model, x, g, z)
    return z


def _split(model: Model, x: Tensor, g: Tensor, state: Splitting) -> Tensor:
    basis = model.basis
    fixed = basis.to(model.product(x) - g)
    solve = model.shifted_inverse(state.rho)
    v, u, rho = x, state.duals, state.rho
    for step in range(SPLITTING_STEPS):
        pulled = torch.cat([weights_of(v - u) * _wide(rho), torch.zeros_like(v[..., -1:])], -1)
        w = basis.back(solve(fixed + basis.to(pulled)))
        relaxed = 1.6 * w - 0.6 * v
        new = soft(relaxed + u, _wide(1.0 / rho))
        new[..., -1] = w[..., -1]
        u = u + relaxed - new
        u[..., -1] = 0
        apart, moved = _norm(weights_of(w - new)), _norm(weights_of(new - v))
        v = new
        if step % 10 != 9:
            continue
        primal = apart / _norm(weights_of(v - x)).clamp_min(1e-30)
        dual = moved / _norm(u).clamp_min(1e-30)
        if bool(((primal < 1e-4) & (dual < 1e-4)).all()):
            break
        factor = torch.where(primal > 5 * dual, 2.0, torch.where(dual > 5 * primal, 0.5, 1.0))
        if bool((factor != 1).any()):
            rho, u = rho * factor, u / _wide(factor)
            solve = model.shifted_inverse(rho)
    state.duals, state.rho = u, rho
    return v


def _face_step(model: Model, x: Tensor, g: Tensor, z: Tensor) -> Tensor:
    """One Newton step of the coefficients that are free to move, cut where signs would change."""
    moved = model.product(z - x)
    slope = g + moved
    sign = torch.where(z != 0, z.sign(), -slope.sign())
    free = (z != 0) | (slope.abs() > 1)
    sign[..., -1], free[..., -1] = 0, True
    mask = free.to(z.dtype)
    step = _conjugate_gradients(model, -(slope + sign) * mask, mask)
    best, value = z, dots(g, z - x) + 0.5 * dots(z - x, moved) + l1(z)
    for length in (1.0, 0.5, 0.2):
        trial = z + length * step
        trial = torch.where(trial * sign < 0, 0.0, trial)
        delta = trial - x
        there = dots(g, delta) + 0.5 * dots(delta, model.product(delta)) + l1(trial)
        better = there < value
        best = torch.where(_wide(better), trial, best)
        value = torch.where(better, there, value)
    return best


def _conjugate_gradients(model: Model, r: Tensor, mask: Tensor) -> Tensor:
    """B_FF⁻¹·r on the free coefficients F.

    Preconditioned by the inverse of σM cut to F where F is most of them, else by its diagonal.
    """
    dense = mask.flatten(1).mean(1) > 0.5
    some, every = bool(dense.any()), bool(dense.all())

    def precondition(v: Tensor) -> Tensor:
        if not some:
            return v / model.diagonal * mask
        whole = model.basis.back(model.basis.to(v) / model.base)
        if not every:
            whole = torch.where(_wide(dense), whole, v / model.diagonal)
        return whole * mask

    start = _norm(r)
    q = precondition(r)
    d, p, rq = torch.zeros_like(r), q, dots(r, q)
    for _ in range(FACE_STEPS):
        bp = model.product(p) * mask
        pbp = dots(p, bp)
        going = (rq > 0) & (pbp > 0)
        a = torch.where(going, rq / torch.where(going, pbp, 1.0), 0.0)
        d, r = d + _wide(a) * p, r - _wide(a) * bp
        if bool((_norm(r) <= 0.01 * start).all()):
            break
        q = precondition(r)
        new = dots(r, q)
        p = q + _wide(torch.where(going, new / torch.where(going, rq, 1.0), 0.0)) * p
        rq = new
    return d
