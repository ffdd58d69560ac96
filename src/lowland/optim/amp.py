"""AMP: adversarial model perturbation, several ascent steps inside a ball."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowland.optim.checks import check_number, check_whole
from lowland.optim.gradient import Gradient
from lowland.optim.plan import Evaluate, Program, Update
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step


@dataclass(frozen=True)
class Inside:
    """[w, w+ε₁, ..., w+ε_K], each ε one ascent step further and brought back into the ball."""

    inner_steps: int = 1
    inner_lr: float = 1.0
    keeps_gradient: ClassVar[bool] = False
    splits: ClassVar[bool] = False
    needs_closure: ClassVar[bool] = True
    defaults: ClassVar[tuple[str, ...]] = ("inner_steps", "inner_lr")
    common: ClassVar[tuple[str, ...]] = ("rho",)

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        radius = step.hyper["rho"] * step.factor
        found = yield Evaluate(ascent=True)
        epsilon: Gradient | None = None
        for _ in range(step.hyper["inner_steps"]):
            epsilon = self._further(epsilon, found.gradient, radius, step)
            del found
            found = yield Evaluate(at=step.displace(epsilon, 1.0))
        yield Update(found.gradient)

    @staticmethod
    def _further(epsilon: Gradient | None, g: Gradient, radius: float, step: Step) -> Gradient:
        rate = step.hyper["inner_lr"]
        held = {} if epsilon is None else epsilon.by_param()
        up = {p for part in g if not part.group.get("maximize") for p in part.params}
        pairs = zip(g.params, g.tensors, strict=True)
        new = g.like([_sum(held.get(p), t, rate if p in up else -rate) for p, t in pairs])
        norm = step.norm(new)
        step.look(norm)
        clip = (radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1.0)
        torch._foreach_mul_(new.tensors, clip)
        return new


def _sum(old: Tensor | None, t: Tensor, rate: float) -> Tensor:
    return t * rate if old is None else torch.add(old, t, alpha=rate)


class AMP(SharpnessAware):
    """Zheng et al. 2021 (arXiv 2010.04925): gradient ascent inside a ball, then one descent step.

        ε ← 0;  K times:  ε ← ε + ζ·∇L(w + ε),  ε ← ε·min(1, ρ/‖ε‖);   u = ∇L(w + ε)

    One norm over all parameters. Where ζ·‖g‖ >= ρ, K = 1 is SAM.

    Args:
        rho: ρ, the radius of the ball.
        inner_steps: K.
        inner_lr: ζ.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Call as ``step(closure)`` or ``step(loss_fn=..., batch=...)``. Cost: 1 + K passes; a copy of the
    parameters, and ε. A loss times c has c times the ascent step: pass the scaler. All groups
    have one ρ. Confidence: low for the defaults, which are from memory.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.5,
        inner_steps: int = 1,
        inner_lr: float = 1.0,
        **options: Any,
    ) -> None:
        check_whole("inner_steps", inner_steps, least=1)
        check_number("inner_lr", inner_lr, least=0.0)
        plan = Inside(inner_steps, inner_lr)
        super().__init__(params, base, rho=rho, plan=plan, **options)
