"""WSAM: sharpness as a weighted term."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.optim.checks import check_number
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import Evaluate, Program, Update
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step


@dataclass(frozen=True)
class Weighted:
    """[w, w+ε], then u = g + κ·(g̃ − g) with κ = γ/(1−γ); decoupled, the base sees g alone."""

    gamma: float = 0.9
    decouple: bool = True
    keeps_gradient: ClassVar[bool] = True
    splits: ClassVar[bool] = False
    defaults: ClassVar[tuple[str, ...]] = ("gamma",)

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        second = yield Evaluate(at=step.perturb((yield Evaluate())))
        g, kappa = step.gradient(), step.hyper["gamma"] / (1 - step.hyper["gamma"])
        at_w = g.by_param()
        both = second.gradient.where(lambda p: p in at_w)
        before = [at_w[p] for p in both.params]
        sharp = both.like(list(torch._foreach_sub(both.tensors, before)))
        torch._foreach_mul_(sharp.tensors, kappa)
        if self.decouple:
            yield Update(g, drift=sharp)
        else:
            yield Update(both.like(list(torch._foreach_add(sharp.tensors, before))))


class WSAM(SharpnessAware):
    """Yue et al. 2023 (arXiv 2305.15817): the sharpness L(w+ε) − L(w) as a term with a weight.

        L + κ·(L(w+ε) − L),   κ = γ/(1−γ):   u = g + κ·(g̃ − g)

    Decoupled (the default): the base optimizer steps along g, and w ← w − η·κ·(g̃ − g) besides, so
    that momentum and adaptive step sizes are those of g alone.

    Args:
        rho: ρ = ‖ε‖.
        gamma: γ in [0, 1); 1/2 is SAM where not decoupled, 0 is the base optimizer.
        decouple: keep the sharpness term out of the base optimizer.
        perturbation: "global"; "local" is refused, since g is kept.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Cost: 2 passes; one copy of the parameters, g through the second pass, and one more copy after
    it. Confidence: medium, the rule as published; the default of γ from memory.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        gamma: float = 0.9,
        decouple: bool = True,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        check_number("gamma", gamma, least=0.0)
        if gamma >= 1:
            raise InputError(f"gamma is {gamma}: give a number in [0, 1)")
        rule = Perturbation(across=perturbation)
        plan = Weighted(gamma, decouple)
        super().__init__(params, base, rho=rho, perturbation=rule, plan=plan, **options)
