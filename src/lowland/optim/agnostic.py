"""Agnostic-SAM: away from other data's ascent direction. Provisional."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.core.perturbation import wide_dtype
from lowland.optim.checks import check_number
from lowland.optim.gradient import Gradient, owned, remembered
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import Evaluate, Program, Update
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step


@dataclass(frozen=True)
class TwoRadii:
    """[(w on other data,) w, w+ε] with ε = ρ₁·ĝ − ρ₂·ĝ_v."""

    rho2: float
    data: Callable[[], Iterable[Any]] | None = None
    ema_decay: float = 0.9
    defaults: ClassVar[tuple[str, ...]] = ("rho2", "ema_decay")

    @property
    def splits(self) -> bool:
        return self.data is not None

    @property
    def keeps_gradient(self) -> bool:
        return self.data is None

    def perturbs(self, count: int, hyper: dict[str, Any]) -> bool:
        return True

    def __call__(self, step: Step) -> Program:
        rho = step.hyper["rho"]
        factor = -step.hyper["rho2"] / rho if rho else 0.0
        if self.data is not None:
            other = owned((yield Evaluate(data=self.data(), ascent=True, frozen=True)).gradient)
            first = yield Evaluate(ascent=True)
        else:
            first = yield Evaluate()
            other = self._remembered(first.gradient, step)
        at = step.perturb(first)
        if other.parts or step.split:
            at = at + step.toward(other, factor)
        del first, other
        second = yield Evaluate(at=at)
        if self.data is None:
            self._remember(step)
        yield Update(second.gradient)

    @staticmethod
    def _remembered(g: Gradient, step: Step) -> Gradient:
        known = g.where(lambda p: remembered(step.state, p, "sam_gv") is not None)
        held = [remembered(step.state, p, "sam_gv") for p in known.params]
        return known.like(
            [m.to(p.dtype) for p, m in zip(known.params, held, strict=True) if m is not None]
        )

    @staticmethod
    def _remember(step: Step) -> None:
        g, decay = step.gradient(), step.hyper["ema_decay"]
        new = []
        for p, t in zip(g.params, g.tensors, strict=True):
            old, wide = remembered(step.state, p, "sam_gv"), t.to(wide_dtype(t.dtype))
            new.append(wide.clone() if old is None else torch.lerp(old, wide, 1 - decay))
        step.stage("sam_gv", g.like(new))


class AgnosticSAM(SharpnessAware):
    """Nguyen et al. 2024 (arXiv 2406.07107), **provisional**: the rule is a reconstruction.

        ε = ρ₁·g/‖g‖ − ρ₂·g_v/‖g_v‖,   u = ∇L(w + ε)

    with g_v the gradient on validation data, or a running mean of past gradients, which stands for
    it. The second term moves the gradient to where it agrees more with g_v.

    Args:
        rho: ρ₁.
        rho2: ρ₂; None is ρ₁/2. 0 is SAM.
        validation: a function that gives validation batches (of the loss function's arguments) in
            every step; then call ``step(loss_fn=, batch=)``. None takes the running mean.
        ema_decay: of the running mean; the first step has none and is SAM's.
        perturbation: "global", or with `validation` "local".
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Cost: 3 passes with `validation`, 2 with the mean; one copy of the parameters, and the mean and
    g through the second pass. Confidence: low.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        rho2: float | None = None,
        validation: Callable[[], Iterable[Any]] | None = None,
        ema_decay: float = 0.9,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        rho2 = rho / 2 if rho2 is None else rho2
        check_number("rho2", rho2, least=0.0)
        if not 0 <= ema_decay < 1:
            raise InputError(f"ema_decay is {ema_decay}: give a number in [0, 1)")
        if validation is not None and not callable(validation):
            raise InputError("validation is called in every step: give a function of batches")
        rule = Perturbation(across=perturbation)
        plan = TwoRadii(rho2, validation, ema_decay)
        super().__init__(params, base, rho=rho, perturbation=rule, plan=plan, **options)
