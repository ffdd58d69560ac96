"""F-SAM: friendly sharpness-aware minimization."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from lowland.core.errors import unknown
from lowland.optim.perturbation import Perturbation
from lowland.optim.sharpness_aware import SharpnessAware
from lowland.optim.transforms import MinusRunningMean, RunningMean, Transform

ALONG = ("residual", "mean")


class FSAM(SharpnessAware):
    """Li et al. 2024 (arXiv 2403.12350): perturb along what is particular to the batch.

        d = g − σ·m,   ε = ρ·d / (‖d‖ + 1e-12),   m ← λ·m + (1−λ)·g after the step

    m estimates the full gradient; taking it away leaves the batch's own noise. The first step
    perturbs along g itself, and m starts as that g. Where ‖d‖ < 1e-6·‖g‖, d is rounding noise and
    ε = 0.

    Args:
        rho: 0.05 in the authors' class; 0.2 in their CIFAR-100 command.
        sigma: σ.
        ema_decay: λ; 0.9 in the authors' class, 0.6 in their CIFAR-100 command.
        ema: "before" takes m without the present gradient (the authors' code), "after" with it
            (the paper); the same direction for σ = 1.
        along: "residual" is the method, d = g − σ·m. "mean" is what it is compared with, the full
            gradient's share alone: d = m with g taken in; σ and `ema` have no part in it.
        perturbation: "global"; "local" (see `SAM`) is refused, since m would differ between
            devices.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Cost: 2 passes; a copy of the parameters, the running mean, and g through the second pass.
    A loss scale must not reach the running mean: pass the scaler (``perturbed(scaler=scaler)``).
    Confidence: high, the authors' code agrees with ``ema="before"``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        sigma: float = 1.0,
        ema_decay: float = 0.9,
        ema: str = "before",
        along: str = "residual",
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        if along not in ALONG:
            raise unknown("direction", along, ALONG)
        transform: Transform = MinusRunningMean(sigma, ema_decay, ema)
        if along == "mean":
            transform = RunningMean(ema_decay)
        rule = Perturbation(transform=transform, across=perturbation)
        super().__init__(params, base, rho=rho, perturbation=rule, **options)
