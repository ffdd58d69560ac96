"""GCSAM: perturb along the centralized gradient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from lowland.optim.gradient import Gradient
from lowland.optim.perturbation import Perturbation
from lowland.optim.plan import TwoPass
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.step import Step
from lowland.optim.transforms import Centralized


@dataclass(frozen=True)
class CentralizedDescent:
    """u = GC(g̃)."""

    transform: Centralized

    def __call__(self, g: Gradient, g_perturbed: Gradient, step: Step) -> Gradient:
        parts = [self.transform.direction(part, step.state) for part in g_perturbed]
        return g_perturbed.like([t for tensors in parts for t in tensors])


class GCSAM(SharpnessAware):
    """Hassan et al. 2025 (arXiv 2501.11584): the gradient less its mean over each output's weights.

        ε = ρ·GC(g) / (‖g‖ + 1e-12),   GC(g) = g − mean over all axes but the first

    for tensors of more than one axis, the others as they are.

    Args:
        rho: ρ; 0.05 in the authors' code, with Adam at 1e-4.
        norm_after_gc: divide by ‖GC(g)‖, as the paper has it, so that ‖ε‖ = ρ; the authors' code
            divides by ‖g‖, so that ‖ε‖ <= ρ.
        gc_descent: descend GC(g̃), as the paper has it; the authors' code descends g̃.
        conv_only: centralize tensors of more than two axes only.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Cost: 2 passes; one copy of the parameters, one more while ε is built. Confidence: high for the
    defaults, which are those of the authors' code.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        norm_after_gc: bool = False,
        gc_descent: bool = False,
        conv_only: bool = False,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        transform = Centralized(conv_only)
        rule = Perturbation(
            transform=transform,
            norm_of="direction" if norm_after_gc else "gradient",
            across=perturbation,
        )

        plan = TwoPass(CentralizedDescent(transform) if gc_descent else None)
        super().__init__(params, base, rho=rho, perturbation=rule, plan=plan, **options)
