"""USAM and Unified SAM: how much of the gradient's size ε keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from lowland.core.errors import InputError
from lowland.optim.checks import check_number
from lowland.optim.perturbation import Perturbation
from lowland.optim.polyak import PolyakStep
from lowland.optim.radii import Mixed, Unnormalized
from lowland.optim.sharpness_aware import SharpnessAware


class USAM(SharpnessAware):
    """Andriushchenko & Flammarion 2022 (arXiv 2206.06232): SAM without normalization.

        ε = ρ·g,   u = ∇L(w + ε)

    Args:
        rho: ρ, another scale than SAM's: the same reach needs ρ_SAM/‖g‖. With step size η it is
            stable on a quadratic only where λ·(1 + ρ·λ) < 2/η for every eigenvalue λ.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Cost: 2 passes; one copy of the parameters. A loss times c has c times the ε, so a loss scale
    must not reach it: pass the scaler. Confidence: high, the authors' code agrees.
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
        rule = Perturbation(radius=Unnormalized(), across=perturbation)
        super().__init__(params, base, rho=rho, perturbation=rule, **options)


class UnifiedSAM(SharpnessAware):
    """Oikonomou & Loizou 2025 (arXiv 2503.02225): between USAM and SAM.

        ε = ρ·(1 − λ + λ/(‖g‖ + 1e-12))·g,   ‖ε‖ = ρ·((1 − λ)·‖g‖ + λ)

    Args:
        rho: ρ.
        lam: λ; 0 is USAM, 1 is SAM, 0.5 the authors' mixture; "1/t" goes from SAM to USAM and
            "1-1/t" from USAM to SAM, t = 1 being the first step.
        polyak: descend with min(η, η_P) in place of η = lr (arXiv 2606.01827), with the Polyak step
            η_P = [L(w+ε) − ℓ* − ⟨g̃, ε⟩]₊ / ‖g̃‖² on the batch: u is scaled, for SGD without momentum
            exactly so. Needs ``step(closure)`` or ``step(loss_fn=, batch=)``, one ρ, and g is kept.
        lower_bound: ℓ*, the smallest that the loss of a batch can be.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Cost: 2 passes; one copy of the parameters. Below λ = 1 a loss times c has another ε: pass the
    scaler. Confidence: high, the authors' code agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        lam: float | str = 0.5,
        polyak: bool = False,
        lower_bound: float = 0.0,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        check_number("lower_bound", lower_bound, least=-math.inf)
        rule = Perturbation(radius=Mixed(lam), across=perturbation)
        if polyak and "plan" in options:
            raise InputError(
                "polyak=True is a plan, and plan= gives another: leave one of them out"
            )
        if polyak:
            options["plan"] = PolyakStep(lower_bound)
        super().__init__(params, base, rho=rho, perturbation=rule, **options)
