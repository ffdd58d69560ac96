"""Many L1-penalised fits side by side: an interior-point method with truncated Newton steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.measure.probes.curvature import Curvature, FactoredGram
from lowland.measure.probes.lasso_model import l1, lasso_gap, weights_of
from lowland.measure.probes.objective import Problems, evaluate
from lowland.measure.probes.pairs import dots
from lowland.measure.probes.search import NOISE
from lowland.measure.probes.spectral import Spectral

GROWTH = 4.0
"""How much sharper the barrier becomes after a step that was not cut short."""

PRODUCTS = 25
"""Conjugate-gradient steps for a Newton step at most; each reads the data once."""

HALVINGS = 12
"""Shorter and shorter trials before a search gives up in its type."""


def _wide(a: Tensor) -> Tensor:
    return a[:, None, None]


@dataclass
class _State:
    """The fits that still go on, one row each: x, bounds |W| < u, and the barrier's sharpness t."""

    index: Tensor
    x: Tensor
    u: Tensor
    t: Tensor
    loss: Tensor
    gradient: Tensor

    def select(self, keep: Tensor) -> None:
        for name, tensor in vars(self).items():
            setattr(self, name, tensor[keep])

    def barrier(self, x: Tensor, u: Tensor, loss: Tensor) -> Tensor:
        """loss + Σu - (1/t)·Σ log(u² - W²)."""
        w = weights_of(x)
        logs = ((u - w).log() + (u + w).log()).flatten(1).sum(1)
        return loss + u.flatten(1).sum(1) - logs / self.t


@dataclass(frozen=True)
class _Step:
    """A Newton step of x and u, and the derivative of the barrier function along it."""

    x: Tensor
    u: Tensor
    slope: Tensor


