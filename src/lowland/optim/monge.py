"""Monge SAM: the ball of the loss surface's own metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from lowland.optim.perturbation import Perturbation
from lowland.optim.radii import Pullback
from lowland.optim.sharpness_aware import SharpnessAware


class MongeSAM(SharpnessAware):
    """Jacobsen & Arvanitidis 2025 (arXiv 2502.08448): steepest ascent under G = I + g·gᵀ.

        ε = ρ·g / (‖g‖·√(1 + ‖g‖²)),   so that εᵀGε = ρ²

    SAM where the gradient is small, ‖ε‖ ≈ ρ/‖g‖ where it is large. Not micro-batch SAM (`MSAM`).

    Args:
        rho: ρ; no default is published, SAM's grid is a start.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    The rule follows w under rotations of parameter space, not under other changes of coordinates.
    Cost: 2 passes; one copy of the parameters. A loss times c has another ε: pass the scaler.
    Confidence: medium, from the formula in the paper.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        rule = Perturbation(radius=Pullback(), across=perturbation)
        super().__init__(params, base, rho=rho, perturbation=rule, **options)
