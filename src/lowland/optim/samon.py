"""SAM-ON: SAM on the normalization layers only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lowland.optim.metrics import Elementwise, Euclidean
from lowland.optim.perturbation import Perturbation
from lowland.optim.selections import NormLayers
from lowland.optim.sharpness_aware import SharpnessAware


class SAMON(SharpnessAware):
    """Mueller et al. 2023 (arXiv 2306.04226): perturb normalization layers, descend everything.

        ε = ρ·g_N / ‖g_N‖ on scale and shift of normalization layers, 0 elsewhere;  u = ∇L(w + ε)

    Layers are found by module type, so shortcut BatchNorms are in whatever their names are. About
    0.1 % of the parameters move, so ρ is much larger than SAM's.

    Args:
        model: the network; its normalization layers are perturbed. Required.
        rho: ρ = ‖ε‖ over the tensors that move.
        no_norm: the complement: perturb everything but the normalization layers.
        adaptive: elementwise ASAM metric without η on the tensors that move (the paper's ρ for
            WideResNet-28-10 on CIFAR-100 is then 10).
        norm_classes: the user's own normalization classes.
        perturbation: "global" or "local", as for `SAM`.
        **options: everything that `SharpnessAware` takes, and the base optimizer's arguments.

    Raises:
        InputError: no model, or a model without normalization layers.

    Cost: 2 full passes; a copy of the normalization parameters only. Confidence: high, the authors'
    code agrees but for finding layers by name.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: type[Optimizer] | Optimizer | None = None,
        *,
        model: nn.Module | None = None,
        rho: float = 0.05,
        no_norm: bool = False,
        adaptive: bool = False,
        norm_classes: tuple[type[nn.Module], ...] = (),
        perturbation: str = "global",
        **options: Any,
    ) -> None:
        rule = Perturbation(
            selection=NormLayers(invert=no_norm, classes=norm_classes),
            metric=Elementwise(eta=0.0) if adaptive else Euclidean(),
            across=perturbation,
        )
        super().__init__(
            params,
            base,
            rho=rho,
            model=model,
            perturbation=rule,
            norm_classes=norm_classes,
            **options,
        )
