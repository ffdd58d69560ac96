"""SAM: sharpness-aware minimization."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from lowland.optim.metrics import Elementwise, Euclidean
from lowland.optim.perturbation import Perturbation
from lowland.optim.sharpness_aware import SharpnessAware


class SAM(SharpnessAware):
    """Foret et al. 2021 (arXiv 2010.01412): descend along the gradient at the worst nearby weights.

        ε = ρ·g / (‖g‖ + 1e-12),   u = ∇L(w + ε),   base step along u at w

    with g = ∇L(w) on the same batch and one Euclidean norm over all parameters. L is the mean over
    the batch, so the number m of examples behind each ε is the batch size.

    Args:
        rho: ρ = ‖ε‖; 0.05 is usual for CIFAR-10, 0.1 for CIFAR-100; grids run from 0.01 to 0.5.
        adaptive: scale by the weights, ε = ρ·w²g/‖|w|·g‖ on all parameters (ASAM without η, the
            form of the widely copied PyTorch code; ρ is then about 2). `ASAM` is the paper's own.
        p: the norm that bounds ε, above 1: ε = ρ·sign(g)·|g|^(q−1)/‖g‖_q^(q−1), 1/p + 1/q = 1, so
            that ‖ε‖_p = ρ; ``math.inf`` gives ρ·sign(g).
        perturbation: with several devices, "global" takes ε from the gradient of the whole batch,
            "local" on every device from its own (m-SAM with m = batch per device; the first pass
            exchanges nothing).
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Cost: 2 passes; one copy of the parameters. Scale-invariant: a loss times c > 0 has the same ε.
    Confidence: high, the authors' code agrees.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        adaptive: bool = False,
        p: float = 2.0,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        metric = Elementwise(p=p, eta=0.0) if adaptive else Euclidean(p=p)
        rule = Perturbation(metric=metric, across=perturbation)
        super().__init__(params, base, rho=rho, perturbation=rule, **options)