class Interior:
    """min f(W) + Σu over |W| ≤ u by Newton's method on f + Σu - (1/t)·Σ log(u² - W²), t growing.

    The bounds u are eliminated, which leaves (∇²f + D)·ΔW = r with D = (2/t)/(u² + W²); it is
    solved by conjugate gradients with products of ∇²f from the data, preconditioned by Cholesky
    factors of D plus the Gram matrix times each class's mean p(1 - p). (Koh, Kim & Boyd 2007, with
    the classes of a softmax and many values of C together.) Every point has a duality gap.

    Points are float64; `dtype` is the type in which the data are read.
    """

    def __init__(
        self,
        problems: Problems,
        basis: Spectral,
        x: Tensor,
        target: Tensor,
        dtype: torch.dtype,
    ) -> None:
        self.problems, self.target, self.dtype = problems, target, dtype
        self.gram = FactoredGram(problems, basis)
        self.found = x.clone()
        self.reached = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.reads = 0

    def run(self, budget: int) -> None:
        """Search until all have ended or `budget` reads are used; then `found` has the points."""
        state = self._begin()
        while True:
            gap = self._leave(state)
            if not len(state.index) or self.reads >= budget:
                break
            self._advance(state, gap, budget)
        self.found[state.index] = state.x

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.reads += 1
        found = evaluate(self.problems, x.to(self.dtype))
        return self.problems.C * found.loss, found.gradient.double()

    def _begin(self) -> _State:
        x = self.found
        loss, gradient = self._read(x)
        w = weights_of(x)
        # a coordinate at zero may move about as far as the others are from it
        spread = w.abs().flatten(1).mean(1)
        u = 1.1 * w.abs() + _wide(torch.where(spread > 0, 0.1 * spread, 0.1))
        # 2·N/t is the gap on the central path
        value = loss + l1(x)
        start = 2 * w[0].numel() / (lasso_gap(x, loss, gradient) * value).clamp_min(1e-300)
        index = torch.arange(len(x), device=x.device)
        return _State(index, x.clone(), u, start, loss, gradient)

    def _leave(self, state: _State) -> Tensor:
        """Take the fits out that are done; the gap of the others."""
        gap = lasso_gap(state.x, state.loss, state.gradient)
        done = gap <= self.target[state.index]
        if bool(done.any()):
            self.reached[state.index[done]] = True
            self._drop(state, done)
        return gap[~done]

    def _drop(self, state: _State, ends: Tensor) -> None:
        self.found[state.index[ends]] = state.x[ends]
        keep = (~ends).nonzero()[:, 0]
        state.select(keep)
        self.problems = self.problems.select(keep)

    def _advance(self, state: _State, gap: Tensor, budget: int) -> None:
        step = self._newton(state, gap, budget)
        length, moved = self._line_search(state, step)
        value = state.loss + l1(state.x)
        now = (lasso_gap(state.x, state.loss, state.gradient) * value).clamp_min(1e-300)
        aim = GROWTH * torch.minimum(2 * weights_of(state.x)[0].numel() / now, state.t)
        state.t = torch.where(length >= 0.5, torch.maximum(aim, state.t), state.t)
        if not bool(moved.all()):
            self._drop(state, ~moved)

    def _newton(self, state: _State, gap: Tensor, budget: int) -> _Step:
        w, u, over = weights_of(state.x), state.u, _wide(1 / state.t)
        room = (u - w) * (u + w)
        along = state.gradient.clone()
        along[..., :-1] += 2 * over * w / room
        bounds = 1 - 2 * over * u / room
        own = 2 * over * (u * u + w * w) / room**2
        mixed = -4 * over * u * w / room**2
        right = -along
        right[..., :-1] += mixed / own * bounds
        diagonal = torch.zeros_like(right)
        diagonal[..., :-1] = 2 * over / (u * u + w * w)
        curvature = Curvature(self.problems, state.x, self.dtype)
        # the data are read once more to know the probabilities
        self.reads += 1
        first = self.gram.inverse(curvature, diagonal)
        left = max(1, min(PRODUCTS, budget - self.reads))
        goal = (0.1 * (10 * gap).clamp_max(1.0)).clamp_min(1e-3)
        dx, used = _solve(lambda v: curvature.product(v) + diagonal * v, first, right, goal, left)
        self.reads += used
        du = -(bounds + mixed * weights_of(dx)) / own
        return _Step(dx, du, dots(along, dx) + dots(bounds, du))

    def _line_search(self, state: _State, step: _Step) -> tuple[Tensor, Tensor]:
        """Move every fit along its step; the lengths taken, and which fits moved."""
        w, u, dw, du = weights_of(state.x), state.u, weights_of(step.x), step.u
        length = torch.minimum(_reach(u - w, du - dw), _reach(u + w, du + dw))
        length = (0.99 * length).clamp_max(1.0)
        start = state.barrier(state.x, u, state.loss)
        noise = NOISE[self.dtype] * state.loss.abs()
        moved = torch.zeros_like(start, dtype=torch.bool)
        x, bounds, loss, gradient = state.x, u, state.loss, state.gradient
        for _ in range(HALVINGS):
            tx, tu = state.x + _wide(length) * step.x, u + _wide(length) * du
            tl, tg = self._read(tx)
            fell = state.barrier(tx, tu, tl) <= start + 0.01 * length * step.slope + noise
            good = fell & ~moved
            with_it = _wide(good)
            x, bounds = torch.where(with_it, tx, x), torch.where(with_it, tu, bounds)
            loss, gradient = torch.where(good, tl, loss), torch.where(with_it, tg, gradient)
            moved = moved | good
            if bool(moved.all()):
                break
            length = torch.where(moved, length, 0.5 * length)
        state.x, state.u, state.loss, state.gradient = x, bounds, loss, gradient
        return length, moved


def _reach(room: Tensor, change: Tensor) -> Tensor:
    """(B,) the largest a with room + a·change ≥ 0."""
    limits = torch.where(change < 0, -room / change, torch.inf)
    return limits.flatten(1).amin(1)


def _solve(
    product: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    right: Tensor,
    goal: Tensor,
    most: int,
) -> tuple[Tensor, int]:
    """Conjugate gradients until rᵀM⁻¹r has fallen by goal²; the solution and the products used."""
    x, r = torch.zeros_like(right), right
    z = precondition(r)
    p, rz = z, dots(r, z)
    start = rz
    for step in range(most):
        ap = product(p)
        curved = dots(p, ap)
        going = (curved > 0) & (rz > 0)
        a = torch.where(going, rz / torch.where(going, curved, 1.0), 0.0)
        x, r = x + _wide(a) * p, r - _wide(a) * ap
        z = precondition(r)
        new = dots(r, z)
        if bool((new <= goal**2 * start).all()):
            return x, step + 1
        p = z + _wide(torch.where(going, new / torch.where(going, rz, 1.0), 0.0)) * p
        rz = new
    return x, most


def with_zeros(x: Tensor, gradient: Tensor) -> Tensor:
    """x with exact zeros where |∂loss/∂W| is clearly below 1, or |W| far below the largest.

    At the minimum the former are zero; the latter are on their way there, or hardly matter.
    """
    w, slope = weights_of(x).abs(), weights_of(gradient).abs()
    least = 1e-4 * w.flatten(1).amax(1)[:, None, None]
    return torch.cat(
        [torch.where((slope < 0.999) | (w < least), 0.0, weights_of(x)), x[..., -1:]], -1
    )
