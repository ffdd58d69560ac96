"""Balls around the weights: ‖T⁻¹ε‖_p ≤ ρ, with T = 1 or the size of the weights themselves.

With v = T·g and 1/p + 1/q = 1, the steepest ε of the ball is ε = ρ·T·J(v), where
J(v)_i = sign(v_i)·|v_i|^(q-1) / ‖v‖_q^(q-1) has ‖J(v)‖_p = 1. Norms are over all tensors together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lowland.core.errors import InputError, unknown
from lowland.core.perturbation import global_norm, wide_dtype

ADAPTIVE = ("elementwise", "layerwise", "filterwise")

Steps = Sequence[Tensor | None]
"""One tensor for each of the weights; None for zeros."""

Scales = Sequence[Tensor | None]
"""T for each of the weights, to broadcast; None for 1."""


@dataclass(frozen=True)
class Ball:
    """All ε with ‖T⁻¹ε‖_p ≤ ρ.

    Attributes:
        rho: the radius ρ, at least 0.
        p: from 1 to infinity.
        adaptive: None for T = 1; "elementwise": T = |w| + η; "layerwise": ‖w_l‖ + η, one number for
            each tensor; "filterwise": ‖w_f‖ + η for each entry f of the first axis, and |w| + η in
            tensors with one axis.
        eta: η, which lets weights at zero move.
        scale_bias: False leaves T = 1 on tensors without "weight" in their name, as ASAM does.
    """

    rho: float
    p: float = 2.0
    adaptive: str | None = None
    eta: float = 0.0
    scale_bias: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rho) and self.rho >= 0):
            raise InputError(f"rho: {self.rho!r} is not a radius; give a finite number from 0 on")
        if isinstance(self.p, bool) or not (isinstance(self.p, int | float) and self.p >= 1):
            raise InputError(f"p: {self.p!r} is no norm; give a number from 1 on, or math.inf")
        if self.adaptive is not None and self.adaptive not in ADAPTIVE:
            raise unknown("adaptive", self.adaptive, ADAPTIVE)
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise InputError(f"eta: {self.eta!r}; give a finite number from 0 on")

    @property
    def words(self) -> str:
        """For definitions: the norm of ε that is bounded."""
        if self.adaptive is None:
            return f"{self.p:g}-norm of eps"
        size = {"elementwise": "|w|", "layerwise": "||w_l||", "filterwise": "||w_f||"}
        eta = f" + {self.eta:g}" if self.eta else ""
        rest = "" if self.scale_bias else " on weights, 1 on the rest"
        return f"{self.p:g}-norm of eps/T, T = {size[self.adaptive]}{eta}{rest}"

    def scales(self, weights: Mapping[str, Tensor]) -> list[Tensor | None]:
        """T at these weights; float32 at least. Cost: a copy of the weights if elementwise."""
        return [
            self._scale(weight.detach())
            if self.adaptive and (self.scale_bias or "weight" in name)
            else None
            for name, weight in weights.items()
        ]

    def _scale(self, weight: Tensor) -> Tensor:
        wide = weight.to(wide_dtype(weight.dtype))
        if self.adaptive == "layerwise":
            whole: Tensor = torch.linalg.vector_norm(wide)
            return whole + self.eta
        if self.adaptive == "filterwise" and weight.ndim > 1:
            return filter_norms(wide) + self.eta
        return wide.abs() + self.eta


def filter_norms(weight: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """‖w_f‖ for every entry f of the first axis, with axes of size 1 for the others."""
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1, dtype=dtype)
    return norms.view(-1, *[1] * (weight.ndim - 1))


def scaled(steps: Steps, scales: Scales) -> list[Tensor | None]:
    """T·s, float32 at least where T is not 1."""
    return [
        step if step is None or scale is None else step.to(wide_dtype(step.dtype)) * scale
        for step, scale in zip(steps, scales, strict=True)
    ]


def norm_of(steps: Steps, order: float) -> float:
    """‖s‖ of this order over all tensors together."""
    return float(global_norm([s for s in steps if s is not None], order))


def dual_order(p: float) -> float:
    """q with 1/p + 1/q = 1.

    >>> dual_order(1.0), dual_order(2.0), dual_order(math.inf)
    (inf, 2.0, 1.0)
    """
    if p == 1:
        return math.inf
    return 1.0 if p == math.inf else p / (p - 1)


def steepest(v: Steps, p: float) -> tuple[list[Tensor | None], float]:
    """J(v) times a number, and that number.

    For p = 2 that is v itself and ‖v‖: no tensor is made. For p = 1 it is the sign of the largest
    element alone, the first of several. Where v = 0 the number is infinite, where v is not finite
    it is NaN.
    """
    q = dual_order(p)
    norm = norm_of(v, q)
    if norm == 0.0 or not math.isfinite(norm):
        return list(v), math.inf if norm == 0.0 else math.nan
    if p == 2:
        return list(v), norm
    if p == math.inf:
        return [None if t is None else t.sign() for t in v], 1.0
    if p == 1:
        return _largest(v), 1.0
    wide = (None if t is None else t.to(wide_dtype(t.dtype)) / norm for t in v)
    return [None if t is None else t.sign() * t.abs() ** (q - 1) for t in wide], 1.0


def _largest(v: Steps) -> list[Tensor | None]:
    tops = [-math.inf if t is None or not t.numel() else float(t.abs().max()) for t in v]
    where = max(range(len(tops)), key=tops.__getitem__)
    found = v[where]
    assert found is not None
    step = torch.zeros_like(found)
    place = found.abs().argmax()
    step.view(-1)[place] = found.reshape(-1)[place].sign()
    return [step if i == where else None for i in range(len(v))]


def project(steps: Sequence[Tensor], p: float, rho: float) -> Sequence[Tensor]:
    """The nearest point of ‖s‖_p ≤ ρ for p = 2 and ∞, in place; for other p the one on its ray."""
    if p == math.inf:
        torch._foreach_clamp_min_(list(steps), -rho)
        torch._foreach_clamp_max_(list(steps), rho)
        return steps
    norm = norm_of(steps, p)
    if norm > rho:
        torch._foreach_mul_(list(steps), rho / norm)
    return steps


def uniform_in_ball(
    like: Sequence[Tensor], p: float, rho: float, draw: torch.Generator, *, surface: bool = False
) -> list[Tensor]:
    """A point drawn uniformly from ‖s‖_p ≤ ρ, in tensors shaped `like`, float32 at least.

    With x_i independent of density ∝ exp(-|x|^p) and y exponential, x / (Σ|x|^p + y)^(1/p) is
    uniform in the ball (Barthe et al. 2005); for p = ∞ every element is uniform by itself. Drawn on
    the CPU, so that a seed gives the same point on every device.

    Args:
        like: what to be shaped and placed like.
        p, rho: the ball.
        draw: a generator on the CPU.
        surface: ‖s‖_p = ρ instead: uniform on the sphere for p = 2.
    """
    if p == math.inf and not surface:
        return [
            (rho * (2 * torch.rand(t.shape, generator=draw, dtype=_drawn(t)) - 1)).to(t.device)
            for t in like
        ]
    x = [_power_noise(t, p, draw) for t in like]
    y = 0.0
    if not surface and p != math.inf:
        y = float(torch.empty((), dtype=torch.float64).exponential_(generator=draw))
    total = sum(float(torch.linalg.vector_norm(t, p, dtype=torch.float64)) ** p for t in x) + y
    factor = rho / total ** (1 / p) if total > 0 else 0.0
    return [t.mul_(factor).to(like[i].device) for i, t in enumerate(x)]


def normal(like: Sequence[Tensor], sigma: float, draw: torch.Generator) -> list[Tensor]:
    """Independent N(0, σ²), in tensors shaped `like`, float32 at least, drawn on the CPU."""
    return [
        torch.randn(t.shape, generator=draw, dtype=_drawn(t)).mul_(sigma).to(t.device) for t in like
    ]


def _drawn(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _power_noise(like: Tensor, p: float, draw: torch.Generator) -> Tensor:
    """Independent numbers of density ∝ exp(-|x|^p)."""
    shape, dtype = like.shape, _drawn(like)
    if p == 2:
        return torch.randn(shape, generator=draw, dtype=dtype).mul_(math.sqrt(0.5))
    shapes = torch.full(shape, 1 / p, dtype=dtype)
    size: Tensor = torch._standard_gamma(shapes, generator=draw).pow_(1 / p)
    sign = torch.randint(0, 2, shape, generator=draw, dtype=torch.int8).mul_(2).sub_(1)
    return size.mul_(sign)
