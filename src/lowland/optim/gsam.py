"""GSAM: the surrogate gap beside the perturbed loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from lowland.optim.checks import check_number
from lowland.optim.gradient import Gradient
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import Evaluate, Program, TwoPass, Update
from lowland.optim.radii import FollowingLR, Normalized, Radius
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step


@dataclass(frozen=True)
class MinusOrthogonal:
    """u = g̃ − α·g_⊥ with g_⊥ the part of g that is orthogonal to g̃ over all parameters together.

    Attributes:
        alpha: α.
        minimize_fp: False descends u = g + α·(the part of g̃ that is orthogonal to g) instead.
    """

    alpha: float = 0.4
    minimize_fp: bool = True

    def __call__(self, g: Gradient, g_perturbed: Gradient, step: Step) -> Gradient:
        kept, other = (g_perturbed, g) if self.minimize_fp else (g, g_perturbed)
        here = kept.by_param()
        other = other.where(lambda p: p in here)
        onto = other.like([here[p] for p in other.params])
        square = step.inner(onto, onto)
        tiny = torch.finfo(square.dtype).tiny
        share = step.inner(other, onto) / square.clamp_min(tiny)
        alpha = -self.alpha if self.minimize_fp else self.alpha
        moved = dict(zip(other.params, other.tensors, strict=True))
        out = []
        for p, t in zip(kept.params, kept.tensors, strict=True):
            part = moved.get(p)
            out.append(t if part is None else (t + alpha * (part - share * t)).to(t.dtype))
        return kept.like(out)


@dataclass(frozen=True)
class NarrowGap(TwoPass):
    """[w, w+ε], then `MinusOrthogonal` with the α of the parameter groups."""

    alpha: float = 0.4
    minimize_fp: bool = True
    defaults: ClassVar[tuple[str, ...]] = ("alpha",)

    @property
    def keeps_gradient(self) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        second = yield Evaluate(at=step.perturb((yield Evaluate())))
        combine = MinusOrthogonal(step.hyper["alpha"], self.minimize_fp)
        yield Update(combine(step.gradient(), second.gradient, step))


class GSAM(SharpnessAware):
    """Zhuang et al. 2022 (arXiv 2203.08065): SAM that also narrows the surrogate gap L(w+ε) − L(w).

        u = g̃ − α·g_⊥,   g_⊥ = g − ⟨g, g̃⟩/‖g̃‖²·g̃,   ρ_t between ρ_min and ρ as the step size moves

    The gap shrinks along −g_⊥ and the perturbed loss does not change to first order.

    Args:
        rho: ρ_max; 0.6 for ViT-B/32 on ImageNet.
        alpha: α; 0.4 in the PyTorch example, 0.6 for ViT-B/32.
        rho_min: ρ_t = ρ_min + (ρ − ρ_min)·(η_t − η_min)/(η_max − η_min), with η the group's lr;
            None keeps ρ constant. 0.1 for ViT-B/32. During a warm-up ρ_t follows η.
        lr_max: η_max; needed with `rho_min`.
        lr_min: η_min. Where both are the same, ρ_t = ρ.
        minimize_fp: False descends u = g + α·(part of g̃ orthogonal to g) instead.
        perturbation: "global" or "local" of ε (see `SAM`); "local" is refused, since g is kept.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Cost: 2 passes; one copy of the parameters, and g through the second pass. Confidence: high, the
    authors' code agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        alpha: float = 0.4,
        rho_min: float | None = None,
        lr_max: float | None = None,
        lr_min: float = 0.0,
        minimize_fp: bool = True,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        check_number("alpha", alpha, least=-math.inf)
        radius: Radius = Normalized()
        if rho_min is not None:
            radius = FollowingLR(rho_min, lr_max, lr_min)
        rule = Perturbation(radius=radius, across=perturbation)
        plan = NarrowGap(alpha=alpha, minimize_fp=minimize_fp)
        super().__init__(params, base, rho=rho, perturbation=rule, plan=plan, **options)
