"""Layer by layer: layerwise SAM, and adversarial weight perturbation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from lowland.optim.metrics import PerTensor
from lowland.optim.perturbation import Perturbation
from lowland.optim.selections import Everything, Matrices
from lowland.optim.sharpness_aware import SharpnessAware


class LayerwiseSAM(SharpnessAware):
    """Liu et al. 2022 (arXiv 2203.02714), the ascent of Look-LayerSAM: a norm for each tensor.

        ε_l = ρ·g_l / (‖g_l‖ + 1e-12) for every tensor l,   ‖ε‖ = ρ·√(number of tensors)

    Args:
        rho: ρ of every tensor; SAM's reach over K tensors is ρ/√K here.
        scale_by_weight: ε_l = ρ·‖w_l‖·g_l/‖g_l‖ instead, which the paper adds in the manner of
            LAMB.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Cost: 2 passes; one copy of the parameters, one more while ε is added. Confidence: good for the
    rule (another group's code agrees), low for `scale_by_weight`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.05,
        scale_by_weight: bool = False,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        rule = Perturbation(metric=PerTensor(by_weight=scale_by_weight), across=perturbation)
        super().__init__(params, base, rho=rho, perturbation=rule, **options)


class AWP(SharpnessAware):
    """Wu et al. 2020 (arXiv 2004.05884): adversarial weight perturbation, relative to each layer.

        ε_l = γ·‖w_l‖·g_l / ‖g_l‖ on tensors of two axes or more,   u = ∇L(w + ε)

    For adversarial training, let the closure's loss be that of adversarial examples, made before
    the step at w: both passes then see the same ones.

    Args:
        rho: γ; 0.005 in the paper.
        everything: perturb biases, scales and shifts too.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Cost: 2 passes; one copy of the parameters, one more while ε is added. Confidence: good for the
    one-step rule, which is the one that the paper trains with.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        rho: float = 0.005,
        everything: bool = False,
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        rule = Perturbation(
            selection=Everything() if everything else Matrices(),
            metric=PerTensor(by_weight=True),
            across=perturbation,
        )
        super().__init__(params, base, rho=rho, perturbation=rule, **options)
